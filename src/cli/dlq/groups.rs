//! `dlq groups`: what dead letters died of.

use clap::{Args, value_parser};
use time::OffsetDateTime;

use super::rows::{Room, age, reason};
use super::select::SelectArgs;
use crate::cli::Ended;
use crate::cli::output::{Format, Table, at_right, count, number, text, thousands};
use crate::operations::Operations;
use crate::operations::dead_letters::{DeadLetterGroups, PAGE_LIMITS};

/// Group dead letters by their cause
#[derive(Debug, Args)]
#[command(
    long_about = "Group dead letters by their cause: the reason, and the error with ids, numbers and quoted \
        values left out. The largest group first.",
    after_help = "Example:\n  token-billing dlq groups --since 1h"
)]
pub(super) struct GroupsArgs {
    #[command(flatten)]
    pub(super) select: SelectArgs,

    /// At most so many groups
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = value_parser!(i64).range(PAGE_LIMITS), help_heading = "Paging")]
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
    // A narrow terminal has no room for these and the error.
    let wide = !Room::of_terminal().narrow;
    let heading = [
        Some(text("group")),
        Some(at_right("dead letters")),
        wide.then(|| at_right("arrivals")),
        Some(at_right("tokens")),
        wide.then(|| at_right("companies")),
        wide.then(|| at_right("oldest")),
        Some(at_right("newest")),
        Some(text("reason")),
        Some(text("error")),
    ];
    let mut table = Table::new(heading.into_iter().flatten());
    for group in &document.groups {
        let row = [
            Some(text(&group.group_id)),
            Some(number(group.dead_letters)),
            wide.then(|| number(group.occurrences)),
            Some(number(group.tokens)),
            wide.then(|| number(group.companies)),
            wide.then(|| at_right(&age(group.oldest, now))),
            Some(at_right(&age(group.newest, now))),
            Some(text(&reason(&group.reason))),
            Some(text(&group.error_signature)),
        ];
        table.row(row.into_iter().flatten());
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
