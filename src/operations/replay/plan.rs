//! What a replay would do to the open dead letters of a selection.
//!
//! It tries a company's dead letters oldest first, as a replay sends them. Where a balance doesn't suffice for all,
//! several workers may come to another choice than the plan: then others of them fail, not fewer.

use std::collections::BTreeMap;

use serde::Serialize;
use uuid::Uuid;

use super::preview::{Preview, PreviewOutcome};
use crate::{
    operations::{OperationError, Operations, dead_letters::check_extent},
    storage::{Candidate, DeadLetterState, Selection, StorageError, enough_busy, isolate},
};

/// Dead letters tried in one transaction, unless one company has more: its row is held meanwhile.
const PACK: usize = 1000;

/// What would become of dead letters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Forecast {
    /// How many, whatever becomes of them.
    pub dead_letters: u64,
    /// Would be charged.
    pub charged: u64,
    /// The tokens of these.
    pub charged_tokens: i64,
    /// Are charged already, or would be by another one: harmless.
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
    fn add(&mut self, preview: &Preview) {
        self.dead_letters += 1;
        match preview.outcome {
            PreviewOutcome::WouldCharge => {
                self.charged += 1;
                self.charged_tokens += preview.tokens.unwrap_or(0);
            }
            PreviewOutcome::AlreadyCharged => self.already_charged += 1,
            PreviewOutcome::WouldFail => {
                self.fail_again += 1;
                if let Some(reason) = preview.reason {
                    *self.failures.entry(reason.as_str()).or_default() += 1;
                }
            }
            PreviewOutcome::Refused => self.refused += 1,
            PreviewOutcome::NotOpen | PreviewOutcome::Unknown => self.not_computed += 1,
        }
    }
}

/// One company's share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct CompanyForecast {
    /// `None`: no company is known.
    pub company_id: Option<Uuid>,
    /// What would become of its dead letters.
    #[serde(flatten)]
    pub forecast: Forecast,
}

/// Open dead letters, said beyond doubt.
#[derive(Debug, Clone)]
pub struct ReplaySelection(Selection);

impl ReplaySelection {
    /// A selection of open ones that says which are meant; `all`: all that are open.
    ///
    /// # Errors
    ///
    /// [`OperationError::Invalid`]: `all` together with what restricts, neither of them, or states other than open.
    pub fn new(mut selection: Selection, all: bool) -> Result<Self, OperationError> {
        check_extent(&selection, all)?;
        if selection.states.is_empty() {
            selection.states = vec![DeadLetterState::Open];
        }
        if selection.states != [DeadLetterState::Open] {
            return Err(OperationError::invalid(
                "state",
                "only open ones are replayed; a discarded one is open again once it is restored",
            ));
        }
        Ok(Self(selection))
    }
}

/// What a replay would do now, and what it needs to do it.
#[derive(Debug, Clone, Default, Serialize, utoipa::ToSchema)]
pub struct ReplayPlan {
    #[serde(flatten)]
    pub total: Forecast,
    /// By company, the one with the most dead letters first.
    pub companies: Vec<CompanyForecast>,
    /// Named by their ids, but not open.
    #[serde(skip)]
    pub passed_over: Vec<(i64, DeadLetterState)>,
    /// The open ones; none that arrives after the plan.
    #[serde(skip)]
    pub(super) selection: Selection,
    /// The same as the record names them.
    #[serde(skip)]
    pub(super) subject: String,
    /// Those that would be charged, oldest first.
    #[serde(skip)]
    pub(super) payable: Vec<i64>,
    /// Those that would fail again, oldest first.
    #[serde(skip)]
    pub(super) failing: Vec<i64>,
}

impl ReplayPlan {
    /// Dead letters that may be sent.
    pub fn to_send(&self) -> u64 {
        self.total.dead_letters - self.total.refused
    }
}

impl Operations {
    /// Plans a replay. What is found charged by now is resolved first; changes nothing else.
    ///
    /// # Errors
    ///
    /// [`OperationError::NotFound`]: an id is of no dead letter. [`OperationError::Conflict`]: all that are named by
    /// their ids are of refunded jobs.
    pub async fn plan_replay(
        &self,
        ReplaySelection(selection): ReplaySelection,
    ) -> Result<ReplayPlan, OperationError> {
        let selection = self.meant(&selection, &[], "reason").await?;
        let passed_over = self.passed_over(&selection.ids).await?;
        let plan = self.forecast(selection).await?;
        let refused = plan.total.refused;
        if !plan.selection.ids.is_empty() && refused > 0 && refused == plan.total.dead_letters {
            let dead_letters = if refused == 1 {
                "dead letter"
            } else {
                "dead letters"
            };
            return Err(OperationError::Conflict {
                code: "already_compensated",
                why: format!(
                    "refused: {refused} {dead_letters} of refunded jobs, which are never charged again"
                ),
            });
        }
        Ok(ReplayPlan {
            passed_over,
            ..plan
        })
    }

    /// A mistyped id is an error; one that isn't open is passed over.
    async fn passed_over(
        &self,
        ids: &[i64],
    ) -> Result<Vec<(i64, DeadLetterState)>, OperationError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let named = Selection {
            ids: ids.to_vec(),
            ..Selection::default()
        };
        let limit = ids.len().try_into().unwrap_or(i64::MAX);
        let dead_letters = self.storage.dead_letters(&named, None, limit).await?;
        if let Some(id) = ids
            .iter()
            .find(|id| dead_letters.iter().all(|l| l.id != **id))
        {
            return Err(OperationError::NotFound(format!(
                "there is no dead letter {id}"
            )));
        }
        let closed = dead_letters
            .iter()
            .filter(|l| l.state != DeadLetterState::Open);
        Ok(closed.map(|l| (l.id, l.state)).rev().collect())
    }

    pub(super) async fn forecast(&self, selection: Selection) -> Result<ReplayPlan, StorageError> {
        let newest = self.storage.newest_dead_letter().await?;
        let up_to = selection.up_to.map_or(newest, |up_to| up_to.min(newest));
        let mut plan = ReplayPlan {
            subject: selection.describe(),
            selection: Selection {
                up_to: Some(up_to),
                ..selection
            },
            ..ReplayPlan::default()
        };
        let candidates = self.storage.replay_candidates(&plan.selection).await?;
        let (mut pack, mut dead_letters) = (Vec::new(), 0);
        for company in candidates.chunk_by(|one, next| one.company_id == next.company_id) {
            if !pack.is_empty() && dead_letters + company.len() > PACK {
                self.add_pack(&mut plan, &pack).await?;
                pack.clear();
                dead_letters = 0;
            }
            dead_letters += company.len();
            pack.push(company);
        }
        self.add_pack(&mut plan, &pack).await?;
        plan.payable.sort_unstable();
        plan.failing.sort_unstable();
        let most_first = |company: &CompanyForecast| {
            let dead_letters = std::cmp::Reverse(company.forecast.dead_letters);
            (dead_letters, company.company_id)
        };
        plan.companies.sort_by_key(most_first);
        Ok(plan)
    }

    /// Tries companies in one transaction, or each in its own where one of them is in the way: locked by somebody,
    /// or something in its dead letters. The others can be planned all the same.
    async fn add_pack(
        &self,
        plan: &mut ReplayPlan,
        pack: &[&[Candidate]],
    ) -> Result<(), StorageError> {
        let company_of = |company: &[Candidate]| company.first().and_then(|one| one.company_id);
        let tried = isolate(pack, company_of, enough_busy, |some: Vec<_>| async move {
            self.storage.blame(self.tried(&some).await).await
        });
        let tried = tried.await?;
        for (company, tried) in pack.iter().zip(tried) {
            plan.add(company, tried.unwrap_or_default());
        }
        Ok(())
    }

    /// What would become of each company's dead letters that are tried.
    async fn tried(&self, companies: &[&[Candidate]]) -> Result<Vec<Vec<Preview>>, StorageError> {
        let most = self.settings.replay.plan_max;
        let tried = |company: &&[Candidate]| -> Vec<Candidate> {
            let may_be_sent = |dead_letter: &&Candidate| Preview::refused(dead_letter).is_none();
            let tried = company.iter().filter(may_be_sent).take(most);
            tried.copied().collect()
        };
        let tried: Vec<Vec<Candidate>> = companies.iter().map(tried).collect();
        // Of each message there may be as many as of dead letters.
        let brief = |preview| Preview {
            message: None,
            ..preview
        };
        let all = self.previews(&tried.concat(), brief).await?;
        let mut all = all.into_iter();
        let own = |tried: Vec<Candidate>| all.by_ref().take(tried.len()).collect();
        Ok(tried.into_iter().map(own).collect())
    }
}

impl ReplayPlan {
    /// Notes what would become of a company's dead letters; `tried` are of those that were tried.
    fn add(&mut self, company: &[Candidate], tried: Vec<Preview>) {
        let mut forecast = Forecast::default();
        let mut tried = tried.into_iter();
        for dead_letter in company {
            let preview = Preview::refused(dead_letter)
                .or_else(|| tried.next())
                .unwrap_or_default();
            match preview.outcome {
                PreviewOutcome::WouldCharge => self.payable.push(dead_letter.id),
                PreviewOutcome::WouldFail => self.failing.push(dead_letter.id),
                _ => {}
            }
            forecast.add(&preview);
            self.total.add(&preview);
        }
        if let Some(first) = company.first() {
            self.companies.push(CompanyForecast {
                company_id: first.company_id,
                forecast,
            });
        }
    }
}
