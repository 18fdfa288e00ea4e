//! Letters by their cause.

use serde::Serialize;
use sqlx::FromRow;
use time::OffsetDateTime;

use super::Selection;
use crate::storage::{Storage, StorageError, bounded::Bounded};

/// Letters with one reason and one error signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct LetterGroup {
    /// As in [`Selection::group`].
    pub group_id: String,
    /// Why they are dead.
    pub reason: String,
    /// Their error, with ids, numbers and quoted values folded.
    pub error_signature: String,
    /// How many.
    pub letters: i64,
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
    /// The selected letters by their cause, the most frequent first.
    pub async fn dead_letter_groups(
        &self,
        selection: &Selection,
        limit: i64,
    ) -> Result<Vec<LetterGroup>, StorageError> {
        // Anybody's bodies are summed: more than a bigint holds must not fail the look at it.
        let query = sqlx::query_as(concat!(
            "select d.group_id, d.reason, d.error_signature, count(*) as letters,
                    sum(d.occurrences)::bigint as occurrences,
                    least(coalesce(sum(greatest(d.tokens, 0)), 0), 9223372036854775807)::bigint as tokens,
                    count(distinct d.company_id) as companies,
                    min(d.first_failed_at) as oldest, max(d.last_failed_at) as newest,
                    count(*) over () as of_groups
             from dead_letters d where ",
            selected!(),
            " group by d.group_id, d.reason, d.error_signature
              order by count(*) desc, max(d.last_failed_at) desc, d.group_id limit $11"
        ));
        let query = selection.bind(query).bind(limit);
        self.call(async |connection| query.fetch_all(connection).await)
            .await
    }
}
