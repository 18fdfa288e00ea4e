//! What a pass did.

use std::fmt;

use serde::Serialize;

use super::Swept;
use crate::{
    storage::{StaleDeduction, StorageError},
    telemetry::metrics::Metrics,
};

/// What a pass did; each stale record counts once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SweepReport {
    /// The article exists: charged.
    pub charged: u64,
    /// The article exists, and the charge was refused: the balance is too small, say.
    pub refused: u64,
    /// The article doesn't exist: ended as failed.
    pub written_off: u64,
    /// Tokens of these.
    pub written_off_tokens: i64,
    /// Whether the article exists can't be told: stays pending.
    pub undecidable: u64,
    /// Somebody else charged it or wrote it off between the look and the write.
    pub no_longer_pending: u64,
    /// Sweeping it failed: stays pending, and is tried again by a later pass.
    pub set_aside: u64,
    /// Holds that had expired: closed.
    pub holds_expired: u64,
    /// Of these, those whose article exists though no event has come: nothing was charged.
    pub events_missing: u64,
}

impl SweepReport {
    pub(super) fn add(&mut self, swept: Swept) {
        match swept {
            Swept::Charged => self.charged += 1,
            Swept::Refused => self.refused += 1,
            Swept::WrittenOff { tokens } => {
                self.written_off += 1;
                self.written_off_tokens += tokens;
            }
            Swept::Meanwhile => self.no_longer_pending += 1,
        }
    }

    pub(super) fn set_aside(&mut self, one: &StaleDeduction, what: &str, error: &StorageError) {
        tracing::error!(charge.idempotency_key = one.idempotency_key, error.message = %error, "{what}: set aside");
        self.set_aside += 1;
    }

    /// The same as the metrics have it.
    pub(super) fn count(&self, metrics: &Metrics) {
        let records = [
            ("charged", self.charged),
            ("refused", self.refused),
            ("written_off", self.written_off),
            ("undecidable", self.undecidable),
            ("no_longer_pending", self.no_longer_pending),
            ("set_aside", self.set_aside),
            ("holds_expired", self.holds_expired),
            ("events_missing", self.events_missing),
        ];
        let tokens = u64::try_from(self.written_off_tokens).unwrap_or(0);
        metrics.swept(&records, tokens);
    }

    /// Whether a person should look.
    #[must_use]
    pub fn needs_person(&self) -> bool {
        self.undecidable + self.set_aside + self.events_missing > 0
    }
}

impl fmt::Display for SweepReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            charged,
            refused,
            written_off,
            undecidable,
            no_longer_pending,
            set_aside,
            ..
        } = self;
        write!(
            f,
            "{charged} charged, {refused} refused, {written_off} written off, {undecidable} undecidable, \
             {no_longer_pending} processed by others, {set_aside} set aside"
        )?;
        match (self.holds_expired, self.events_missing) {
            (0, _) => Ok(()),
            (expired, 0) => write!(f, ", {expired} holds expired"),
            (expired, missing) => {
                write!(
                    f,
                    ", {expired} holds expired, of {missing} the event is missing"
                )
            }
        }
    }
}
