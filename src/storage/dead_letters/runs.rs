//! Runs of a replay: an operator's action, what it sent, and what came of that.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::storage::{Storage, StorageError};

/// What has come of the dead letters that a run sent.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    sqlx::FromRow,
    utoipa::ToSchema,
)]
pub struct Outcomes {
    /// Sent and marked.
    pub sent: i64,
    /// Charged after they were sent.
    pub charged: i64,
    /// The tokens of these.
    pub charged_tokens: i64,
    /// Their jobs had been charged before, or by another dead letter of the same run.
    pub duplicates: i64,
    /// Came back as dead letters.
    pub failed_again: i64,
    /// Not back, and pending since before.
    pub pending: i64,
    pub unknown: i64,
    /// Of `failed_again`: those that the plan did not expect to fail.
    pub unexpected_failures: i64,
    /// Outcomes of dead letters that the plan did not expect to fail.
    pub unexpected_known: i64,
}

impl Outcomes {
    /// Dead letters of which nobody knows yet.
    pub fn under_way(&self) -> i64 {
        self.pending + self.unknown
    }
}

/// Dead letters of a run that came back with the same reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Failures {
    /// The reason of the new dead letters.
    pub reason: String,
    pub dead_letters: i64,
    /// The first that was sent.
    pub first: i64,
    /// As which it came back.
    pub first_again: i64,
    pub first_error: String,
}

impl Storage {
    /// The newest dead letter's id: what arrives later has a higher one.
    pub async fn newest_dead_letter(&self) -> Result<i64, StorageError> {
        let query = sqlx::query_scalar("select coalesce(max(id), 0) from dead_letters");
        self.call(async |connection| query.fetch_one(connection).await)
            .await
    }

    /// Begins a run; its number.
    pub async fn begin_replay(
        &self,
        actor: &str,
        subject: &str,
        note: Option<&str>,
        details: &Value,
    ) -> Result<i64, StorageError> {
        let query = sqlx::query_scalar("select begin_replay($1, $2, $3, $4)")
            .bind(actor)
            .bind(subject)
            .bind(note)
            .bind(details);
        self.call(async |connection| query.fetch_one(connection).await)
            .await
    }

    /// Adds what has come of a run, once.
    pub async fn finish_replay(&self, run: i64, details: &Value) -> Result<(), StorageError> {
        let query = sqlx::query("select finish_replay($1, $2)")
            .bind(run)
            .bind(details);
        self.call(async |connection| query.execute(connection).await)
            .await
            .map(drop)
    }

    /// What was written down of a replay at its end; the inner `None`: it hasn't ended, or its process died.
    pub async fn replay_details(&self, run: i64) -> Result<Option<Option<Value>>, StorageError> {
        let query = sqlx::query_scalar(
            "select case when finished_at is not null then details end
             from operator_actions where id = $1 and action = 'replay'",
        )
        .bind(run);
        self.call(async |connection| query.fetch_optional(connection).await)
            .await
    }

    /// What has come of what a run sent. `expected` are the dead letters that the plan expects to fail.
    pub async fn outcomes(&self, run: i64, expected: &[i64]) -> Result<Outcomes, StorageError> {
        // Of several dead letters of one job, the oldest that did not fail is the one that was charged.
        let query = sqlx::query_as(include_str!("outcomes.sql"))
            .bind(run)
            .bind(expected);
        self.call(async |connection| query.fetch_one(connection).await)
            .await
    }

    /// Why dead letters of a run came back, the most frequent reason first.
    pub async fn failures_of(&self, run: i64) -> Result<Vec<Failures>, StorageError> {
        let query = sqlx::query_as(
            "select n.reason, count(*) as dead_letters, min(d.id) as first,
                    (array_agg(n.id order by d.id))[1] as first_again,
                    (array_agg(n.error order by d.id))[1] as first_error
             from dead_letter_actions a
             join dead_letters d on d.id = a.dead_letter_id
             join dead_letters n on n.id = d.failed_again_as
             where a.action_id = $1
             group by n.reason order by 2 desc, 1",
        )
        .bind(run);
        self.call(async |connection| query.fetch_all(connection).await)
            .await
    }
}
