//! How an installation stands, in one query that is cheap however large the ledger is.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use sqlx::PgConnection;

use super::{Storage, StorageError};

/// How an installation stands at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct InstallationStatus {
    /// How far back "lately" goes, in seconds.
    pub window_seconds: i64,
    /// Charges that are pending.
    pub pending: i64,
    /// Since how long the oldest of them is.
    pub oldest_pending_age_seconds: Option<i64>,
    /// Holds that are open and have not expired.
    pub open_holds: i64,
    /// Charges lately.
    pub charged: i64,
    /// Refunds lately.
    pub refunded: i64,
    /// Refusals lately, by their code: of keys that are new in the ledger. A refusal is one record however
    /// often it is tried again.
    #[sqlx(json)]
    pub refused: BTreeMap<String, i64>,
    /// Dead letters that nobody has dealt with.
    pub open_dead_letters: i64,
    /// Since how long the oldest of them is in the archive.
    pub oldest_dead_letter_age_seconds: Option<i64>,
}

/// Each part through an index that has little or nothing else in it: what is pending and what is open have
/// partial ones, of which counting reads nothing but the index; the last minutes are a few pages by the
/// BRINs. The oldest dead letter is the one with the smallest id, since there is one archiving writer at a time.
///
/// $1 is the window in seconds.
pub const STATUS: &str = include_str!("status.sql");

impl Storage {
    /// How the installation stands, on a connection of the pool.
    pub async fn status(&self, window: Duration) -> Result<InstallationStatus, StorageError> {
        self.call(async |connection| status(connection, window).await)
            .await
    }
}

pub(super) async fn status(
    connection: &mut PgConnection,
    window: Duration,
) -> sqlx::Result<InstallationStatus> {
    sqlx::query_as(STATUS)
        .bind(window.as_secs_f64())
        .fetch_one(connection)
        .await
}
