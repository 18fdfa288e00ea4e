//! Tokens for pages in browsers.

use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Api,
    companies::visible,
    extract,
    gate::Caller,
    problem::{Problem, ProblemDocument},
};
use crate::operations::PortalToken;

/// Seconds that a token is valid, unless the caller wants another time.
const VALID: i64 = 60 * 60;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPortalToken {
    company_id: Uuid,
    /// Seconds, at most a day [default: 3600]
    #[schema(minimum = 1, maximum = 86400)]
    expires_in: Option<i64>,
}

/// A token that reads the balance of one company for a while
///
/// It is valid as long as the key that asked for it, and no longer than a day.
#[utoipa::path(
    post,
    path = "/v1/portal-tokens",
    tag = "companies",
    request_body = NewPortalToken,
    responses(
        (status = 201, body = PortalToken),
        (status = 404, description = "No such company", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn issue(
    State(api): State<Api>,
    caller: Caller,
    extract::Json(asked): extract::Json<NewPortalToken>,
) -> Result<(StatusCode, Json<PortalToken>), Problem> {
    let (company, seconds) = (asked.company_id, asked.expires_in.unwrap_or(VALID));
    api.operations.balance(company).await?;
    visible(&caller, company)?;
    let token = PortalToken::issue(&caller.key, company, seconds)?;
    Ok((StatusCode::CREATED, Json(token)))
}
