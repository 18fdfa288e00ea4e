//! The command line: what there is to type, and how a command ends.
//!
//! Results go to standard output, as a table or as one JSON document; notes, progress and errors go
//! to standard error. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but something needs a person.

mod actor;
mod ask;
mod audit;
mod balance;
mod bench;
mod completions;
mod credit;
mod dlq;
mod doctor;
mod keys;
mod migrate;
pub mod output;
mod progress;
mod publish;
mod reconcile;
mod refund;
mod schema;
mod show;
mod stack;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use thiserror::Error;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::broker::BrokerError;
use crate::config::{Role, Settings};
use crate::operations::{NOT_MIGRATED, OperationError, Operations};
use crate::storage::StorageError;
use output::Format;

/// Charges every finished article exactly once: RabbitMQ in, PostgreSQL ledger, nothing lost
#[derive(Debug, Parser)]
#[command(
    name = "token-billing",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but something needs a person.\n\
                  Settings: defaults, then the file given with --config, then the environment, such as\n\
                  TOKEN_BILLING__DATABASE__URL and TOKEN_BILLING__BROKER__URL."
)]
pub struct Cli {
    /// Settings in TOML; the environment goes before it
    #[arg(long, global = true, value_name = "FILE", help_heading = "Common")]
    config: Option<PathBuf>,

    /// How the result is printed
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        hide_possible_values = true,
        help = "How the result is printed: table, or json for one document with stable keys",
        help_heading = "Common"
    )]
    output: Format,

    #[command(subcommand)]
    command: Command,
}

/// Those with a long explanation have it, and the short one, beside their arguments: a comment here would
/// hide it.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service until it is told to stop (SIGTERM, or Ctrl-C)
    #[command(after_help = "Example:\n  token-billing serve --config /etc/token-billing.toml")]
    Serve(ServeArgs),
    Migrate(migrate::MigrateArgs),
    Publish(publish::PublishArgs),
    Balance(balance::BalanceArgs),
    Credit(credit::CreditArgs),
    Refund(refund::RefundArgs),
    Show(show::ShowArgs),
    /// Look into dead letters, and replay, edit or discard them
    Dlq(dlq::DlqArgs),
    Reconcile(reconcile::ReconcileArgs),
    Audit(audit::AuditArgs),
    /// Check this installation, and say how to fix what is wrong
    Doctor(doctor::DoctorArgs),
    Keys(keys::KeysArgs),
    Schema(schema::SchemaArgs),
    /// Measure what this installation can do, on scratch data that is removed afterwards
    Bench(bench::BenchArgs),
    /// Print a shell's completion script
    Completions(completions::CompletionsArgs),
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// What this process does; repeat for several [default: everything, http if http.listen is set]
    #[arg(long = "role", value_enum, value_name = "ROLE")]
    roles: Vec<Role>,
}

/// How a command that did not fail has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Done,
    /// Nothing to do about it here, but somebody should look.
    NeedsPerson,
}

/// Arguments that no command can work with, though each is well formed.
#[derive(Debug, Error)]
#[error("{0}")]
struct UsageError(String);

/// What is left to do once a command line was dealt with.
#[derive(Debug)]
pub enum Next {
    /// Nothing: how the process ends.
    Exit(ExitCode),
    /// To run the service in these roles, which is built on a floor above.
    Serve(Box<Settings>, Vec<Role>),
}

/// Runs the command; its error, if it has one, is printed.
pub fn run(cli: Cli) -> Next {
    dispatch(cli).unwrap_or_else(|error| Next::Exit(failed(&error)))
}

/// Prints why a command failed, and says how the process ends.
pub fn failed(error: &anyhow::Error) -> ExitCode {
    output::note(&format!("error: {}", one_line(error)));
    exit_code(error).into()
}

fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        Some(OperationError::Invalid { .. }) => 2,
        _ if error.is::<UsageError>() => 2,
        _ => 1,
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<Next> {
    let Cli {
        config,
        output,
        command,
    } = cli;
    let settings = || Settings::load(config.as_deref());
    let ended = match command {
        Command::Serve(args) => {
            let settings = settings()?;
            settings.require_database()?;
            settings.require_broker()?;
            stack::make_deep();
            let roles = Role::chosen(&args.roles, settings.http.listen.is_some());
            return Ok(Next::Serve(settings.into(), roles));
        }
        Command::Migrate(args) => block_on(migrate::run(args, &settings()?, output)),
        Command::Publish(args) => publish::run(args, &settings()?, output),
        Command::Balance(args) => balance::run(&args, &settings()?, output),
        Command::Credit(args) => credit::run(args, &settings()?, output),
        Command::Reconcile(args) => reconcile::run(&args, &settings()?, output),
        Command::Audit(_) => audit::run(&settings()?, output),
        Command::Refund(args) => refund::run(args, &settings()?, output),
        Command::Show(args) => show::run(&args, &settings()?, output),
        Command::Dlq(args) => {
            let settings = settings()?;
            args.check(&settings)?;
            operating(&settings, async |operations| {
                dlq::run(args, operations, output).await
            })
        }
        // A bad setting is a finding, not the end.
        Command::Doctor(args) => block_on(doctor::run(args, settings(), output)),
        Command::Keys(args) => keys::run(args, &settings()?, output),
        Command::Schema(args) => schema::run(&args, &settings()?),
        Command::Bench(args) => block_on(bench::run(args, &settings()?, output)),
        Command::Completions(args) => completions::run(args),
    };
    Ok(Next::Exit(match ended? {
        Ended::Done => ExitCode::SUCCESS,
        Ended::NeedsPerson => ExitCode::from(3),
    }))
}

/// A command that is one operation, or several on the same connections. What is wrong usage was told before.
fn operating(
    settings: &Settings,
    work: impl AsyncFnOnce(&Arc<Operations>) -> anyhow::Result<Ended>,
) -> anyhow::Result<Ended> {
    output::note_warnings();
    block_on(async {
        let operations = Arc::new(Operations::open(settings).await?);
        let ended = work(&operations).await;
        operations.close().await;
        ended
    })
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Runtime::new()
        .context("starting the runtime")?
        .block_on(work)
}

/// The error and its causes, in one line, nothing said twice.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let said = said_by(cause);
        if text.is_empty() {
            text = said;
        } else if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        // These have their causes in their own words already.
        if cause.is::<OperationError>() || cause.is::<StorageError>() || cause.is::<BrokerError>() {
            break;
        }
    }
    output::printable(&text)
}

fn said_by(cause: &(dyn std::error::Error + 'static)) -> String {
    match (cause.downcast_ref(), cause.downcast_ref::<StorageError>()) {
        // What is a field to the operations is a flag to whoever types.
        (Some(OperationError::Invalid { field, why }), _) => {
            format!("--{}: {why}", field.replace('_', "-"))
        }
        (_, Some(error)) if error.is_not_migrated() => {
            format!("{error}; {NOT_MIGRATED}")
        }
        _ => cause.to_string(),
    }
}

/// A moment to the second, as it can be typed.
fn moment(at: OffsetDateTime) -> String {
    let at = at.truncate_to_second();
    // Only a year past 9999 can't be written.
    at.format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}

/// Text that says something.
fn not_blank(text: &str) -> Result<String, &'static str> {
    match text.trim() {
        "" => Err("is empty"),
        _ => Ok(text.to_owned()),
    }
}

/// The value of a variable; one that is set to nothing counts as absent, as it does in CI.
fn variable(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?;
    // What is not UTF-8 is then refused like any other value that makes no sense.
    let value = value.to_string_lossy().into_owned();
    (!value.trim().is_empty()).then_some(value)
}
