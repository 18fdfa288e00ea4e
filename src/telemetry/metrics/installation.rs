//! Gauges of the whole installation, whoever looks at it.

use std::collections::BTreeMap;

use super::{Metrics, OTHER, record::unix_seconds};

/// Where a look went to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Database,
    Broker,
}

/// What a look at the database saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Charges that are pending.
    pub pending: i64,
    /// Since how many seconds the oldest of them is.
    pub pending_oldest_seconds: i64,
    /// Holds that are open and have not expired.
    pub holds_open: i64,
    /// Open dead letters by reason.
    pub dead_letters_open: BTreeMap<String, i64>,
    /// Since how many seconds the oldest of those that aren't parked is in the archive.
    pub dead_letter_oldest_seconds: i64,
}

impl Source {
    fn as_str(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Broker => "broker",
        }
    }
}

impl Metrics {
    /// Shows what the database said.
    pub fn show(&self, seen: &Seen) {
        self.pending_deductions.set(seen.pending as f64);
        self.pending_oldest.set(seen.pending_oldest_seconds as f64);
        self.holds_open.set(seen.holds_open as f64);
        let open = &seen.dead_letters_open;
        self.dead_letters_open.set_all(|reason| {
            let of_it = open.get(reason).copied().unwrap_or(0);
            of_it as f64
        });
        // Anybody may put a dead letter with a reason of his own into the queue: that is no name of a series.
        let known = |reason: &str| reason != OTHER && self.dead_letters_open.has(reason);
        let others = open.iter().filter(|(reason, _)| !known(reason));
        let others: i64 = others.map(|(_, count)| count).sum();
        self.dead_letters_open.set(OTHER, others as f64);
        self.dead_letter_oldest
            .set(seen.dead_letter_oldest_seconds as f64);
    }

    /// Shows how many messages are ready in a queue, by its name without the prefix.
    pub fn show_queue(&self, queue: &str, messages: u32) {
        self.queue_messages.set(queue, f64::from(messages));
        if queue == "dead-letters" {
            self.dead_letters_unarchived.set(f64::from(messages));
        }
    }

    /// Shows whether a look there succeeded.
    pub fn looked(&self, at: Source, succeeded: bool) {
        self.status_up
            .set(at.as_str(), f64::from(u8::from(succeeded)));
        if succeeded {
            self.status_timestamp.set(at.as_str(), unix_seconds());
        }
    }
}
