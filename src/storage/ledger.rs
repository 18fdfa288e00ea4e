//! Balances and credits, for people and for the application.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Storage, StorageError, bounded::Bounded};

/// What a company can pay from, in tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Balance {
    /// Whose.
    pub company_id: Uuid,
    /// Left of the monthly quota; 0 once its period has ended.
    pub monthly: i64,
    /// The quota of a full period.
    pub monthly_quota: i64,
    /// When the monthly quota expires; `None`: never.
    #[serde(with = "time::serde::rfc3339::option")]
    #[sqlx(try_from = "Bounded<Option<OffsetDateTime>>")]
    pub period_end: Option<OffsetDateTime>,
    /// Purchased tokens; they don't expire.
    pub purchased: i64,
    /// What a charge can spend now.
    pub total: i64,
}

/// A top-up or a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreditGrant {
    /// Adds purchased tokens.
    Purchased(i64),
    /// Sets the monthly quota and its balance until the period's end.
    Monthly {
        /// The new quota.
        quota: i64,
        /// When it expires.
        period_end: OffsetDateTime,
    },
}

/// One request for credit.
#[derive(Debug, Clone, Copy)]
pub struct Credit<'a> {
    /// The idempotency key: the same key credits once.
    pub key: &'a str,
    /// Whom.
    pub company_id: Uuid,
    /// What.
    pub grant: CreditGrant,
    /// Who asks.
    pub actor: &'a str,
}

/// What the books say of a credit, the first time and every time after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreditRecord {
    /// The key was credited before; these are the original figures.
    pub idempotent: bool,
    /// The idempotency key.
    pub idempotency_key: String,
    /// Whom.
    pub company_id: Uuid,
    /// `top_up` or `renewal`.
    pub kind: String,
    /// The monthly balance before, in tokens.
    pub monthly_before: i64,
    /// And after.
    pub monthly_after: i64,
    /// The purchased balance before, in tokens.
    pub purchased_before: i64,
    /// And after.
    pub purchased_after: i64,
    /// Monthly tokens that the renewal let go.
    pub forfeited_amount: i64,
    /// The position in the books.
    pub ledger_seq: i64,
    /// Who asked first.
    pub actor: String,
}

/// Why a credit was not made.
#[derive(Debug, Error)]
pub enum CreditError {
    /// No such company.
    #[error("company {0} is not in company_subscriptions")]
    CompanyNotFound(Uuid),
    /// The key belongs to another credit.
    #[error("--key: {0:?} was used for a different credit; nothing was changed")]
    KeyReused(String),
    /// The renewal would expire at once.
    #[error("--period-end: is in the past")]
    PeriodEndPassed,
    /// More tokens than a balance can hold.
    #[error("the balance would exceed {}", i64::MAX)]
    BalanceTooLarge,
    /// The database.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Storage {
    /// What the company can pay from now; `None`: no such company.
    pub async fn balance(&self, company_id: Uuid) -> Result<Option<Balance>, StorageError> {
        let query = sqlx::query_as(
            // The columns are the application's: a NULL is no tokens.
            "select company_id, monthly, coalesce(monthly_token_quota, 0) as monthly_quota,
                    current_period_end as period_end, purchased, monthly + least(purchased, 9223372036854775807 - greatest(monthly, 0)) as total
             from company_subscriptions,
                  lateral (select case when current_period_end <= now() then 0
                                       else coalesce(monthly_quota_balance, 0) end as monthly,
                                  coalesce(purchased_token_balance, 0) as purchased) spendable
             where company_id = $1",
        )
        .bind(company_id);
        self.call(async |connection| query.fetch_optional(connection).await)
            .await
    }

    /// Credits once per key.
    pub async fn credit(&self, credit: Credit<'_>) -> Result<CreditRecord, CreditError> {
        let (purchased, monthly, period_end) = match credit.grant {
            CreditGrant::Purchased(amount) => (Some(amount), None, None),
            CreditGrant::Monthly { quota, period_end } => (None, Some(quota), Some(period_end)),
        };
        let query = sqlx::query_scalar("select credit_tokens($1, $2, $3, $4, $5, $6)")
            .bind(credit.key)
            .bind(credit.company_id)
            .bind(purchased)
            .bind(monthly)
            .bind(period_end)
            .bind(credit.actor);
        let answer: serde_json::Value = self
            .call(async |connection| query.fetch_one(connection).await)
            .await?;
        let unexpected = |answer: String| StorageError::Unexpected {
            function: "credit_tokens",
            answer,
        };
        match answer["error"].as_str() {
            None => Ok(
                serde_json::from_value(answer).map_err(|error| unexpected(error.to_string()))?
            ),
            Some("company_not_found") => Err(CreditError::CompanyNotFound(credit.company_id)),
            Some("idempotency_key_reused") => Err(CreditError::KeyReused(credit.key.to_owned())),
            Some("period_end_passed") => Err(CreditError::PeriodEndPassed),
            Some("balance_too_large") => Err(CreditError::BalanceTooLarge),
            Some(other) => Err(unexpected(other.to_owned()).into()),
        }
    }
}
