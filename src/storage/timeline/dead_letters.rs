//! A job's dead letters: how they stand, and what their first arrivals said.
//!
//! A later arrival of the same one overwrites its error, its tries and its times, and raises a count. Only the
//! headers stay those of the first one, so the past is read from them.

use serde::Serialize;
use sqlx::FromRow;
use time::OffsetDateTime;

use super::Moment;
use crate::domain::moment;
use crate::storage::{DeadLetterState, Storage, StorageError, bounded::Bounded};

/// A dead letter of a job, as it stands now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow, utoipa::ToSchema)]
pub(crate) struct JobDeadLetter {
    pub(crate) id: i64,
    /// Where it stands.
    pub(crate) state: DeadLetterState,
    /// Why it is dead.
    pub(crate) reason: String,
    /// What its last arrival says.
    pub(crate) error: String,
    /// How often it has arrived while open, at least.
    pub(crate) occurrences: i32,
    /// When it failed last.
    #[serde(with = "time::serde::rfc3339")]
    #[sqlx(try_from = "Bounded<OffsetDateTime>")]
    pub(crate) last_failed_at: OffsetDateTime,
}

/// A dead letter with what is left of its first arrival.
#[derive(Debug, FromRow)]
pub(super) struct Archived {
    #[sqlx(flatten)]
    pub(super) now: JobDeadLetter,
    tokens: Option<i64>,
    #[sqlx(try_from = "Bounded<OffsetDateTime>")]
    archived_at: OffsetDateTime,
    /// Headers of the first arrival, whatever anybody wrote there.
    failed_at: Option<String>,
    first_failed_at: Option<String>,
    error_header: Option<String>,
    attempt: Option<String>,
    /// When the broker moved it, in seconds; then it was the last to have it.
    moved_at: Option<String>,
}

impl Archived {
    /// Its first failure, where that was an earlier one; its death; its archiving.
    pub(super) fn moments(&self) -> Vec<Moment> {
        let moved = self.moved_at.as_deref().and_then(seconds);
        let died = moved.or_else(|| self.failed_at.as_deref().and_then(moment));
        // What says nothing of the time died just before it was archived, as far as anybody knows.
        let died = died.unwrap_or(self.archived_at);
        let first = self.first_failed_at.as_deref().and_then(moment);
        let tries = self.attempt.as_deref().and_then(|n| n.parse::<i32>().ok());
        // The broker's own words are not among the headers: they are its error now.
        let said = match &self.error_header {
            Some(error) if self.moved_at.is_none() => error,
            _ => &self.now.error,
        };
        let happened = |at, what: &str| Moment {
            at: Some(at),
            what: what.to_owned(),
            actor: None,
            dead_letter_id: Some(self.now.id),
            tokens: self.tokens,
            attempts: None,
            detail: None,
        };
        let mut moments = Vec::new();
        if let Some(first) = first.filter(|first| *first < died) {
            moments.push(happened(first, "failed_first"));
        }
        moments.push(Moment {
            attempts: Some(tries.unwrap_or(0).max(0).saturating_add(1)),
            detail: Some(format!("{}: {said}", self.now.reason)),
            ..happened(died, "dead_lettered")
        });
        moments.push(Moment {
            tokens: None,
            ..happened(self.archived_at, "archived")
        });
        moments
    }
}

impl Storage {
    /// The dead letters of the job of this key, the oldest first, at most so many.
    pub(super) async fn archived_of_job(
        &self,
        key: &str,
        limit: i64,
    ) -> Result<Vec<Archived>, StorageError> {
        let query = sqlx::query_as(
            "select id, state, reason, error, occurrences, last_failed_at, tokens, archived_at,
                    headers ->> 'failed-at' as failed_at, headers ->> 'first-failed-at' as first_failed_at,
                    case when jsonb_typeof(headers -> 'error') = 'string' then left(headers ->> 'error', 1024) end
                        as error_header,
                    headers ->> 'attempt' as attempt,
                    headers #>> '{x-death,0,time,timestamp}' as moved_at
             from dead_letters where job_id = job_of($1) order by id limit $2",
        )
        .bind(key)
        .bind(limit);
        self.call(async |connection| query.fetch_all(connection).await)
            .await
    }
}

fn seconds(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(text.parse().ok()?).ok()
}
