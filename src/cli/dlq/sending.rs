//! A replay on the command line: its bar, Ctrl-C, and what is said of it at the end.

use std::io::{IsTerminal as _, stderr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::broker::{Publisher, Topology};
use crate::cli::Ended;
use crate::cli::output::{count, note, printable, thousands};
use crate::config::{Settings, redacted_url};
use crate::domain::RetrySchedule;
use crate::operations::replay::{self, Order, Progress, Replay, Report};
use crate::storage::{Outcomes, Storage};

/// Between two lines where there is no terminal.
const SPARSE: Duration = Duration::from_secs(10);

/// Runs an order; `letters` is how many the plan found.
pub(in crate::cli) async fn replay(
    settings: &Settings,
    storage: &Storage,
    order: &Order<'_>,
    letters: u64,
) -> anyhow::Result<Report> {
    let broker = settings.require_broker()?;
    let topology = Topology::new(broker, &RetrySchedule::new(&settings.retry));
    let publisher = Publisher::plain(broker, &topology);
    let replay = Replay {
        storage,
        publisher: &publisher,
        topology: &topology,
        settings: &settings.replay,
    };
    let stop = stop_on_signal()?;
    let mut shown = Shown::new(letters);
    let report = replay
        .run(order, &stop, &mut |progress| shown.update(progress))
        .await;
    drop(shown);
    publisher.close().await;
    let mut report = report?;
    if let replay::Ended::Failed(error) = &mut report.ended
        && error.contains("broker")
    {
        *error = format!("{error} ({})", redacted_url(&broker.url));
    }
    Ok(report)
}

/// Cancelled by Ctrl-C or SIGTERM: the page in hand is finished. The second one ends the process at once,
/// which loses nothing either.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if told.is_cancelled() {
                std::process::exit(3);
            }
            note("stopping after the page in hand; once more to stop at once");
            told.cancel();
        }
    });
    Ok(stop)
}

struct Shown {
    bar: Option<ProgressBar>,
    letters: u64,
    last: Instant,
    held: bool,
}

impl Shown {
    fn new(letters: u64) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let target = ProgressDrawTarget::stderr();
            let bar = ProgressBar::with_draw_target(Some(letters), target);
            let form = "{bar:20} {human_pos}/{human_len}{msg}";
            if let Ok(style) = ProgressStyle::with_template(form) {
                bar.set_style(style);
            }
            bar
        });
        Self {
            bar,
            letters,
            last: Instant::now(),
            held: false,
        }
    }

    fn update(&mut self, progress: Progress<'_>) {
        let (done, outcomes) = match progress {
            Progress::At { done, outcomes } => (Some(done), outcomes),
            Progress::Waiting(outcomes) => (None, outcomes),
            Progress::Held { letters, longest } => return self.held(letters, longest),
        };
        let known = came_back(outcomes);
        if let Some(bar) = &self.bar {
            if let Some(done) = done {
                let rate = done as f64 / bar.elapsed().as_secs_f64().max(0.001);
                bar.set_length(self.letters.max(done));
                bar.set_position(done);
                bar.set_message(format!(", {}/s: {known}", thousands(rate as i64)));
            } else {
                bar.set_message(format!(" sent: {known}"));
            }
        } else if self.last.elapsed() >= SPARSE {
            self.last = Instant::now();
            note(&match done {
                Some(done) => format!(
                    "sent {} of {}: {known}",
                    thousands(done),
                    count(self.letters, "letter")
                ),
                None => format!("waiting for outcomes: {known}"),
            });
        }
    }

    /// Said once.
    fn held(&mut self, letters: i64, longest: Duration) {
        if std::mem::replace(&mut self.held, true) {
            return;
        }
        let line = format!(
            "{} in the hands of another replay: waiting up to {} s until it is done with them or its claim \
             runs out",
            count(letters.unsigned_abs(), "letter"),
            longest.as_secs() + 1
        );
        match &self.bar {
            Some(bar) => bar.println(line),
            None => note(&line),
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// `12 charged, 1 duplicate, 3 failed again`.
fn came_back(outcomes: &Outcomes) -> String {
    format!(
        "{} charged, {}, {} failed again",
        thousands(outcomes.charged),
        count(outcomes.duplicates.unsigned_abs(), "duplicate"),
        thousands(outcomes.failed_again)
    )
}

/// What was sent and what came of it, for people.
pub(in crate::cli) fn in_words(report: &Report) -> String {
    let outcomes = &report.outcomes;
    let mut text = format!(
        "sent {} in {:.2} s",
        count(outcomes.sent.unsigned_abs(), "letter"),
        report.seconds
    );
    if outcomes.sent > 1 && report.seconds > 0.0 {
        let rate = outcomes.sent as f64 / report.seconds;
        text.push_str(&format!(" ({} a second)", thousands(rate as i64)));
    }
    let mut lines = vec![text];
    let mut line = |number: i64, what: &str| {
        if number > 0 {
            lines.push(format!("{:>10} {what}", thousands(number)));
        }
    };
    let tokens = count(outcomes.charged_tokens.unsigned_abs(), "token");
    line(outcomes.charged, &format!("charged: {tokens}"));
    line(outcomes.duplicates, "were charged already: nothing changed");
    line(
        report.settled.try_into().unwrap_or(i64::MAX),
        "not sent: charged meanwhile, so resolved",
    );
    for failures in &report.failures {
        let first = format!(
            "failed again: {} (letter {} as {}: {})",
            printable(&failures.reason),
            failures.first,
            failures.first_again,
            printable(&failures.first_error)
        );
        line(failures.letters, &first);
    }
    line(outcomes.unknown, "still under way");
    line(
        outcomes.pending,
        "still under way, and owed already: at the latest the sweeper settles them",
    );
    line(
        report.unmarked.try_into().unwrap_or(i64::MAX),
        "sent too slowly to be marked: still open, and harmless to send again",
    );
    lines.join("\n")
}

/// How the command ends; says why where that is not simply "done". `waited`: for outcomes.
pub(in crate::cli) fn ended(report: &Report, waited: bool) -> anyhow::Result<Ended> {
    let outcomes = &report.outcomes;
    let again = "run the same again for the rest";
    let person = match &report.ended {
        replay::Ended::Failed(error) => bail!("{error}; {again}"),
        replay::Ended::Interrupted => Some(format!("interrupted: {again}")),
        replay::Ended::CanaryFailed if outcomes.failed_again > 0 => Some(format!(
            "stopped: {} of the first {} failed again; nothing else was sent",
            thousands(outcomes.failed_again),
            thousands(outcomes.sent)
        )),
        replay::Ended::CanaryFailed => Some(
            "stopped: the first ones aren't back in time (do worker and archivist run?); nothing else was \
             sent"
                .to_owned(),
        ),
        replay::Ended::FailuresPiledUp => Some(format!(
            "stopped: {} failed again that were not expected to",
            count(outcomes.unexpected_failures.unsigned_abs(), "letter")
        )),
        replay::Ended::Done if outcomes.unexpected_failures > 0 => Some(format!(
            "{} failed again against the plan",
            count(outcomes.unexpected_failures.unsigned_abs(), "letter")
        )),
        replay::Ended::Done if waited && outcomes.under_way() > 0 => Some(
            "not everything is back (do worker and archivist run?): `dlq list --state replayed` shows it"
                .to_owned(),
        ),
        replay::Ended::Done if report.unmarked > 0 => Some(again.to_owned()),
        replay::Ended::Done => None,
    };
    Ok(match person {
        None => Ended::Done,
        Some(why) => {
            note(&why);
            Ended::NeedsPerson
        }
    })
}
