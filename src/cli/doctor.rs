//! `doctor`: whether this installation is as it should be.

use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Ended;
use super::output::{Format, Table, count, text, thousands};
use crate::config::{ConfigError, Settings};
use crate::operations::doctor::{self, Check, CheckOutcome, Diagnosis};
use crate::storage::{InstallationStatus, Purpose};

#[derive(Debug, Args)]
#[command(
    long_about = "Check this installation: settings, database, migrations, functions, clocks, rights, broker, queues, and a \
        message on its way.\n\n\
        ✓ is as it should be, ✗ has its fix below it, – can't be checked from here. Nothing real is changed. \
        Run it with the settings that serve has. Exit code 1: something is ✗.",
    after_help = "Example:\n  token-billing doctor --config /etc/token-billing.toml"
)]
pub(super) struct DoctorArgs {
    /// What the database role of these settings is for
    #[arg(long = "for", value_enum, default_value_t, value_name = "PURPOSE")]
    purpose: Purpose,
}

pub(super) async fn run(
    args: DoctorArgs,
    settings: Result<Settings, ConfigError>,
    format: Format,
) -> anyhow::Result<Ended> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        told.cancel();
    });
    let diagnosis = doctor::examine(settings, args.purpose, &stop).await?;
    format.print(&diagnosis, for_people)?;
    if diagnosis.healthy {
        return Ok(Ended::Done);
    }
    let failed = diagnosis
        .checks
        .iter()
        .filter(|check| check.verdict == CheckOutcome::Failed);
    anyhow::bail!(
        "{} failed: see ✗ above",
        count(failed.count() as u64, "check")
    )
}

fn for_people(diagnosis: &Diagnosis) -> String {
    let mut table = Table::new([text(""), text("check"), text("found")]);
    let mut checks = diagnosis.checks.iter().peekable();
    while let Some(check) = checks.next() {
        let sign = match check.verdict {
            CheckOutcome::Ok => "✓",
            CheckOutcome::Failed => "✗",
            CheckOutcome::Unchecked => "–",
        };
        table.row([
            text(sign),
            text(&check.check.replace('_', " ")),
            text(&found(check)),
        ]);
        // Once below all that it fixes.
        let again = checks.peek().is_some_and(|next| next.fix == check.fix);
        if let Some(fix) = check.fix.as_ref().filter(|_| !again) {
            table.row([text(""), text(""), text(&format!("→ {fix}"))]);
        }
    }
    let mut parts = vec![table.render()];
    parts.extend(diagnosis.status.as_ref().map(status));
    parts.join("\n\n")
}

fn found(check: &Check) -> String {
    match &check.subject {
        Some(subject) => format!("{subject}: {}", check.finding),
        None => check.finding.clone(),
    }
}

fn status(status: &InstallationStatus) -> String {
    let age = |seconds: Option<i64>| {
        let seconds = u64::try_from(seconds?).ok()?;
        let age = humantime::format_duration(Duration::from_secs(seconds));
        Some(format!(", the oldest for {age}"))
    };
    let refused: Vec<String> = status
        .refused
        .iter()
        .map(|(code, records)| format!("{} {code}", thousands(*records)))
        .collect();
    let refused = if refused.is_empty() {
        "nothing".to_owned()
    } else {
        refused.join(", ")
    };
    let window = Duration::from_secs(u64::try_from(status.window_seconds).unwrap_or_default());
    format!(
        "pending          {}{}\n\
         last {:<11} {} charged, {} refunded; refused: {refused}\n\
         dead letters     {} open{}",
        thousands(status.pending),
        age(status.oldest_pending_age_seconds).unwrap_or_default(),
        humantime::format_duration(window).to_string(),
        thousands(status.charged),
        thousands(status.refunded),
        thousands(status.open_dead_letters),
        age(status.oldest_dead_letter_age_seconds).unwrap_or_default(),
    )
}
