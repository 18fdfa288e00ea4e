//! What happens to a message, given what became of its event. One pure function decides.

use std::time::Duration;

use super::{Deduction, RefusalCause, RetrySchedule};

/// Why a message is a dead letter: the `reason` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The body is no completion event.
    Malformed,
    /// `tokens` is below 1 or above the limit.
    AmountOutOfRange,
    /// The body is larger than the limit.
    PayloadTooLarge,
    /// The company has fewer tokens than the article costs.
    InsufficientBalance,
    /// No such company.
    CompanyNotFound,
    /// The job was charged for another company or amount.
    IdempotencyKeyReused,
    /// The charge was refunded.
    AlreadyCompensated,
    /// Event and job name different companies.
    CompanyMismatch,
    /// No company in the event, and no row of the job after all retries.
    JobNotFound,
    /// All retries failed; the charge is owed and its record `pending`.
    RetriesExhausted,
    /// The database refuses this very event with an error that isn't temporary.
    RejectedByDatabase,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Malformed,
        Self::AmountOutOfRange,
        Self::PayloadTooLarge,
        Self::InsufficientBalance,
        Self::CompanyNotFound,
        Self::IdempotencyKeyReused,
        Self::AlreadyCompensated,
        Self::CompanyMismatch,
        Self::JobNotFound,
        Self::RetriesExhausted,
        Self::RejectedByDatabase,
    ];

    /// The value of the `reason` header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::AmountOutOfRange => "amount_out_of_range",
            Self::PayloadTooLarge => "payload_too_large",
            Self::InsufficientBalance => "insufficient_balance",
            Self::CompanyNotFound => "company_not_found",
            Self::IdempotencyKeyReused => "idempotency_key_reused",
            Self::AlreadyCompensated => "already_compensated",
            Self::CompanyMismatch => "company_mismatch",
            Self::JobNotFound => "job_not_found",
            Self::RetriesExhausted => "retries_exhausted",
            Self::RejectedByDatabase => "rejected_by_database",
        }
    }
}

impl From<RefusalCause> for Reason {
    fn from(cause: RefusalCause) -> Self {
        match cause {
            RefusalCause::InsufficientBalance => Self::InsufficientBalance,
            RefusalCause::CompanyNotFound => Self::CompanyNotFound,
            RefusalCause::IdempotencyKeyReused => Self::IdempotencyKeyReused,
            RefusalCause::AlreadyCompensated => Self::AlreadyCompensated,
            RefusalCause::CompanyMismatch => Self::CompanyMismatch,
        }
    }
}

/// What became of one message's event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The books answered.
    Answered(Deduction),
    /// No retry can help: the body is wrong, or the database rejects it for good.
    Hopeless {
        /// Which kind of wrong.
        reason: Reason,
        /// What exactly, for a person.
        error: String,
    },
    /// The books couldn't answer this time.
    Transient {
        /// What the database said.
        error: String,
    },
}

/// What to do with one message. Whatever it is, the message is acked only after it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disposition {
    /// Nothing more: the charge is in the books.
    Ack,
    /// Publish to a delay queue.
    Delay {
        /// For how long.
        delay: Duration,
        /// The `attempt` header it comes back with.
        attempt: u32,
        /// Why.
        error: String,
    },
    /// Publish to the dead-letter exchange.
    DeadLetter {
        /// The `reason` header.
        reason: Reason,
        /// The `error` header.
        error: String,
        /// The charge is owed: write the record as `pending` first.
        owed: bool,
    },
}

/// Decides what happens to a message that has failed `attempt` times before.
pub fn dispose(verdict: Verdict, attempt: u32, schedule: &RetrySchedule) -> Disposition {
    match verdict {
        Verdict::Answered(Deduction::Charged(_) | Deduction::AlreadyCharged(_)) => Disposition::Ack,
        Verdict::Answered(Deduction::Refused(refusal)) => Disposition::DeadLetter {
            reason: refusal.cause.into(),
            error: refusal.message,
            owed: false,
        },
        Verdict::Hopeless { reason, error } => Disposition::DeadLetter {
            reason,
            error,
            owed: false,
        },
        Verdict::Answered(Deduction::JobNotFound) => {
            let error = "company_id: missing, and article_jobs has no row of this job".to_owned();
            delay_or(schedule, attempt, error, Reason::JobNotFound)
        }
        Verdict::Transient { error } => {
            delay_or(schedule, attempt, error, Reason::RetriesExhausted)
        }
    }
}

fn delay_or(schedule: &RetrySchedule, attempt: u32, error: String, used_up: Reason) -> Disposition {
    match schedule.delay(attempt) {
        Some(delay) => Disposition::Delay {
            delay,
            attempt: attempt + 1,
            error,
        },
        None => Disposition::DeadLetter {
            reason: used_up,
            error,
            owed: used_up == Reason::RetriesExhausted,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Retry,
        domain::{Receipt, Refusal},
    };

    fn schedule() -> RetrySchedule {
        RetrySchedule::new(&Retry::default())
    }

    fn refused(cause: RefusalCause) -> Verdict {
        Verdict::Answered(Deduction::Refused(Refusal {
            cause,
            message: "why".into(),
        }))
    }

    #[test]
    fn a_charge_made_now_or_earlier_is_acked() {
        let receipt = Receipt {
            deduction_record_id: uuid::Uuid::nil(),
            balance_before: 2,
            balance_after: 1,
            monthly_deducted: 1,
            purchased_deducted: 0,
            job_status_error: Some("the application's CHECK".into()),
        };
        for deduction in [
            Deduction::Charged(receipt.clone()),
            Deduction::AlreadyCharged(receipt),
        ] {
            assert_eq!(
                dispose(Verdict::Answered(deduction), 0, &schedule()),
                Disposition::Ack
            );
        }
    }

    #[test]
    fn a_refusal_is_dead_at_once_with_its_own_reason() {
        for (cause, reason) in [
            (RefusalCause::InsufficientBalance, "insufficient_balance"),
            (RefusalCause::CompanyNotFound, "company_not_found"),
            (RefusalCause::IdempotencyKeyReused, "idempotency_key_reused"),
            (RefusalCause::AlreadyCompensated, "already_compensated"),
            (RefusalCause::CompanyMismatch, "company_mismatch"),
        ] {
            let Disposition::DeadLetter {
                reason: got, owed, ..
            } = dispose(refused(cause), 0, &schedule())
            else {
                panic!("{cause:?} was not dead-lettered");
            };
            assert_eq!((got.as_str(), owed), (reason, false));
        }
    }

    #[test]
    fn a_transient_failure_waits_1_2_4_seconds_and_is_then_owed() {
        let fail = |attempt| {
            dispose(
                Verdict::Transient {
                    error: "deadlock".into(),
                },
                attempt,
                &schedule(),
            )
        };
        for (attempt, seconds) in [(0, 1), (1, 2), (2, 4)] {
            assert_eq!(
                fail(attempt),
                Disposition::Delay {
                    delay: Duration::from_secs(seconds),
                    attempt: attempt + 1,
                    error: "deadlock".into()
                }
            );
        }
        for attempt in [3, 4, u32::MAX] {
            assert_eq!(
                fail(attempt),
                Disposition::DeadLetter {
                    reason: Reason::RetriesExhausted,
                    error: "deadlock".into(),
                    owed: true
                }
            );
        }
    }

    #[test]
    fn a_job_that_never_appears_is_dead_without_a_record() {
        let Disposition::DeadLetter { reason, owed, .. } =
            dispose(Verdict::Answered(Deduction::JobNotFound), 3, &schedule())
        else {
            panic!("still delayed");
        };
        assert_eq!((reason, owed), (Reason::JobNotFound, false));
    }
}
