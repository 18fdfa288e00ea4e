//! Refunds: a charge given back, once.

use serde::{Deserialize, Serialize};
use sqlx::Acquire as _;
use thiserror::Error;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Storage, StorageError};
use crate::config::ExpiredMonthly;

/// One request for a refund.
#[derive(Debug, Clone, Copy)]
pub struct Refund<'a> {
    /// The job: the idempotency key of the charge, and of the refund.
    pub job: &'a str,
    /// What becomes of monthly tokens whose period is over.
    pub expired_monthly: ExpiredMonthly,
    /// Who asks.
    pub actor: &'a str,
    /// Why.
    pub reason: &'a str,
    /// Only computed, then rolled back.
    pub dry_run: bool,
}

/// What the books say of a refund, the first time and every time after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundRecord {
    /// It was refunded before; these are the original figures.
    pub idempotent: bool,
    /// The job.
    #[serde(rename(deserialize = "idempotency_key"))]
    pub job_id: String,
    /// Whom.
    pub company_id: Uuid,
    /// The record of the charge.
    pub deduction_record_id: Uuid,
    /// What was charged.
    pub amount: i64,
    /// The share that the monthly quota paid.
    pub monthly_deducted: i64,
    /// The share that purchased tokens paid.
    pub purchased_deducted: i64,
    /// When it was charged.
    #[serde(with = "time::serde::rfc3339")]
    pub charged_at: OffsetDateTime,
    /// Given back to the monthly bucket.
    pub monthly_amount: i64,
    /// Given back as purchased tokens.
    pub purchased_amount: i64,
    /// Not given back: monthly tokens of a period that is over.
    pub forfeited_amount: i64,
    /// The monthly balance before, in tokens.
    pub monthly_before: i64,
    /// And after.
    pub monthly_after: i64,
    /// The purchased balance before, in tokens.
    pub purchased_before: i64,
    /// And after.
    pub purchased_after: i64,
    /// The position in the books.
    pub ledger_seq: i64,
    /// Who asked first.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When it was refunded.
    #[serde(rename(deserialize = "created_at"), with = "time::serde::rfc3339")]
    pub refunded_at: OffsetDateTime,
}

/// Why a refund was not made.
#[derive(Debug, Error)]
pub enum RefundError {
    /// No such job in the books.
    #[error("job {0:?} is not in the books: nothing was charged for it")]
    NotFound(String),
    /// Nothing to give back.
    #[error("job {job:?} was not charged, its record is {status}: there is nothing to give back")]
    NotCharged {
        /// The job.
        job: String,
        /// `pending` or `failed`.
        status: String,
    },
    /// The company's row is gone.
    #[error("the company of job {0:?} is not in company_subscriptions any more")]
    CompanyNotFound(String),
    /// The record says compensated, and no refund explains it.
    #[error(
        "job {0:?} was marked compensated by other means: no refund of it is in token_credits, and none was made now"
    )]
    CompensatedElsewhere(String),
    /// More tokens than a balance can hold.
    #[error("the balance would exceed {}; nothing was changed", i64::MAX)]
    BalanceTooLarge,
    /// The database.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Storage {
    /// Gives a charge back, once: to the buckets it came from, as far as those are still there.
    pub async fn refund(&self, refund: Refund<'_>) -> Result<RefundRecord, RefundError> {
        let query = sqlx::query_scalar("select refund_tokens($1, $2, $3, $4)")
            .bind(refund.job)
            .bind(refund.expired_monthly.as_str())
            .bind(refund.actor)
            .bind(refund.reason);
        let answer: serde_json::Value = self
            .call(async |connection| {
                let mut transaction = connection.begin().await?;
                let answer = query.fetch_one(&mut *transaction).await?;
                if refund.dry_run {
                    transaction.rollback().await?;
                } else {
                    transaction.commit().await?;
                }
                Ok(answer)
            })
            .await?;
        let unexpected = |answer: String| StorageError::Unexpected {
            function: "refund_tokens",
            answer,
        };
        let job = refund.job.to_owned();
        match answer["error"].as_str() {
            None => Ok(
                serde_json::from_value(answer).map_err(|error| unexpected(error.to_string()))?
            ),
            Some("not_found") => Err(RefundError::NotFound(job)),
            Some("not_charged") => Err(RefundError::NotCharged {
                job,
                status: answer["status"].as_str().unwrap_or_default().to_owned(),
            }),
            Some("company_not_found") => Err(RefundError::CompanyNotFound(job)),
            Some("compensated_elsewhere") => Err(RefundError::CompensatedElsewhere(job)),
            Some("balance_too_large") => Err(RefundError::BalanceTooLarge),
            Some(other) => Err(unexpected(other.to_owned()).into()),
        }
    }
}
