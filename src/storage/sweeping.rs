//! What the sweeper asks of the ledger.

use std::{borrow::Borrow, time::Duration};

use sqlx::{
    AssertSqlSafe, Column as _, Connection as _, Either, Executor as _, SqlSafeStr as _,
    TypeInfo as _,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Storage, StorageError, bounded::Bounded};

/// A pending record that nobody has been able to charge for a while.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct StaleDeduction {
    pub idempotency_key: String,
    /// Who is to pay.
    pub company_id: Uuid,
    /// The record's article, or its job's.
    pub article_id: Option<Uuid>,
    /// The job, if the key is a job's id.
    pub job_id: Option<Uuid>,
    pub amount: i64,
    /// Since when it is pending.
    #[sqlx(try_from = "Bounded<OffsetDateTime>")]
    pub pending_since: OffsetDateTime,
    /// Whether `articles` has its article; `None`: not to be told.
    pub article_exists: Option<bool>,
}

/// A stale pending record, whoever has it.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct PendingDeduction {
    /// What is known of it.
    #[sqlx(flatten)]
    pub stale: StaleDeduction,
    /// Until when some sweeper has claimed it; `None`: none has.
    #[sqlx(try_from = "Bounded<Option<OffsetDateTime>>")]
    pub claimed_until: Option<OffsetDateTime>,
}

/// What came of charging one pending record.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct SweptCharge {
    pub idempotency_key: String,
    /// It is charged now.
    pub success: bool,
    /// Somebody else had charged it meanwhile.
    pub idempotent: bool,
    /// Why it isn't, for a person.
    pub error_message: Option<String>,
    /// What `article_jobs` said to the new status, if it refused it.
    pub job_status_error: Option<String>,
}

/// A pending record that was ended because there is no article.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct WrittenOff {
    pub idempotency_key: String,
    /// Tokens that are not charged.
    pub amount: i64,
    /// What `article_jobs` said to the new status, if it refused it.
    pub job_status_error: Option<String>,
}

/// Which records to look at: those pending longer than `stale_after`, behind the place where the last
/// look ended.
#[derive(Debug, Clone)]
pub struct StaleLook {
    /// By the database's clock.
    pub stale_after: Duration,
    /// The last record of the look before.
    pub after: Option<(OffsetDateTime, String)>,
    /// At most so many.
    pub limit: u16,
}

/// The application's own query for whether an article exists.
#[derive(Debug, Clone)]
pub struct ArticleQuery {
    sql: String,
    parameters: usize,
}

impl Storage {
    /// The next stale records, in nobody's hands. Changes nothing.
    pub async fn stale_deductions(
        &self,
        look: &StaleLook,
    ) -> Result<Vec<StaleDeduction>, StorageError> {
        let (since, key) = look.after.clone().unzip();
        let query =
            sqlx::query_as("select * from stale_deductions(make_interval(secs => $1), $2, $3, $4)")
                .bind(look.stale_after.as_secs_f64())
                .bind(since)
                .bind(key)
                .bind(i32::from(look.limit));
        self.call(async |connection| query.fetch_all(connection).await)
            .await
    }

    /// The next stale records, whoever has claimed or locked them. Changes nothing.
    pub async fn pending_deductions(
        &self,
        look: &StaleLook,
    ) -> Result<Vec<PendingDeduction>, StorageError> {
        let (since, key) = look.after.clone().unzip();
        let query = sqlx::query_as(include_str!("sweeping/pending_deductions.sql"))
            .bind(look.stale_after.as_secs_f64())
            .bind(since)
            .bind(key)
            .bind(i64::from(look.limit));
        self.call(async |connection| query.fetch_all(connection).await)
            .await
    }

    /// The next stale records, in nobody's hands, and takes them: for `lease` no other sweeper will.
    pub async fn claim_stale_deductions(
        &self,
        look: &StaleLook,
        lease: Duration,
    ) -> Result<Vec<StaleDeduction>, StorageError> {
        let (since, key) = look.after.clone().unzip();
        let query = sqlx::query_as(
            "select * from claim_stale_deductions(make_interval(secs => $1), $2, $3, $4, make_interval(secs => $5))",
        )
        .bind(look.stale_after.as_secs_f64())
        .bind(since)
        .bind(key)
        .bind(i32::from(look.limit))
        .bind(lease.as_secs_f64());
        self.call(async |connection| query.fetch_all(connection).await)
            .await
    }

    /// Charges those that are still pending, in one transaction; one answer for each of them.
    pub async fn charge_pending(&self, keys: &[&str]) -> Result<Vec<SweptCharge>, StorageError> {
        let query = sqlx::query_as(
            "select idempotency_key, success, idempotent, error_message, job_status_error
             from charge_pending_deductions($1)",
        )
        .bind(keys);
        self.call(async |connection| query.fetch_all(connection).await)
            .await
    }

    /// Ends those that are still pending as failed: there is no article; one answer for each of them.
    pub async fn write_off_pending(&self, keys: &[&str]) -> Result<Vec<WrittenOff>, StorageError> {
        let query = sqlx::query_as("select * from write_off_pending_deductions($1)").bind(keys);
        self.call(async |connection| query.fetch_all(connection).await)
            .await
    }

    /// Prepares the application's own query for whether an article exists. The inner error says what is
    /// wrong with it.
    pub async fn article_query(
        &self,
        sql: &str,
    ) -> Result<Result<ArticleQuery, String>, StorageError> {
        let described = self
            .call(async |connection| {
                let sql = AssertSqlSafe(sql.to_owned()).into_sql_str();
                match connection.describe(sql).await {
                    Err(sqlx::Error::Database(error)) => Ok(Err(error.message().to_owned())),
                    described => described.map(Ok),
                }
            })
            .await?;
        Ok(described.and_then(|described| {
            let columns = described.columns.iter();
            let columns: Vec<&str> = columns.map(|column| column.type_info().name()).collect();
            if columns != ["BOOL"] {
                return Err(format!("gives {columns:?}, not one boolean"));
            }
            let parameters: Vec<&str> = match &described.parameters {
                Some(Either::Left(types)) => types.iter().map(sqlx::TypeInfo::name).collect(),
                _ => Vec::new(),
            };
            if parameters.len() > 3 || parameters.iter().any(|kind| *kind != "UUID") {
                return Err(format!(
                    "takes {parameters:?}, not UUIDs: $1 the article, $2 the job, $3 the company"
                ));
            }
            Ok(ArticleQuery {
                sql: sql.to_owned(),
                parameters: parameters.len(),
            })
        }))
    }

    /// Asks it for each record; it may not write. What it answers with NULL or no row isn't known.
    pub async fn articles_exist<S: Borrow<StaleDeduction>>(
        &self,
        query: &ArticleQuery,
        stale: &[S],
    ) -> Result<Vec<Option<bool>>, StorageError> {
        self.call(async |connection| {
            let mut look = connection.begin_with("begin read only").await?;
            let mut answers = Vec::with_capacity(stale.len());
            for one in stale.iter().map(Borrow::borrow) {
                let mut asked =
                    sqlx::query_scalar::<_, Option<bool>>(AssertSqlSafe(query.sql.clone()));
                let values = [one.article_id, one.job_id, Some(one.company_id)];
                for value in values.into_iter().take(query.parameters) {
                    asked = asked.bind(value);
                }
                answers.push(asked.fetch_optional(&mut *look).await?.flatten());
            }
            look.rollback().await?;
            Ok(answers)
        })
        .await
    }
}
