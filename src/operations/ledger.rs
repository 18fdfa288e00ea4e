//! What a company has, and what is given to it or back.

use serde::Serialize;
use uuid::Uuid;

use super::{Actor, JobKey, OperationError, Operations};
pub(crate) use crate::storage::{Balance, CreditGrant, CreditRecord, RefundRecord};
use crate::storage::{LedgerRefusal, StorageError};

/// Whether a company can pay for what is about to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub(crate) struct Preflight {
    pub(crate) company_id: Uuid,
    /// Tokens that it is about.
    pub(crate) required: i64,
    /// Tokens that can be spent now.
    pub(crate) available: i64,
}

impl Preflight {
    /// Whether there is enough.
    pub(crate) fn suffices(&self) -> bool {
        self.required <= self.available
    }
}

const NO_KEY: &str = "is not 1 to 1024 bytes without control characters";

impl Operations {
    /// What the company can pay from now, in tokens.
    ///
    /// # Errors
    ///
    /// [`OperationError::NotFound`]: no such company.
    pub(crate) async fn balance(&self, company: Uuid) -> Result<Balance, OperationError> {
        let balance = self.balances.of(company).await?;
        balance.ok_or_else(|| no_company(company))
    }

    /// Whether the company could pay that many tokens now; the estimate of the settings where none is named. Nothing is
    /// kept for it.
    ///
    /// # Errors
    ///
    /// [`OperationError::Invalid`]: below 1 token. [`OperationError::NotFound`]: no such company.
    pub(crate) async fn preflight(
        &self,
        company: Uuid,
        tokens: Option<i64>,
    ) -> Result<Preflight, OperationError> {
        let required = self.tokens_or_estimate(tokens)?;
        let balance = self.balance(company).await?;
        Ok(Preflight {
            company_id: company,
            required,
            available: balance.available,
        })
    }

    pub(super) fn tokens_or_estimate(&self, tokens: Option<i64>) -> Result<i64, OperationError> {
        let estimate = self.settings.http.estimate_tokens;
        match tokens.unwrap_or(i64::try_from(estimate).unwrap_or(i64::MAX)) {
            ..1 => Err(OperationError::invalid("tokens", "is below 1")),
            tokens => Ok(tokens),
        }
    }

    /// A top-up or a renewal. The same key credits once; the second time gives the first one's record.
    ///
    /// # Errors
    ///
    /// [`OperationError::NotFound`]: no such company; [`OperationError::Conflict`] with the code of `credit_tokens`.
    pub(crate) async fn credit(
        &self,
        key: &str,
        company: Uuid,
        grant: CreditGrant,
        actor: &Actor,
    ) -> Result<CreditRecord, OperationError> {
        let below = match grant {
            CreditGrant::Purchased(..1) => Some("purchased"),
            CreditGrant::Monthly { quota: ..1, .. } => Some("monthly"),
            _ => None,
        };
        if let Some(field) = below {
            return Err(OperationError::invalid(field, "is below 1"));
        }
        let answer = self.storage.credit(key, company, grant, actor.name());
        answer
            .await?
            .map_err(|refusal| match refusal.code.as_str() {
                "company_not_found" => no_company(company),
                "invalid_request" => OperationError::invalid("key", NO_KEY),
                _ => refused("credit_tokens", refusal, &format!("key {key:?}")),
            })
    }

    /// Gives a charge back, once: to the buckets it came from, as far as those are still there. The second time gives
    /// the first one's record. A dry run computes, and changes nothing.
    ///
    /// # Errors
    ///
    /// [`OperationError::NotFound`]: no such charge; [`OperationError::Conflict`] with the code of `refund_tokens`;
    /// [`OperationError::Invalid`] without a reason.
    pub(crate) async fn refund(
        &self,
        job: &JobKey,
        reason: &str,
        actor: &Actor,
        dry_run: bool,
    ) -> Result<RefundRecord, OperationError> {
        if reason.trim().is_empty() {
            return Err(OperationError::invalid("reason", "is empty"));
        }
        let expired = self.settings.refund.expired_monthly;
        let (key, actor) = (job.as_str(), actor.name());
        let answer = self.storage.refund(key, reason, expired, actor, dry_run);
        answer
            .await?
            .map_err(|refusal| match refusal.code.as_str() {
                "invalid_request" => OperationError::invalid("job_id", NO_KEY),
                _ => refused("refund_tokens", refusal, &format!("job {key:?}")),
            })
    }
}

pub(crate) fn no_company(company: Uuid) -> OperationError {
    OperationError::NotFound(format!("company {company} is not in company_subscriptions"))
}

/// What either function refuses, of a key or a job.
fn refused(function: &'static str, refusal: LedgerRefusal, what: &str) -> OperationError {
    let status = refusal.status.unwrap_or_default();
    let (code, why) = match refusal.code.as_str() {
        "not_found" => {
            let why = format!("{what} is not in the ledger: nothing was charged for it");
            return OperationError::NotFound(why);
        }
        "idempotency_key_reused" => (
            "idempotency_key_reused",
            format!("{what} was used for a different credit; nothing was changed"),
        ),
        "period_end_passed" => (
            "period_end_passed",
            "the end of the period is in the past; nothing was changed".to_owned(),
        ),
        "not_charged" => (
            "not_charged",
            format!(
                "{what} was not charged, its record is {status}: there is nothing to give back"
            ),
        ),
        "company_not_found" => (
            "company_not_found",
            format!("the company of {what} is not in company_subscriptions any more"),
        ),
        "compensated_elsewhere" => (
            "compensated_elsewhere",
            format!(
                "{what} was marked compensated by other means: no refund of it is in token_credits, and none was made \
                 now"
            ),
        ),
        "balance_too_large" => (
            "balance_too_large",
            format!("the balance would exceed {}; nothing was changed", i64::MAX),
        ),
        _ => {
            let answer = refusal.code;
            return StorageError::Unexpected { function, answer }.into();
        }
    };
    OperationError::Conflict { code, why }
}
