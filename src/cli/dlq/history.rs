//! `dlq history`: what people did by hand, and why.

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, value_parser};
use serde::Serialize;
use time::OffsetDateTime;

use super::select::moment;
use super::{known::no_such, open};
use crate::cli::output::{Format, Table, at_right, text, thousands};
use crate::cli::{self, Ended, UsageError};
use crate::config::Settings;
use crate::storage::{ActionFilter, PastAction, Storage};

/// What people do by these commands.
const ACTIONS: [&str; 6] = ["replay", "edit", "discard", "restore", "credit", "refund"];

#[derive(Debug, Args)]
#[command(
    about = "Show what people did by hand, and why",
    long_about = "Show what people did by hand, newest first: replays, edits, discards, restores, credits \
        and refunds; who, when, what, to which, how many letters, and why.",
    after_help = "Examples:\n  \
        token-billing dlq history\n  \
        token-billing dlq history 17\n  \
        token-billing dlq history --as ann --action discard --since 24h"
)]
pub(super) struct HistoryArgs {
    /// Only what touched these letters
    #[arg(value_name = "ID", value_parser = value_parser!(i64).range(1..))]
    ids: Vec<i64>,

    /// Only what this person did
    #[arg(long = "as", value_name = "WHO", value_parser = NonEmptyStringValueParser::new())]
    actor: Option<String>,

    /// Only replay, edit, discard, restore, credit or refund
    #[arg(long, value_name = "ACTION", value_parser = NonEmptyStringValueParser::new())]
    action: Option<String>,

    /// Then or later: 2026-11-21T10:00:00Z, or so long ago: 2h, 30m
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<OffsetDateTime>,

    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = value_parser!(i64).range(1..=10_000))]
    limit: i64,
}

#[derive(Debug, Serialize)]
struct Page {
    actions: Vec<PastAction>,
}

pub(super) async fn run(
    args: HistoryArgs,
    settings: &Settings,
    format: Format,
) -> anyhow::Result<Ended> {
    let filter = ActionFilter {
        dead_letters: args.ids,
        actor: args.actor,
        action: args.action,
        since: args.since,
    };
    let everything = filter == ActionFilter::default();
    let storage = open(settings).await?;
    check_action(filter.action.as_deref(), &storage).await?;
    let actions = storage.operator_actions(&filter, args.limit).await?;
    storage.close().await;
    format.print(&Page { actions }, |page| for_people(page, everything))?;
    Ok(Ended::Done)
}

/// A mistyped action must not answer that nothing was done; one that isn't ours may be in the table all the same.
async fn check_action(action: Option<&str>, storage: &Storage) -> anyhow::Result<()> {
    let Some(action) = action.filter(|action| !ACTIONS.contains(action)) else {
        return Ok(());
    };
    let of_its_kind = ActionFilter {
        action: Some(action.to_owned()),
        ..ActionFilter::default()
    };
    if storage.operator_actions(&of_its_kind, 1).await?.is_empty() {
        let known = ACTIONS.map(str::to_owned);
        return Err(UsageError(no_such("--action", "action", action, &known)).into());
    }
    Ok(())
}

fn for_people(page: &Page, everything: bool) -> String {
    if page.actions.is_empty() {
        let nothing = if everything {
            "nothing was done by hand"
        } else {
            "nothing that was done by hand matches"
        };
        return nothing.to_owned();
    }
    let mut table = Table::new([
        at_right("id"),
        text("when"),
        text("who"),
        text("what"),
        text("which"),
        at_right("letters"),
        text("why"),
    ]);
    for action in &page.actions {
        let number = match action.dead_letters {
            0 => String::new(),
            many => thousands(many),
        };
        table.row([
            at_right(&action.id.to_string()),
            text(&cli::moment(action.at)),
            text(&action.actor),
            text(&action.action),
            text(&which(action)),
            at_right(&number),
            text(action.reason.as_deref().unwrap_or_default()),
        ]);
    }
    table.render()
}

/// The subject; of credits and refunds with what was given.
fn which(action: &PastAction) -> String {
    let given = |key: &str, name: &str| {
        let amount = action.details.get(key).and_then(serde_json::Value::as_i64);
        amount
            .filter(|amount| *amount > 0)
            .map(|amount| format!("+{} {name}", thousands(amount)))
    };
    let gifts = [
        ("monthly_amount", "monthly"),
        ("purchased_amount", "purchased"),
    ];
    let gifts: Vec<String> = gifts
        .iter()
        .filter_map(|(key, name)| given(key, name))
        .collect();
    if gifts.is_empty() {
        action.subject.clone()
    } else {
        format!("{} {}", action.subject, gifts.join(" "))
    }
}
