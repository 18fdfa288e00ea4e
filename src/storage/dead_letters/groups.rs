//! Dead letters by their cause.

use serde::Serialize;
use sqlx::{FromRow, QueryBuilder};
use time::OffsetDateTime;

use super::Selection;
use crate::storage::{Storage, StorageError, bounded::Bounded};

/// Dead letters with one reason and one error signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow, utoipa::ToSchema)]
pub struct DeadLetterGroup {
    /// As in [`Selection::group`].
    pub group_id: String,
    /// Why they are dead.
    pub reason: String,
    /// Their error, with ids, numbers and quoted values folded.
    pub error_signature: String,
    pub dead_letters: i64,
    /// How often they arrived, at least.
    pub occurrences: i64,
    /// Tokens they ask for, where that can be read.
    pub tokens: i64,
    /// Different companies, where they are known.
    pub companies: i64,
    /// The first failure of any of them.
    #[serde(with = "time::serde::rfc3339")]
    #[sqlx(try_from = "Bounded<OffsetDateTime>")]
    pub oldest: OffsetDateTime,
    /// The last one.
    #[serde(with = "time::serde::rfc3339")]
    #[sqlx(try_from = "Bounded<OffsetDateTime>")]
    pub newest: OffsetDateTime,
    /// How many groups there are in all.
    #[serde(skip)]
    pub of_groups: i64,
}

impl Storage {
    /// The selected dead letters by their cause, the most frequent first.
    pub async fn dead_letter_groups(
        &self,
        selection: &Selection,
        limit: i64,
    ) -> Result<Vec<DeadLetterGroup>, StorageError> {
        let mut query = QueryBuilder::new(include_str!("groups.sql"));
        selection.restrict(&mut query);
        query.push(" group by d.group_id, d.reason, d.error_signature");
        query.push(" order by count(*) desc, max(d.last_failed_at) desc, d.group_id limit ");
        query.push_bind(limit);
        self.call(async |connection| query.build_query_as().fetch_all(connection).await)
            .await
    }
}
