//! What a company has, and what is given to it or back.

use uuid::Uuid;

use super::{Actor, JobKey, OperationError, Operations};
pub(crate) use crate::storage::{Balance, CreditGrant, CreditRecord, RefundRecord};
use crate::storage::{LedgerRefusal, StorageError};

const NO_KEY: &str = "is not 1 to 1024 bytes without control characters";

impl Operations {
    /// What the company can pay from now, in tokens.
    ///
    /// # Errors
    ///
    /// [`OperationError::NotFound`]: no such company.
    pub(crate) async fn balance(&self, company: Uuid) -> Result<Balance, OperationError> {
        let balance = self.storage.balance(company).await?;
        balance.ok_or_else(|| no_company(company))
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
        let answer = self.storage.credit(key, company, grant, actor.name());
        let refused = |refusal| credit_refused(refusal, key, company, grant);
        answer.await?.map_err(refused)
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
        let expired_monthly = self.settings.refund.expired_monthly;
        let (key, actor) = (job.as_str(), actor.name());
        let answer = self
            .storage
            .refund(key, reason, expired_monthly, actor, dry_run);
        answer
            .await?
            .map_err(|refusal| refund_refused(refusal, key, reason))
    }
}

fn no_company(company: Uuid) -> OperationError {
    OperationError::NotFound(format!("company {company} is not in company_subscriptions"))
}

fn credit_refused(
    refusal: LedgerRefusal,
    key: &str,
    company: Uuid,
    grant: CreditGrant,
) -> OperationError {
    match (refusal.code.as_str(), grant) {
        ("company_not_found", _) => no_company(company),
        ("invalid_request", CreditGrant::Purchased(..1)) => {
            OperationError::invalid("purchased", "is below 1")
        }
        ("invalid_request", CreditGrant::Monthly { quota: ..0, .. }) => {
            OperationError::invalid("monthly", "is below 0")
        }
        ("invalid_request", _) => OperationError::invalid("key", NO_KEY),
        ("idempotency_key_reused", _) => OperationError::conflict(
            "idempotency_key_reused",
            format!("key {key:?} was used for a different credit; nothing was changed"),
        ),
        ("period_end_passed", _) => OperationError::conflict(
            "period_end_passed",
            "the end of the period is in the past; nothing was changed",
        ),
        _ => refused("credit_tokens", refusal),
    }
}

fn refund_refused(refusal: LedgerRefusal, job: &str, reason: &str) -> OperationError {
    match refusal.code.as_str() {
        "not_found" => OperationError::NotFound(format!(
            "job {job:?} is not in the ledger: nothing was charged for it"
        )),
        "invalid_request" if reason.trim().is_empty() => {
            OperationError::invalid("reason", "is empty")
        }
        "invalid_request" => OperationError::invalid("job_id", NO_KEY),
        "not_charged" => {
            let status = refusal.status.unwrap_or_default();
            OperationError::conflict(
                "not_charged",
                format!(
                    "job {job:?} was not charged, its record is {status}: there is nothing to give back"
                ),
            )
        }
        "company_not_found" => OperationError::conflict(
            "company_not_found",
            format!("the company of job {job:?} is not in company_subscriptions any more"),
        ),
        "compensated_elsewhere" => OperationError::conflict(
            "compensated_elsewhere",
            format!(
                "job {job:?} was marked compensated by other means: no refund of it is in token_credits, and none was \
                 made now"
            ),
        ),
        _ => refused("refund_tokens", refusal),
    }
}

/// What either of them refuses.
fn refused(function: &'static str, refusal: LedgerRefusal) -> OperationError {
    let answer = refusal.code;
    if answer == "balance_too_large" {
        let why = format!("the balance would exceed {}; nothing was changed", i64::MAX);
        return OperationError::conflict("balance_too_large", why);
    }
    StorageError::Unexpected { function, answer }.into()
}
