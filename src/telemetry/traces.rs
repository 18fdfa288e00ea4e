//! Spans to a collector of OpenTelemetry, where `OTEL_EXPORTER_OTLP_ENDPOINT` names one; nothing at all where it
//! doesn't. Charging never waits for the collector: spans that it doesn't take in time are lost.
//!
//! A batch is a span of its own, *linked* to the traces of its events: it has many publishers, and none of them waits
//! for it. The links hold across delays and replays, which carry `traceparent` on.

use std::{
    env,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry::{
    Context,
    trace::{
        SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
        TracerProvider as _,
    },
};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracer, SdkTracerProvider},
};
use tokio::runtime::Handle;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::TelemetryError;
use crate::domain::TraceContext;

/// Of all our spans. They have the level TRACE, so that without a collector the log's filter leaves them out before
/// anything of them is made.
pub const TARGET: &str = "token_billing::traces";

/// Links of one span: as many events as a batch can have.
const LINKS_MAX: u32 = 4096;
/// At shutdown, for the spans that are not sent yet.
const FLUSH_WITHIN: Duration = Duration::from_secs(3);
/// What the specification of OTLP has as default.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Of an answer, which says at most how many spans were refused.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// Where the spans of this process go.
#[derive(Debug)]
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// As the environment says, by the variables that OpenTelemetry has for it. Within a runtime.
    pub(super) fn of_environment() -> Result<Self, TelemetryError> {
        let names = [
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
        ];
        let mut named = names
            .into_iter()
            .filter_map(|name| Some((name, set(name)?)));
        let disabled = set("OTEL_SDK_DISABLED").is_some_and(|is| is.eq_ignore_ascii_case("true"));
        let Some((name, endpoint)) = named.next().filter(|_| !disabled) else {
            return Ok(Self(None));
        };
        check_protocol()?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client(name, &endpoint)?)
            .build()
            .map_err(|error| TelemetryError::Traces(error.to_string()))?;
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_max_links_per_span(LINKS_MAX)
            .with_resource(resource())
            .build();
        Ok(Self(Some(provider)))
    }

    pub(super) fn tracer(&self) -> Option<SdkTracer> {
        let provider = self.0.as_ref()?;
        Some(provider.tracer(env!("CARGO_PKG_NAME")))
    }

    /// Sends what is not sent yet, for three seconds at most.
    pub async fn close(self) {
        if let Some(provider) = self.0 {
            // It blocks, and the runtime has to send meanwhile.
            let closing = move || provider.shutdown_with_timeout(FLUSH_WITHIN);
            if let Ok(Err(error)) = tokio::task::spawn_blocking(closing).await {
                tracing::warn!(error.message = %error, "the last spans are lost");
            }
        }
    }
}

/// Links the span to the trace that an event came with.
pub fn link(span: &Span, trace: &TraceContext) {
    span.add_link(remote(trace));
}

/// Makes the span part of the trace that a request came with.
pub(super) fn continue_trace(span: &Span, trace: &TraceContext) {
    let parent = Context::new().with_remote_span_context(remote(trace));
    // Without a collector there is nobody to tell.
    let _ = span.set_parent(parent);
}

/// Where the current span is, for the headers of what is sent in it; `None` without a collector, or outside of a span.
pub fn current() -> Option<TraceContext> {
    let here = current_span()?;
    let flags = here.trace_flags().to_u8();
    let parent = format!("00-{}-{}-{flags:02x}", here.trace_id(), here.span_id());
    TraceContext::parse(&parent, Some(&here.trace_state().header()))
}

pub(super) fn current_span() -> Option<SpanContext> {
    Context::map_current(|context| {
        let span = context.span();
        let here = span.span_context();
        here.is_valid().then(|| here.clone())
    })
}

fn remote(trace: &TraceContext) -> SpanContext {
    let (parent, state) = (trace.traceparent(), trace.tracestate());
    SpanContext::new(
        TraceId::from_hex(trace.trace_id()).unwrap_or(TraceId::INVALID),
        SpanId::from_hex(&parent[36..52]).unwrap_or(SpanId::INVALID),
        TraceFlags::new(u8::from_str_radix(&parent[53..55], 16).unwrap_or(0)),
        true,
        state
            .and_then(|state| state.parse::<TraceState>().ok())
            .unwrap_or_default(),
    )
}

/// A variable that is there and says something.
fn set(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn check_protocol() -> Result<(), TelemetryError> {
    let names = [
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
    ];
    let mut named = names
        .into_iter()
        .filter_map(|name| Some((name, set(name)?)));
    match named.next() {
        Some((name, protocol)) if protocol != "http/protobuf" => Err(TelemetryError::Traces(
            format!("{name}: {protocol:?} is not http/protobuf, the one protocol that is spoken"),
        )),
        _ => Ok(()),
    }
}

/// With our name, where the environment gives none.
fn resource() -> Resource {
    let attributes = set("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let named = set("OTEL_SERVICE_NAME").is_some() || attributes.contains("service.name=");
    let resource = Resource::builder();
    match named {
        true => resource.build(),
        false => resource.with_service_name(env!("CARGO_PKG_NAME")).build(),
    }
}

fn timeout() -> Result<Duration, TelemetryError> {
    let names = [
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
        "OTEL_EXPORTER_OTLP_TIMEOUT",
    ];
    let mut named = names
        .into_iter()
        .filter_map(|name| Some((name, set(name)?)));
    let Some((name, value)) = named.next() else {
        return Ok(TIMEOUT);
    };
    let milliseconds = value.parse().map(Duration::from_millis);
    milliseconds.map_err(|_| {
        let why = format!("{name}: {value:?} is not a whole number of milliseconds");
        TelemetryError::Traces(why)
    })
}

fn client(name: &str, endpoint: &str) -> Result<Sender, TelemetryError> {
    let wrong = |why: String| TelemetryError::Traces(format!("{name}: {why}"));
    let scheme = endpoint.split_once("://").map(|(scheme, _)| scheme);
    let client = Client::builder(TokioExecutor::new());
    let client = match scheme {
        // Works where there is no certificate of anybody, as in an empty container.
        Some("http") => AnyClient::Plain(client.build_http()),
        Some("https") => {
            let connector = HttpsConnectorBuilder::new()
                .with_native_roots()
                .map_err(|error| wrong(error.to_string()))?
                .https_only()
                .enable_http1()
                .build();
            AnyClient::Tls(client.build(connector))
        }
        _ => {
            let why = format!("{endpoint:?} is no URL that begins with http:// or https://");
            return Err(wrong(why));
        }
    };
    Ok(Sender {
        client,
        timeout: timeout()?,
        runtime: Handle::current(),
        failing: AtomicBool::default(),
    })
}

#[derive(Debug, Clone)]
enum AnyClient {
    Plain(Client<HttpConnector, Full<Bytes>>),
    Tls(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

impl AnyClient {
    async fn send(self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request = request.map(Full::new);
        let answer = match self {
            Self::Plain(client) => client.request(request).await?,
            Self::Tls(client) => client.request(request).await?,
        };
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_MAX_BYTES).collect().await?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

/// Sends for the exporter, whose thread has no runtime of its own.
#[derive(Debug)]
struct Sender {
    client: AnyClient,
    timeout: Duration,
    runtime: Handle,
    /// The last try failed.
    failing: AtomicBool,
}

impl Sender {
    /// Says once that spans are lost, and once that they are not.
    fn tell(&self, answer: &Result<Response<Bytes>, HttpError>) {
        let problem = match answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answered {}", answer.status())),
            Err(error) => Some(error.to_string()),
        };
        let failed_before = self.failing.swap(problem.is_some(), Ordering::Relaxed);
        match (failed_before, problem) {
            (false, Some(error)) => {
                tracing::warn!(
                    error.message = error,
                    "the collector takes no spans: they are lost"
                );
            }
            (true, None) => tracing::info!("the collector takes spans again"),
            _ => {}
        }
    }
}

// As `async_trait` writes it.
impl HttpClient for Sender {
    fn send_bytes<'life0, 'async_trait>(
        &'life0 self,
        request: Request<Bytes>,
    ) -> BoxFuture<'async_trait, Result<Response<Bytes>, HttpError>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        let (sending, patience) = (self.client.clone().send(request), self.timeout);
        // Made in there as well: this thread has no clock to wait by.
        let sending = async move { tokio::time::timeout(patience, sending).await };
        let sending = self.runtime.spawn(sending);
        Box::pin(async move {
            let answer = match sending.await {
                Ok(answer) => answer.unwrap_or_else(|late| Err(late.into())),
                Err(ended) => Err(ended.into()),
            };
            self.tell(&answer);
            answer
        })
    }
}
