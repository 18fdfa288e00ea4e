//! What comes with a request, or a [`Problem`] that names what is wrong with it.

use axum::{
    body::Bytes,
    extract::{
        FromRequest, FromRequestParts, Request, rejection::PathRejection, rejection::QueryRejection,
    },
    http::{
        HeaderMap, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
        request::Parts,
    },
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::{Api, problem::Problem};

/// The query; unknown parameters are refused by its type.
pub(super) struct Query<T>(pub(super) T);

/// The parameters in the path.
pub(super) struct Path<T>(pub(super) T);

/// A body of JSON.
pub(super) struct Json<T>(pub(super) T);

/// A body as it came, within `http.max_body_bytes` and `http.body_timeout`.
pub(super) struct Received(pub(super) Bytes);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = axum::extract::Query::from_request_parts(parts, state).await;
        let axum::extract::Query(query) = query.map_err(|refused: QueryRejection| {
            named(StatusCode::BAD_REQUEST, "query", &refused.body_text())
        })?;
        Ok(Self(query))
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        let axum::extract::Path(path) = path.map_err(|refused: PathRejection| {
            named(StatusCode::BAD_REQUEST, "path", &refused.body_text())
        })?;
        Ok(Self(path))
    }
}

impl FromRequest<Api> for Received {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let limits = &api.settings.http;
        let max = limits.max_body_bytes;
        let too_large = || {
            let detail = format!("the body has more than {max} bytes");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail)
                .with("max_bytes", max)
        };
        let declared = request.headers().get(CONTENT_LENGTH);
        let declared = declared.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|length| length > max as u64) {
            return Err(too_large());
        }
        let body = Limited::new(request.into_body(), max).collect();
        match tokio::time::timeout(limits.body_timeout, body).await {
            Ok(Ok(body)) => Ok(Self(body.to_bytes())),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(_)) => {
                let detail = "the body ended too early, or is not as its headers say";
                Err(Problem::new(
                    StatusCode::BAD_REQUEST,
                    "invalid_request",
                    detail,
                ))
            }
            Err(_) => {
                let within = humantime::format_duration(limits.body_timeout);
                let detail = format!("the body was not there within {within}");
                Err(Problem::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "request_timeout",
                    detail,
                ))
            }
        }
    }
}

impl<T: DeserializeOwned> FromRequest<Api> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let media_type = media_type(request.headers());
        if media_type != "application/json" {
            return Err(unsupported(&media_type, "application/json"));
        }
        let Received(body) = Received::from_request(request, api).await?;
        let mut json = serde_json::Deserializer::from_slice(&body);
        let read = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            let (field, why) = (if path == "." { "body" } else { &path }, error.inner());
            match why.classify() {
                serde_json::error::Category::Data => {
                    Problem::invalid(StatusCode::UNPROCESSABLE_ENTITY, field, &why.to_string())
                }
                _ => Problem::invalid(StatusCode::BAD_REQUEST, "body", &why.to_string()),
            }
        });
        let read = read?;
        json.end()
            .map_err(|why| Problem::invalid(StatusCode::BAD_REQUEST, "body", &why.to_string()))?;
        Ok(Self(read))
    }
}

/// Without its parameters, in lower case.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let named = headers
        .get(CONTENT_TYPE)
        .and_then(|named| named.to_str().ok());
    let named = named.and_then(|named| named.split(';').next());
    named.unwrap_or_default().trim().to_ascii_lowercase()
}

pub(super) fn unsupported(media_type: &str, expected: &str) -> Problem {
    let got = if media_type.is_empty() {
        "nothing"
    } else {
        media_type
    };
    let detail = format!("content-type: expected {expected}, got {got}");
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    Problem::new(status, "unsupported_media_type", detail).with("field", "content-type")
}

/// axum puts a name before what is wrong: "…: tokens: invalid digit", or "… `id` with value …".
fn named(status: StatusCode, place: &'static str, text: &str) -> Problem {
    let said = text.split_once(": ").map_or(text, |(_, said)| said);
    let quoted = said.split('`').nth(1);
    let before = said.split_once(": ").map(|(field, _)| field);
    let field = quoted.or(before).filter(|field| !field.contains(' '));
    Problem::new(status, "invalid_request", said).with("field", field.unwrap_or(place))
}
