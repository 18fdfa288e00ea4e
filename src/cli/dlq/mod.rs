//! `dlq`: the dead letters, for people. One file a command.

mod act;
mod body;
mod edit;
mod groups;
mod history;
mod known;
mod letters;
mod list;
mod plan;
mod replay;
mod select;
pub(super) mod sending;
mod show;
mod stats;
mod watch;

use std::sync::Arc;

use clap::{Args, Subcommand};

use super::output::{self, Format};
use super::{Ended, one_line, open_storage};
use crate::config::Settings;
use crate::operations::Operations;
use crate::storage::Storage;

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

pub(super) async fn run(
    args: DlqArgs,
    settings: &Settings,
    format: Format,
) -> anyhow::Result<Ended> {
    match args.command {
        Command::List(args) => list::run(args, settings, format).await,
        Command::Edit(args) => edit::run(args, settings, format).await,
        Command::Discard(args) => act::discard(args, settings, format).await,
        Command::Restore(args) => act::restore(args, settings, format).await,
        Command::History(args) => history::run(args, settings, format).await,
        Command::Replay(args) => {
            let operations = Arc::new(Operations::open(settings).await?);
            let ended = replay::run(args, settings, &operations, format).await;
            operations.close().await;
            ended
        }
        Command::Groups(args) => groups::run(args, settings, format).await,
        Command::Show(args) => show::run(args, settings, format).await,
        Command::Watch(args) => watch::run(args, settings, format).await,
        Command::Stats(args) => stats::run(args, settings, format).await,
    }
}

/// The books, with the letters marked that they have settled meanwhile.
async fn open(settings: &Settings) -> anyhow::Result<Storage> {
    let storage = open_storage(settings).await?;
    // Who only looks must not be stopped by it: the money is read live in any case.
    if let Err(error) = storage.settle_dead_letters().await {
        let error = one_line(&error.into());
        output::note(&format!("note: settled letters are not marked: {error}"));
    }
    Ok(storage)
}
