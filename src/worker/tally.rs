//! Counts of what became of messages, since the start of the process.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use time::OffsetDateTime;

use super::Lag;
use crate::domain::{CompletionEvent, Deduction, Disposition, Verdict};

/// The counters; each message counts once per time it is processed.
#[derive(Debug, Default)]
pub struct Tally {
    charged: AtomicU64,
    duplicates: AtomicU64,
    delayed: AtomicU64,
    dead_lettered: AtomicU64,
    job_status_errors: AtomicU64,
    batches: AtomicU64,
    lag: Lag,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tallied {
    /// Charged by this process.
    pub charged: u64,
    /// Had been charged before.
    pub duplicates: u64,
    /// Sent to a delay queue.
    pub delayed: u64,
    /// Sent to the dead-letter exchange.
    pub dead_lettered: u64,
    /// Charged, though `article_jobs` refused the new status.
    pub job_status_errors: u64,
}

impl Tally {
    /// Counts what the ledger answered.
    pub(super) fn count_verdict(&self, verdict: &Verdict) {
        let Verdict::Answered(deduction) = verdict else {
            return;
        };
        match deduction {
            Deduction::Charged { job_status_error } => {
                self.charged.fetch_add(1, Ordering::Relaxed);
                if job_status_error.is_some() {
                    self.job_status_errors.fetch_add(1, Ordering::Relaxed);
                }
            }
            Deduction::AlreadyCharged => {
                self.duplicates.fetch_add(1, Ordering::Relaxed);
            }
            Deduction::Refused(_) | Deduction::JobNotFound | Deduction::Locked(_) => {}
        }
    }

    /// Counts where a message went.
    pub(super) fn count_disposition(&self, disposition: &Disposition) {
        match disposition {
            Disposition::Ack | Disposition::MarkPending { .. } => return,
            Disposition::Delay { .. } => &self.delayed,
            Disposition::DeadLetter { .. } => &self.dead_lettered,
        }
        .fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a batch that the ledger was asked about.
    pub(super) fn count_batch(&self) {
        self.batches.fetch_add(1, Ordering::Relaxed);
    }

    /// Batches that the ledger was asked about, each time it was.
    pub fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    /// Notes how long a charge that has just been committed had been waited for.
    pub(super) fn record_lag(
        &self,
        event: &CompletionEvent,
        verdict: &Verdict,
        now: OffsetDateTime,
    ) {
        if let (Verdict::Answered(Deduction::Charged { .. }), Some(occurred_at)) =
            (verdict, event.occurred_at())
        {
            // A publisher's clock that runs ahead gives no negative time.
            self.lag
                .record((now - occurred_at).try_into().unwrap_or_default());
        }
    }

    /// The time from `occurred_at` to the committed charge.
    pub fn lag(&self) -> &Lag {
        &self.lag
    }

    /// The counters now.
    pub fn read(&self) -> Tallied {
        Tallied {
            charged: self.charged.load(Ordering::Relaxed),
            duplicates: self.duplicates.load(Ordering::Relaxed),
            delayed: self.delayed.load(Ordering::Relaxed),
            dead_lettered: self.dead_lettered.load(Ordering::Relaxed),
            job_status_errors: self.job_status_errors.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Display for Tallied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} charged, {} duplicates, {} delayed, {} dead-lettered",
            self.charged, self.duplicates, self.delayed, self.dead_lettered
        )
    }
}
