//! `reconcile`: one pass of the sweeper, by hand or from cron.

use std::{sync::Arc, time::Duration};

use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::output::{Format, Table, at_right, note, number, text};
use super::{Ended, moment, open_storage};
use crate::config::Settings;
use crate::sweeper::{Held, SweepReport, Sweeper};

#[derive(Debug, Args)]
#[command(
    about = "Settle the charges that are owed and stale, once",
    long_about = "Settle the charges that are owed and stale, once.\n\n\
        The article exists: charged. It doesn't: failed, article_not_found. That can't be told: it stays pending. \
        What `serve` sweeps at the same time is shared, not done twice.\n\n\
        Exit code 3: something that was pending for so long is pending still, because nobody can tell whether its \
        article exists, because it failed, or because another sweeper has claimed it or somebody has its row locked.",
    after_help = "Examples:\n  token-billing reconcile --dry-run\n  token-billing reconcile --older-than 10m"
)]
pub(super) struct ReconcileArgs {
    /// Settle what is owed longer than this [default: sweeper.stale_after]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,

    /// Show what would be settled, and change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Reconciled {
    dry_run: bool,
    older_than_seconds: u64,
    #[serde(flatten)]
    report: SweepReport,
    #[serde(flatten)]
    held: Held,
}

pub(super) async fn run(
    args: ReconcileArgs,
    settings: &Settings,
    format: Format,
) -> anyhow::Result<Ended> {
    let storage = Arc::new(open_storage(settings).await?);
    let sweeper = Sweeper::new(settings, storage.clone());
    let older_than = args.older_than.unwrap_or(settings.sweeper.stale_after);
    let swept = if args.dry_run {
        sweeper.preview(older_than).await
    } else {
        let stop = CancellationToken::new();
        tokio::select! {
            swept = sweeper.run_and_look(older_than, &stop) => swept,
            // What is claimed and not settled is free again after sweeper.claim.
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted; run it again to go on"),
        }
    };
    storage.close().await;
    let (report, held) = swept?;
    let reconciled = Reconciled {
        dry_run: args.dry_run,
        older_than_seconds: older_than.as_secs(),
        report,
        held,
    };
    format.print(&reconciled, for_people)?;
    if reconciled.report.needs_person() {
        note("some charges are still pending: see above, and the log");
        return Ok(Ended::NeedsPerson);
    }
    if held.records > 0 {
        let whose = match held.until {
            Some(until) => format!("another sweeper has claimed them, until {}", moment(until)),
            None => "somebody else has their rows locked".to_owned(),
        };
        note(&format!(
            "some charges are still pending: {whose}; run it again then"
        ));
        return Ok(Ended::NeedsPerson);
    }
    Ok(Ended::Done)
}

fn for_people(reconciled: &Reconciled) -> String {
    let report = &reconciled.report;
    let heading = if reconciled.dry_run {
        "would be"
    } else {
        "owed records"
    };
    let mut table = Table::new([text(heading), at_right("records")]);
    let held = &reconciled.held;
    let rows = [
        ("charged", report.charged),
        ("refused: the balance is too small, say", report.refused),
        ("written off: there is no such article", report.written_off),
        ("undecidable: stays owed", report.undecidable),
        ("settled by others meanwhile", report.settled_meanwhile),
        ("set aside: failed, stays owed", report.set_aside),
        ("in other hands: stays pending", held.records),
        ("  of these undecidable", held.undecidable),
    ];
    for (name, count) in rows {
        if count > 0 {
            table.row([text(name), number(i64::try_from(count).unwrap_or(i64::MAX))]);
        }
    }
    if rows.iter().all(|(_, count)| *count == 0) {
        return format!(
            "nothing is owed longer than {}",
            humantime::format_duration(Duration::from_secs(reconciled.older_than_seconds))
        );
    }
    table.render()
}
