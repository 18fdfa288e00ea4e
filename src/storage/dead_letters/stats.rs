//! How many dead letters are open, for how long, and how fast they come.

use serde::Serialize;
use sqlx::FromRow;
use time::OffsetDateTime;

use crate::storage::{Storage, StorageError, bounded::Bounded};

/// The open dead letters with one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow, utoipa::ToSchema)]
pub struct OpenByReason {
    /// Why they are dead.
    pub reason: String,
    pub open: i64,
    /// Tokens they ask for, where that can be read.
    pub tokens: i64,
    /// When the oldest came into the archive: the database's clock, which nobody's headers can change.
    #[serde(with = "time::serde::rfc3339")]
    #[sqlx(try_from = "Bounded<OffsetDateTime>")]
    pub oldest_archived_at: OffsetDateTime,
    /// How long ago that is.
    pub oldest_age_seconds: i64,
}

impl Storage {
    /// The open dead letters by reason, the most frequent first.
    pub async fn open_dead_letters(&self) -> Result<Vec<OpenByReason>, StorageError> {
        let query = sqlx::query_as(include_str!("open_by_reason.sql"));
        self.call(async |connection| query.fetch_all(connection).await)
            .await
    }

    /// Dead letters that arrived in the last minute, and in the last 15, whatever became of them. One that arrived
    /// several times counts once.
    pub async fn dead_letter_arrivals(&self) -> Result<(i64, i64), StorageError> {
        let query = sqlx::query_as(
            "select count(*) filter (where last_arrived_at > now() - interval '1 minute'),
                    count(*)
             from dead_letters where last_arrived_at > now() - interval '15 minutes'",
        );
        self.call(async |connection| query.fetch_one(connection).await)
            .await
    }
}
