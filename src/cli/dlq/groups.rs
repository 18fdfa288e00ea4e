//! `dlq groups`: what dead letters died of.

use clap::{Args, value_parser};
use time::OffsetDateTime;

use super::rows::{age, reason};
use super::select::SelectArgs;
use crate::cli::Ended;
use crate::cli::output::{Format, Table, at_right, count, number, text, thousands};
use crate::operations::{Operations, dead_letters::DeadLetterGroups};

/// Group dead letters by their cause
#[derive(Debug, Args)]
#[command(
    long_about = "Group dead letters by their cause: the reason, and the error with ids, numbers and quoted \
        values left out. The largest group first.",
    after_help = "Example:\n  token-billing dlq groups --since 1h"
)]
pub(super) struct GroupsArgs {
    #[command(flatten)]
    select: SelectArgs,

    /// At most so many groups
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = value_parser!(i64).range(1..=10_000), help_heading = "Paging")]
    limit: i64,
}

pub(super) async fn run(
    args: GroupsArgs,
    operations: &Operations,
    format: Format,
) -> anyhow::Result<Ended> {
    let selection = args.select.selection();
    let groups = operations
        .group_dead_letters(&selection, args.limit)
        .await?;
    format.print(&groups, for_people)?;
    Ok(Ended::Done)
}

fn for_people(document: &DeadLetterGroups) -> String {
    let Some(largest) = document.groups.first() else {
        return "no such dead letters".to_owned();
    };
    let now = OffsetDateTime::now_utc();
    let mut table = Table::new([
        text("group"),
        at_right("dead letters"),
        at_right("arrivals"),
        at_right("tokens"),
        at_right("companies"),
        at_right("oldest"),
        at_right("newest"),
        text("reason"),
        text("error"),
    ]);
    for group in &document.groups {
        table.row([
            text(&group.group_id),
            number(group.dead_letters),
            number(group.occurrences),
            number(group.tokens),
            number(group.companies),
            at_right(&age(group.oldest, now)),
            at_right(&age(group.newest, now)),
            text(&reason(&group.reason)),
            text(&group.error_signature),
        ]);
    }
    let id = &largest.group_id;
    let shown = count(document.groups.len() as u64, "group");
    let more = match document.more {
        0 => String::new(),
        more => format!(", {} more with --limit", thousands(more)),
    };
    format!(
        "{}\n\n{shown}{more}. To see them: token-billing dlq list --group {id}\n\
         When the cause is fixed: token-billing dlq replay --group {id} --dry-run",
        table.render_cut()
    )
}
