//! `migrate`: brings the database to this version.

use clap::Args;
use serde::Serialize;

use super::output::{Format, Table, at_right, count, number, text};
use super::{Ended, open_storage};
use crate::config::Settings;
use crate::storage::{self, Storage};

#[derive(Debug, Args)]
#[command(
    about = "Bring the database to this version's tables and functions",
    long_about = "Bring the database to this version's tables and functions.\n\n\
        Safe to repeat, to run by several at once, and to run beside an application that already has \
        tables of its own there.",
    after_help = "Example:\n  token-billing migrate --dry-run"
)]
pub(super) struct MigrateArgs {
    /// Only show which migrations would be applied
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    dry_run: bool,
    applied: Vec<Migration>,
    pending: Vec<Migration>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Migration {
    version: i64,
    description: String,
}

pub(super) async fn run(
    args: MigrateArgs,
    settings: &Settings,
    format: Format,
) -> anyhow::Result<Ended> {
    let storage = open_storage(settings).await?;
    let mut report = Report {
        dry_run: args.dry_run,
        applied: Vec::new(),
        pending: pending(&storage).await?,
    };
    if !args.dry_run {
        storage::migrate(&storage).await?;
        let left = pending(&storage).await?;
        let before = std::mem::replace(&mut report.pending, left);
        let done = before.into_iter();
        report.applied = done.filter(|one| !report.pending.contains(one)).collect();
    }
    storage.close().await;
    format.print(&report, for_people)?;
    Ok(Ended::Done)
}

async fn pending(storage: &Storage) -> anyhow::Result<Vec<Migration>> {
    let pending = storage::pending_migrations(storage).await?;
    let migration = |(version, description)| Migration {
        version,
        description,
    };
    Ok(pending.into_iter().map(migration).collect())
}

fn for_people(report: &Report) -> String {
    let (list, did) = if report.dry_run {
        (&report.pending, "would apply")
    } else {
        (&report.applied, "applied")
    };
    if list.is_empty() {
        return "the database is up to date".to_owned();
    }
    let mut table = Table::new([at_right("migration"), text("")]);
    for one in list {
        table.row([number(one.version), text(&one.description)]);
    }
    let number = count(list.len() as u64, "migration");
    format!("{did} {number}\n\n{}", table.render())
}
