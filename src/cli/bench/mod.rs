//! `token-billing bench`: what this installation can do, measured on scratch data of its own.

mod args;
mod children;
mod figures;
mod floor;
mod holds;
mod lab;
mod lag;
mod latency;
mod pool;
mod processes;
mod rate;
mod reads;
mod sheet;
mod side;
mod svg;
mod throughput;
mod upkeep;
mod workload;

use self::{
    args::Measurement,
    figures::{BatchSize, Figures, RecordsFigures},
    floor::Floor,
    lab::Bench,
    latency::STEADY_RATE,
    throughput::{Backlog, Function},
    workload::Workload,
};
use super::{
    Ended, UsageError,
    output::{Format, note, thousands},
};
use crate::config::Settings;

pub(super) use args::BenchArgs;

/// Limits of a batch, of which the picture is drawn.
const BATCH_SIZES: [u16; 5] = [1, 8, 64, 256, 1024];

/// Measures, prints, and leaves nothing behind.
pub(super) async fn run(
    args: BenchArgs,
    settings: &Settings,
    output: Format,
) -> anyhow::Result<Ended> {
    args.check().map_err(|wrong| UsageError(wrong.to_owned()))?;
    settings.require_database()?;
    settings.require_broker()?;
    let bench = Bench::new(settings, args);
    let measured = tokio::select! {
        measured = bench.measure() => measured,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    // Whatever happened.
    bench.close_labs().await;
    let figures = measured?;
    output.print(&figures, Figures::for_people)?;
    if let Some(file) = &bench.args.svg {
        svg::draw(&figures, file)?;
    }
    Ok(Ended::Done)
}

impl Bench {
    async fn measure(&self) -> anyhow::Result<Figures> {
        let args = &self.args;
        let mut figures = Figures::new(args);
        self.in_turn(&mut figures).await?;
        let events = args.events as usize;
        let few = self.workload(0, (events / 20).max(1000));
        if self.begins(Measurement::OneByOne, "one message a transaction") {
            let backlog = Backlog::open(self, "one by one", &few).await?;
            let mut backlog = backlog.batches_of(1);
            backlog.round(0, 1).await?;
            figures.one_by_one = Some(backlog.figures());
            self.close_labs().await;
        }
        let steady = self.workload(0, (args.steady * STEADY_RATE) as usize);
        if self.begins(Measurement::Latency, "steady traffic") {
            figures.latency = Some(latency::latency(self, &steady).await?);
            self.close_labs().await;
        }
        if self.begins(Measurement::Locked, "locked companies") {
            figures.locked = Some(latency::locked(self, &steady).await?);
            self.close_labs().await;
        }
        if self.begins(Measurement::Flood, "a flood of one company") {
            figures.flood = Some(latency::flood(self).await?);
            self.close_labs().await;
        }
        if self.begins(Measurement::Processes, "one process and two") {
            let workload = self.workload(0, events);
            figures.processes = Some(processes::processes(self, &workload).await?);
            self.close_labs().await;
        }
        if self.begins(Measurement::Reads, "a backlog beside balance reads") {
            let workload = self.workload(0, events);
            figures.reads = Some(reads::reads(self, &workload).await?);
            self.close_labs().await;
        }
        if self.begins(Measurement::Holds, "the function, with holds and without") {
            let workload = self.workload(0, events);
            figures.holds = Some(holds::holds(self, &workload).await?);
            self.close_labs().await;
        }
        if self.begins(Measurement::Upkeep, "archive, replay, sweep, audit") {
            let workload = self.workload(0, (events / 10).max(1000));
            figures.upkeep = Some(upkeep::upkeep(self, &workload).await?);
            self.close_labs().await;
        }
        if self.begins(Measurement::Records, "with records there already") {
            figures.records = Some(self.with_records().await?);
            self.close_labs().await;
        }
        if self.begins(Measurement::BatchSizes, "batch sizes") {
            figures.batch_sizes = Some(self.batch_sizes(&few).await?);
            self.close_labs().await;
        }
        Ok(figures)
    }

    /// What is compared with one another, a round each.
    async fn in_turn(&self, figures: &mut Figures) -> anyhow::Result<()> {
        let events = self.args.events as usize;
        let spread = self.workload(0, events);
        let hot = Workload {
            companies: 1,
            ..spread.clone()
        };
        let (mut backlogs, mut floors, mut functions) = (Vec::new(), Vec::new(), Vec::new());
        if self.begins(Measurement::Backlog, "backlogs, end to end") {
            backlogs.push(Backlog::open(self, "backlog", &spread).await?);
            backlogs.push(Backlog::open(self, "backlog of one company", &hot).await?);
            let locked = Backlog::open_locked(self, "backlog, one company locked", &spread);
            backlogs.push(locked.await?);
        }
        if self.begins(Measurement::Floor, "the function and its floor") {
            floors.push(Floor::open(self, &spread).await?);
            floors.push(Floor::open(self, &hot).await?);
        }
        if self.begins(Measurement::Function, "the function alone") {
            functions.push(Function::open(self, &spread, 1).await?);
            functions.push(Function::open(self, &spread, 2).await?);
        }
        let rounds = match (backlogs.len(), floors.len(), functions.len()) {
            (0, 0, 0) => 0,
            _ => self.args.rounds as usize,
        };
        for round in 0..rounds {
            self.announce(round);
            for backlog in &mut backlogs {
                backlog.round(round, rounds).await?;
            }
            for floor in &mut floors {
                floor.round(round, rounds).await?;
            }
            for function in &mut functions {
                function.round(round, rounds).await?;
            }
        }
        figures.set_compared(&backlogs, &floors, &functions);
        drop((backlogs, floors, functions));
        self.close_labs().await;
        Ok(())
    }

    async fn with_records(&self) -> anyhow::Result<RecordsFigures> {
        let workload = self.workload(0, self.args.events as usize);
        let records = self.args.records.unwrap_or_default();
        let mut without = Backlog::open(self, "without them", &workload).await?;
        let mut with = Backlog::open(self, "with them", &workload).await?;
        note(&format!("  making {} records", thousands(records)));
        with.lab.seed_records(records, &workload).await?;
        let rounds = self.args.rounds as usize;
        for round in 0..rounds {
            self.announce(round);
            without.round(round, rounds).await?;
            with.round(round, rounds).await?;
        }
        let (without, with) = (without.figures(), with.figures());
        Ok(RecordsFigures {
            records,
            with_to_without: with.rates.to(&without.rates),
            with: with.rates,
            without: without.rates,
        })
    }

    async fn batch_sizes(&self, few: &Workload) -> anyhow::Result<Vec<BatchSize>> {
        let many = self.workload(0, self.args.events as usize);
        let mut sizes = Vec::new();
        for batch_max in BATCH_SIZES {
            // One by one takes its time.
            let workload = if batch_max < 64 { few } else { &many };
            let backlog = Backlog::open(self, "backlog", workload).await?;
            sizes.push((batch_max, backlog.batches_of(batch_max)));
        }
        let rounds = self.args.rounds as usize;
        for round in 0..rounds {
            self.announce(round);
            for (_, backlog) in &mut sizes {
                backlog.round(round, rounds).await?;
            }
        }
        let figures = sizes.iter().map(|(batch_max, backlog)| BatchSize {
            batch_max: *batch_max,
            backlog: backlog.figures(),
        });
        Ok(figures.collect())
    }

    fn workload(&self, set: u64, events: usize) -> Workload {
        Workload {
            set,
            numbers: 0..events,
            companies: self.args.companies as usize,
            keys: self.args.keys,
        }
    }

    /// Whether it is to be measured; then says so.
    fn begins(&self, measurement: Measurement, what: &str) -> bool {
        let has = self.args.has(measurement);
        if has {
            note(&format!("{what} …"));
        }
        has
    }

    pub(super) fn announce(&self, round: usize) {
        note(&format!("round {} of {}", round + 1, self.args.rounds));
    }
}
