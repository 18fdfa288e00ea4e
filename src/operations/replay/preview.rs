//! What a replay would do to each dead letter: each is tried in the ledger by the function that charges, in a
//! transaction that is rolled back.

use serde::Serialize;

use super::pace::page;
use crate::{
    domain::{CompletionEvent, Deduction, Reason},
    operations::Operations,
    storage::{
        Candidate, ChargeState, DeadLetterBody, DeadLetterState, FullDeadLetter, StorageError,
    },
};

/// Dead letters of which the bodies are in memory at once.
const PAGE: usize = 500;

/// What would become of a dead letter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PreviewOutcome {
    /// The job would be charged.
    WouldCharge,
    /// The job is charged already, or would be by another one: nothing would change.
    AlreadyCharged,
    /// It would come back as a dead letter.
    WouldFail,
    /// Its job was refunded: it is never sent.
    Refused,
    /// Only open ones are replayed.
    NotOpen,
    /// The ledger can't say at the moment, or wasn't asked.
    #[default]
    Unknown,
}

/// What a replay of one dead letter would do if it came to the ledger now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Preview {
    /// In a word.
    pub outcome: PreviewOutcome,
    /// The reason of the new dead letter.
    pub reason: Option<Reason>,
    /// Why nothing would be charged, for people.
    pub message: Option<String>,
    /// What it would cost, or has cost.
    pub tokens: Option<i64>,
    /// What the company has to spend, or had.
    pub balance_before: Option<i64>,
    /// What it would have left, or had left.
    pub balance_after: Option<i64>,
}

impl Preview {
    /// What needs no trying.
    pub(super) fn refused(dead_letter: &Candidate) -> Option<Self> {
        let why = "its job was refunded, and is never charged again";
        (dead_letter.charge_state == ChargeState::Compensated)
            .then(|| Self::without_charge(PreviewOutcome::Refused, why))
    }

    fn without_charge(outcome: PreviewOutcome, why: impl Into<String>) -> Self {
        Self {
            outcome,
            message: Some(why.into()),
            ..Self::default()
        }
    }

    fn failing(reason: Reason, why: impl Into<String>) -> Self {
        Self {
            reason: Some(reason),
            ..Self::without_charge(PreviewOutcome::WouldFail, why)
        }
    }

    /// `balances`: what the company had before and after, where the job is charged.
    fn answered(event: &CompletionEvent, answer: Deduction, balances: Option<&(i64, i64)>) -> Self {
        let outcome = match answer {
            Deduction::Charged { .. } => PreviewOutcome::WouldCharge,
            Deduction::AlreadyCharged => PreviewOutcome::AlreadyCharged,
            Deduction::Refused(refusal) => {
                return Self::failing(refusal.reason, refusal.message);
            }
            Deduction::JobNotFound => {
                let why = "the event names no company, and article_jobs doesn't know the job";
                return Self::failing(Reason::JobNotFound, why);
            }
            Deduction::Locked(_) => {
                let why = "another transaction has locked its job's row in article_jobs; look again later";
                return Self::without_charge(PreviewOutcome::Unknown, why);
            }
        };
        Self {
            outcome,
            tokens: Some(event.tokens()),
            balance_before: balances.map(|&(before, _)| before),
            balance_after: balances.map(|&(_, after)| after),
            ..Self::default()
        }
    }
}

impl Operations {
    /// What a replay of one dead letter would do now. Changes nothing.
    pub async fn preview(&self, full: &FullDeadLetter) -> Preview {
        let candidate = Candidate {
            id: full.dead_letter.id,
            company_id: full.dead_letter.company_id,
            body_bytes: full.current().len().try_into().unwrap_or(i32::MAX),
            charge_state: full.dead_letter.charge_state,
        };
        if let Some(known) = not_open(full).or_else(|| Preview::refused(&candidate)) {
            return known;
        }
        match self.previews(&[candidate], |preview| preview).await {
            Ok(mut tried) => tried.pop().unwrap_or_default(),
            Err(error) => Preview::without_charge(PreviewOutcome::Unknown, error.to_string()),
        }
    }

    /// What would become of each, in order; `keep` takes what is needed of it. They come company by company, by its
    /// id, as in any charge.
    pub(super) async fn previews<T>(
        &self,
        dead_letters: &[Candidate],
        keep: impl Fn(Preview) -> T,
    ) -> Result<Vec<T>, StorageError> {
        let mut tried = Vec::with_capacity(dead_letters.len());
        if dead_letters.is_empty() {
            return Ok(tried);
        }
        let parse = |dead_letter: &DeadLetterBody| {
            CompletionEvent::parse(
                &dead_letter.body,
                dead_letter.content_type.as_deref(),
                &self.settings.limits,
            )
        };
        let mut dry_run = self.storage.begin_dry_run().await?;
        let mut rest = dead_letters;
        while !rest.is_empty() {
            let page = page(&mut rest, PAGE, |dead_letter| dead_letter.body_bytes);
            let ids: Vec<i64> = page.iter().map(|dead_letter| dead_letter.id).collect();
            let bodies = dry_run.bodies(&ids).await?;
            let parsed: Vec<_> = bodies.iter().map(parse).collect();
            drop(bodies);
            let events: Vec<&CompletionEvent> = parsed.iter().flatten().collect();
            let mut answers = dry_run.deduct(&events).await?.into_iter();
            let balances = dry_run.balances(&events).await?;
            tried.extend(parsed.iter().map(|parsed| {
                keep(match parsed {
                    Ok(event) => answers.next().map_or_else(Preview::default, |answer| {
                        Preview::answered(event, answer, balances.get(&event.job_id()))
                    }),
                    Err(error) => Preview::failing(error.reason(), error.to_string()),
                })
            }));
        }
        dry_run.end().await?;
        Ok(tried)
    }
}

fn not_open(full: &FullDeadLetter) -> Option<Preview> {
    let dead_letter = &full.dead_letter;
    let why = match (dead_letter.state, dead_letter.failed_again_as) {
        (DeadLetterState::Open, _) => return None,
        (DeadLetterState::Discarded, _) => {
            "it is discarded; restored, it can be replayed".to_owned()
        }
        (DeadLetterState::Resolved, _) => "its job is charged".to_owned(),
        (DeadLetterState::Replayed, Some(id)) => {
            format!("it was replayed, and failed again as {id}")
        }
        (DeadLetterState::Replayed, None) => "it was replayed, and has not come back".to_owned(),
    };
    Some(Preview::without_charge(PreviewOutcome::NotOpen, why))
}
