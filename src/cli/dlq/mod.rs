//! `dlq`: dead letters, for people. One file a command.

mod act;
mod body;
mod edit;
mod groups;
mod history;
mod list;
mod plan;
mod replay;
mod rows;
mod select;
pub(super) mod sending;
mod show;
mod stats;
mod watch;

use std::sync::Arc;

use clap::{Args, Subcommand};

use super::Ended;
use super::output::Format;
use crate::config::Settings;
use crate::operations::Operations;
use crate::storage::Act;

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(super) struct DlqArgs {
    #[command(subcommand)]
    command: Command,
}

/// Each says what it does beside its arguments: a comment here would hide the long form of it.
#[derive(Debug, Subcommand)]
enum Command {
    List(list::ListArgs),
    Edit(edit::EditArgs),
    Discard(act::DiscardArgs),
    Restore(act::RestoreArgs),
    History(history::HistoryArgs),
    Replay(replay::ReplayArgs),
    Groups(groups::GroupsArgs),
    Show(show::ShowArgs),
    Watch(watch::WatchArgs),
    Stats(stats::StatsArgs),
}

impl DlqArgs {
    /// Tells wrong usage, and a setting that is missing, before anything is connected to.
    pub(super) fn check(&self, settings: &Settings) -> anyhow::Result<()> {
        match &self.command {
            Command::List(args) => args.select.check(),
            Command::Groups(args) => args.select.check(),
            Command::Watch(args) => args.select.check(),
            Command::Discard(args) => args.change.check(Act::Discard),
            Command::Restore(args) => args.change.check(Act::Restore),
            Command::Replay(args) => args.check(settings),
            Command::Edit(_) | Command::History(_) | Command::Show(_) | Command::Stats(_) => Ok(()),
        }
    }
}

pub(super) async fn run(
    args: DlqArgs,
    operations: &Arc<Operations>,
    format: Format,
) -> anyhow::Result<Ended> {
    match args.command {
        Command::List(args) => list::run(args, operations, format).await,
        Command::Edit(args) => edit::run(args, operations, format).await,
        Command::Discard(args) => act::run(Act::Discard, args.change, operations, format).await,
        Command::Restore(args) => act::run(Act::Restore, args.change, operations, format).await,
        Command::History(args) => history::run(args, operations, format).await,
        Command::Replay(args) => replay::run(args, operations, format).await,
        Command::Groups(args) => groups::run(args, operations, format).await,
        Command::Show(args) => show::run(args, operations, format).await,
        Command::Watch(args) => watch::run(args, operations, format).await,
        Command::Stats(args) => stats::run(args, operations, format).await,
    }
}
