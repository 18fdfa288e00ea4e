//! A replay on the command line: its bar, Ctrl-C, and what is said of it at the end.

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Ended;
use crate::cli::output::{count, note, printable, thousands};
use crate::cli::progress::ProgressLine;
use crate::operations::replay::{
    ReplayEnded, ReplayPhase, ReplayProgress, ReplayReport, RunningReplay,
};
use crate::storage::Outcomes;

/// Shows how far a replay is, until its end. Ctrl-C and SIGTERM stop it after the page in flight; the second one ends
/// the process at once, which loses nothing either.
pub(in crate::cli) async fn follow(running: RunningReplay) -> anyhow::Result<ReplayReport> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut progress = running.progress.clone();
    let planned = progress.borrow().planned;
    let mut line = ProgressLine::bar(planned, "{bar:20} {human_pos}/{human_len}{msg}");
    let mut held_is_said = false;
    loop {
        tokio::select! {
            told = progress.changed() => match told {
                Ok(()) => {
                    let progress = progress.borrow_and_update().clone();
                    show(&mut line, &progress, &mut held_is_said);
                    continue;
                }
                Err(_) => break,
            },
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if running.stop.is_cancelled() {
            std::process::exit(3);
        }
        line.say("stopping after the page in flight; once more to stop at once");
        running.stop.cancel();
    }
    drop(line);
    Ok(running.report().await?)
}

fn show(line: &mut ProgressLine, progress: &ReplayProgress, held_is_said: &mut bool) {
    let known = came_back(&progress.outcomes);
    match progress.phase {
        ReplayPhase::Sending => {
            line.at(progress.done);
            line.message(format!(", {}/s: {known}", thousands(line.per_second())));
            let (done, planned) = (
                thousands(progress.done),
                count(progress.planned, "dead letter"),
            );
            line.sparse(|| format!("sent {done} of {planned}: {known}"));
        }
        ReplayPhase::Waiting => {
            line.message(format!(" sent: {known}"));
            line.sparse(|| format!("waiting for outcomes: {known}"));
        }
        ReplayPhase::Held { held, free_in_ms } => {
            if !std::mem::replace(held_is_said, true) {
                line.say(&format!(
                    "{} in the hands of another replay: waiting up to {} s until it is done with them or its \
                     claim runs out",
                    count(held.unsigned_abs(), "dead letter"),
                    free_in_ms / 1000 + 1
                ));
            }
        }
        ReplayPhase::Ended => {}
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
pub(in crate::cli) fn in_words(report: &ReplayReport) -> String {
    let outcomes = &report.outcomes;
    let mut text = format!(
        "sent {} in {:.2} s",
        count(outcomes.sent.unsigned_abs(), "dead letter"),
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
        report.resolved.try_into().unwrap_or(i64::MAX),
        "not sent: charged meanwhile, so resolved",
    );
    for failures in &report.failures {
        let first = format!(
            "failed again: {} (dead letter {} as {}: {})",
            printable(&failures.reason),
            failures.first,
            failures.first_again,
            printable(&failures.first_error)
        );
        line(failures.dead_letters, &first);
    }
    line(outcomes.unknown, "still under way");
    line(
        outcomes.pending,
        "still under way, and pending already: at the latest the sweeper charges them",
    );
    line(
        report.unmarked.try_into().unwrap_or(i64::MAX),
        "sent too slowly to be marked: still open, and harmless to send again",
    );
    lines.join("\n")
}

/// How the command ends; says why where that is not simply "done". `waited`: for outcomes.
pub(in crate::cli) fn ended(report: &ReplayReport, waited: bool) -> anyhow::Result<Ended> {
    let outcomes = &report.outcomes;
    let again = "run the same again for the rest";
    let unexpected = count(outcomes.unexpected_failures.unsigned_abs(), "dead letter");
    let why = match &report.ended {
        ReplayEnded::Failed { why, .. } => bail!("{why}; {again}"),
        ReplayEnded::Interrupted => format!("interrupted: {again}"),
        ReplayEnded::CanaryFailed if outcomes.failed_again > 0 => format!(
            "stopped: {} of the first {} failed again; nothing else was sent",
            thousands(outcomes.failed_again),
            thousands(outcomes.sent)
        ),
        ReplayEnded::CanaryFailed => "stopped: the first ones aren't back in time (do worker and archivist run?); \
                                      nothing else was sent"
            .to_owned(),
        ReplayEnded::FailuresPiledUp => {
            format!("stopped: {unexpected} failed again that were not expected to")
        }
        ReplayEnded::Done if outcomes.unexpected_failures > 0 => {
            format!("{unexpected} failed again against the plan")
        }
        ReplayEnded::Done if waited && outcomes.under_way() > 0 => {
            "not everything is back (do worker and archivist run?): `dlq list --state replayed` shows it".to_owned()
        }
        ReplayEnded::Done if report.unmarked > 0 => again.to_owned(),
        ReplayEnded::Done => return Ok(Ended::Done),
    };
    note(&why);
    Ok(Ended::NeedsPerson)
}
