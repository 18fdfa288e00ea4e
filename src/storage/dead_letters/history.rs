//! What people did by hand.

use serde::Serialize;
use sqlx::QueryBuilder;
use time::OffsetDateTime;

use crate::storage::{Storage, StorageError, bounded::Bounded};

/// Actions by what they are; what is empty or `None` doesn't restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ActionFilter {
    /// That touched one of these dead letters.
    pub dead_letters: Vec<i64>,
    /// By this person.
    pub actor: Option<String>,
    /// Of this kind.
    pub action: Option<String>,
    pub since: Option<OffsetDateTime>,
}

/// One action of a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct PastAction {
    pub id: i64,
    #[serde(with = "time::serde::rfc3339")]
    #[sqlx(try_from = "Bounded<OffsetDateTime>")]
    pub at: OffsetDateTime,
    /// Who, as he said.
    pub actor: String,
    /// The database role that was connected; `None`: from before it was recorded.
    pub database_role: Option<String>,
    /// `replay`, `edit`, `discard`, `restore`, `credit`, `refund`.
    pub action: String,
    pub subject: String,
    pub reason: Option<String>,
    /// Dead letters it touched.
    pub dead_letters: i64,
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
        let mut query = QueryBuilder::new(
            "select a.id, a.at, a.actor, a.database_role, a.action, a.subject, a.reason, a.details,
                    (select count(*) from dead_letter_actions t where t.action_id = a.id) as dead_letters
             from operator_actions a where true",
        );
        if !filter.dead_letters.is_empty() {
            query.push(" and a.id in (select t.action_id from dead_letter_actions t where t.dead_letter_id = any(");
            query.push_bind(&filter.dead_letters).push("))");
        }
        if let Some(actor) = &filter.actor {
            query.push(" and a.actor = ").push_bind(actor);
        }
        if let Some(action) = &filter.action {
            query.push(" and a.action = ").push_bind(action);
        }
        if let Some(since) = filter.since {
            query.push(" and a.at >= ").push_bind(since);
        }
        query.push(" order by a.id desc limit ").push_bind(limit);
        self.call(async |connection| query.build_query_as().fetch_all(connection).await)
            .await
    }
}
