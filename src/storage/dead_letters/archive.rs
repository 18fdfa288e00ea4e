//! Dead letters into the archive, and resolved there when their jobs were charged.

use std::borrow::Borrow;

use time::OffsetDateTime;
use uuid::Uuid;

use crate::storage::{Storage, StorageError};

/// A dead letter as it arrived. No text of it has a NUL, which the database can't store.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Why it is dead.
    pub reason: String,
    /// The same for a person.
    pub error: String,
    /// The error, folded.
    pub error_signature: String,
    /// The body, byte for byte.
    pub body: Vec<u8>,
    /// The AMQP properties, a JSON object.
    pub properties: String,
    /// The AMQP headers, a JSON object.
    pub headers: String,
    /// The job, where the body tells.
    pub job_id: Option<Uuid>,
    /// The company, where the body tells.
    pub company_id: Option<Uuid>,
    /// The article, where the body tells.
    pub article_id: Option<Uuid>,
    /// The tokens, where the body tells.
    pub tokens: Option<i64>,
    /// Tries, the first one included.
    pub attempts: i32,
    /// The first failure.
    pub first_failed_at: OffsetDateTime,
    /// The last one.
    pub last_failed_at: OffsetDateTime,
    /// The dead letter whose replay this is, if it says so.
    pub replay_of: Option<i64>,
}

impl Storage {
    /// Archives arrivals in one transaction; the id of the dead letter of each, in order.
    pub async fn archive<A: Borrow<Arrival>>(
        &self,
        arrivals: &[A],
    ) -> Result<Vec<i64>, StorageError> {
        let query = sqlx::query_scalar::<_, i64>(
            "select id from archive_dead_letters(
                $1, $2, $3, $4, $5::text[]::jsonb[], $6::text[]::jsonb[], $7, $8, $9, $10, $11, $12, $13, $14)
             order by item",
        )
        .bind(column(arrivals, |arrival| arrival.reason.as_str()))
        .bind(column(arrivals, |arrival| arrival.error.as_str()))
        .bind(column(arrivals, |arrival| arrival.error_signature.as_str()))
        .bind(column(arrivals, |arrival| arrival.body.as_slice()))
        .bind(column(arrivals, |arrival| arrival.properties.as_str()))
        .bind(column(arrivals, |arrival| arrival.headers.as_str()))
        .bind(column(arrivals, |arrival| arrival.job_id))
        .bind(column(arrivals, |arrival| arrival.company_id))
        .bind(column(arrivals, |arrival| arrival.article_id))
        .bind(column(arrivals, |arrival| arrival.tokens))
        .bind(column(arrivals, |arrival| arrival.attempts))
        .bind(column(arrivals, |arrival| arrival.first_failed_at))
        .bind(column(arrivals, |arrival| arrival.last_failed_at))
        .bind(column(arrivals, |arrival| arrival.replay_of));
        let ids = self
            .call(async |connection| query.fetch_all(connection).await)
            .await?;
        self.wrote();
        if ids.len() == arrivals.len() {
            return Ok(ids);
        }
        Err(StorageError::Unexpected {
            function: "archive_dead_letters",
            answer: format!("{} dead letters for {} arrivals", ids.len(), arrivals.len()),
        })
    }

    /// Marks as resolved the dead letters whose jobs were charged meanwhile, in whatever way; how many.
    pub async fn resolve_dead_letters(&self) -> Result<i64, StorageError> {
        let query = sqlx::query_scalar("select resolve_dead_letters(null)");
        self.call(async |connection| query.fetch_one(connection).await)
            .await
    }
}

fn column<'a, A: Borrow<Arrival>, T>(
    arrivals: &'a [A],
    field: impl Fn(&'a Arrival) -> T,
) -> Vec<T> {
    arrivals.iter().map(|one| field(one.borrow())).collect()
}
