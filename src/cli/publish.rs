//! `publish`: hands completion events to the broker, and says of which it is not certain.

mod file;
mod single;
mod wait;

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Args;

use super::output::{Format, count, note, thousands};
use super::progress::{ProgressLine, shown};
use super::{Ended, UsageError, block_on, operating, variable};
use crate::config::Settings;
use crate::domain::TraceContext;
use crate::operations::{EventPublisher, PublishReport};
use wait::Waiting;

const BAR: &str = "{bar:30} {human_pos} of {human_len} events{msg}, {eta} left";

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
        zcat events.ndjson.gz | token-billing publish --file -\n  \
        token-billing publish --wait 1m --job-id 8b0c1c1e-6f5e-4a43-9d0a-3f4c2f1d7a10 --tokens 15000\n\n\
        With --wait it ends with 0 once the event is charged, with 1 if it was refused, and with 3 if it is pending \
        or nothing has come of it."
)]
pub(super) struct PublishArgs {
    #[command(flatten)]
    event: single::EventArgs,

    /// Publish a file of events, one JSON object (or CloudEvents envelope) a line; - is standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Wait for what becomes of one event, for at most so long; needs the database too
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "30s", value_parser = humantime::parse_duration,
          conflicts_with_all = ["file", "raw_file"])]
    wait: Option<Duration>,

    /// W3C trace context to send along [env: TRACEPARENT]
    #[arg(long)]
    traceparent: Option<String>,

    /// Send a file's bytes as one message, unchecked: for tries with broken messages
    #[arg(long, value_name = "FILE", hide = true, conflicts_with = "file")]
    raw_file: Option<PathBuf>,
}

pub(super) fn run(args: PublishArgs, settings: &Settings, format: Format) -> anyhow::Result<Ended> {
    if let Some(flag) = args.event.first_given()
        && (args.file.is_some() || args.raw_file.is_some())
    {
        let problem =
            format!("{flag} describes one event, so it can't be used together with a file");
        return Err(UsageError(problem).into());
    }
    let publisher = EventPublisher::new(settings)?;
    let trace = trace(args.traceparent.as_deref())?;
    let (trace, limits) = (trace.as_ref(), &settings.limits);
    if let Some(within) = args.wait {
        let event = args.event.into_event(variable, limits)?;
        return operating(settings, async |operations| {
            let before = operations.job_before(&event).await?;
            let report = to_its_end(&publisher, publisher.event(&event, trace)).await?;
            if report.error.is_some() {
                return told(report, format);
            }
            let waiting = Waiting {
                operations,
                within,
                before,
            };
            waiting.tell(&event, &report, format).await
        });
    }
    let report = if let Some(path) = &args.file {
        let file = file::checked(path, limits)?;
        let events = count(file.events, "event");
        let mut line = ProgressLine::bar(file.events, BAR);
        let show = |confirmed| {
            line.at(confirmed);
            line.message(format!(", {}/s", thousands(line.per_second())));
            line.sparse(|| format!("confirmed {} of {events}", thousands(confirmed)));
        };
        let work = shown(|progress| publisher.file(file, trace, progress), show);
        block_on(to_its_end(&publisher, work))
    } else if let Some(path) = &args.raw_file {
        let name = path.display().to_string();
        let body = std::fs::read(path).with_context(|| name.clone())?;
        let work = publisher.unchecked(body, &name, trace);
        block_on(to_its_end(&publisher, work))
    } else {
        let event = args.event.into_event(variable, limits)?;
        block_on(to_its_end(&publisher, publisher.event(&event, trace)))
    }?;
    told(report, format)
}

fn told(report: PublishReport, format: Format) -> anyhow::Result<Ended> {
    // For people the error says it all.
    if report.error.is_none() || format == Format::Json {
        format.print(&report, for_people)?;
    }
    report
        .error
        .map_or(Ok(Ended::Done), |error| Err(anyhow::Error::msg(error)))
}

/// Publishes, and says meanwhile why the broker takes nothing, if it says so.
async fn to_its_end(
    publisher: &EventPublisher,
    publishing: impl Future<Output = PublishReport>,
) -> anyhow::Result<PublishReport> {
    let telling = async {
        let mut alarm = publisher.alarm();
        while let Ok(Some(reason)) = alarm
            .wait_for(Option::is_some)
            .await
            .map(|said| said.clone())
        {
            let patience = humantime::format_duration(publisher.patience());
            note(&format!(
                "note: the broker has an alarm ({reason}) and takes no messages: waiting for up to {patience}"
            ));
            let _ = alarm.wait_for(Option::is_none).await;
        }
        std::future::pending().await
    };
    let report = tokio::select! {
        report = publishing => report,
        never = telling => never,
    };
    publisher.close().await;
    Ok(report)
}

fn for_people(report: &PublishReport) -> String {
    let events = count(report.published, "event");
    let mut text = format!("published {events} in {:.2} s", report.seconds);
    if report.published > 1 {
        let rate = thousands(report.events_per_second as i64);
        text.push_str(&format!(" ({rate} a second)"));
    }
    text
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
        note("warning: TRACEPARENT is not a valid traceparent; published without it");
    }
    Ok(trace)
}
