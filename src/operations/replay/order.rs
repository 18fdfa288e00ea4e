//! What a replay is asked for, and what it answers.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::storage::{Failures, Outcomes, Selection};

/// Which letters, for whom, and how.
#[derive(Debug)]
pub struct Order<'a> {
    /// These, as far as they are open; with `up_to` of the plan.
    pub selection: &'a Selection,
    /// Who asks.
    pub actor: &'a str,
    /// The selection in words.
    pub subject: &'a str,
    /// Why.
    pub note: Option<&'a str>,
    /// Letters a second; `None`: as many as go.
    pub rate: Option<u32>,
    /// Send so many first, and the rest only if none of them fails.
    pub canary: Option<u32>,
    /// Wait for the outcomes at the end.
    pub wait: bool,
    /// Letters that the plan expects to fail again.
    pub expected_failures: &'a [i64],
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Everything was sent.
    Done,
    /// Told to stop; what was in hand is finished.
    Interrupted,
    /// One of the first failed, or is not back in time. Nothing else was sent.
    CanaryFailed,
    /// Too many failed that should not have.
    FailuresPiledUp,
    /// Something is broken.
    Failed(String),
}

impl Serialize for Ended {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Done => "done",
            Self::Interrupted => "interrupted",
            Self::CanaryFailed => "canary_failed",
            Self::FailuresPiledUp => "failures_piled_up",
            Self::Failed(_) => "failed",
        })
    }
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The operator's action.
    pub action_id: i64,
    /// How it ended.
    pub ended: Ended,
    /// Resolved instead of sent: their jobs had been charged meanwhile.
    pub settled: u64,
    /// Sent, but after the claim had run out: somebody may send them again, which is harmless.
    pub unmarked: u64,
    /// What was sent, and what came of it.
    #[serde(flatten)]
    pub outcomes: Outcomes,
    /// Why letters came back.
    pub failures: Vec<Failures>,
    /// For sending, not for waiting.
    pub seconds: f64,
}

/// Told while a run goes on.
#[derive(Debug, Clone, Copy)]
pub enum Progress<'a> {
    /// Confirmed so far, and what is known of these.
    At {
        /// Done with: sent, or resolved instead.
        done: u64,
        /// As of the last look.
        outcomes: &'a Outcomes,
    },
    /// All that is left is in the hands of another run, for so long at most.
    Held {
        /// Letters.
        letters: i64,
        /// Until the last claim on them runs out.
        longest: Duration,
    },
    /// Everything is sent; some of it isn't back.
    Waiting(&'a Outcomes),
}
