//! What comes with a request, or a [`Problem`] that names what is wrong with it.

use axum::{
    body::{Bytes, HttpBody as _},
    extract::{
        FromRequest, FromRequestParts, RawPathParams, Request,
        rejection::{PathRejection, QueryRejection},
    },
    http::{
        HeaderMap, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
        request::Parts,
    },
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::{
    Deserialize as _, Deserializer,
    de::{DeserializeOwned, Error as _},
};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::{Api, problem::Problem};
use crate::domain;

/// The database stores any text but one with this.
const NUL: char = '\0';

/// Bytes of a body of which any number may be in memory.
const SMALL: usize = 64 * 1024;

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
        let axum::extract::Query(query) =
            query.map_err(|refused: QueryRejection| in_query(said(&refused.body_text())))?;
        let all = parts.uri.query().unwrap_or_default().as_bytes();
        for (name, value) in url::form_urlencoded::parse(all) {
            if value.contains(NUL) {
                return Err(with_nul(&name));
            }
        }
        Ok(Self(query))
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        let refused: PathRejection = match path {
            Ok(axum::extract::Path(path)) => return Ok(Self(path)),
            Err(refused) => refused,
        };
        // No path has more than one.
        let all = RawPathParams::from_request_parts(parts, state).await.ok();
        let name = all.iter().flatten().next().map(|(name, _)| name);
        Err(Problem::invalid(
            StatusCode::BAD_REQUEST,
            name.unwrap_or("path"),
            said(&refused.body_text()),
        ))
    }
}

/// The request with its body read: whoever sends slowly is waited for here, before he takes anything from others.
pub(super) async fn whole(request: Request, api: &Api) -> Result<Request, Problem> {
    if request.body().is_end_stream() {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    let request = Request::from_parts(parts.clone(), body);
    let Received(body) = Received::from_request(request, api).await?;
    Ok(Request::from_parts(parts, body.into()))
}

/// Whether the body has so few bytes that any number of them may be read at once.
pub(super) fn is_small(request: &Request) -> bool {
    let declared = request.headers().get(CONTENT_LENGTH);
    let declared = declared.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    match declared {
        Some(bytes) => bytes <= SMALL,
        None => request.body().is_end_stream(),
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
        // What is JSON for the type is JSON.
        let members: Map<String, Value> = serde_json::from_slice(&body).unwrap_or_default();
        match members.iter().find(|(_, value)| has_nul(value)) {
            Some((name, _)) => Err(with_nul(name)),
            None => Ok(Self(read)),
        }
    }
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains(NUL),
        Value::Array(values) => values.iter().any(has_nul),
        Value::Object(members) => {
            let named = members.keys().any(|name| name.contains(NUL));
            named || members.values().any(has_nul)
        }
        _ => false,
    }
}

fn with_nul(field: &str) -> Problem {
    let why = "holds U+0000, which can't be stored";
    Problem::invalid(StatusCode::UNPROCESSABLE_ENTITY, field, why)
}

/// A moment that may be absent, within the calendar that the database and RFC 3339 share: beyond it sqlx panics.
pub(super) fn moment<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<OffsetDateTime>, D::Error> {
    let Some(text) = Option::<String>::deserialize(from)? else {
        return Ok(None);
    };
    let refused = || D::Error::custom("not a moment such as 2027-01-01T00:00:00Z");
    domain::moment(&text).ok_or_else(refused).map(Some)
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

/// What axum says behind what it says of every such error.
fn said(text: &str) -> &str {
    text.split_once(": ").map_or(text, |(_, said)| said)
}

/// axum names the parameter: "tokens: invalid digit", or "unknown field `id`, expected …".
fn in_query(said: &str) -> Problem {
    let quoted = said.split('`').nth(1);
    let before = said.split_once(": ").map(|(field, _)| field);
    let field = before.filter(|field| !field.contains(' ')).or(quoted);
    Problem::new(StatusCode::BAD_REQUEST, "invalid_request", said)
        .with("field", field.unwrap_or("query"))
}
