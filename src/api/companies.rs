//! What a company has, and whether that is enough.

use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use super::{
    Api,
    extract::{Path, Query},
    gate::Caller,
    problem::{Problem, ProblemDocument},
};
use crate::operations::{Balance, Preflight, no_company};

/// What the company can pay from, in tokens
#[utoipa::path(
    get,
    path = "/v1/companies/{company_id}/balance",
    tag = "companies",
    params(("company_id" = Uuid, Path)),
    responses(
        (status = 200, body = Balance),
        (status = 404, description = "No such company", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn balance(
    State(api): State<Api>,
    caller: Caller,
    Path(company): Path<Uuid>,
) -> Result<Json<Balance>, Problem> {
    // Asked whoever asks: the answer for another one's company takes as long as for one that isn't there.
    let balance = api.operations.balance(company).await?;
    visible(&caller, company)?;
    Ok(Json(balance))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PreflightQuery {
    /// Tokens that the job will need [default: `http.estimate_tokens`]
    #[param(minimum = 1)]
    tokens: Option<i64>,
}

/// Whether the company could pay for a job now, before it is started
#[utoipa::path(
    get,
    path = "/v1/companies/{company_id}/preflight",
    tag = "companies",
    params(("company_id" = Uuid, Path), PreflightQuery),
    responses(
        (status = 200, description = "It can pay", body = Preflight),
        (status = 402, description = "`insufficient_balance`, with `required`, `available` and `upgrade_url`",
         body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "No such company", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn preflight(
    State(api): State<Api>,
    caller: Caller,
    Path(company): Path<Uuid>,
    Query(query): Query<PreflightQuery>,
) -> Result<Json<Preflight>, Problem> {
    let preflight = api.operations.preflight(company, query.tokens).await?;
    visible(&caller, company)?;
    if preflight.suffices() {
        return Ok(Json(preflight));
    }
    Err(payment_required(&api, &preflight))
}

/// Before the work is begun.
pub(super) fn payment_required(api: &Api, preflight: &Preflight) -> Problem {
    let Preflight {
        required,
        available,
        ..
    } = *preflight;
    let detail = format!("{required} tokens are required, {available} are available");
    let upgrade_url = api.settings.http.upgrade_url();
    Problem::new(StatusCode::PAYMENT_REQUIRED, "insufficient_balance", detail)
        .with("required", required)
        .with("available", available)
        .with("upgrade_url", upgrade_url)
}

/// The same for a company that the caller doesn't see as for one that isn't there.
pub(super) fn visible(caller: &Caller, company: Uuid) -> Result<(), Problem> {
    if caller.sees(company) {
        return Ok(());
    }
    Err(no_company(company).into())
}
