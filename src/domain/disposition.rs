//! What happens to a message, given what became of its event. One pure function decides.

use std::time::Duration;

use super::{Deduction, EventError, Locked, PendingMark, Reason, RetrySchedule};

/// What became of one message's event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The ledger answered.
    Answered(Deduction),
    /// No retry can help: the body is wrong, or the database rejects it for good.
    Hopeless {
        /// Which kind of wrong.
        reason: Reason,
        /// What exactly, for a person.
        error: String,
    },
    /// The ledger couldn't answer this time.
    Transient {
        /// What the database said.
        error: String,
    },
    /// The charge was to be recorded as pending, as [`Disposition::MarkPending`] wants it.
    Marked {
        /// What came of it; `None`: the database couldn't this time.
        mark: Option<PendingMark>,
        /// Why the charge couldn't be made.
        error: String,
    },
}

impl From<EventError> for Verdict {
    fn from(error: EventError) -> Self {
        Self::Hopeless {
            reason: error.reason(),
            error: error.to_string(),
        }
    }
}

/// What to do with one message. Whatever it is, the message is acked only after it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disposition {
    /// Nothing more: the charge is in the ledger.
    Ack,
    /// Publish to a delay queue.
    Delay {
        /// For how long.
        delay: Duration,
        /// The `attempt` header it comes back with.
        attempt: u32,
        error: String,
    },
    /// Record the charge as `pending`, and decide again with what came of that. A dead letter without its record
    /// would be a debt that the sweeper doesn't know of.
    MarkPending {
        /// Why it couldn't be made.
        error: String,
    },
    /// Publish to the dead-letter exchange.
    DeadLetter {
        /// The `reason` header.
        reason: Reason,
        /// The `error` header.
        error: String,
    },
}

/// Decides what happens to a message that has failed `attempt` times before.
pub fn dispose(verdict: Verdict, attempt: u32, schedule: &RetrySchedule) -> Disposition {
    use Disposition::{Ack, DeadLetter, Delay, MarkPending};
    let later = |error| match schedule.delay(attempt) {
        Some(delay) => Ok(Delay {
            delay,
            attempt: attempt + 1,
            error,
        }),
        None => Err(error),
    };
    match verdict {
        Verdict::Answered(Deduction::Charged { .. } | Deduction::AlreadyCharged) => Ack,
        Verdict::Answered(Deduction::Refused(refusal)) => DeadLetter {
            reason: refusal.reason,
            error: refusal.message,
        },
        Verdict::Hopeless { reason, error } => DeadLetter { reason, error },
        Verdict::Answered(Deduction::JobNotFound) => {
            let error = "company_id: missing, and article_jobs has no row of this job".to_owned();
            later(error).unwrap_or_else(|error| DeadLetter {
                reason: Reason::JobNotFound,
                error,
            })
        }
        Verdict::Answered(Deduction::Locked(locked)) => {
            let error = match locked {
                Locked::Company => {
                    "another transaction has locked the company's row in company_subscriptions"
                }
                Locked::Job => "another transaction has locked the job's row in article_jobs",
            };
            later(error.to_owned()).unwrap_or_else(|error| MarkPending { error })
        }
        Verdict::Transient { error } => later(error).unwrap_or_else(|error| MarkPending { error }),
        Verdict::Marked { mark, error } => match (mark, schedule.steps().last()) {
            (Some(PendingMark::Charged), _) => Ack,
            (Some(PendingMark::Pending | PendingMark::NoCompany), _)
            | (Some(PendingMark::Decided), None) => DeadLetter {
                reason: Reason::RetriesExhausted,
                error,
            },
            // Once more around the longest delay, with the attempt as it is: what was decided is answered by the
            // ledger at once, what could not be recorded is tried again.
            (Some(PendingMark::Decided) | None, Some(&delay)) => Delay {
                delay,
                attempt,
                error,
            },
            // Without a delay queue there is nowhere to wait but where it is.
            (None, None) => MarkPending { error },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Retry, domain::Refusal};

    fn with_attempts(attempts: u32) -> RetrySchedule {
        RetrySchedule::new(&Retry {
            attempts,
            ..Retry::default()
        })
    }

    fn charged() -> Deduction {
        Deduction::Charged {
            job_status_error: Some("the application's CHECK".into()),
        }
    }

    fn error() -> String {
        "why".to_owned()
    }

    fn delay(seconds: u64, attempt: u32) -> Disposition {
        Disposition::Delay {
            delay: Duration::from_secs(seconds),
            attempt,
            error: error(),
        }
    }

    fn dead(reason: Reason) -> Disposition {
        Disposition::DeadLetter {
            reason,
            error: error(),
        }
    }

    fn marked(mark: Option<PendingMark>) -> Verdict {
        Verdict::Marked {
            mark,
            error: error(),
        }
    }

    /// With delays of 1, 2 and 4 s, unless the row says that there are none.
    #[test]
    fn each_verdict_has_its_disposition() {
        use PendingMark::{Charged, Decided, NoCompany, Pending};
        let answered = Verdict::Answered;
        let transient = Verdict::Transient { error: error() };
        let mark_pending = Disposition::MarkPending { error: error() };
        let exhausted = dead(Reason::RetriesExhausted);
        let mut rows = vec![
            (answered(charged()), 0, Disposition::Ack),
            (answered(Deduction::AlreadyCharged), 9, Disposition::Ack),
            (transient.clone(), 0, delay(1, 1)),
            (transient.clone(), 1, delay(2, 2)),
            (transient.clone(), 2, delay(4, 3)),
            (transient.clone(), 3, mark_pending.clone()),
            (transient.clone(), u32::MAX, mark_pending.clone()),
            (marked(Some(Pending)), 3, exhausted.clone()),
            (marked(Some(NoCompany)), 3, exhausted.clone()),
            (marked(Some(Charged)), 3, Disposition::Ack),
            (marked(Some(Decided)), 3, delay(4, 3)),
            (marked(None), 3, delay(4, 3)),
        ];
        for reason in Reason::ALL {
            let refusal = Refusal {
                reason,
                message: error(),
                job_status_error: None,
            };
            let hopeless = Verdict::Hopeless {
                reason,
                error: error(),
            };
            rows.push((answered(Deduction::Refused(refusal)), 0, dead(reason)));
            rows.push((hopeless, 0, dead(reason)));
        }
        let schedule = with_attempts(3);
        for (verdict, attempt, disposition) in rows {
            let said = format!("{verdict:?} at {attempt}");
            assert_eq!(dispose(verdict, attempt, &schedule), disposition, "{said}");
        }
        let never = with_attempts(0);
        for (verdict, disposition) in [
            (transient, mark_pending.clone()),
            (marked(Some(Pending)), exhausted.clone()),
            (marked(Some(Decided)), exhausted),
            (marked(None), mark_pending),
        ] {
            let said = format!("{verdict:?} without delays");
            assert_eq!(dispose(verdict, 0, &never), disposition, "{said}");
        }
    }

    #[test]
    fn a_job_that_never_appears_is_dead_without_a_record() {
        let disposed = |attempt| {
            let verdict = Verdict::Answered(Deduction::JobNotFound);
            dispose(verdict, attempt, &with_attempts(3))
        };
        let is_later = |disposed| matches!(disposed, Disposition::Delay { attempt: 3, .. });
        assert!(is_later(disposed(2)));
        let reason = Reason::JobNotFound;
        let is_dead = |is| matches!(is, Disposition::DeadLetter { reason: r, .. } if r == reason);
        assert!(is_dead(disposed(3)));
    }
}
