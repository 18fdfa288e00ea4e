//! What comes of what a replay sends, while it sends.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::storage::{Outcomes, Storage, StorageError};

/// Between two looks while sending.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two looks when there is nothing to do but wait.
const WAIT: Duration = Duration::from_millis(100);
/// A look takes at most one part in so many of the time.
const SHARE: u32 = 20;

/// The outcomes of one run, as of the last look.
pub(super) struct OutcomeWatch {
    storage: Arc<Storage>,
    action_id: i64,
    /// Dead letters that the plan expects to fail again.
    expected: Vec<i64>,
    pub(super) outcomes: Outcomes,
    looked_at: Instant,
    took: Duration,
}

impl OutcomeWatch {
    pub(super) fn new(storage: &Arc<Storage>, action_id: i64, expected: Vec<i64>) -> Self {
        Self {
            storage: storage.clone(),
            action_id,
            expected,
            outcomes: Outcomes::default(),
            looked_at: Instant::now(),
            took: Duration::ZERO,
        }
    }

    pub(super) async fn look(&mut self) -> Result<(), StorageError> {
        let started = Instant::now();
        let outcomes = self.storage.outcomes(self.action_id, &self.expected);
        self.outcomes = outcomes.await?;
        self.looked_at = Instant::now();
        self.took = started.elapsed();
        Ok(())
    }

    /// Looks about every second, less often where a look takes long; whether it did.
    pub(super) async fn look_if_due(&mut self) -> Result<bool, StorageError> {
        let due = self.looked_at.elapsed() >= LOOK_EVERY.max(self.took * SHARE);
        if due {
            self.look().await?;
        }
        Ok(due)
    }

    /// Before the next look of one who only waits.
    pub(super) fn pause(&self) -> Duration {
        WAIT.max(self.took * SHARE)
    }
}

/// Something is wrong that the plan didn't know. Dead letters that it expected to fail count for nothing here,
/// neither as failures nor among those of which the outcome is known.
pub(super) fn piled_up(outcomes: &Outcomes, stop_after: u32) -> bool {
    let failed = outcomes.unexpected_failures;
    failed >= stop_after.into() && failed * 2 > outcomes.unexpected_known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_pile_up_when_they_are_many_and_most_and_were_not_planned() {
        for (unexpected_failures, unexpected_known, stops) in [
            (49, 49, false),
            (50, 50, true),
            (50, 99, true),
            (50, 100, false),
            (500, 1000, false),
            (501, 1000, true),
        ] {
            let outcomes = Outcomes {
                failed_again: 10_000,
                unexpected_failures,
                unexpected_known,
                ..Outcomes::default()
            };
            assert_eq!(piled_up(&outcomes, 50), stops);
        }
    }
}
