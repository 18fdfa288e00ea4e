//! Two ways of charging that are compared batch by batch in turn, each on its own connection and its own rows.

use std::{fs, sync::Arc, time::Instant};

use serde::Serialize;

use super::{
    lab::Lab,
    rate::{Rate, Rates},
    workload::Workload,
};
use crate::{
    domain::CompletionEvent,
    storage::{ScratchSession, StorageError},
};

/// Linux: of a process's CPU time in `/proc`.
const TICKS_PER_SECOND: f64 = 100.0;

/// The ratio of two, of each round and overall.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Comparison {
    /// Of the first one's time an event to the second one's: by CPU where that is known, else by the clock.
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

#[derive(Debug, Clone, Copy)]
pub(super) enum Called {
    ChargeEvents,
    Floor,
}

/// One of the two.
pub(super) struct Side {
    pub(super) lab: Arc<Lab>,
    called: Called,
    session: ScratchSession,
    workload: Workload,
    rounds: Vec<Rate>,
    cpu_seconds: Option<f64>,
}

impl SideFigures {
    pub(super) fn to(&self, other: &Self) -> Comparison {
        let by_clock = other.rates.to(&self.rates);
        let by_cpu = self
            .cpu_us_per_event
            .zip(other.cpu_us_per_event)
            .map(|(own, other)| own / other);
        Comparison {
            ratio: by_cpu.unwrap_or(by_clock.ratio),
            ratio_by: if by_cpu.is_some() { "cpu" } else { "clock" },
            rounds_ratio: by_clock.rounds_ratio,
        }
    }
}

/// A round of both. Returns how many events each has charged.
pub(super) async fn take_turns(
    sides: [&mut Side; 2],
    round: usize,
    rounds: usize,
) -> anyhow::Result<usize> {
    let batch = usize::from(sides[0].lab.settings.worker.batch_max);
    let part = |side: &Side| side.lab.events(&side.workload.part(round, rounds));
    let events = [part(sides[0])?, part(sides[1])?];
    let before = [sides[0].cpu_now(), sides[1].cpu_now()];
    let mut seconds = [0.0, 0.0];
    let batches = events[0].chunks(batch).zip(events[1].chunks(batch));
    for (at, (first, second)) in batches.enumerate() {
        let batches = [first, second].map(|batch| batch.iter().collect::<Vec<_>>());
        // Neither is always the one that the other has just made room for.
        for which in [at % 2, 1 - at % 2] {
            let began = Instant::now();
            sides[which].charge(&batches[which]).await?;
            seconds[which] += began.elapsed().as_secs_f64();
        }
    }
    let charged = events[0].len();
    for ((side, before), seconds) in sides.into_iter().zip(before).zip(seconds) {
        side.add(before, charged, seconds);
    }
    Ok(charged)
}

impl Side {
    pub(super) async fn open(
        lab: &Arc<Lab>,
        called: Called,
        workload: &Workload,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            lab: lab.clone(),
            called,
            session: lab.scratch.session().await?,
            workload: workload.clone(),
            rounds: Vec::new(),
            cpu_seconds: Some(0.0),
        })
    }

    async fn charge(&mut self, events: &[&CompletionEvent]) -> Result<(), StorageError> {
        match self.called {
            Called::ChargeEvents => self.session.deduct(events).await.map(drop),
            Called::Floor => self.session.floor(events).await,
        }
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

    pub(super) fn figures(&self) -> SideFigures {
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
