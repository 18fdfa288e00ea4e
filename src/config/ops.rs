//! Settings of what a process tells about itself.

use std::{net::SocketAddr, time::Duration};

use serde::Deserialize;

use super::values::{self, HOUR, MILLISECOND};

/// What a process tells those who run it.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section")]
pub struct Ops {
    /// An address and a port for `/healthz`, `/readyz` and `/metrics`, which ask for no key. Default none.
    #[serde(deserialize_with = "values::listen")]
    pub listen: Option<SocketAddr>,
    /// Between two looks at database and broker for the metrics of the whole installation, however often these are
    /// asked for. 100ms..=1h, default 5s.
    #[serde(deserialize_with = "values::duration::<{ 100 * MILLISECOND }, HOUR, _>")]
    pub refresh: Duration,
}

impl Default for Ops {
    fn default() -> Self {
        Self {
            listen: None,
            refresh: Duration::from_secs(5),
        }
    }
}
