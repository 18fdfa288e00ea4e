//! How this process is: for probes and for Prometheus, without a key.

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde_json::json;
use std::sync::Arc;
use tokio::sync::watch;

use super::problem::Problem;
use crate::{readiness::Readiness, scrape::Scrape};

/// What a process knows of itself.
#[derive(Debug, Clone)]
pub struct Vitals {
    /// Whether it does what its roles are for.
    pub readiness: watch::Receiver<Readiness>,
    /// Its metrics, and those of the installation.
    pub scrape: Arc<Scrape>,
}

/// `/healthz`, `/readyz` and `/metrics`.
pub(super) fn router(vitals: Vitals) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(vitals)
}

/// The process lives.
pub(super) async fn healthz() -> Response {
    axum::Json(json!({ "status": "ok" })).into_response()
}

async fn readyz(State(vitals): State<Vitals>) -> Response {
    let readiness = vitals.readiness.borrow().clone();
    if readiness.is_ready() {
        return axum::Json(json!({ "status": "ready" })).into_response();
    }
    let reasons: Vec<String> = readiness.0.iter().map(ToString::to_string).collect();
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "not_ready",
        readiness.to_string(),
    )
    .with("reasons", reasons)
    .into_response()
}

async fn metrics(State(vitals): State<Vitals>) -> Response {
    let text = vitals.scrape.answer().await;
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response()
}
