//! What becomes of an event that was just published: for whoever waits for it.

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{JobKey, JobLife, OperationError, Operations};
use crate::domain::CompletionEvent;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Charged,
    /// Not charged, and nobody tries again by himself.
    Refused,
    /// Not charged yet: the sweeper tries.
    Pending,
    /// Nothing is known of it yet.
    Queued,
}

/// What became of an event, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct EventOutcome {
    pub(crate) outcome: Outcome,
    /// Of one that isn't charged: a code.
    pub(crate) reason: Option<String>,
    /// The same for a person.
    pub(crate) message: Option<String>,
}

impl EventOutcome {
    fn new(outcome: Outcome, reason: Option<&str>, message: Option<String>) -> Self {
        Self {
            outcome,
            reason: reason.map(str::to_owned),
            message,
        }
    }
}

impl Operations {
    /// What is known of an event's job before it is published; what is different later is this event's doing.
    pub(crate) async fn job_before(
        &self,
        event: &CompletionEvent,
    ) -> Result<JobLife, OperationError> {
        let key = JobKey::new(&event.job_id().to_string());
        Ok(self.storage.job_life(key.as_str()).await?)
    }

    /// Waits until something has become of an event that was published after `before` was looked at, for at most so long.
    /// A database that is away meanwhile is waited for as well.
    pub(crate) async fn outcome(
        &self,
        event: &CompletionEvent,
        before: &JobLife,
        within: Duration,
    ) -> EventOutcome {
        let deadline = Instant::now() + within;
        let mut every = interval(LOOK_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut trouble = None;
        loop {
            every.tick().await;
            let look = tokio::time::timeout_at(deadline, self.job_before(event)).await;
            match look {
                Ok(Ok(now)) => {
                    trouble = None;
                    if let Some(outcome) = judged(event, before, &now) {
                        return outcome;
                    }
                }
                Ok(Err(error)) => trouble = Some(error.to_string()),
                Err(_) => {}
            }
            if Instant::now() >= deadline {
                return EventOutcome::new(Outcome::Queued, None, trouble);
            }
        }
    }
}

/// `None`: nothing yet.
fn judged(event: &CompletionEvent, before: &JobLife, now: &JobLife) -> Option<EventOutcome> {
    let record = now.record.as_ref();
    let status = record.map(|record| record.status.as_str());
    match (status, record) {
        (Some("completed"), Some(record)) => {
            let payer = event.company_id();
            let same = record.amount == event.tokens()
                && payer.is_none_or(|company| company == record.company_id);
            return Some(if same {
                EventOutcome::new(Outcome::Charged, None, None)
            } else {
                let (amount, company) = (record.amount, record.company_id);
                let message = format!("its job was charged {amount} tokens of company {company}");
                EventOutcome::new(
                    Outcome::Refused,
                    Some("idempotency_key_reused"),
                    Some(message),
                )
            });
        }
        (Some("compensated"), _) => {
            let message = "its job was charged and refunded, and is never charged again";
            let message = Some(message.to_owned());
            return Some(EventOutcome::new(
                Outcome::Refused,
                Some("already_compensated"),
                message,
            ));
        }
        _ => {}
    }
    let tries = |life: &JobLife| {
        let record = life.record.as_ref();
        record.map(|record| (record.status.clone(), record.retry_count))
    };
    let arrivals = |life: &JobLife| -> i64 {
        let arrivals = life.dead_letters.iter();
        arrivals.map(|dead| i64::from(dead.occurrences)).sum()
    };
    let is_tried = tries(before) != tries(now);
    if let Some(record) = record.filter(|_| is_tried) {
        let outcome = match record.status.as_str() {
            "pending" => Outcome::Pending,
            _ => Outcome::Refused,
        };
        let reason = record.error_code.as_deref();
        return Some(EventOutcome::new(
            outcome,
            reason,
            record.error_message.clone(),
        ));
    }
    let dead = now.dead_letters.last()?;
    (arrivals(before) != arrivals(now)).then(|| {
        EventOutcome::new(
            Outcome::Refused,
            Some(&dead.reason),
            Some(dead.error.clone()),
        )
    })
}
