//! What a replay would do to each dead letter: each is tried in the ledger by the function that charges, in a
//! transaction that is rolled back.

use serde::Serialize;

use super::pace::page;
use crate::{
    config::Limits,
    domain::{CompletionEvent, Deduction, Reason, Receipt},
    storage::{
        Candidate, ChargeState, DeadLetterBody, FullDeadLetter, LetterState, Storage, StorageError,
    },
};

/// Dead letters of which the bodies are in memory at once.
const PAGE: usize = 500;

/// What would become of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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
    Unknown,
}

/// What a replay of one dead letter would do if it came to the ledger now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// In a word.
    pub outcome: PreviewOutcome,
    /// The reason of the new dead letter.
    pub reason: Option<&'static str>,
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
    /// Of one dead letter.
    pub async fn of(letter: &FullDeadLetter, storage: &Storage, limits: &Limits) -> Self {
        if let Some(why) = not_open(letter) {
            return Self::without_charge(PreviewOutcome::NotOpen, why);
        }
        let candidate = Candidate {
            id: letter.dead_letter.id,
            company_id: letter.dead_letter.company_id,
            body_bytes: letter.current().len().try_into().unwrap_or(i32::MAX),
            charge_state: letter.dead_letter.charge_state,
        };
        if let Some(refused) = Self::refused(&candidate) {
            return refused;
        }
        let tried = previews(&[candidate], storage, limits, |preview| preview).await;
        match tried.map(|mut tried| tried.pop()) {
            Ok(preview) => preview.unwrap_or_else(Self::unknown),
            Err(error) => Self::without_charge(PreviewOutcome::Unknown, error.to_string()),
        }
    }

    /// What needs no trying.
    pub(super) fn refused(letter: &Candidate) -> Option<Self> {
        let why = "its job was refunded, and is never charged again";
        (letter.charge_state == ChargeState::Compensated)
            .then(|| Self::without_charge(PreviewOutcome::Refused, why))
    }

    pub(super) fn unknown() -> Self {
        Self {
            message: None,
            ..Self::without_charge(PreviewOutcome::Unknown, "")
        }
    }

    fn without_charge(outcome: PreviewOutcome, why: impl Into<String>) -> Self {
        Self {
            outcome,
            reason: None,
            message: Some(why.into()),
            tokens: None,
            balance_before: None,
            balance_after: None,
        }
    }

    fn failing(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason: Some(reason),
            ..Self::without_charge(PreviewOutcome::WouldFail, message)
        }
    }

    fn charged(outcome: PreviewOutcome, event: &CompletionEvent, receipt: &Receipt) -> Self {
        Self {
            outcome,
            reason: None,
            message: None,
            tokens: Some(event.tokens()),
            balance_before: Some(receipt.balance_before),
            balance_after: Some(receipt.balance_after),
        }
    }

    fn answered(event: &CompletionEvent, answer: Deduction) -> Self {
        match answer {
            Deduction::Charged(receipt) => {
                Self::charged(PreviewOutcome::WouldCharge, event, &receipt)
            }
            Deduction::AlreadyCharged(receipt) => {
                Self::charged(PreviewOutcome::AlreadyCharged, event, &receipt)
            }
            Deduction::Refused(refusal) => {
                Self::failing(Reason::from(refusal.cause).as_str(), refusal.message)
            }
            Deduction::JobNotFound => Self::failing(
                Reason::JobNotFound.as_str(),
                "the event names no company, and article_jobs doesn't know the job",
            ),
        }
    }
}

/// What would become of each, in order; `keep` takes what is needed of it. They come company by company, by its
/// id, as in any charge.
pub(super) async fn previews<T>(
    letters: &[Candidate],
    storage: &Storage,
    limits: &Limits,
    keep: impl Fn(Preview) -> T,
) -> Result<Vec<T>, StorageError> {
    let mut tried = Vec::with_capacity(letters.len());
    if letters.is_empty() {
        return Ok(tried);
    }
    let parse = |letter: &DeadLetterBody| {
        CompletionEvent::parse(&letter.body, letter.content_type.as_deref(), limits)
    };
    let mut dry_run = storage.begin_dry_run().await?;
    let mut rest = letters;
    while !rest.is_empty() {
        let page = page(&mut rest, PAGE, |letter| letter.body_bytes);
        let ids: Vec<i64> = page.iter().map(|letter| letter.id).collect();
        let bodies = dry_run.bodies(&ids).await?;
        let parsed: Vec<_> = bodies.iter().map(parse).collect();
        drop(bodies);
        let events: Vec<&CompletionEvent> = parsed.iter().flatten().collect();
        let mut answers = dry_run.deduct(&events).await?.into_iter();
        tried.extend(parsed.iter().map(|parsed| {
            keep(match parsed {
                Ok(event) => answers
                    .next()
                    .map_or_else(Preview::unknown, |answer| Preview::answered(event, answer)),
                Err(error) => Preview::failing(error.reason(), error.to_string()),
            })
        }));
    }
    dry_run.end().await?;
    Ok(tried)
}

fn not_open(full: &FullDeadLetter) -> Option<String> {
    match full.dead_letter.state {
        LetterState::Open => None,
        LetterState::Discarded => Some("it is discarded; restored, it can be replayed".to_owned()),
        LetterState::Resolved => Some("its job is charged".to_owned()),
        LetterState::Replayed => Some(match full.dead_letter.failed_again_as {
            Some(id) => format!("it was replayed, and failed again as {id}"),
            None => "it was replayed, and has not come back".to_owned(),
        }),
    }
}
