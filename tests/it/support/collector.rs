//! A collector of OpenTelemetry: takes spans over OTLP/HTTP, and shows them.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message as _;
use tokio::{net::TcpListener, task::JoinHandle};

use super::eventually::{PATIENCE, eventually};

/// One, stopped on drop.
pub(crate) struct Collector {
    address: SocketAddr,
    received: Arc<Received>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct Received {
    spans: Mutex<Vec<Span>>,
    services: Mutex<Vec<String>>,
    /// Answers nothing at all.
    hangs: bool,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        Self::of(Received::default()).await
    }

    /// One that takes requests and never answers.
    pub(crate) async fn that_hangs() -> Self {
        Self::of(Received {
            hangs: true,
            ..Received::default()
        })
        .await
    }

    async fn of(received: Received) -> Self {
        let received = Arc::new(received);
        let router = Router::new()
            .route("/v1/traces", post(take))
            .with_state(received.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let serving = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("it serves");
        });
        Self {
            address,
            received,
            serving,
        }
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        let spans = self.received.spans.lock();
        spans.expect("no panic while it is held").clone()
    }

    /// The names of those that sent.
    pub(crate) fn services(&self) -> Vec<String> {
        let services = self.received.services.lock();
        services.expect("no panic while it is held").clone()
    }

    /// Waits until so many spans with a link to this trace and span have come; these.
    pub(crate) async fn linked(&self, trace: &str, span: &str, count: usize) -> Vec<Span> {
        eventually(
            &format!("{count} spans with a link to {trace}-{span}"),
            PATIENCE,
            async || {
                let mut spans = self.spans();
                spans.retain(|one| links(one).contains(&(trace.to_owned(), span.to_owned())));
                spans
            },
            |spans| spans.len() >= count,
        )
        .await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn take(State(received): State<Arc<Received>>, body: Bytes) -> StatusCode {
    if received.hangs {
        std::future::pending::<()>().await;
    }
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        return StatusCode::BAD_REQUEST;
    };
    for of_resource in request.resource_spans {
        let attributes = of_resource.resource.unwrap_or_default().attributes;
        let name = text(&attributes, "service.name").unwrap_or_default();
        let services = received.services.lock();
        services.expect("no panic while it is held").push(name);
        for scope in of_resource.scope_spans {
            let spans = received.spans.lock();
            spans
                .expect("no panic while it is held")
                .extend(scope.spans);
        }
    }
    StatusCode::OK
}

/// Trace and span ids that it is linked to.
pub(crate) fn links(span: &Span) -> Vec<(String, String)> {
    let pair = |(trace, span): (&[u8], &[u8])| (hex(trace), hex(span));
    let links = span.links.iter();
    links
        .map(|link| pair((&link.trace_id, &link.span_id)))
        .collect()
}

/// The text of an attribute.
pub(crate) fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|one| one.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
