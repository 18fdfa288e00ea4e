//! `dlq list`.

use clap::{Args, value_parser};
use serde::Serialize;

use super::{open, select::SelectArgs};
use crate::cli::Ended;
use crate::cli::output::Format;
use crate::config::Settings;
use crate::storage::{Letter, LetterState};

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    select: SelectArgs,

    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = value_parser!(i64).range(1..=10_000))]
    limit: i64,

    /// Only letters older than this one: the next page
    #[arg(long, value_name = "ID")]
    before: Option<i64>,
}

#[derive(Debug, Serialize)]
struct Page {
    letters: Vec<Letter>,
}

pub(super) async fn run(
    args: ListArgs,
    settings: &Settings,
    format: Format,
) -> anyhow::Result<Ended> {
    let states: &[LetterState] = if args.select.has_ids() {
        &[]
    } else {
        &[LetterState::Open]
    };
    let selection = args.select.selection(states)?;
    let storage = open(settings).await?;
    let letters = storage
        .dead_letters(&selection, args.before, args.limit)
        .await?;
    let _ = args.select.as_typed();
    storage.close().await;
    format.print(&Page { letters }, |page| format!("{}", page.letters.len()))?;
    Ok(Ended::Done)
}
