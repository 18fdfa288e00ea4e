//! What this process tells about itself: log lines, metrics and traces.

mod lines;
pub mod metrics;
pub mod requests;
pub mod traces;

use std::io::{IsTerminal, stderr};

use opentelemetry_sdk::trace::SdkTracer;
use thiserror::Error;
use tracing::{Level, Subscriber};
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{Format, JsonFields};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer as _, Registry, layer::SubscriberExt as _};

use crate::config::{Log, LogFormat};
use lines::WithIds;
use traces::Traces;

/// Why logging or tracing could not be set up.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The filter is none; [`Settings::load`](crate::config::Settings::load) lets no such one through.
    #[error("log.filter: {0}")]
    Filter(#[from] ParseError),
    /// This process has a log already.
    #[error("logging is set up already")]
    Twice(#[from] TryInitError),
    /// A variable of OpenTelemetry's is wrong; which, and how.
    #[error("{0}")]
    Traces(String),
}

/// Sends this process's log lines to standard error: standard output belongs to the commands.
/// Text is coloured only on a terminal.
///
/// # Errors
///
/// [`TelemetryError`] if the filter is not valid, or if it was called before.
pub fn init(log: &Log) -> Result<(), TelemetryError> {
    subscriber(log, stderr, stderr().is_terminal())?.try_init()?;
    Ok(())
}

/// The same, and sends spans where the environment says so. Within a runtime; to be closed at its end.
///
/// # Errors
///
/// As [`init`], or the environment says something that can't be done.
pub fn start(log: &Log) -> Result<Traces, TelemetryError> {
    let traces = Traces::of_environment()?;
    match traces.tracer() {
        None => init(log)?,
        Some(tracer) => {
            tracing_subscriber(log, tracer, stderr, stderr().is_terminal())?.try_init()?;
        }
    }
    Ok(traces)
}

type AnySubscriber = Box<dyn Subscriber + Send + Sync>;

fn subscriber<W>(log: &Log, writer: W, ansi: bool) -> Result<AnySubscriber, ParseError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter(log)?)
        .with_writer(writer)
        .with_ansi(ansi);
    Ok(match log.format {
        LogFormat::Text => Box::new(lines.finish()),
        LogFormat::Json => Box::new(lines.json().flatten_event(true).finish()),
    })
}

/// The filter of the log is none for the spans.
fn tracing_subscriber<W>(
    log: &Log,
    tracer: SdkTracer,
    writer: W,
    ansi: bool,
) -> Result<AnySubscriber, ParseError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let spans = tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_level(false)
        .with_tracked_inactivity(false)
        .with_filter(Targets::new().with_target(traces::TARGET, Level::TRACE));
    let (filter, is_json) = (filter(log)?, log.format == LogFormat::Json);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(ansi);
    let registry = Registry::default().with(spans);
    Ok(match log.format {
        LogFormat::Text => {
            let inner = Format::default();
            let lines = lines.event_format(WithIds { inner, is_json });
            Box::new(registry.with(lines.with_filter(filter)))
        }
        LogFormat::Json => {
            let inner = Format::default().json().flatten_event(true);
            let lines = lines.event_format(WithIds { inner, is_json });
            let lines = lines.fmt_fields(JsonFields::new());
            Box::new(registry.with(lines.with_filter(filter)))
        }
    })
}

/// What the client logs is an error that it also returns, and that is logged where it is handled. A filter that names
/// lapin, such as `info,lapin=debug`, comes later and counts.
fn filter(log: &Log) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(format!("lapin=off,{}", log.filter))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str) -> String {
        let filter = filter.to_owned();
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(&Log { format, filter }, move || writer.clone(), false);
        tracing::subscriber::with_default(subscriber.unwrap(), || {
            tracing::info!(batch.size = 7, "charged");
            tracing::debug!("detail");
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_json_line_is_one_flat_object() {
        let line = logged(LogFormat::Json, "info");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["message"], "charged");
        assert_eq!(line["batch.size"], 7);
    }

    #[test]
    fn the_client_of_the_broker_is_heard_on_request_only() {
        for (filter, heard) in [
            ("info", false),
            ("debug", false),
            ("info,lapin=error", true),
        ] {
            let filter = EnvFilter::builder()
                .parse(format!("lapin=off,{filter}"))
                .unwrap();
            let text = filter.to_string();
            assert_eq!(text.contains("lapin=error"), heard, "{text}");
            assert_eq!(text.contains("lapin=off"), !heard, "{text}");
        }
    }

    #[test]
    fn the_filter_decides_what_is_logged() {
        let text = logged(LogFormat::Text, "info");
        assert!(
            text.contains("charged") && !text.contains("detail"),
            "{text}"
        );
        assert!(logged(LogFormat::Text, "warn,token_billing=debug").contains("detail"));
        assert_eq!(logged(LogFormat::Text, "off"), "");
    }
}
