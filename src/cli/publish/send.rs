//! Sending with confirms, and an account of what was not confirmed.

use std::time::{Duration, Instant};

use serde::Serialize;
use uuid::Uuid;

use super::file::Found;
use crate::broker::{BrokerError, Outgoing, PublishError, Publisher};
use crate::cli::output::{count, note, thousands};
use crate::cli::progress::ProgressLine;
use crate::config::{self, redacted_url};

/// On their way at once, at most: messages, and bytes of their bodies.
const WINDOW: usize = 1024;
const WINDOW_BYTES: usize = 8 * 1024 * 1024;

const AGAIN: &str = "run it again: what was charged is not charged twice";

/// One event of a file.
pub(super) struct Item {
    pub(super) line: u64,
    pub(super) job: Uuid,
    pub(super) size: usize,
    pub(super) message: Outgoing,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Confirmed by the broker.
    published: u64,
    /// To be published.
    events: u64,
    seconds: f64,
    events_per_second: f64,
    /// Lines of the file with events that were not confirmed.
    unconfirmed_lines: Vec<Lines>,
    pub(super) error: Option<String>,
}

impl Report {
    fn new(published: u64, events: u64, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64();
        Self {
            published,
            events,
            seconds: round(seconds, 1_000.0),
            events_per_second: round(published as f64 / seconds.max(0.000_001), 10.0),
            unconfirmed_lines: Vec::new(),
            error: None,
        }
    }

    pub(super) fn for_people(&self) -> String {
        let events = count(self.published, "event");
        let mut text = format!("published {events} in {:.2} s", self.seconds);
        if self.published > 1 {
            let rate = thousands(self.events_per_second as i64);
            text.push_str(&format!(" ({rate} a second)"));
        }
        text
    }
}

fn round(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

/// From one line to another, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Lines {
    first: u64,
    last: u64,
}

/// A publisher, and how long one window may take.
pub(super) struct Sending<'a> {
    publisher: &'a Publisher,
    /// Its URL, without the password.
    broker: String,
    patience: Duration,
}

impl<'a> Sending<'a> {
    pub(super) fn new(publisher: &'a Publisher, broker: &config::Broker) -> Self {
        Self {
            publisher,
            broker: redacted_url(&broker.url),
            // A memory or disk alarm makes the broker stop reading without a word.
            patience: broker.connect_timeout + broker.confirm_timeout,
        }
    }

    /// Publishes one message, called `name` in an error.
    pub(super) async fn one(self, message: Outgoing, name: &str) -> anyhow::Result<Report> {
        let started = Instant::now();
        let result = self.window(&[message]).await;
        let confirmed = result.first().is_some_and(Result::is_ok);
        let mut report = Report::new(confirmed.into(), 1, started.elapsed());
        report.error = cause(&result, &self.broker)
            .map(|cause| format!("{name} was not confirmed: {cause}; {AGAIN}"));
        Ok(report)
    }

    /// Publishes what `next` yields, up to the first window with a failure in it.
    pub(super) async fn all(
        self,
        name: &str,
        found: Found,
        mut next: impl FnMut() -> anyhow::Result<Option<Item>>,
    ) -> anyhow::Result<Report> {
        let started = Instant::now();
        let form = "{bar:30} {human_pos} of {human_len} events, {per_sec}, {eta} left";
        let mut progress = ProgressLine::bar(found.events, form);
        let (mut read, mut published) = (0, 0);
        let mut failure = None;
        while failure.is_none() {
            let (places, messages) = match window_of(&mut next) {
                Ok((places, _)) if places.is_empty() => break,
                Ok(window) => window,
                Err(error) => {
                    let confirmed = confirmed_of(published, found.events);
                    return Err(error.context(format!("{confirmed}; {AGAIN}")));
                }
            };
            read += messages.len() as u64;
            let results = self.window(&messages).await;
            let confirmed = results.iter().filter(|result| result.is_ok()).count();
            published += confirmed as u64;
            progress.at(published);
            progress.sparse(|| confirmed_of(published, found.events));
            failure = cause(&results, &self.broker).map(|cause| {
                let (lines, first_job) = unconfirmed(&places, &results);
                (
                    cause,
                    and_the_rest(lines, &places, found.last_line),
                    first_job,
                )
            });
        }
        drop(progress);
        let mut report = Report::new(published, found.events, started.elapsed());
        if let Some((cause, lines, first_job)) = failure {
            let confirmed = confirmed_of(published, found.events);
            let which = in_words(&lines);
            report.error = Some(format!(
                "{confirmed}; not confirmed: {name} {which} (first job {first_job}): {cause}; {AGAIN}"
            ));
            report.unconfirmed_lines = lines;
        } else if read != found.events {
            let problem = "is not the file that was checked any more";
            let published = count(published, "event");
            report.error = Some(format!("{name} {problem}; confirmed {published}; {AGAIN}"));
        }
        Ok(report)
    }

    async fn window(&self, messages: &[Outgoing]) -> Vec<Result<(), PublishError>> {
        let publishing = self.publisher.publish(messages);
        let telling = async {
            let mut alarm = self.publisher.alarm();
            while let Ok(Some(reason)) = alarm
                .wait_for(Option::is_some)
                .await
                .map(|said| said.clone())
            {
                let patience = humantime::format_duration(self.patience);
                note(&format!(
                    "note: the broker has an alarm ({reason}) and takes no messages: waiting for up to {patience}"
                ));
                let _ = alarm.wait_for(Option::is_none).await;
            }
            std::future::pending().await
        };
        let publishing = async {
            tokio::select! {
                results = publishing => results,
                never = telling => never,
            }
        };
        match tokio::time::timeout(self.patience, publishing).await {
            Ok(results) => results,
            // Some may have been confirmed; nobody knows which.
            Err(_) => {
                let late = || BrokerError::Timeout {
                    doing: "publishing (is the broker short of memory or disk?)",
                    within: self.patience,
                };
                messages.iter().map(|_| Err(late().into())).collect()
            }
        }
    }
}

type Place = (u64, Uuid);

fn window_of(
    mut next: impl FnMut() -> anyhow::Result<Option<Item>>,
) -> anyhow::Result<(Vec<Place>, Vec<Outgoing>)> {
    let (mut places, mut messages, mut bytes) = (Vec::new(), Vec::new(), 0);
    while places.len() < WINDOW && bytes < WINDOW_BYTES {
        let Some(item) = next()? else { break };
        bytes += item.size;
        places.push((item.line, item.job));
        messages.push(item.message);
    }
    Ok((places, messages))
}

/// Why the first of them failed; `broker` is where it was to go.
fn cause(results: &[Result<(), PublishError>], broker: &str) -> Option<String> {
    let error = results.iter().find_map(|result| result.as_ref().err())?;
    let text = error.to_string();
    let undeclared =
        matches!(error, PublishError::Unroutable { .. }) || text.contains("no exchange");
    let hint = if undeclared {
        " (token-billing serve declares what is missing)"
    } else {
        ""
    };
    Some(match error {
        PublishError::Broker(_) => format!("broker {broker}: {text}{hint}"),
        _ => format!("{text}{hint}"),
    })
}

/// The lines that failed, together where they follow one another, and the first one's job.
fn unconfirmed(places: &[Place], results: &[Result<(), PublishError>]) -> (Vec<Lines>, Uuid) {
    let mut lines: Vec<Lines> = Vec::new();
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
                lines.push(Lines {
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
fn and_the_rest(mut lines: Vec<Lines>, places: &[Place], last_line: u64) -> Vec<Lines> {
    let Some((end, _)) = places.last().filter(|(end, _)| *end < last_line) else {
        return lines;
    };
    match lines.last_mut().filter(|range| range.last == *end) {
        Some(range) => range.last = last_line,
        None => lines.push(Lines {
            first: end + 1,
            last: last_line,
        }),
    }
    lines
}

fn in_words(lines: &[Lines]) -> String {
    const SHOWN: usize = 20;
    let range = |lines: &Lines| match lines {
        Lines { first, last } if first == last => first.to_string(),
        Lines { first, last } => format!("{first}-{last}"),
    };
    let shown: Vec<String> = lines.iter().take(SHOWN).map(range).collect();
    let single = matches!(lines, [Lines { first, last }] if first == last);
    let noun = if single { "line" } else { "lines" };
    let more = if lines.len() > SHOWN { ", …" } else { "" };
    format!("{noun} {}{more}", shown.join(", "))
}

fn confirmed_of(published: u64, events: u64) -> String {
    format!(
        "confirmed {} of {}",
        thousands(published),
        count(events, "event")
    )
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
