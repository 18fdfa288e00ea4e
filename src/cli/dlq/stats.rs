//! `dlq stats`: figures of the dead letters, for a person or a probe.

use std::time::Duration;

use super::rows::{reason, span};
use crate::cli::Ended;
use crate::cli::output::{
    self, Format, Table, at_right, count, number, printable, text, thousands,
};
use crate::operations::{
    Operations,
    dead_letters::{Stats, Thresholds},
};
use clap::Args;

/// Count what is open, how old, how fast it comes; with thresholds for a probe
#[derive(Debug, Args)]
#[command(
    long_about = "Count the open dead letters, by reason, with the age of the oldest; how fast they arrive; \
        and how many wait in the queue and are not archived yet, or can't be read by any client.\n\n\
        With a threshold it can be a probe: exit code 3 if one is exceeded, 1 if the database can't be \
        asked. A broker that can't be asked is no failure: what waits there is then unknown.",
    after_help = "Example:\n  token-billing dlq stats --max-open 100 --max-age 15m"
)]
pub(super) struct StatsArgs {
    /// Exit with 3 if more dead letters than this are open, or can't be read by any client
    #[arg(long, value_name = "N")]
    max_open: Option<u32>,

    /// Exit with 3 if one has been open for longer than this, such as 10m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_age: Option<Duration>,
}

pub(super) async fn run(
    args: StatsArgs,
    operations: &Operations,
    format: Format,
) -> anyhow::Result<Ended> {
    let thresholds = Thresholds {
        max_open: args.max_open,
        max_age: args.max_age,
    };
    let stats = operations.dead_letter_stats(thresholds).await?;
    if let Some(why) = &stats.queue_unknown {
        let why = printable(why);
        output::note(&format!("note: what waits in the queue is unknown: {why}"));
    }
    format.print(&stats, for_people)?;
    if stats.exceeded.is_empty() {
        return Ok(Ended::Done);
    }
    let why = stats.exceeded.iter().map(|name| match *name {
        "max_open" => args.too_many(&stats),
        _ => args.too_old(&stats),
    });
    let why: Vec<String> = why.collect();
    output::note(&format!("too much: {}", why.join("; ")));
    Ok(Ended::NeedsPerson)
}

impl StatsArgs {
    fn too_many(&self, stats: &Stats) -> String {
        let (max, unreadable) = (self.max_open.unwrap_or(0), stats.unreadable.unwrap_or(0));
        let also = match unreadable {
            0 => String::new(),
            _ => format!(" and {} unreadable", thousands(unreadable)),
        };
        let over = stats.open + i64::from(unreadable) - i64::from(max);
        let (is, over) = (thousands(stats.open), thousands(over));
        format!("{is} open{also}, {over} over --max-open {max}")
    }

    fn too_old(&self, stats: &Stats) -> String {
        let (max, age) = (self.max_age.unwrap_or_default(), stats.oldest_age_seconds);
        let age = age.unwrap_or(0).unsigned_abs();
        let (is, over) = (span(age), span(age - max.as_secs()));
        let max = humantime::format_duration(max);
        format!("the oldest is open for {is}, {over} over --max-age {max}")
    }
}

fn for_people(stats: &Stats) -> String {
    let mut lines = Vec::new();
    if stats.by_reason.is_empty() {
        lines.push("no open dead letters".to_owned());
    } else {
        let mut table = Table::new([
            text("reason"),
            at_right("open"),
            at_right("tokens"),
            at_right("oldest"),
        ]);
        let age = |seconds: i64| at_right(&span(seconds.unsigned_abs()));
        for one in &stats.by_reason {
            table.row([
                text(&reason(&one.reason)),
                number(one.open),
                number(one.tokens),
                age(one.oldest_age_seconds),
            ]);
        }
        if stats.by_reason.len() > 1 {
            table.row([
                text("all"),
                number(stats.open),
                number(stats.tokens),
                age(stats.oldest_age_seconds.unwrap_or_default()),
            ]);
        }
        lines.push(table.render_cut());
    }
    lines.push(String::new());
    lines.push(format!(
        "arrived: {} in the last minute, {:.1} a minute over the last 15",
        thousands(stats.arrived_last_minute),
        stats.arrivals_per_minute
    ));
    lines.push(match stats.waiting_in_queue {
        None => "in the queue, not archived yet: unknown".to_owned(),
        Some(0) => "in the queue, not archived yet: none".to_owned(),
        Some(waiting) => format!(
            "in the queue, not archived yet: {}",
            count(waiting.into(), "dead letter")
        ),
    });
    if let Some(unreadable @ 1..) = stats.unreadable {
        let messages = count(unreadable.into(), "message");
        lines.push(format!(
            "no client can read: {messages} in the queue ….unreadable (see doctor)"
        ));
    }
    lines.join("\n")
}
