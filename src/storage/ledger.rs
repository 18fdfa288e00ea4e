//! Balances, credits and refunds, for people and for the application.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use sqlx::Acquire as _;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Storage, StorageError, bounded::Bounded};
use crate::config::ExpiredMonthly;

/// What a company can pay from, in tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub(crate) struct Balance {
    pub(crate) company_id: Uuid,
    /// Left of the monthly quota; 0 once its period has ended.
    pub(crate) monthly: i64,
    /// The quota of a full period.
    pub(crate) monthly_quota: i64,
    /// When the monthly quota expires; `None`: never.
    #[serde(with = "time::serde::rfc3339::option")]
    #[sqlx(try_from = "Bounded<Option<OffsetDateTime>>")]
    pub(crate) period_end: Option<OffsetDateTime>,
    /// Purchased tokens; they don't expire.
    pub(crate) purchased: i64,
    /// What there is to spend now.
    pub(crate) total: i64,
    /// Of it, held for jobs that have begun.
    pub(crate) held: i64,
    /// What is left for another job; 0 where more is held than there is.
    pub(crate) available: i64,
}

/// A top-up or a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CreditGrant {
    /// Adds purchased tokens.
    Purchased(i64),
    /// Sets the monthly quota and its balance until the period's end.
    Monthly {
        quota: i64,
        period_end: OffsetDateTime,
    },
}

/// What the ledger says of a credit, the first time and every time after. Balances are in tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct CreditRecord {
    /// The key was credited before; these are the original figures.
    pub(crate) idempotent: bool,
    pub(crate) idempotency_key: String,
    pub(crate) company_id: Uuid,
    /// `top_up` or `renewal`.
    pub(crate) kind: String,
    pub(crate) monthly_before: i64,
    pub(crate) monthly_after: i64,
    pub(crate) purchased_before: i64,
    pub(crate) purchased_after: i64,
    /// Monthly tokens that the renewal let go.
    pub(crate) forfeited_amount: i64,
    pub(crate) ledger_seq: i64,
    /// Who asked first.
    pub(crate) actor: String,
}

/// What the ledger says of a refund, the first time and every time after. Amounts and balances are in tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct RefundRecord {
    /// Only computed, then rolled back.
    pub(crate) dry_run: bool,
    /// It was refunded before; these are the original figures.
    pub(crate) idempotent: bool,
    /// The job's key.
    #[serde(rename(deserialize = "idempotency_key"))]
    pub(crate) job_id: String,
    pub(crate) company_id: Uuid,
    pub(crate) deduction_record_id: Uuid,
    pub(crate) amount: i64,
    /// The share that the monthly quota paid.
    pub(crate) monthly_deducted: i64,
    /// The share that purchased tokens paid.
    pub(crate) purchased_deducted: i64,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) charged_at: OffsetDateTime,
    /// Given back to the monthly bucket.
    pub(crate) monthly_amount: i64,
    /// Given back as purchased tokens.
    pub(crate) purchased_amount: i64,
    /// Not given back: monthly tokens of a period that is over.
    pub(crate) forfeited_amount: i64,
    pub(crate) monthly_before: i64,
    pub(crate) monthly_after: i64,
    pub(crate) purchased_before: i64,
    pub(crate) purchased_after: i64,
    pub(crate) ledger_seq: i64,
    /// Who asked first.
    pub(crate) actor: String,
    pub(crate) reason: String,
    #[serde(rename(deserialize = "created_at"), with = "time::serde::rfc3339")]
    pub(crate) refunded_at: OffsetDateTime,
}

/// What a function of the ledger refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LedgerRefusal {
    pub(crate) code: String,
    /// How the record stands that forbids it, where that is the reason.
    pub(crate) status: Option<String>,
}

impl Storage {
    /// What these companies can pay from now; those that there are.
    pub(crate) async fn balances(&self, companies: &[Uuid]) -> Result<Vec<Balance>, StorageError> {
        let query = sqlx::query_as(
            // The columns are the application's: a NULL is no tokens, and no number of one company's, however absurd,
            // is an error for the others.
            "select company_id, monthly, coalesce(monthly_token_quota, 0) as monthly_quota,
                    current_period_end as period_end, purchased, total, held, greatest(greatest(total, 0) - held, 0) as available
             from company_subscriptions s,
                  lateral (select case when current_period_end <= now() then 0
                                       else coalesce(monthly_quota_balance, 0) end as monthly,
                                  coalesce(purchased_token_balance, 0) as purchased) spendable,
                  lateral (select least(greatest(monthly::numeric + purchased, -9223372036854775808),
                                        9223372036854775807)::bigint as total) sum,
                  lateral (select least(coalesce(sum(h.amount), 0), 1000000000000000000)::bigint as held from token_holds h
                           where h.company_id = s.company_id and h.status = 'open' and h.expires_at > now()) holds
             where company_id = any($1)",
        )
        .bind(companies);
        self.call(async |connection| query.fetch_all(connection).await)
            .await
    }

    /// Credits once per key.
    pub(crate) async fn credit(
        &self,
        key: &str,
        company_id: Uuid,
        grant: CreditGrant,
        actor: &str,
    ) -> Result<Result<CreditRecord, LedgerRefusal>, StorageError> {
        let (purchased, monthly, period_end) = match grant {
            CreditGrant::Purchased(amount) => (Some(amount), None, None),
            CreditGrant::Monthly { quota, period_end } => (None, Some(quota), Some(period_end)),
        };
        let query = sqlx::query_scalar("select credit_tokens($1, $2, $3, $4, $5, $6)")
            .bind(key)
            .bind(company_id)
            .bind(purchased)
            .bind(monthly)
            .bind(period_end)
            .bind(actor);
        let answer = self.call(async |connection| query.fetch_one(connection).await);
        recorded("credit_tokens", answer.await?)
    }

    /// Gives a charge back, once: to the buckets it came from, as far as those are still there. A dry run is rolled
    /// back.
    pub(crate) async fn refund(
        &self,
        job: &str,
        reason: &str,
        expired_monthly: ExpiredMonthly,
        actor: &str,
        dry_run: bool,
    ) -> Result<Result<RefundRecord, LedgerRefusal>, StorageError> {
        let query = sqlx::query_scalar("select refund_tokens($1, $2, $3, $4)")
            .bind(job)
            .bind(expired_monthly.as_str())
            .bind(actor)
            .bind(reason);
        let answer = self.call(async |connection| {
            let mut transaction = connection.begin().await?;
            let answer = query.fetch_one(&mut *transaction).await?;
            if dry_run {
                transaction.rollback().await?;
            } else {
                transaction.commit().await?;
            }
            Ok(answer)
        });
        let mut answer: Value = answer.await?;
        answer["dry_run"] = dry_run.into();
        recorded("refund_tokens", answer)
    }
}

/// The record in a function's answer, or its refusal.
fn recorded<T: DeserializeOwned>(
    function: &'static str,
    answer: Value,
) -> Result<Result<T, LedgerRefusal>, StorageError> {
    if let Some(code) = answer["error"].as_str() {
        return Ok(Err(LedgerRefusal {
            code: code.to_owned(),
            status: answer["status"].as_str().map(str::to_owned),
        }));
    }
    let unexpected = |error: serde_json::Error| StorageError::Unexpected {
        function,
        answer: error.to_string(),
    };
    serde_json::from_value(answer).map(Ok).map_err(unexpected)
}
