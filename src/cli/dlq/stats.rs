//! `dlq stats`: the state of things, for a person or a probe.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::letters::{reason, span};
use super::open;
use crate::broker::{BrokerError, Connection, Topology};
use crate::cli::output::{
    self, Format, Table, at_right, count, number, printable, text, thousands,
};
use crate::cli::{Ended, one_line};
use crate::config::Settings;
use crate::domain::RetrySchedule;
use crate::storage::OpenByReason;

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

    /// Exit with 3 if a letter has been open for longer than this, such as 10m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_age: Option<Duration>,
}

#[derive(Debug, Serialize)]
struct Stats {
    open: i64,
    tokens: i64,
    oldest_age_seconds: Option<i64>,
    by_reason: Vec<OpenByReason>,
    arrived_last_minute: i64,
    /// Over the last quarter of an hour.
    arrivals_per_minute: f64,
    /// Not archived yet; null: the broker couldn't be asked.
    waiting_in_queue: Option<u32>,
    /// Where nobody consumes, since no client can read them; null: the broker couldn't be asked.
    unreadable: Option<u32>,
    /// The thresholds that are exceeded, by their flags.
    exceeded: Vec<&'static str>,
}

pub(super) async fn run(
    args: StatsArgs,
    settings: &Settings,
    format: Format,
) -> anyhow::Result<Ended> {
    let storage = open(settings).await?;
    let (by_reason, arrivals, waiting) = tokio::join!(
        storage.open_dead_letters(),
        storage.dead_letter_arrivals(),
        waiting(settings)
    );
    storage.close().await;
    let (by_reason, arrivals) = (by_reason?, arrivals?);
    if let Err(why) = &waiting {
        output::note(&format!("note: what waits in the queue is unknown: {why}"));
    }
    let (waiting, unreadable) = waiting.ok().unzip();
    let mut stats = Stats {
        open: by_reason.iter().map(|one| one.open).sum(),
        tokens: by_reason
            .iter()
            .fold(0, |sum, one| one.tokens.saturating_add(sum)),
        oldest_age_seconds: by_reason.iter().map(|one| one.oldest_age_seconds).max(),
        by_reason,
        arrived_last_minute: arrivals.last_minute,
        arrivals_per_minute: arrivals.last_15_minutes as f64 / 15.0,
        waiting_in_queue: waiting,
        unreadable,
        exceeded: Vec::new(),
    };
    let exceeded = args.exceeded(&stats);
    stats.exceeded = exceeded.iter().map(|(flag, _)| *flag).collect();
    format.print(&stats, for_people)?;
    if exceeded.is_empty() {
        return Ok(Ended::Done);
    }
    let why: Vec<String> = exceeded.into_iter().map(|(_, why)| why).collect();
    output::note(&format!("too much: {}", why.join("; ")));
    Ok(Ended::NeedsPerson)
}

impl StatsArgs {
    /// Each threshold that is exceeded: its flag, and by how much.
    fn exceeded(&self, stats: &Stats) -> Vec<(&'static str, String)> {
        let unreadable = i64::from(stats.unreadable.unwrap_or(0));
        let all = stats.open + unreadable;
        let open = self.max_open.filter(|max| all > i64::from(*max));
        let open = open.map(|max| {
            let also = match unreadable {
                0 => String::new(),
                _ => format!(" and {} unreadable", thousands(unreadable)),
            };
            let (is, over) = (thousands(stats.open), thousands(all - i64::from(max)));
            (
                "max_open",
                format!("{is} open{also}, {over} over --max-open {max}"),
            )
        });
        let oldest = stats
            .oldest_age_seconds
            .and_then(|age| u64::try_from(age).ok());
        let age = self
            .max_age
            .zip(oldest)
            .filter(|(max, age)| *age > max.as_secs());
        let age = age.map(|(max, age)| {
            let (is, over) = (span(age), span(age - max.as_secs()));
            let max = humantime::format_duration(max);
            (
                "max_age",
                format!("the oldest is open for {is}, {over} over --max-age {max}"),
            )
        });
        open.into_iter().chain(age).collect()
    }
}

/// What waits in the dead-letter queue, and where nobody consumes; or why that is unknown.
async fn waiting(settings: &Settings) -> Result<(u32, u32), String> {
    let broker = settings
        .require_broker()
        .map_err(|error| one_line(&error.into()))?;
    let topology = Topology::new(broker, &RetrySchedule::new(&settings.retry));
    let asked = async {
        let connection = Connection::open(broker, "stats").await?;
        let waiting = connection.ready_count(&topology.dead_letters()).await;
        let unreadable = connection.ready_count(&topology.unreadable()).await;
        connection.close().await;
        Ok((waiting?, unreadable?))
    };
    asked
        .await
        .map_err(|error: BrokerError| printable(&error.to_string()))
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
            count(waiting.into(), "letter")
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
