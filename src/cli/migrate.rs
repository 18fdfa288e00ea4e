//! `migrate`: brings the database to this version.

use clap::Args;
use serde::Serialize;

use super::output::{Format, Table, at_right, count, is_printable, number, printable, text};
use super::{Ended, UsageError};
use crate::config::Settings;
use crate::operations::open_storage;
use crate::storage::{self, Look, Purpose, Revoked, Severity, Storage};

/// So many revoked rights, or functions, are named one by one.
const NAMED: usize = 10;
/// Bytes of a name; `PostgreSQL` cuts off what is more.
const ROLE_MAX: usize = 63;

#[derive(Debug, Args)]
#[command(
    about = "Bring the database to this version's tables and functions",
    long_about = "Bring the database to this version's tables and functions.\n\n\
        Safe to repeat, to run by several at once, and to run beside an application that already has \
        tables of its own there.\n\n\
        With --print-grants it changes nothing, and prints the SQL that lets a role do its work and no more.",
    after_help = "Examples:\n  token-billing migrate --dry-run\n  \
        token-billing migrate --print-grants billing_worker | psql -d billing"
)]
pub(super) struct MigrateArgs {
    /// Only show which migrations and functions would be applied
    #[arg(long, conflicts_with = "print_grants")]
    dry_run: bool,

    /// Only print the SQL that gives a role the rights it needs
    #[arg(long, value_name = "ROLE")]
    print_grants: Option<String>,

    /// What the role is for
    #[arg(
        long = "for",
        value_enum,
        default_value_t,
        value_name = "PURPOSE",
        requires = "print_grants"
    )]
    purpose: Purpose,
}

#[derive(Debug, Serialize)]
struct Report {
    dry_run: bool,
    applied: Vec<Migration>,
    pending: Vec<Migration>,
    /// Functions whose text was applied, or would be: files in `migrations/functions`.
    functions: Vec<&'static str>,
    /// Rights on objects of ours that others had by the server's defaults.
    revoked: Vec<Revoked>,
    /// What stands in the way of charging, or of a part of it, each with its fix.
    to_be_fixed: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Migration {
    version: i64,
    description: String,
}

pub(super) async fn run(
    args: MigrateArgs,
    settings: &Settings,
    format: Format,
) -> anyhow::Result<Ended> {
    if let Some(role) = &args.print_grants {
        return print_grants(role, args.purpose, settings, format).await;
    }
    let storage = open_storage(settings).await?;
    let waits = |holder: &str| {
        eprintln!(
            "waiting for a lock, nothing is changed yet: {}",
            printable(holder)
        );
    };
    let migrated = if args.dry_run {
        storage::planned(&storage).await?
    } else {
        storage::migrate(&storage, &settings.database, waits).await?
    };
    let migrations = migrated.migrations.into_iter();
    let migrations = migrations.map(|(version, description)| Migration {
        version,
        description,
    });
    let (pending, applied) = migrations.partition(|_| args.dry_run);
    let report = Report {
        dry_run: args.dry_run,
        applied,
        pending,
        functions: migrated.functions,
        revoked: migrated.revoked,
        to_be_fixed: if args.dry_run {
            Vec::new()
        } else {
            to_be_fixed(&storage, settings).await?
        },
    };
    storage.close().await;
    format.print(&report, for_people)?;
    Ok(Ended::Done)
}

/// What the application's tables, roles and triggers lack for the functions that are there now.
async fn to_be_fixed(storage: &Storage, settings: &Settings) -> anyhow::Result<Vec<String>> {
    let look = Look {
        purpose: None,
        articles: settings.sweeper.article_exists_query.is_empty(),
        rows: true,
    };
    let found = storage.preflight(look).await?.findings;
    let faults = found
        .iter()
        .filter(|finding| finding.severity != Severity::Note);
    Ok(faults.map(ToString::to_string).collect())
}

#[derive(Debug, Serialize)]
struct Grants<'a> {
    role: &'a str,
    purpose: &'static str,
    sql: String,
}

async fn print_grants(
    role: &str,
    purpose: Purpose,
    settings: &Settings,
    format: Format,
) -> anyhow::Result<Ended> {
    // It stands in a comment as well, which a line break would end.
    if role.is_empty() || role.len() > ROLE_MAX || !role.chars().all(is_printable) {
        let problem = format!("--print-grants: a role's name has 1 to {ROLE_MAX} printable bytes");
        return Err(UsageError(problem).into());
    }
    let storage = open_storage(settings).await?;
    let place = storage.place().await;
    storage.close().await;
    let (database, schema) = place?;
    let grants = Grants {
        role,
        purpose: purpose.as_str(),
        sql: storage::grants_sql(role, purpose, &database, &schema),
    };
    format.print(&grants, |grants| grants.sql.clone())?;
    Ok(Ended::Done)
}

fn for_people(report: &Report) -> String {
    let (list, did) = if report.dry_run {
        (&report.pending, "would apply")
    } else {
        (&report.applied, "applied")
    };
    let mut said = Vec::new();
    if !list.is_empty() {
        let mut table = Table::new([at_right("migration"), text("")]);
        for one in list {
            table.row([number(one.version), text(&one.description)]);
        }
        let number = count(list.len() as u64, "migration");
        said.push(format!("{did} {number}\n\n{}", table.render()));
    }
    match report.functions.len() {
        0 if list.is_empty() => said.push("the database is up to date".to_owned()),
        0 => {}
        // Of a database that is new, each of them.
        many if many > NAMED => said.push(format!("{did} {many} functions")),
        few => said.push(format!(
            "{did} {}: {}",
            count(few as u64, "function"),
            report.functions.join(", ")
        )),
    }
    let mut said = said.join("\n\n");
    section(
        &mut said,
        "revoked what others had on objects of token-billing without a grant by name:",
        &revoked(&report.revoked),
    );
    section(&mut said, "to be fixed:", &report.to_be_fixed);
    said
}

/// Each, or of many their number for each role.
fn revoked(rights: &[Revoked]) -> Vec<String> {
    if rights.len() <= NAMED {
        return rights.iter().map(ToString::to_string).collect();
    }
    let of_one = rights.chunk_by(|one, next| one.role == next.role);
    of_one
        .map(|rights| {
            let kinds = rights.chunk_by(|one, next| one.kind == next.kind);
            let kinds: Vec<String> = kinds
                .map(|rights| count(rights.len() as u64, &rights[0].kind))
                .collect();
            let (role, kinds) = (&rights[0].role, kinds.join(", "));
            format!("from {role}: rights on {kinds} (each with --output json)")
        })
        .collect()
}

fn section(said: &mut String, heading: &str, lines: &[String]) {
    if !lines.is_empty() {
        said.push_str(&format!("\n\n{heading}\n"));
        said.extend(lines.iter().map(|line| format!("\n  {}", printable(line))));
    }
}
