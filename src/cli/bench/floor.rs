//! The function beside the least that charging can cost (`floor.sql`): batch by batch in turn, each on its own
//! connection and its own rows of one database.

use std::{fs, sync::Arc, time::Instant};

use serde::Serialize;

use super::{
    lab::{Bench, Lab},
    rate::{Rate, Rates},
    workload::Workload,
};
use crate::{domain::CompletionEvent, storage::ScratchSession};

/// Linux: of a process's CPU time in `/proc`.
const TICKS_PER_SECOND: f64 = 100.0;

/// How the two compare.
#[derive(Debug, Clone, Serialize)]
pub(super) struct FloorFigures {
    pub(super) function: SideFigures,
    pub(super) floor: SideFigures,
    /// Of the function's time an event to the floor's: by CPU where that is known, else by the clock.
    pub(super) ratio: f64,
    pub(super) ratio_by: &'static str,
    /// By the clock: a round may be too short for the CPU time's ticks.
    pub(super) rounds_ratio: Vec<f64>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct SideFigures {
    #[serde(flatten)]
    pub(super) rates: Rates,
    /// Of its server process; `None`: that doesn't run on this machine.
    pub(super) cpu_us_per_event: Option<f64>,
}

/// Both, over a number of companies each.
pub(super) struct Floor {
    lab: Arc<Lab>,
    function: Side,
    floor: Side,
}

struct Side {
    session: ScratchSession,
    workload: Workload,
    rounds: Vec<Rate>,
    cpu_seconds: Option<f64>,
}

impl Floor {
    pub(super) async fn open(bench: &Bench, workload: &Workload) -> anyhow::Result<Self> {
        let floors = Workload {
            set: workload.set + 1,
            ..workload.clone()
        };
        let lab = bench.lab(&[workload, &floors]).await?;
        lab.scratch.execute(include_str!("floor.sql")).await?;
        Ok(Self {
            function: Side::open(&lab, workload.clone()).await?,
            floor: Side::open(&lab, floors).await?,
            lab,
        })
    }

    pub(super) async fn round(&mut self, round: usize, rounds: usize) -> anyhow::Result<()> {
        let batch = usize::from(self.lab.settings.worker.batch_max);
        let part = self.function.workload.part(round, rounds);
        let [ours, theirs] = [&part, &self.floor.workload.part(round, rounds)];
        let (ours, theirs) = (self.lab.events(ours)?, self.lab.events(theirs)?);
        let (mut function_seconds, mut floor_seconds) = (0.0, 0.0);
        let before = [self.function.cpu_now(), self.floor.cpu_now()];
        for (at, (own, other)) in ours.chunks(batch).zip(theirs.chunks(batch)).enumerate() {
            let (own, other): (Vec<&CompletionEvent>, Vec<_>) =
                (own.iter().collect(), other.iter().collect());
            // Neither is always the one that the other has just made room for.
            for is_floor in [at % 2 == 0, at % 2 != 0] {
                let began = Instant::now();
                if is_floor {
                    self.floor.session.floor(&other).await?;
                    floor_seconds += began.elapsed().as_secs_f64();
                } else {
                    self.function.session.deduct(&own).await?;
                    function_seconds += began.elapsed().as_secs_f64();
                }
            }
        }
        self.function.add(before[0], ours.len(), function_seconds);
        self.floor.add(before[1], theirs.len(), floor_seconds);
        self.lab.check(ours.len() + theirs.len()).await
    }

    pub(super) fn figures(&self) -> FloorFigures {
        let (function, floor) = (self.function.figures(), self.floor.figures());
        let by_clock = floor.rates.to(&function.rates);
        let by_cpu = function
            .cpu_us_per_event
            .zip(floor.cpu_us_per_event)
            .map(|(function, floor)| function / floor);
        FloorFigures {
            ratio: by_cpu.unwrap_or(by_clock.ratio),
            ratio_by: if by_cpu.is_some() { "cpu" } else { "clock" },
            rounds_ratio: by_clock.rounds_ratio,
            function,
            floor,
        }
    }
}

impl Side {
    async fn open(lab: &Lab, workload: Workload) -> anyhow::Result<Self> {
        Ok(Self {
            session: lab.scratch.session().await?,
            workload,
            rounds: Vec::new(),
            cpu_seconds: Some(0.0),
        })
    }

    fn cpu_now(&self) -> Option<f64> {
        cpu_seconds(self.session.pid, &self.session.database)
    }

    fn add(&mut self, cpu_before: Option<f64>, events: usize, seconds: f64) {
        self.rounds.push(Rate::new(events, seconds));
        let spent = self.cpu_now().zip(cpu_before);
        let spent = spent.map(|(now, before)| now - before);
        self.cpu_seconds = self.cpu_seconds.zip(spent).map(|(sum, more)| sum + more);
    }

    fn figures(&self) -> SideFigures {
        let events: f64 = self.rounds.iter().map(|round| round.events).sum();
        SideFigures {
            rates: Rates::of(&self.rounds),
            cpu_us_per_event: self.cpu_seconds.map(|seconds| seconds * 1e6 / events),
        }
    }
}

/// What a server process of this machine has used, in user and system mode. One of another machine isn't found: it is known by
/// the database in its title, whose name no other has.
fn cpu_seconds(pid: i32, database: &str) -> Option<f64> {
    let title = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let title = String::from_utf8_lossy(&title);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    if name != "postgres" || !title.contains(database) {
        return None;
    }
    // proc(5): the 14th and 15th field; after the name comes the third.
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
}
