//! Publishing completion events: checked first, sent with confirms, and an account of what was not confirmed.

mod file;
mod lines;

use std::io::{Read, Seek};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;
use uuid::Uuid;

use super::OperationError;
use crate::broker::{BrokerError, Outgoing, PublishError, Publisher, Topology};
use crate::config::{Limits, Settings, redacted_url};
use crate::domain::{CompletionEvent, RetrySchedule, TraceContext};
pub(crate) use file::{EventFile, RefusedFile, paid_by};

const AGAIN: &str = "run it again: what was charged is not charged twice";

/// The way for completion events to the broker; needs no database. Connects when something is published.
#[derive(Debug)]
pub(crate) struct EventPublisher {
    publisher: Publisher,
    topology: Topology,
    limits: Limits,
    /// The broker's URL, without the password.
    broker: String,
    /// How long one window may take: a memory or disk alarm makes the broker stop reading without a word.
    patience: Duration,
}

/// What came of publishing.
#[derive(Debug, Default, Serialize)]
pub(crate) struct PublishReport {
    /// Confirmed by the broker.
    pub(crate) published: u64,
    /// To be published.
    pub(crate) events: u64,
    pub(crate) seconds: f64,
    pub(crate) events_per_second: f64,
    /// Lines of the file with events that were not confirmed; some may have been published all the same.
    pub(crate) unconfirmed_lines: Vec<LineRange>,
    /// Why not all were confirmed.
    pub(crate) error: Option<String>,
}

/// From one line to another, both included and counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct LineRange {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// Where an event of a file stands, and its job.
type Place = (u64, Uuid);

impl EventPublisher {
    pub(crate) fn new(settings: &Settings) -> Result<Self, OperationError> {
        let broker = settings.require_broker()?;
        let topology = Topology::new(broker, &RetrySchedule::new(&settings.retry));
        Ok(Self {
            publisher: Publisher::plain(broker, &topology),
            topology,
            limits: settings.limits.clone(),
            broker: redacted_url(&broker.url),
            patience: broker.connect_timeout + broker.confirm_timeout,
        })
    }

    /// Why the broker takes no messages at present, in its own words.
    pub(crate) fn alarm(&self) -> watch::Receiver<Option<String>> {
        self.publisher.alarm()
    }

    /// How long an alarm is waited out.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    pub(crate) async fn close(&self) {
        self.publisher.close().await;
    }

    pub(crate) async fn event(
        &self,
        event: &CompletionEvent,
        trace: Option<&TraceContext>,
    ) -> PublishReport {
        let message = self.message(event.to_json(), trace);
        self.one(message, &format!("job {}", event.job_id())).await
    }

    /// Publishes these bytes as one message, unchecked; `name` is what an error calls them.
    pub(crate) async fn unchecked(
        &self,
        body: Vec<u8>,
        name: &str,
        trace: Option<&TraceContext>,
    ) -> PublishReport {
        let message = Outgoing::event(&self.topology, body, "application/json", trace);
        self.one(message, name).await
    }

    async fn one(&self, message: Outgoing, name: &str) -> PublishReport {
        let began = Instant::now();
        let results = self.send(&[message]).await;
        let error = self.cause(&results);
        PublishReport {
            published: error.is_none().into(),
            events: 1,
            error: error.map(|cause| format!("{name} was not confirmed: {cause}; {AGAIN}")),
            ..PublishReport::default()
        }
        .after(began)
    }

    /// Publishes a checked file, up to the first window with a failure in it. Tells how many are confirmed.
    pub(crate) async fn file<S: Read + Seek>(
        &self,
        mut file: EventFile<S>,
        trace: Option<&TraceContext>,
        progress: watch::Sender<u64>,
    ) -> PublishReport {
        let began = Instant::now();
        let mut report = PublishReport {
            events: file.events,
            ..PublishReport::default()
        };
        let mut sent = 0;
        let problem = loop {
            let window = match file.next_window() {
                Ok(window) if window.is_empty() => break None,
                Ok(window) => window,
                Err(error) => break Some(format!("{}: {error}", file.name)),
            };
            let (places, bodies): (Vec<Place>, Vec<Vec<u8>>) = window.into_iter().unzip();
            let messages = bodies.into_iter().map(|body| self.message(body, trace));
            let results = self.send(&messages.collect::<Vec<_>>()).await;
            sent += results.len() as u64;
            report.published += results.iter().flatten().count() as u64;
            progress.send_replace(report.published);
            if let Some(cause) = self.cause(&results) {
                let (lines, first_job) = unconfirmed(&places, &results);
                report.unconfirmed_lines = and_the_rest(lines, &places, file.last_line);
                let which = in_words(&report.unconfirmed_lines);
                break Some(format!(
                    "not confirmed: {} {which} (first job {first_job}): {cause}",
                    file.name
                ));
            }
        };
        let changed = || format!("{} is not the file that was checked any more", file.name);
        let problem = problem.or_else(|| (sent != file.events).then(changed));
        report.error = problem.map(|problem| {
            let (published, events) = (report.published, file.events);
            let plural = if events == 1 { "" } else { "s" };
            format!("confirmed {published} of {events} event{plural}; {problem}; {AGAIN}")
        });
        report.after(began)
    }

    fn message(&self, body: Vec<u8>, trace: Option<&TraceContext>) -> Outgoing {
        let content_type = CompletionEvent::content_type(&body, &self.limits);
        Outgoing::event(&self.topology, body, content_type, trace)
    }

    async fn send(&self, messages: &[Outgoing]) -> Vec<Result<(), PublishError>> {
        let publishing = self.publisher.publish(messages);
        let Ok(results) = tokio::time::timeout(self.patience, publishing).await else {
            // Some may have been confirmed; nobody knows which.
            let late = || BrokerError::Timeout {
                doing: "publishing (is the broker short of memory or disk?)",
                within: self.patience,
            };
            return messages.iter().map(|_| Err(late().into())).collect();
        };
        results
    }

    /// Why the first of them failed.
    fn cause(&self, results: &[Result<(), PublishError>]) -> Option<String> {
        let error = results.iter().find_map(|result| result.as_ref().err())?;
        let (place, undeclared) = match error {
            PublishError::Broker(error) => {
                (format!("broker {}: ", self.broker), error.is_missing())
            }
            other => (
                String::new(),
                matches!(other, PublishError::Unroutable { .. }),
            ),
        };
        let hint = if undeclared {
            " (token-billing serve declares what is missing)"
        } else {
            ""
        };
        Some(format!("{place}{error}{hint}"))
    }
}

impl PublishReport {
    fn after(mut self, began: Instant) -> Self {
        let round = |value: f64, parts: f64| (value * parts).round() / parts;
        let seconds = began.elapsed().as_secs_f64();
        self.seconds = round(seconds, 1_000.0);
        self.events_per_second = round(self.published as f64 / seconds.max(0.000_001), 10.0);
        self
    }
}

/// The lines that failed, together where they follow one another, and the first one's job.
fn unconfirmed(places: &[Place], results: &[Result<(), PublishError>]) -> (Vec<LineRange>, Uuid) {
    let mut lines: Vec<LineRange> = Vec::new();
    let mut first_job = Uuid::nil();
    let mut follows = false;
    for ((line, job), result) in places.iter().zip(results) {
        let failed = result.is_err();
        match lines.last_mut() {
            Some(range) if failed && follows => range.last = *line,
            last if failed => {
                if last.is_none() {
                    first_job = *job;
                }
                lines.push(LineRange {
                    first: *line,
                    last: *line,
                });
            }
            _ => {}
        }
        follows = failed;
    }
    (lines, first_job)
}

/// Adds what comes after the window, and so was not even sent.
fn and_the_rest(mut lines: Vec<LineRange>, places: &[Place], last_line: u64) -> Vec<LineRange> {
    let Some((end, _)) = places.last().filter(|(end, _)| *end < last_line) else {
        return lines;
    };
    match lines.last_mut().filter(|range| range.last == *end) {
        Some(range) => range.last = last_line,
        None => lines.push(LineRange {
            first: end + 1,
            last: last_line,
        }),
    }
    lines
}

fn in_words(lines: &[LineRange]) -> String {
    const SHOWN: usize = 20;
    let range = |lines: &LineRange| match lines {
        LineRange { first, last } if first == last => first.to_string(),
        LineRange { first, last } => format!("{first}-{last}"),
    };
    let shown: Vec<String> = lines.iter().take(SHOWN).map(range).collect();
    let single = matches!(lines, [LineRange { first, last }] if first == last);
    let noun = if single { "line" } else { "lines" };
    let more = if lines.len() > SHOWN { ", …" } else { "" };
    format!("{noun} {}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> Result<(), PublishError> {
        Err(BrokerError::NotSent.into())
    }

    #[test]
    fn lines_that_follow_one_another_are_named_together() {
        let places: Vec<Place> = [1, 2, 4, 5, 9]
            .map(|line| (line, Uuid::from_u128(line.into())))
            .into();
        let results = [Ok(()), failed(), failed(), Ok(()), failed()];
        let (lines, job) = unconfirmed(&places, &results);
        assert_eq!(in_words(&lines), "lines 2-4, 9");
        assert_eq!(job, Uuid::from_u128(2));
        assert_eq!(in_words(&lines[1..]), "line 9");
        assert_eq!(unconfirmed(&places, &[Ok(())]).0, []);

        let rest = |window: usize, last_line| {
            let lines = unconfirmed(&places[..window], &results[..window]).0;
            in_words(&and_the_rest(lines, &places[..window], last_line))
        };
        assert_eq!(rest(3, 100), "lines 2-100");
        assert_eq!(rest(4, 100), "lines 2-4, 6-100");
        assert_eq!(rest(5, 9), "lines 2-4, 9");
    }
}
