//! Settings of the HTTP API.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;

use super::values::{self, MILLISECOND, MINUTE};

/// The HTTP API.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section")]
pub struct Http {
    /// An address and a port, such as `127.0.0.1:8080`. Beyond loopback only once there is an API key. Empty, the
    /// default: `serve` without `--role` has no HTTP API, and `--role http` listens on `127.0.0.1:8080`.
    #[serde(deserialize_with = "values::listen")]
    pub listen: Option<SocketAddr>,
    /// The path before every call's own, for a proxy that passes it on. `/` or like `/billing`, default `/`.
    #[serde(deserialize_with = "values::base_path")]
    pub base_path: String,
    /// Tokens that a preflight asks for when the caller names none. 1..=1000000000000, default 15000.
    #[serde(deserialize_with = "values::whole::<1, 1_000_000_000_000, _, _>")]
    pub estimate_tokens: u64,
    /// Where whoever can't pay is sent: an `http`, `https` or root-relative URL. Empty, the default: `/billing/upgrade`
    /// below `base_path`.
    #[serde(deserialize_with = "values::link")]
    pub upgrade_url: String,
    /// Origins of pages in browsers that may call, such as `https://app.example.com`, separated by commas; `*` is any.
    /// Default none.
    #[serde(deserialize_with = "values::origins")]
    pub cors_origins: Vec<String>,
    /// For the headers of one request, for a connection to lie idle, and for a caller to take more of an answer.
    /// 100ms..=10m, default 10s.
    #[serde(deserialize_with = "values::duration::<{ 100 * MILLISECOND }, { 10 * MINUTE }, _>")]
    pub header_timeout: Duration,
    /// For the body of one request. 100ms..=10m and not above `request_timeout`, default 10s.
    #[serde(deserialize_with = "values::duration::<{ 100 * MILLISECOND }, { 10 * MINUTE }, _>")]
    pub body_timeout: Duration,
    /// For one request as a whole, its body included. 100ms..=10m, default 30s.
    #[serde(deserialize_with = "values::duration::<{ 100 * MILLISECOND }, { 10 * MINUTE }, _>")]
    pub request_timeout: Duration,
    /// Bytes of one request's body. 1024..=268435456, default 4194304.
    #[serde(deserialize_with = "values::whole::<1024, 268_435_456, _, _>")]
    pub max_body_bytes: usize,
    /// Connections at once; who comes later waits. 1..=100000, default 512.
    #[serde(deserialize_with = "values::whole::<1, 100_000, _, _>")]
    pub max_connections: u32,
    /// Requests of one key, in the long run. 1..=1000000, default 500.
    #[serde(deserialize_with = "values::whole::<1, 1_000_000, _, _>")]
    pub requests_per_second: u32,
    /// Requests of one key at once, after it was idle. 1..=1000000, default 1000.
    #[serde(deserialize_with = "values::whole::<1, 1_000_000, _, _>")]
    pub burst: u32,
    /// Streams of one key at once. 1..=10000, default 10.
    #[serde(deserialize_with = "values::whole::<1, 10_000, _, _>")]
    pub streams_per_key: u32,
    /// How long keys are known before they are read again: so long a revoked one may still work. 0s..=1m, default 5s.
    #[serde(deserialize_with = "values::duration::<0, MINUTE, _>")]
    pub keys_ttl: Duration,
}

impl Http {
    /// Where whoever can't pay is sent.
    pub fn upgrade_url(&self) -> String {
        match self.upgrade_url.as_str() {
            "" => format!("{}/billing/upgrade", self.base_path.trim_end_matches('/')),
            url => url.to_owned(),
        }
    }

    /// Where the role `http` listens.
    pub fn address(&self) -> SocketAddr {
        self.listen
            .unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080))
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: None,
            base_path: "/".to_owned(),
            estimate_tokens: 15_000,
            upgrade_url: String::new(),
            cors_origins: Vec::new(),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            max_body_bytes: 4 * 1024 * 1024,
            max_connections: 512,
            requests_per_second: 500,
            burst: 1000,
            streams_per_key: 10,
            keys_ttl: Duration::from_secs(5),
        }
    }
}
