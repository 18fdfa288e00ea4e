//! Tokens held for jobs that are about to begin.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Api,
    companies::payment_required,
    events::check_key,
    extract::{self, Path},
    gate::Caller,
    problem::{Problem, ProblemDocument},
};
use crate::operations::{Held, Hold};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewHold {
    /// The job that is about to begin: it has one hold
    job_id: Uuid,
    company_id: Uuid,
    /// Tokens to be held [default: `http.estimate_tokens`]
    #[schema(minimum = 1)]
    tokens: Option<i64>,
    /// Seconds after which it counts no more [default: `holds.expires_after`]
    #[schema(minimum = 1)]
    expires_in: Option<i64>,
}

/// Holds tokens for a job, so that it can be paid when it is done
///
/// Charges of other jobs leave them alone. Charging the job ends its hold, whatever the amount; so does a refusal of its
/// charge. A hold moves no tokens.
#[utoipa::path(
    post,
    path = "/v1/holds",
    tag = "holds",
    request_body = NewHold,
    params(("Idempotency-Key" = Option<String>, Header, description = "The job_id, which is the key")),
    responses(
        (status = 201, description = "They are held from now on", body = Hold),
        (status = 200, description = "They were held before", body = Hold),
        (status = 402, description = "`insufficient_balance`, with `required`, `available` and `upgrade_url`: don't begin",
         body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "No such company", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "`hold_differs`: the job has an open hold of another company or amount; \
         `already_charged`, `already_compensated`",
         body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn hold(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    extract::Json(asked): extract::Json<NewHold>,
) -> Result<(StatusCode, Json<Hold>), Problem> {
    check_key(&headers, asked.job_id)?;
    let visible = caller.sees(asked.company_id);
    let held = api.operations.hold(
        asked.job_id,
        asked.company_id,
        visible,
        asked.tokens,
        asked.expires_in,
    );
    match held.await? {
        Held::Now(hold) => Ok((StatusCode::CREATED, Json(hold))),
        Held::Before(hold) => Ok((StatusCode::OK, Json(hold))),
        Held::TooLittle(preflight) => Err(payment_required(&api, &preflight)),
    }
}

/// Releases the hold of a job that won't be done
///
/// The second time, and where there is none, nothing happens.
#[utoipa::path(
    delete,
    path = "/v1/holds/{job_id}",
    tag = "holds",
    params(("job_id" = Uuid, Path)),
    responses((status = 204, description = "Nothing of the caller's is held for the job any more"))
)]
pub(super) async fn release(
    State(api): State<Api>,
    caller: Caller,
    Path(job): Path<Uuid>,
) -> Result<StatusCode, Problem> {
    api.operations.release_hold(job, caller.company).await?;
    Ok(StatusCode::NO_CONTENT)
}
