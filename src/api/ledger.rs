//! What is given to a company or back to it by hand, and whether the ledger is consistent.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::Deserialize;
use time::OffsetDateTime;
use tokio::sync::watch;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Api,
    companies::visible,
    events::{IDEMPOTENCY_KEY, wrong_key},
    extract::{self, Path, moment},
    gate::Caller,
    problem::{Problem, ProblemDocument},
};
use crate::operations::{
    AuditProgress, AuditReport, CreditGrant, CreditRecord, JobKey, OperationError, RefundRecord,
};

/// A top-up (`purchased`), or a renewal (`monthly` and `period_end`).
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewCredit {
    /// What makes this credit this one, such as an invoice number; or the header Idempotency-Key
    key: Option<String>,
    /// Adds this many tokens that do not expire
    #[schema(minimum = 1)]
    purchased: Option<i64>,
    /// Sets the monthly quota and its balance to this many tokens
    #[schema(minimum = 1)]
    monthly: Option<i64>,
    /// When the monthly quota expires
    #[serde(default, deserialize_with = "moment")]
    period_end: Option<OffsetDateTime>,
}

impl NewCredit {
    fn grant(&self) -> Result<CreditGrant, OperationError> {
        match (self.purchased, self.monthly, self.period_end) {
            (Some(tokens), None, None) => Ok(CreditGrant::Purchased(tokens)),
            (None, Some(quota), Some(period_end)) => Ok(CreditGrant::Monthly { quota, period_end }),
            (None, Some(_), None) => Err(OperationError::invalid("period_end", "is missing")),
            _ => {
                let why = "either this, or monthly with period_end";
                Err(OperationError::invalid("purchased", why))
            }
        }
    }
}

/// Gives a company tokens, once per key
///
/// The same key credits once: the second time answers with what the first one did.
#[utoipa::path(
    post,
    path = "/v1/companies/{company_id}/credits",
    tag = "companies",
    params(
        ("company_id" = Uuid, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "The key, unless the body has it"),
    ),
    request_body = NewCredit,
    responses(
        (status = 200, body = CreditRecord),
        (status = 404, description = "No such company", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "`period_end_passed` or `balance_too_large`: nothing was changed",
         body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn credit(
    State(api): State<Api>,
    caller: Caller,
    Path(company): Path<Uuid>,
    headers: HeaderMap,
    extract::Json(asked): extract::Json<NewCredit>,
) -> Result<Json<CreditRecord>, Problem> {
    let grant = asked.grant()?;
    let header = headers.get(IDEMPOTENCY_KEY).map(|key| key.to_str());
    let header = header.transpose().map_err(|_| wrong_key("is not text"))?;
    let header = header.map(|key| key.trim().trim_matches('"'));
    let key = match (asked.key.as_deref(), header) {
        (Some(key), Some(header)) if key != header => {
            return Err(wrong_key("is not the key in the body"));
        }
        (key, header) => key.or(header),
    };
    let key = key.ok_or_else(|| OperationError::invalid("key", "is missing"))?;
    visible(&caller, company)?;
    let actor = caller.actor()?;
    let record = api.operations.credit(key, company, grant, &actor);
    Ok(Json(record.await?))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRefund {
    /// Why, for the record
    reason: String,
    /// Only compute what would be given back
    #[serde(default)]
    dry_run: bool,
}

/// Gives the charge of a job back, once
///
/// To the buckets it came from, as far as those are still there. The second time answers with what the first one did.
#[utoipa::path(
    post,
    path = "/v1/jobs/{job_id}/refund",
    tag = "jobs",
    params(("job_id" = Uuid, Path)),
    request_body = NewRefund,
    responses(
        (status = 200, body = RefundRecord),
        (status = 404, description = "The ledger has no such job", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "`not_charged`, `company_not_found`, `compensated_elsewhere` or `balance_too_large`",
         body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn refund(
    State(api): State<Api>,
    caller: Caller,
    Path(job): Path<Uuid>,
    extract::Json(asked): extract::Json<NewRefund>,
) -> Result<Json<RefundRecord>, Problem> {
    let (job, actor) = (JobKey::new(&job.to_string()), caller.actor()?);
    let record = api
        .operations
        .refund(&job, &asked.reason, &actor, asked.dry_run);
    Ok(Json(record.await?))
}

/// Checks the ledger: every rule, against every row
///
/// 200 whatever it finds: `checks` has the number of violations of each rule. It reads everything, so of a large ledger
/// it may take longer than `http.request_timeout`; `token-billing audit` has no such limit.
#[utoipa::path(
    get,
    path = "/v1/audit",
    tag = "ledger",
    responses((status = 200, description = "As `token-billing audit --output json`", body = AuditReport))
)]
pub(super) async fn audit(
    State(api): State<Api>,
) -> Result<(StatusCode, Json<AuditReport>), Problem> {
    let audit = api.audits.try_acquire().map_err(|_| {
        let busy = "another audit is under way in this process; the same again later";
        OperationError::Busy(busy.to_owned())
    });
    let _audit = audit?;
    let (progress, _) = watch::channel(AuditProgress::default());
    let report = api.operations.audit(progress).await?;
    Ok((StatusCode::OK, Json(report)))
}
