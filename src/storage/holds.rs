//! Tokens held for jobs that have begun.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Storage, StorageError, bounded::Bounded};

/// Tokens that other jobs of the company leave alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Hold {
    pub job_id: Uuid,
    pub company_id: Uuid,
    /// Tokens.
    pub amount: i64,
    /// `open`, `released` or `charged`. An open one counts until it expires.
    pub status: String,
    #[serde(with = "time::serde::rfc3339")]
    #[sqlx(try_from = "Bounded<OffsetDateTime>")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    #[sqlx(try_from = "Bounded<OffsetDateTime>")]
    pub expires_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    #[sqlx(try_from = "Bounded<Option<OffsetDateTime>>")]
    pub closed_at: Option<OffsetDateTime>,
    /// Why it was released: a code.
    pub reason: Option<String>,
}

/// What came of asking for a hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HoldAnswer {
    /// The tokens are held.
    Held {
        hold: Hold,
        /// They were before.
        idempotent: bool,
    },
    /// Fewer tokens can be spent than were asked for.
    InsufficientBalance { required: i64, available: i64 },
    /// `company_not_found`, `hold_differs`, `already_charged`, `already_compensated` or `invalid_request`.
    Refused(String),
}

/// A hold that has expired and that nobody has closed.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ExpiredHold {
    pub job_id: Uuid,
    pub company_id: Uuid,
    /// The job's article.
    pub article_id: Option<Uuid>,
    pub amount: i64,
    #[sqlx(try_from = "Bounded<OffsetDateTime>")]
    pub expires_at: OffsetDateTime,
    /// The job's event has come: there is a record or a dead letter of it.
    pub is_decided: bool,
    /// Whether `articles` has its article; `None`: not to be told.
    pub article_exists: Option<bool>,
}

impl Hold {
    /// Whether other jobs leave its tokens alone now, by this machine's clock.
    pub(crate) fn counts(&self) -> bool {
        self.status == "open" && self.expires_at > OffsetDateTime::now_utc()
    }
}

impl Storage {
    /// Holds tokens for a job, once. Waits for whoever charges the company.
    pub async fn hold_tokens(
        &self,
        job_id: Uuid,
        company_id: Uuid,
        amount: i64,
        expires_after: Duration,
    ) -> Result<HoldAnswer, StorageError> {
        let query = sqlx::query_scalar("select hold_tokens($1, $2, $3, make_interval(secs => $4))")
            .bind(job_id)
            .bind(company_id)
            .bind(amount)
            .bind(expires_after.as_secs_f64());
        let answer: Value = self
            .call(async |connection| query.fetch_one(connection).await)
            .await?;
        read(answer).map_err(|answer| StorageError::Unexpected {
            function: "hold_tokens",
            answer,
        })
    }

    /// Ends the open hold of a job, if there is one; with a company, only if it is that one's. Whether there was.
    pub async fn release_hold(
        &self,
        job_id: Uuid,
        company_id: Option<Uuid>,
    ) -> Result<bool, StorageError> {
        let query = sqlx::query_scalar("select release_hold($1, $2)")
            .bind(job_id)
            .bind(company_id);
        self.call(async |connection| query.fetch_one(connection).await)
            .await
    }

    /// Holds that have expired and are open, the oldest first, behind the one that is named.
    pub async fn expired_holds(
        &self,
        after: Option<(OffsetDateTime, Uuid)>,
        limit: u16,
    ) -> Result<Vec<ExpiredHold>, StorageError> {
        let (since, job) = after.unzip();
        let query = sqlx::query_as("select * from expired_holds($1, $2, $3)")
            .bind(since)
            .bind(job)
            .bind(i32::from(limit));
        self.call(async |connection| query.fetch_all(connection).await)
            .await
    }

    /// Closes those that are still open and expired, for these reasons; tells which.
    pub async fn close_expired_holds(
        &self,
        jobs: &[Uuid],
        reasons: &[&str],
    ) -> Result<Vec<Uuid>, StorageError> {
        let query = sqlx::query_scalar("select job_id from close_expired_holds($1, $2)")
            .bind(jobs)
            .bind(reasons);
        self.call(async |connection| query.fetch_all(connection).await)
            .await
    }

    /// The last hold of the job of this key, whatever became of it.
    pub(super) async fn hold_of_job(&self, key: &str) -> Result<Option<Hold>, StorageError> {
        let query = sqlx::query_as("select * from token_holds where job_id = job_of($1)").bind(key);
        self.call(async |connection| query.fetch_optional(connection).await)
            .await
    }
}

/// `Err`: what of the answer isn't understood.
fn read(mut answer: Value) -> Result<HoldAnswer, String> {
    let tokens = |name: &str| answer[name].as_i64().ok_or_else(|| name.to_owned());
    match answer["error"].as_str() {
        None => {
            let idempotent = answer["idempotent"] == true;
            serde_json::from_value(answer["hold"].take())
                .map(|hold| HoldAnswer::Held { hold, idempotent })
                .map_err(|error| error.to_string())
        }
        Some("insufficient_balance") => Ok(HoldAnswer::InsufficientBalance {
            required: tokens("required")?,
            available: tokens("available")?,
        }),
        Some(code) => Ok(HoldAnswer::Refused(code.to_owned())),
    }
}
