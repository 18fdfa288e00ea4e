//! `dlq watch`: dead letters as they arrive.

use std::os::fd::AsFd as _;

use clap::{Args, value_parser};
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;
use tokio::signal::unix::{SignalKind, signal};

use super::rows::{Room, reason};
use super::select::SelectArgs;
use crate::cli::Ended;
use crate::cli::output::{self, Format, Reader, printable, thousands};
use crate::operations::Operations;
use crate::operations::dead_letters::{News, TAIL_LIMITS};
use crate::storage::DeadLetter;

/// Show dead letters as they arrive
#[derive(Debug, Args)]
#[command(
    long_about = "Show dead letters as they arrive, a line each, until Ctrl-C. One that arrives again \
        is shown again; times counts its arrivals. With --output json each line is one JSON object.\n\n\
        It waits while the database is away, and misses nothing.",
    after_help = "Examples:\n  \
        token-billing dlq watch --reason insufficient_balance\n  \
        token-billing dlq watch --tail 0 --output json | jq .error"
)]
pub(super) struct WatchArgs {
    #[command(flatten)]
    pub(super) select: SelectArgs,

    /// Begin with the last so many that arrived before
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = value_parser!(i64).range(TAIL_LIMITS))]
    tail: i64,
}

pub(super) async fn run(
    args: WatchArgs,
    operations: &Operations,
    format: Format,
) -> anyhow::Result<Ended> {
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let watching = async {
        let selection = args.select.selection();
        let mut arrivals = operations.watch_dead_letters(&selection, args.tail).await?;
        if format == Format::Table && output::stream_line(&heading())? == Reader::Gone {
            return Ok(());
        }
        let mut away = false;
        loop {
            match arrivals.next().await {
                News::Arrived(arrived) => {
                    if std::mem::take(&mut away) {
                        output::note("the database is back");
                    }
                    if show(&arrived, format)? == Reader::Gone {
                        return Ok(());
                    }
                }
                News::Away(error) => {
                    if !std::mem::replace(&mut away, true) {
                        output::note(&format!("the database is away, waiting for it: {error}"));
                    }
                }
            }
        }
    };
    tokio::select! {
        watched = watching => watched.map(|()| Ended::Done),
        _ = interrupt.recv() => Ok(Ended::Done),
        _ = terminate.recv() => Ok(Ended::Done),
        () = reader_gone() => Ok(Ended::Done),
    }
}

fn show(arrived: &[DeadLetter], format: Format) -> anyhow::Result<Reader> {
    let room = Room::of_terminal();
    for dead_letter in arrived {
        let reader = match format {
            Format::Json => output::stream_json(dead_letter)?,
            Format::Table => output::stream_line(&line(dead_letter, room))?,
        };
        if reader == Reader::Gone {
            return Ok(reader);
        }
    }
    Ok(Reader::Present)
}

fn heading() -> String {
    columns(
        [
            "failed (UTC)",
            "id",
            "reason",
            "charged?",
            "company",
            "tokens",
            "times",
            "error",
        ],
        Room::of_terminal(),
    )
}

fn line(dead_letter: &DeadLetter, room: Room) -> String {
    columns(
        [
            &failed_at(dead_letter.last_failed_at),
            &dead_letter.id.to_string(),
            &reason(&dead_letter.reason),
            room.charged(dead_letter.charge_state),
            &room.company(dead_letter.company_id),
            &dead_letter.tokens.map_or_else(|| "-".to_owned(), thousands),
            &thousands(dead_letter.occurrences),
            &printable(&dead_letter.error),
        ],
        room,
    )
}

/// The same widths in every line: nobody knows what comes next.
fn columns(fields: [&str; 8], room: Room) -> String {
    let [failed, id, reason, charged, company, tokens, times, error] = fields;
    if room.narrow {
        return format!("{failed:<14}  {id:>6}  {reason:<20}  {tokens:>7}  {error}");
    }
    let (money, who) = room.widths();
    format!(
        "{failed:<14}  {id:>6}  {reason:<22}  {charged:<money$}  {company:<who$}  {tokens:>10}  {times:>5}  {error}"
    )
}

fn failed_at(at: OffsetDateTime) -> String {
    let form = format_description!("[month]-[day] [hour]:[minute]:[second]");
    at.to_offset(time::UtcOffset::UTC)
        .format(form)
        .unwrap_or_else(|_| at.to_string())
}

/// Returns when standard output is a pipe that nobody reads any more: without it, `| head` would leave us
/// here until the next dead letter arrives.
async fn reader_gone() {
    let stdout = std::io::stdout().as_fd().try_clone_to_owned();
    // Never written to, so it needn't be told not to block. What can't be waited for, such as a file, is
    // never gone.
    if let Ok(stdout) = stdout.and_then(Sender::from_owned_fd_unchecked)
        && stdout.ready(Interest::ERROR).await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}
