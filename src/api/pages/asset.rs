//! Files that are part of the program: type, validity in caches, and what a browser may do with them.

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use sha2::{Digest as _, Sha256};

/// Nothing but what this origin serves, no inline script or style, in nobody's frame.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; base-uri 'none'; \
                           form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// A text with its headers; the same for everybody, until the program is replaced.
#[derive(Debug, Clone)]
pub(super) struct Asset {
    headers: HeaderMap,
    body: String,
}

impl Asset {
    pub(super) fn css(body: &str) -> Self {
        Self::new("text/css; charset=utf-8", body.to_owned())
    }

    pub(super) fn script(body: &str) -> Self {
        Self::new("text/javascript; charset=utf-8", body.to_owned())
    }

    pub(super) fn page(body: String) -> Self {
        let mut page = Self::new("text/html; charset=utf-8", body);
        page.set(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(PAGE_POLICY),
        );
        page.set(
            header::REFERRER_POLICY,
            HeaderValue::from_static("strict-origin-when-cross-origin"),
        );
        page
    }

    /// For pages of other origins too, which may demand it by `crossorigin`, `integrity` or an embedder policy.
    pub(super) fn for_other_origins(mut self) -> Self {
        self.set(
            header::ACCESS_CONTROL_ALLOW_ORIGIN,
            HeaderValue::from_static("*"),
        );
        let resource_policy = header::HeaderName::from_static("cross-origin-resource-policy");
        self.set(resource_policy, HeaderValue::from_static("cross-origin"));
        self
    }

    pub(super) fn set(&mut self, name: header::HeaderName, value: HeaderValue) {
        self.headers.insert(name, value);
    }

    fn new(content_type: &'static str, body: String) -> Self {
        let headers = HeaderMap::from_iter([
            (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
            (
                header::CACHE_CONTROL,
                HeaderValue::from_static("public, max-age=300"),
            ),
            (
                header::X_CONTENT_TYPE_OPTIONS,
                HeaderValue::from_static("nosniff"),
            ),
        ]);
        Self { headers, body }
    }

    /// The answer to a request with these headers: nothing but the headers, where the client has the rest.
    pub(super) fn answer(&self, request: &HeaderMap) -> Response {
        let etag = etag(&self.body);
        let known = request
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .filter_map(|tags| tags.to_str().ok())
            .flat_map(|tags| tags.split(','))
            // A proxy that compresses weakens the tag.
            .map(|tag| tag.trim().trim_start_matches("W/"))
            .any(|tag| tag == "*" || tag == etag);
        let mut headers = self.headers.clone();
        if let Ok(etag) = HeaderValue::try_from(etag) {
            headers.insert(header::ETAG, etag);
        }
        if known {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        (headers, self.body.clone()).into_response()
    }
}

fn etag(body: &str) -> String {
    let digest = Sha256::digest(body);
    let bytes = digest.iter().take(12);
    format!(
        "\"{}\"",
        bytes.map(|byte| format!("{byte:02x}")).collect::<String>()
    )
}
