//! What a replay is asked for, how far it is, and what it answers.

use serde::{Deserialize, Serialize};

use crate::{
    operations::{Actor, Dependency},
    storage::{Failures, Outcomes, StorageError},
};

/// For whom a plan is carried out, and how.
#[derive(Debug, Clone)]
pub struct ReplayOrder {
    pub actor: Actor,
    pub note: Option<String>,
    /// Dead letters a second; `None`: as many as go.
    pub rate: Option<u32>,
    /// Send so many first, and the rest only if none of them fails.
    pub canary: Option<u32>,
    /// Wait for the outcomes at the end.
    pub wait: bool,
}

/// How a replay ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "ended", rename_all = "snake_case")]
pub enum ReplayEnded {
    /// Everything was sent.
    Done,
    /// Told to stop; what was in flight is finished.
    Interrupted,
    /// One of the first failed, or is not back in time. Nothing else was sent.
    CanaryFailed,
    /// Too many failed that should not have.
    FailuresPiledUp,
    /// Something is broken.
    Failed {
        dependency: Dependency,
        /// What it said.
        why: String,
    },
}

impl From<StorageError> for ReplayEnded {
    fn from(error: StorageError) -> Self {
        Self::Failed {
            dependency: Dependency::Database,
            why: format!("database: {error}"),
        }
    }
}

/// What a replay did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReplayReport {
    /// The operator's action.
    pub action_id: i64,
    /// How it ended.
    #[serde(flatten)]
    pub ended: ReplayEnded,
    /// Resolved instead of sent: their jobs had been charged meanwhile.
    pub resolved: u64,
    /// Sent, but after the claim had run out: somebody may send them again, which is harmless.
    pub unmarked: u64,
    /// What was sent, and what came of it.
    #[serde(flatten)]
    pub outcomes: Outcomes,
    /// Why some came back.
    pub failures: Vec<Failures>,
    /// For sending, not for waiting.
    pub seconds: f64,
}

/// How far a replay is.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ReplayProgress {
    /// The operator's action.
    pub action_id: i64,
    /// Dead letters that the plan found to send.
    pub planned: u64,
    /// Done with so far: sent and confirmed, or resolved instead.
    pub done: u64,
    /// What it does now.
    #[serde(flatten)]
    pub phase: ReplayPhase,
    /// What came of those sent, as of the last look.
    pub outcomes: Outcomes,
    /// Once it has ended.
    pub report: Option<ReplayReport>,
}

/// What a replay does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum ReplayPhase {
    /// It claims, publishes and marks.
    Sending,
    /// All that is left is in the hands of another replay.
    Held {
        held: i64,
        /// Until the last claim on them runs out, at most.
        free_in_ms: i64,
    },
    /// What was sent is to come back.
    Waiting,
    /// It is over.
    Ended,
}
