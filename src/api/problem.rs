//! What a caller is told when something went wrong: RFC 9457.

use std::time::Duration;

use axum::{
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::operations::{Dependency, OperationError};

pub(super) const MEDIA_TYPE: &str = "application/problem+json";
/// When to ask again for what is away or busy.
const SOON: Duration = Duration::from_secs(1);

/// Why a call was not done.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    fields: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// As it is documented.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemDocument {
    /// `urn:token-billing:problem:` and the code.
    #[serde(rename = "type")]
    kind: String,
    /// The code, for a person.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What happened this time.
    detail: String,
    /// Stable, for programs.
    code: String,
    /// More by code, such as `field`, `required` and `available`.
    #[serde(flatten)]
    fields: Map<String, Value>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            fields: Map::new(),
            headers: Vec::new(),
        }
    }

    /// A field of the query, the path or the body that no call can work with.
    pub(super) fn invalid(status: StatusCode, field: &str, why: &str) -> Self {
        Self::new(status, "invalid_request", format!("{field}: {why}")).with("field", field)
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }

    /// In whole seconds, at least one.
    pub(super) fn retry_after(mut self, wait: Duration) -> Self {
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        if let Ok(seconds) = seconds.to_string().parse() {
            self.headers.push((RETRY_AFTER, seconds));
        }
        self
    }

    /// `challenge` goes into `WWW-Authenticate`.
    pub(super) fn unauthorized(challenge: &'static str, detail: &str) -> Self {
        let mut problem = Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail);
        let challenge = HeaderValue::from_static(challenge);
        problem.headers.push((WWW_AUTHENTICATE, challenge));
        problem
    }

    /// The same call may go well later.
    pub(super) fn unavailable(dependency: Dependency) -> Self {
        let (code, what) = match dependency {
            Dependency::Database => ("database_unavailable", "database"),
            Dependency::Broker => ("broker_unavailable", "broker"),
        };
        let detail = format!("the {what} can't be worked with at present");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(SOON)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = ProblemDocument {
            kind: format!("urn:token-billing:problem:{}", self.code),
            title: title(self.code),
            status: self.status.as_u16(),
            detail: self.detail,
            code: self.code.to_owned(),
            fields: self.fields,
        };
        let mut response = (self.status, axum::Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        headers.extend(self.headers);
        response
    }
}

/// What went wrong inside is logged, and not told: the words of a database may be anybody's.
impl From<OperationError> for Problem {
    fn from(error: OperationError) -> Self {
        match error {
            OperationError::NotFound(why) => Self::not_found(why),
            OperationError::Invalid { field, why } => {
                Self::invalid(StatusCode::UNPROCESSABLE_ENTITY, field, &why)
            }
            OperationError::Conflict { code, why } => match code {
                "idempotency_key_reused" => Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, why),
                "deduction_in_progress" => {
                    Self::new(StatusCode::CONFLICT, code, why).retry_after(SOON)
                }
                _ => Self::new(StatusCode::CONFLICT, code, why),
            },
            OperationError::Unavailable { dependency, why } => {
                tracing::warn!(error.message = %why, "a call was answered with 503");
                Self::unavailable(dependency)
            }
            OperationError::Busy(why) => {
                tracing::debug!(error.message = %why, "a call was answered with 503");
                let detail = "somebody else has locked what this needs; the same again later";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail).retry_after(SOON)
            }
            OperationError::Internal(why) => {
                tracing::error!(error.message = %why, "a call was answered with 500");
                let detail = "an error of the server's; its log says more";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
            }
        }
    }
}

/// `insufficient_balance` → `Insufficient balance`.
fn title(code: &str) -> String {
    let words = code.replace('_', " ");
    let (first, rest) = words.split_at(words.chars().next().map_or(0, char::len_utf8));
    first.to_uppercase() + rest
}
