//! `reconcile`: one pass of the sweeper, by hand or from cron.

use std::time::Duration;

use clap::Args;

use super::output::{Format, Table, at_right, count, note, number, text};
use super::{Ended, moment, operating};
use crate::config::Settings;
use crate::operations::Reconciliation;

#[derive(Debug, Args)]
#[command(
    about = "Charge or write off stale pending deductions, once",
    long_about = "Charge or write off stale pending deductions, once.\n\n\
        If the article exists, it is charged. If it does not, the charge is written off (article_not_found). If \
        nobody can tell, it stays pending. What `serve` sweeps at the same time is shared, not done twice.\n\n\
        Exit code 3: something that was pending for so long is pending still, because nobody can tell whether its \
        article exists, because it failed, or because another sweeper has claimed it or somebody has its row locked.",
    after_help = "Examples:\n  token-billing reconcile --dry-run\n  token-billing reconcile --older-than 10m"
)]
pub(super) struct ReconcileArgs {
    /// Process what is pending longer than this [default: sweeper.stale_after]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,

    /// Show what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(
    args: &ReconcileArgs,
    settings: &Settings,
    format: Format,
) -> anyhow::Result<Ended> {
    operating(settings, async |operations| {
        let done = tokio::select! {
            done = operations.reconcile(args.older_than, args.dry_run) => done?,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted; run it again to go on"),
        };
        format.print(&done, for_people)?;
        let missing = done.report.events_missing;
        if missing > 0 {
            let articles = count(missing, "article");
            note(&format!(
                "{articles} written for which tokens were held, and no event came: nothing was charged; see the log"
            ));
        }
        let why = if done.report.undecidable + done.report.set_aside > 0 {
            "see above, and the log".to_owned()
        } else if done.held.records == 0 {
            return Ok(match missing {
                0 => Ended::Done,
                _ => Ended::NeedsPerson,
            });
        } else if let Some(until) = done.held.until {
            let until = moment(until);
            format!("another sweeper has claimed them, until {until}; run it again then")
        } else {
            "somebody else has their rows locked; run it again then".to_owned()
        };
        note(&format!("some charges are still pending: {why}"));
        Ok(Ended::NeedsPerson)
    })
}

fn for_people(reconciled: &Reconciliation) -> String {
    let report = &reconciled.report;
    let heading = if reconciled.dry_run {
        "would be"
    } else {
        "pending records"
    };
    let mut table = Table::new([text(heading), at_right("records")]);
    let held = &reconciled.held;
    let rows = [
        ("charged", report.charged),
        ("refused: the balance is too small, say", report.refused),
        ("written off: there is no such article", report.written_off),
        ("undecidable: stays pending", report.undecidable),
        ("processed by others meanwhile", report.no_longer_pending),
        ("set aside: failed, stays pending", report.set_aside),
        ("in other hands: stays pending", held.records),
        ("  of these undecidable", held.undecidable),
        ("holds that have expired", report.holds_expired),
        (
            "  of these without an event: publish it",
            report.events_missing,
        ),
    ];
    for (name, count) in rows {
        if count > 0 {
            table.row([text(name), number(i64::try_from(count).unwrap_or(i64::MAX))]);
        }
    }
    if rows.iter().all(|(_, count)| *count == 0) {
        return format!(
            "nothing is pending longer than {}",
            humantime::format_duration(Duration::from_secs(reconciled.older_than_seconds))
        );
    }
    table.render()
}
