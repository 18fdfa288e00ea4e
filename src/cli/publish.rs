//! `publish`: hands completion events to the broker, and says of which it is not certain.

mod file;
mod lines;
mod send;
mod single;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::output::{self, Format};
use super::{Ended, UsageError, variable};
use crate::broker::{Outgoing, Publisher, Topology};
use crate::config::Settings;
use crate::domain::{CompletionEvent, RetrySchedule, TraceContext};
use send::Sending;

#[derive(Debug, Args)]
#[command(
    about = "Publish completion events: one from flags or the environment, or a file of many",
    long_about = "Publish completion events: one from flags or the environment, or a file of many.\n\n\
        An event says that an article is finished and how many tokens are to be charged for it. Every \
        event is checked before the first is sent, and counts as published once the broker has confirmed \
        that it is in the work queue. Publishing the same job twice is safe: it is charged once.",
    after_help = "Examples:\n  \
        token-billing publish --job-id 8b0c1c1e-6f5e-4a43-9d0a-3f4c2f1d7a10 --tokens 15000 \\\n      \
        --company-id 3f2b8c1e-0a4d-4d7e-9b0a-2f6c1d5e7a90\n  \
        JOB_ID=8b0c1c1e-6f5e-4a43-9d0a-3f4c2f1d7a10 TOKEN_AMOUNT=15000 token-billing publish\n  \
        token-billing publish --file events.ndjson\n  \
        zcat events.ndjson.gz | token-billing publish --file -"
)]
pub(super) struct PublishArgs {
    #[command(flatten)]
    event: single::EventArgs,

    /// Publish a file of events, one JSON object (or CloudEvents envelope) a line; - is standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// W3C trace context to send along [env: TRACEPARENT]
    #[arg(long)]
    traceparent: Option<String>,

    /// Send a file's bytes as one message, unchecked: for tries with broken messages
    #[arg(long, value_name = "FILE", hide = true, conflicts_with = "file")]
    raw_file: Option<PathBuf>,
}

pub(super) async fn run(
    args: PublishArgs,
    settings: &Settings,
    format: Format,
) -> anyhow::Result<Ended> {
    if let Some(flag) = args.event.first_given()
        && (args.file.is_some() || args.raw_file.is_some())
    {
        let problem =
            format!("{flag} describes one event, so it can't be used together with a file");
        return Err(UsageError(problem).into());
    }
    let broker = settings.require_broker()?;
    let topology = Topology::new(broker, &RetrySchedule::new(&settings.retry));
    let publisher = Publisher::plain(broker, &topology);
    let sending = Sending::new(&publisher, broker);
    let trace = trace(args.traceparent.as_deref())?;
    let outgoing = |body: Vec<u8>| {
        let content_type = CompletionEvent::content_type(&body, &settings.limits);
        Outgoing::event(&topology, body, content_type, trace.as_ref())
    };
    let report = if let Some(path) = &args.file {
        file::publish(path, &settings.limits, sending, outgoing).await
    } else if let Some(path) = &args.raw_file {
        let body = std::fs::read(path).with_context(|| path.display().to_string())?;
        let message = Outgoing::event(&topology, body, "application/json", trace.as_ref());
        sending.one(message, &path.display().to_string()).await
    } else {
        let event = args.event.into_event(variable, &settings.limits)?;
        let name = format!("job {}", event.job_id());
        sending.one(outgoing(event.to_json()), &name).await
    };
    publisher.close().await;
    let report = report?;
    // For people the error says it all.
    if report.error.is_none() || format == Format::Json {
        format.print(&report, send::Report::for_people)?;
    }
    match report.error {
        None => Ok(Ended::Done),
        Some(error) => Err(anyhow::Error::msg(error)),
    }
}

/// The trace context of the flag, else of the environment. A broken one in the environment is not
/// worth a lost charge; a broken flag is a mistake of whoever typed it.
fn trace(flag: Option<&str>) -> Result<Option<TraceContext>, UsageError> {
    if let Some(traceparent) = flag {
        return TraceContext::parse(traceparent, None)
            .map(Some)
            .ok_or_else(|| {
                UsageError(
                    "--traceparent: not a traceparent such as 00-{32 hex digits}-{16}-01"
                        .to_owned(),
                )
            });
    }
    let Some(traceparent) = variable("TRACEPARENT") else {
        return Ok(None);
    };
    let trace = TraceContext::parse(&traceparent, variable("TRACESTATE").as_deref());
    if trace.is_none() {
        output::note("warning: TRACEPARENT is not a valid traceparent; published without it");
    }
    Ok(trace)
}
