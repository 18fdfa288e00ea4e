//! What a replay of one letter would do, if it came to the books now.

use serde::Serialize;

use crate::cli::one_line;
use crate::cli::output::thousands;
use crate::config::Limits;
use crate::domain::{CompletionEvent, Deduction, Reason};
use crate::storage::{FullLetter, LetterState, Storage, StorageError};

/// The outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// The job would be charged.
    WouldCharge,
    /// The job is charged already: nothing would change.
    AlreadyCharged,
    /// It would come back as a dead letter.
    WouldFail,
    /// Only open letters are replayed.
    NotOpen,
    /// The books can't say at the moment.
    Unknown,
}

/// What a replay would do.
#[derive(Debug, Serialize)]
pub(super) struct Prospect {
    pub(super) outcome: Outcome,
    /// The reason of the new dead letter.
    reason: Option<String>,
    message: Option<String>,
    tokens: Option<i64>,
    balance_before: Option<i64>,
    balance_after: Option<i64>,
}

impl Prospect {
    fn new(outcome: Outcome, reason: Option<&str>, message: Option<String>) -> Self {
        Self {
            outcome,
            reason: reason.map(str::to_owned),
            message,
            tokens: None,
            balance_before: None,
            balance_after: None,
        }
    }

    /// In one line.
    pub(super) fn for_people(&self) -> String {
        let message = self.message.as_deref().unwrap_or_default();
        let reason = self.reason.as_deref().unwrap_or_default();
        match self.outcome {
            Outcome::WouldCharge => {
                let figure = |figure: Option<i64>| figure.map_or_else(|| "?".to_owned(), thousands);
                format!(
                    "would charge {} tokens: balance {} → {}",
                    figure(self.tokens),
                    figure(self.balance_before),
                    figure(self.balance_after)
                )
            }
            Outcome::AlreadyCharged => {
                "would change nothing: the job is charged already".to_owned()
            }
            Outcome::WouldFail => format!("would fail again: {reason}: {message}"),
            Outcome::NotOpen => format!("is not open for it: {message}"),
            Outcome::Unknown => format!("can't be told now: {message}"),
        }
    }
}

/// Asks the books, by charging in a transaction that is rolled back.
pub(super) async fn prospect(storage: &Storage, limits: &Limits, full: &FullLetter) -> Prospect {
    if let Some(why) = not_open(full) {
        return Prospect::new(Outcome::NotOpen, None, Some(why));
    }
    let body = full.edited_body.as_deref().unwrap_or(&full.body);
    let event = match CompletionEvent::parse(body, full.content_type.as_deref(), limits) {
        Ok(event) => event,
        Err(error) => {
            let message = Some(error.to_string());
            return Prospect::new(Outcome::WouldFail, Some(error.reason().as_str()), message);
        }
    };
    match rehearsed(storage, &event).await {
        Ok(Some(answer)) => of_answer(answer, event.tokens()),
        Ok(None) => Prospect::new(Outcome::Unknown, None, None),
        Err(error) => Prospect::new(Outcome::Unknown, None, Some(one_line(&error.into()))),
    }
}

async fn rehearsed(
    storage: &Storage,
    event: &CompletionEvent,
) -> Result<Option<Deduction>, StorageError> {
    let mut rehearsal = storage.rehearse().await?;
    let mut answers = rehearsal.deduct(&[event]).await?;
    rehearsal.end().await?;
    Ok(answers.pop())
}

fn of_answer(answer: Deduction, tokens: i64) -> Prospect {
    let (outcome, receipt) = match answer {
        Deduction::Charged(receipt) => (Outcome::WouldCharge, receipt),
        Deduction::AlreadyCharged(receipt) => (Outcome::AlreadyCharged, receipt),
        Deduction::Refused(refusal) => {
            let reason = refusal.reason.as_str();
            return Prospect::new(Outcome::WouldFail, Some(reason), Some(refusal.message));
        }
        Deduction::JobNotFound => {
            let message = "the event names no company, and article_jobs doesn't know the job";
            let reason = Reason::JobNotFound.as_str();
            return Prospect::new(Outcome::WouldFail, Some(reason), Some(message.to_owned()));
        }
    };
    Prospect {
        tokens: Some(tokens),
        balance_before: Some(receipt.balance_before),
        balance_after: Some(receipt.balance_after),
        ..Prospect::new(outcome, None, None)
    }
}

fn not_open(full: &FullLetter) -> Option<String> {
    let letter = &full.letter;
    match letter.state {
        LetterState::Open => None,
        LetterState::Discarded => Some(format!(
            "it is discarded (token-billing dlq restore {})",
            letter.id
        )),
        LetterState::Resolved => Some("its job is charged".to_owned()),
        LetterState::Replayed => Some(match letter.failed_again_as {
            Some(id) => format!("it was replayed, and failed again as {id}"),
            None => "it was replayed, and has not come back".to_owned(),
        }),
    }
}
