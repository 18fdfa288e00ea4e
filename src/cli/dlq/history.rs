//! `dlq history`: what people did by hand, and why.

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, value_parser};
use time::OffsetDateTime;

use super::select::moment;
use crate::cli::output::{Format, Table, at_right, text, thousands};
use crate::cli::{self, Ended};
use crate::operations::Operations;
use crate::operations::dead_letters::{History, PAGE_LIMITS};
use crate::storage::{ActionFilter, PastAction};

#[derive(Debug, Args)]
#[command(
    about = "Show what people did by hand, and why",
    long_about = "Show what people did by hand, newest first: replays, edits, discards, restores, credits \
        and refunds; who, when, what, to which, how many dead letters, and why.",
    after_help = "Examples:\n  \
        token-billing dlq history\n  \
        token-billing dlq history 17\n  \
        token-billing dlq history --as ann --action discard --since 24h"
)]
pub(super) struct HistoryArgs {
    /// Only what touched these dead letters
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
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = value_parser!(i64).range(PAGE_LIMITS))]
    limit: i64,
}

pub(super) async fn run(
    args: HistoryArgs,
    operations: &Operations,
    format: Format,
) -> anyhow::Result<Ended> {
    let filter = ActionFilter {
        dead_letters: args.ids,
        actor: args.actor,
        action: args.action,
        since: args.since,
    };
    let history = operations.history(&filter, args.limit).await?;
    format.print(&history, |history| for_people(history, &filter))?;
    Ok(Ended::Done)
}

fn for_people(history: &History, filter: &ActionFilter) -> String {
    if history.actions.is_empty() {
        return if *filter == ActionFilter::default() {
            "nothing was done by hand".to_owned()
        } else {
            "nothing that was done by hand matches".to_owned()
        };
    }
    let mut table = Table::new([
        at_right("id"),
        text("when"),
        text("who"),
        text("what"),
        text("which"),
        at_right("dead letters"),
        text("why"),
    ]);
    for action in &history.actions {
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
