//! Processes that only charge, and what they say about it.

use std::time::Duration;

use uuid::Uuid;

use super::{eventually::PATIENCE, process::Process, site::Site};

/// Said of a company, once, whose row somebody else has locked.
pub(crate) const FOUND_LOCKED: &str = "locked by another transaction: its events wait";

/// Said of each event that goes to a delay queue, which uses up an attempt.
pub(crate) const RETRYING: &str = "retrying later";

/// What a process says that it did, when it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) charged: i64,
    pub(crate) duplicates: i64,
    pub(crate) delayed: i64,
    pub(crate) dead_lettered: i64,
}

impl Site {
    /// A process that charges; returns when it takes messages.
    pub(crate) async fn charge(&self) -> Process {
        let mut process = self.charge_unready();
        process.wait_for_log("readiness: ready", PATIENCE).await;
        process
    }

    /// A process that charges, or soon will.
    pub(crate) fn charge_unready(&self) -> Process {
        Process::start(&["serve", "--role", "worker"], &self.environment())
    }
}

impl Process {
    /// SIGTERM; it must leave in order, within this time.
    pub(crate) async fn drain_within(&mut self, patience: Duration) -> Counts {
        self.terminate().await;
        assert_eq!(self.wait(patience).await, Some(0), "{:#?}", self.log());
        let line = self.wait_for_log("drained", PATIENCE).await;
        let words: Vec<&str> = line.split([' ', ',', ';']).collect();
        let count = |what: &str| {
            let at = words.iter().position(|word| *word == what);
            let number = at.and_then(|at| words[at - 1].parse().ok());
            number.unwrap_or_else(|| panic!("no number of {what} in {line}"))
        };
        Counts {
            charged: count("charged"),
            duplicates: count("duplicates"),
            delayed: count("delayed"),
            dead_lettered: count("dead-lettered"),
        }
    }

    pub(crate) async fn drain(&mut self) -> Counts {
        self.drain_within(PATIENCE).await
    }

    /// How often it has said this.
    pub(crate) fn said(&self, text: &str) -> usize {
        let log = self.log();
        log.iter().filter(|line| line.contains(text)).count()
    }

    /// How often it has said this of a company or a job.
    pub(crate) fn said_of(&self, text: &str, of: Uuid) -> usize {
        let of = of.to_string();
        let log = self.log();
        let lines = log.iter().filter(|line| line.contains(text));
        lines.filter(|line| line.contains(&of)).count()
    }
}

/// Every event of this many was charged at the first try.
pub(crate) fn only_charged(charged: i64) -> Counts {
    Counts {
        charged,
        duplicates: 0,
        delayed: 0,
        dead_lettered: 0,
    }
}
