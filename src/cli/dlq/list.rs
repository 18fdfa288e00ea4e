//! `dlq list`: dead letters, newest first, a page at a time.

use clap::{Args, value_parser};
use time::OffsetDateTime;

use super::rows::{Room, age, cells, heading};
use super::select::SelectArgs;
use crate::cli::Ended;
use crate::cli::output::{Format, Table, at_right, count, text, thousands};
use crate::operations::Operations;
use crate::operations::dead_letters::{DeadLetterPage, PAGE_LIMITS};
use crate::storage::{DeadLetterState, Selection};

/// List dead letters, newest first
#[derive(Debug, Args)]
#[command(
    long_about = "List dead letters, the newest first: open ones, or whatever the flags select.\n\n\
        failed is how long ago it failed last; charged? is what the ledger says of its job now; \
        times counts its arrivals. A narrow terminal has no room for the company and times. What is named by its id is shown in any state.",
    after_help = "Examples:\n  \
        token-billing dlq list --reason insufficient_balance --since 2h\n  \
        token-billing dlq list --company 3f2b8c1e-0a4d-4d7e-9b0a-2f6c1d5e7a90 --state all"
)]
pub(super) struct ListArgs {
    #[command(flatten)]
    pub(super) select: SelectArgs,

    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = value_parser!(i64).range(PAGE_LIMITS), help_heading = "Paging")]
    limit: i64,

    /// Only those with a smaller id than this: the next page
    #[arg(long, value_name = "ID", value_parser = value_parser!(i64).range(1..), help_heading = "Paging")]
    before: Option<i64>,
}

pub(super) async fn run(
    args: ListArgs,
    operations: &Operations,
    format: Format,
) -> anyhow::Result<Ended> {
    let selection = args.select.selection();
    let page = operations
        .list_dead_letters(&selection, args.before, args.limit)
        .await?;
    format.print(&page, |page| for_people(page, &args, &selection))?;
    Ok(Ended::Done)
}

fn for_people(page: &DeadLetterPage, args: &ListArgs, selection: &Selection) -> String {
    if page.dead_letters.is_empty() {
        let word = |said: bool, word| if said { word } else { "" };
        return format!(
            "no {}dead letters{}{}",
            word(page.states == [DeadLetterState::Open], "open "),
            word(!selection.is_unrestricted(), " match"),
            word(args.before.is_some(), " before this one")
        );
    }
    let (now, room) = (OffsetDateTime::now_utc(), Room::of_terminal());
    // Where all are in one state, nobody needs to read it fifty times.
    let states = page.states.len() != 1;
    let mut top = vec![at_right("id"), at_right("failed")];
    top.extend(states.then(|| text("state")));
    let mut table = Table::new(top.into_iter().chain(heading(room)));
    for dead_letter in &page.dead_letters {
        let failed = age(dead_letter.last_failed_at, now);
        let mut row = vec![at_right(&dead_letter.id.to_string()), at_right(&failed)];
        row.extend(states.then(|| text(dead_letter.state.as_str())));
        table.row(row.into_iter().chain(cells(dead_letter, room)));
    }
    let shown = count(page.dead_letters.len() as u64, "dead letter");
    let rest = match page.next_before {
        None => format!("{shown}. One in full: token-billing dlq show ID"),
        Some(id) => {
            let limit = match args.limit {
                50 => String::new(),
                limit => format!(" --limit {limit}"),
            };
            format!(
                "{shown}, {} more: token-billing dlq list{}{limit} --before {id}",
                thousands(page.more),
                args.select.as_typed()
            )
        }
    };
    format!("{}\n\n{rest}", table.render_cut())
}
