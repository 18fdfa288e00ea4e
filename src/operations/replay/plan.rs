//! What a replay would do: each letter is tried in the books by the function that charges, in a
//! transaction that is rolled back.
//!
//! It tries a company's letters oldest first, as a replay sends them. Where a balance doesn't suffice for all,
//! several workers may come to another choice than the plan: then others of them fail, not fewer.

use std::collections::BTreeMap;

use serde::Serialize;
use uuid::Uuid;

use crate::{
    config,
    domain::{CompletionEvent, Deduction, Reason},
    storage::{Candidate, LetterBody, Money, Selection, Storage, StorageError},
};

/// Letters tried in one transaction, unless one company has more: its row is held meanwhile.
const PACK: usize = 1000;
/// Letters of which the bodies are in memory at once, and bytes of these.
const PAGE: usize = 500;
const PAGE_BYTES: usize = 8 * 1024 * 1024;
/// When so many companies of a pack are busy, the rest is not waited for either.
const ENOUGH_BUSY: u32 = 3;

/// What would become of letters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Forecast {
    /// How many, whatever becomes of them.
    pub letters: u64,
    /// Would be charged.
    pub charged: u64,
    /// The tokens of these.
    pub charged_tokens: i64,
    /// Are charged already, or would be by another letter: harmless.
    pub already_charged: u64,
    /// Would fail again.
    pub fail_again: u64,
    /// Refunded: never sent.
    pub refused: u64,
    /// Not tried: too many, or their company is busy.
    pub not_computed: u64,
    /// Why they would fail again.
    pub failures: BTreeMap<&'static str, u64>,
}

impl Forecast {
    fn add(&mut self, fate: Fate) {
        self.letters += 1;
        match fate {
            Fate::Charged(tokens) => {
                self.charged += 1;
                self.charged_tokens += tokens;
            }
            Fate::AlreadyCharged => self.already_charged += 1,
            Fate::FailsAgain(reason) => {
                self.fail_again += 1;
                *self.failures.entry(reason).or_default() += 1;
            }
            Fate::Refused => self.refused += 1,
            Fate::NotComputed => self.not_computed += 1,
        }
    }
}

/// One company's share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CompanyPlan {
    /// `None`: no company is known.
    pub company_id: Option<Uuid>,
    /// What would become of its letters.
    #[serde(flatten)]
    pub forecast: Forecast,
}

/// What a replay would do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// No letter that arrived later is meant.
    pub up_to: i64,
    /// All together.
    pub total: Forecast,
    /// By company, the one with the most letters first.
    pub companies: Vec<CompanyPlan>,
    /// Letters that would be charged, oldest first.
    pub payable: Vec<i64>,
    /// Letters that would fail again, oldest first.
    pub failing: Vec<i64>,
}

/// What would become of one letter.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Charged(i64),
    AlreadyCharged,
    FailsAgain(&'static str),
    Refused,
    NotComputed,
}

/// Plans a replay of the open letters of a selection.
pub async fn plan(
    storage: &Storage,
    selection: &Selection,
    limits: &config::Limits,
    settings: &config::Replay,
) -> Result<Plan, StorageError> {
    let newest = storage.newest_dead_letter().await?;
    let up_to = selection.up_to.map_or(newest, |up_to| up_to.min(newest));
    let selection = Selection {
        up_to: Some(up_to),
        ..selection.clone()
    };
    let candidates = storage.replay_candidates(&selection).await?;
    let mut planner = Planner {
        storage,
        limits,
        most: settings.plan_max,
        plan: Plan {
            up_to,
            total: Forecast::default(),
            companies: Vec::new(),
            payable: Vec::new(),
            failing: Vec::new(),
        },
    };
    let (mut pack, mut letters) = (Vec::new(), 0);
    for company in candidates.chunk_by(|one, next| one.company_id == next.company_id) {
        if !pack.is_empty() && letters + company.len() > PACK {
            planner.pack(&pack).await?;
            pack.clear();
            letters = 0;
        }
        letters += company.len();
        pack.push(company);
    }
    planner.pack(&pack).await?;
    let mut plan = planner.plan;
    plan.payable.sort_unstable();
    plan.failing.sort_unstable();
    plan.companies.sort_by_key(|company| {
        (
            std::cmp::Reverse(company.forecast.letters),
            company.company_id,
        )
    });
    Ok(plan)
}

struct Planner<'a> {
    storage: &'a Storage,
    limits: &'a config::Limits,
    most: usize,
    plan: Plan,
}

impl Planner<'_> {
    /// Tries companies in one transaction, or each in its own where one of them is in the way.
    async fn pack(&mut self, companies: &[&[Candidate]]) -> Result<(), StorageError> {
        let tried: Vec<Candidate> = companies.iter().flat_map(|one| self.tried(one)).collect();
        match self.rehearsed(&tried).await {
            Ok(fates) => {
                let mut fates = fates.into_iter();
                for company in companies {
                    let own = self.tried(company).len();
                    self.take(company, fates.by_ref().take(own).collect());
                }
            }
            Err(error) if self.storage.hits_everybody(&error).await => return Err(error),
            // Locked by somebody, or something in these letters: the others can be planned all the same.
            Err(_) => {
                let mut busy = 0;
                for company in companies {
                    let mut fates = Vec::new();
                    // Alone, it has just been tried.
                    if companies.len() > 1 && busy < ENOUGH_BUSY {
                        match self.rehearsed(&self.tried(company)).await {
                            Ok(rehearsed) => fates = rehearsed,
                            Err(error) if self.storage.hits_everybody(&error).await => {
                                return Err(error);
                            }
                            Err(_) => busy += 1,
                        }
                    }
                    self.take(company, fates);
                }
            }
        }
        Ok(())
    }

    /// The letters of a company that are tried.
    fn tried(&self, company: &[Candidate]) -> Vec<Candidate> {
        let refunded = |letter: &&Candidate| letter.money != Money::Compensated;
        let tried = company.iter().filter(refunded).take(self.most);
        tried.copied().collect()
    }

    /// Notes what would become of a company's letters; `fates` are of those that were tried.
    fn take(&mut self, company: &[Candidate], fates: Vec<Fate>) {
        let mut forecast = Forecast::default();
        let mut fates = fates.into_iter();
        for letter in company {
            let fate = match letter.money {
                Money::Compensated => Fate::Refused,
                _ => fates.next().unwrap_or(Fate::NotComputed),
            };
            match fate {
                Fate::Charged(_) => self.plan.payable.push(letter.id),
                Fate::FailsAgain(_) => self.plan.failing.push(letter.id),
                _ => {}
            }
            forecast.add(fate);
            self.plan.total.add(fate);
        }
        if let Some(first) = company.first() {
            self.plan.companies.push(CompanyPlan {
                company_id: first.company_id,
                forecast,
            });
        }
    }

    /// What would become of each, in order.
    async fn rehearsed(&self, letters: &[Candidate]) -> Result<Vec<Fate>, StorageError> {
        let mut fates = Vec::with_capacity(letters.len());
        if letters.is_empty() {
            return Ok(fates);
        }
        let mut rehearsal = self.storage.rehearse().await?;
        for page in pages(letters) {
            let ids: Vec<i64> = page.iter().map(|letter| letter.id).collect();
            let bodies = rehearsal.bodies(&ids).await?;
            let parsed: Vec<Result<CompletionEvent, &'static str>> =
                bodies.iter().map(|letter| self.parse(letter)).collect();
            drop(bodies);
            let events: Vec<&CompletionEvent> = parsed.iter().flatten().collect();
            let mut answers = rehearsal.deduct(&events).await?.into_iter();
            fates.extend(parsed.iter().map(|parsed| {
                match parsed {
                    Ok(event) => answers
                        .next()
                        .map_or(Fate::NotComputed, |answer| fate(event, answer)),
                    Err(reason) => Fate::FailsAgain(reason),
                }
            }));
        }
        rehearsal.end().await?;
        Ok(fates)
    }

    fn parse(&self, letter: &LetterBody) -> Result<CompletionEvent, &'static str> {
        CompletionEvent::parse(&letter.body, letter.content_type.as_deref(), self.limits)
            .map_err(|error| error.reason().as_str())
    }
}

fn fate(event: &CompletionEvent, answer: Deduction) -> Fate {
    match answer {
        Deduction::Charged(_) => Fate::Charged(event.tokens()),
        Deduction::AlreadyCharged(_) => Fate::AlreadyCharged,
        Deduction::Refused(refusal) => Fate::FailsAgain(refusal.reason.as_str()),
        Deduction::JobNotFound => Fate::FailsAgain(Reason::JobNotFound.as_str()),
    }
}

/// Up to so many letters and bytes each.
fn pages(mut letters: &[Candidate]) -> impl Iterator<Item = &[Candidate]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |letter: &&Candidate| {
            bytes += usize::try_from(letter.body_bytes).unwrap_or(0);
            bytes <= PAGE_BYTES
        };
        let count = letters.iter().take(PAGE).take_while(fits).count().max(1);
        let (page, rest) = letters.split_at_checked(count)?;
        letters = rest;
        Some(page)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_holds_500_letters_or_8_mib_and_never_none() {
        let letter = |id, body_bytes| Candidate {
            id,
            company_id: None,
            body_bytes,
            money: Money::NeverCharged,
        };
        let sizes = |letters: &[Candidate]| pages(letters).map(<[_]>::len).collect::<Vec<_>>();
        let small: Vec<Candidate> = (0..1001).map(|id| letter(id, 100)).collect();
        assert_eq!(sizes(&small), [500, 500, 1]);
        let mib = 1024 * 1024;
        let large = [5, 3, 1, 9, 9, 1].map(|size| letter(size.into(), size * mib));
        assert_eq!(sizes(&large), [2, 1, 1, 1, 1]);
        assert_eq!(sizes(&[]), [0; 0]);
    }
}
