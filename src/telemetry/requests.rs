//! Requests over HTTP: each a span of its own, counted by its route.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::HeaderMap,
    middleware::Next,
    response::Response,
};
use tracing::{Instrument as _, field::Empty, trace_span};

use super::{metrics::Metrics, traces};
use crate::domain::TraceContext;

/// A layer for a router's routes, by `axum::middleware::from_fn_with_state`. The span is part of the trace of the
/// request's `traceparent`. Its time is that to the head of the answer.
pub async fn observe(
    State(metrics): State<Arc<Metrics>>,
    request: Request,
    next: Next,
) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map(MatchedPath::as_str);
    let method = request.method().clone();
    let span = trace_span!(
        target: traces::TARGET,
        "request",
        otel.name = format!("{method} {}", route.unwrap_or_default()).trim_end(),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method.as_str(),
        http.route = route,
        http.response.status_code = Empty,
    );
    if !span.is_disabled()
        && let Some(trace) = trace(request.headers())
    {
        traces::continue_trace(&span, &trace);
    }
    let began = Instant::now();
    let response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    metrics.http(route, method.as_str(), status.as_u16(), began.elapsed());
    response
}

/// The trace context of a request's headers.
pub fn trace(headers: &HeaderMap) -> Option<TraceContext> {
    let text = |name| headers.get(name)?.to_str().ok();
    TraceContext::parse(text("traceparent")?, text("tracestate"))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::{Router, body::Body, middleware::from_fn_with_state, routing::get};
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::{
        error::OTelSdkResult,
        trace::{SdkTracerProvider, SpanData, SpanExporter},
    };
    use tower::ServiceExt as _;

    use super::*;
    use crate::config::{Log, Settings};
    use crate::telemetry::tracing_subscriber;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[derive(Debug, Clone, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Kept {
        async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(spans);
            Ok(())
        }
    }

    async fn published_with() -> String {
        traces::current().map_or_else(String::new, |trace| trace.traceparent().to_owned())
    }

    #[tokio::test]
    async fn a_request_is_part_of_its_callers_trace_and_what_it_publishes_of_the_same() {
        let kept = Kept::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(kept.clone())
            .build();
        let tracer = provider.tracer("test");
        let subscriber = tracing_subscriber(&Log::default(), tracer, std::io::sink, false);
        let _guard = tracing::subscriber::set_default(subscriber.unwrap());
        let metrics = Arc::new(Metrics::new(&Settings::default()));
        let router = Router::new()
            .route("/v1/events/{id}", get(published_with))
            .layer(from_fn_with_state(metrics, observe));
        let request = Request::builder()
            .uri("/v1/events/7")
            .header("traceparent", format!("00-{TRACE}-{SPAN}-01"))
            .body(Body::empty());
        let answer = router.oneshot(request.unwrap()).await.unwrap();
        let body = axum::body::to_bytes(answer.into_body(), 100).await.unwrap();
        let spans = kept.0.lock().unwrap();
        let [span] = spans.as_slice() else {
            panic!("{spans:?}")
        };
        assert_eq!(span.name, "GET /v1/events/{id}");
        assert_eq!(span.span_context.trace_id().to_string(), TRACE);
        assert_eq!(span.parent_span_id.to_string(), SPAN);
        let own = span.span_context.span_id();
        assert_eq!(body, format!("00-{TRACE}-{own}-01"));
    }
}
