//! What people did by hand.

use serde::Serialize;
use time::OffsetDateTime;

use crate::storage::{Storage, StorageError, bounded::Bounded};

/// Actions by what they are; what is empty or `None` doesn't restrict.
#[derive(Debug, Clone, Default)]
pub struct ActionFilter {
    /// That touched one of these letters.
    pub letters: Vec<i64>,
    /// By this person.
    pub actor: Option<String>,
    /// Of this kind.
    pub action: Option<String>,
    /// Not before.
    pub since: Option<OffsetDateTime>,
}

impl ActionFilter {
    /// Every action is meant.
    pub fn restricts_nothing(&self) -> bool {
        self.letters.is_empty()
            && self.actor.is_none()
            && self.action.is_none()
            && self.since.is_none()
    }
}

/// One action of a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct PastAction {
    /// Its number.
    pub id: i64,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    #[sqlx(try_from = "Bounded<OffsetDateTime>")]
    pub at: OffsetDateTime,
    /// Who, as he said.
    pub actor: String,
    /// The database role that was connected; `None`: from before it was recorded.
    pub database_role: Option<String>,
    /// `replay`, `edit`, `discard`, `restore`, `credit`, `refund`.
    pub action: String,
    /// To what.
    pub subject: String,
    /// Why.
    pub reason: Option<String>,
    /// Dead letters it touched.
    pub letters: i64,
    /// More of it, by kind.
    pub details: serde_json::Value,
}

impl Storage {
    /// The newest actions, newest first.
    pub async fn operator_actions(
        &self,
        filter: &ActionFilter,
        limit: i64,
    ) -> Result<Vec<PastAction>, StorageError> {
        let query = sqlx::query_as(
            "select a.id, a.at, a.actor, a.database_role, a.action, a.subject, a.reason, a.details,
                    (select count(*) from dead_letter_actions t where t.action_id = a.id) as letters
             from operator_actions a
             where (cardinality($1::bigint[]) = 0 or exists (
                       select from dead_letter_actions t
                       where t.action_id = a.id and t.dead_letter_id = any($1)))
               and ($2::text is null or a.actor = $2)
               and ($3::text is null or a.action = $3)
               and ($4::timestamptz is null or a.at >= $4)
             order by a.id desc limit $5",
        )
        .bind(filter.letters.clone())
        .bind(filter.actor.clone())
        .bind(filter.action.clone())
        .bind(filter.since)
        .bind(limit);
        self.call(async |connection| query.fetch_all(connection).await)
            .await
    }
}
