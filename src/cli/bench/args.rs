//! What is asked for.

use std::path::PathBuf;

use clap::{Args, ValueEnum, value_parser};
use serde::Serialize;

/// How much to measure.
#[derive(Debug, Clone, Args)]
#[command(
    about = "Measure what this installation can do, on scratch data that is removed afterwards",
    long_about = "Measure what this installation can do, on scratch data that is removed afterwards.\n\n\
        Everything happens in databases and queues of its own, named token_billing_bench_…, on the configured servers. \
        What is compared takes turns, a round each, so that a machine that is faster now than then favours nobody. After \
        each round the ledger is checked: a figure for work that wasn't done right is worth nothing.",
    after_help = "Examples:\n  \
        token-billing bench\n  \
        token-billing bench --only floor,backlog --rounds 10 --output json\n  \
        token-billing bench --only records --records 10000000 --keys v7\n  \
        token-billing bench --only latency,batch-sizes --svg bench.svg"
)]
pub(in crate::cli) struct BenchArgs {
    /// Events of the large measurements
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = value_parser!(u32).range(1000..=10_000_000))]
    pub(super) events: u32,

    /// Companies that the events are spread over
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(super) companies: u32,

    /// Turns in which what is compared is measured
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = value_parser!(u32).range(1..=100))]
    pub(super) rounds: u32,

    /// Job ids: random (UUID version 4), or v7, in the order of time
    #[arg(long, value_enum, default_value_t, hide_possible_values = true)]
    pub(super) keys: Keys,

    /// Measure only these, separated by commas [default: all but records and batch-sizes]
    #[arg(long, value_enum, value_name = "NAMES", value_delimiter = ',')]
    pub(super) only: Vec<Measurement>,

    /// Seconds of each measurement with steady traffic, at 500 events a second
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = value_parser!(u32).range(1..=3600))]
    pub(super) steady: u32,

    /// Events that one company publishes at once, for `flood`
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = value_parser!(u32).range(1000..=10_000_000))]
    pub(super) flood: u32,

    /// Completed records that are there already, for `records`
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=100_000_000))]
    pub(super) records: Option<u32>,

    /// Where to measure the disk's own fsync: the disk of the database is the one to compare with
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(super) fsync_dir: PathBuf,

    /// Draw throughput against batch size, and the distribution of the latency
    #[arg(long, value_name = "FILE")]
    pub(super) svg: Option<PathBuf>,
}

/// Versions of job ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Keys {
    #[default]
    Random,
    V7,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Measurement {
    /// The function beside the least that charging can cost, over many companies and of one
    Floor,
    /// The function alone, on 1 and 2 connections
    Function,
    /// A backlog, end to end: over many companies, of one, and with one company locked
    Backlog,
    /// A backlog, one message a transaction
    OneByOne,
    /// Publish to committed at 500 events/s, and the disk's own fsync
    Latency,
    /// The others' latency while 1, then 10 of 40 companies are locked
    Locked,
    /// The others' latency while one company has a flood of events
    Flood,
    /// Two processes on one queue, and one with as many lanes
    Processes,
    /// A backlog beside 2,000 balance reads/s over HTTP, and without
    Reads,
    /// The function where each event's job has a hold, and where there is none
    Holds,
    /// Dead letters into the archive, their replay, a sweep, an audit
    Upkeep,
    /// A backlog with --records there already, and without
    Records,
    /// A backlog with batches of 1, 8, 64, 256 and 1,024 events at most
    BatchSizes,
}

impl BenchArgs {
    /// Whether this is to be measured.
    pub(super) fn has(&self, measurement: Measurement) -> bool {
        if !self.only.is_empty() {
            return self.only.contains(&measurement);
        }
        match measurement {
            Measurement::Records => self.records.is_some(),
            Measurement::BatchSizes => self.svg.is_some(),
            _ => true,
        }
    }

    /// What is wrong with these together.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.has(Measurement::Records) && self.records.is_none() {
            return Err("--only records: needs --records");
        }
        if self.svg.is_some()
            && !(self.has(Measurement::Latency) && self.has(Measurement::BatchSizes))
        {
            return Err("--svg: needs latency and batch-sizes among --only");
        }
        Ok(())
    }
}
