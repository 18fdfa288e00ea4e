//! `dlq list`: the letters, newest first, a page at a time.

use clap::{Args, value_parser};
use serde::Serialize;
use time::OffsetDateTime;

use super::letters::{Room, age, cells, heading};
use super::{known, open, select::SelectArgs};
use crate::cli::Ended;
use crate::cli::output::{Format, Table, at_right, count, text, thousands};
use crate::config::Settings;
use crate::storage::{DeadLetter, LetterState, Selection};

/// List letters, newest first
#[derive(Debug, Args)]
#[command(
    long_about = "List dead letters, the newest first: open ones, or whatever the flags select.\n\n\
        failed is how long ago the letter failed last; charged? is what the books say of its job now; \
        times counts its arrivals. A letter that is named by its id is shown in any state.",
    after_help = "Examples:\n  \
        token-billing dlq list --reason insufficient_balance --since 2h\n  \
        token-billing dlq list --company 3f2b8c1e-0a4d-4d7e-9b0a-2f6c1d5e7a90 --state all"
)]
pub(super) struct ListArgs {
    #[command(flatten)]
    select: SelectArgs,

    /// At most so many letters
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = value_parser!(i64).range(1..=10_000), help_heading = "Paging")]
    limit: i64,

    /// Only letters with a smaller id than this: the next page
    #[arg(long, value_name = "ID", value_parser = value_parser!(i64).range(1..), help_heading = "Paging")]
    before: Option<i64>,
}

#[derive(Debug, Serialize)]
struct Page {
    letters: Vec<DeadLetter>,
    /// How many more there are, older than these.
    more: i64,
    /// For `--before`, if there are more.
    next_before: Option<i64>,
}

pub(super) async fn run(
    args: ListArgs,
    settings: &Settings,
    format: Format,
) -> anyhow::Result<Ended> {
    let open_ones = [LetterState::Open];
    let states = if args.select.has_ids() {
        &[][..]
    } else {
        &open_ones
    };
    let selection = args.select.selection(states)?;
    let storage = open(settings).await?;
    known::check(&args.select, "--reason", &storage).await?;
    let letters = storage
        .dead_letters(&selection, args.before, args.limit)
        .await?;
    let last = letters.last().map(|letter| letter.id);
    let more = match last.filter(|_| letters.len() as i64 == args.limit) {
        None => 0,
        Some(id) => {
            let older = Selection {
                up_to: Some(id - 1),
                ..selection.clone()
            };
            storage.count_dead_letters(&older).await?
        }
    };
    storage.close().await;
    let page = Page {
        letters,
        more,
        next_before: last.filter(|_| more > 0),
    };
    format.print(&page, |page| for_people(page, &args, &selection))?;
    Ok(Ended::Done)
}

fn for_people(page: &Page, args: &ListArgs, selection: &Selection) -> String {
    if page.letters.is_empty() {
        let which = if selection.states == [LetterState::Open] {
            "no open dead letters"
        } else {
            "no dead letters"
        };
        let older = if args.before.is_some() {
            " before this one"
        } else {
            ""
        };
        let matching = if args.select.is_unrestricted() {
            ""
        } else {
            " match"
        };
        return format!("{which}{matching}{older}");
    }
    let (now, room) = (OffsetDateTime::now_utc(), Room::of_terminal());
    // Where all are in one state, nobody needs to read it fifty times.
    let states = selection.states.len() != 1;
    let mut top = vec![at_right("id"), at_right("failed")];
    top.extend(states.then(|| text("state")));
    let mut table = Table::new(top.into_iter().chain(heading()));
    for letter in &page.letters {
        let failed = age(letter.last_failed_at, now);
        let mut row = vec![at_right(&letter.id.to_string()), at_right(&failed)];
        row.extend(states.then(|| text(letter.state.as_str())));
        table.row(row.into_iter().chain(cells(letter, room)));
    }
    let shown = count(page.letters.len() as u64, "letter");
    let rest = match page.next_before {
        None => format!("{shown}. One in full: token-billing dlq show ID"),
        Some(id) => {
            let limit = if args.limit == 50 {
                String::new()
            } else {
                format!(" --limit {}", args.limit)
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
