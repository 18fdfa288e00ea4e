//! How many events a second: the function alone, and backlogs through the queue, end to end.

use std::{fs, sync::Arc, time::Instant};

use serde::Serialize;
use uuid::Uuid;

use super::{
    super::output::{note, thousands},
    lab::{Bench, Lab},
    pool::Pool,
    rate::{Rate, Rates},
    workload::Workload,
};
use crate::{config::Settings, domain::CompletionEvent, storage::ScratchSession};

/// Tries of an event whose company is locked all the time: so many that none is given up meanwhile.
pub(super) const PATIENT_ATTEMPTS: u32 = 20;

/// The function alone, called with ready arrays. Each connection has the events of some companies, as lanes do.
pub(super) struct Function {
    lab: Arc<Lab>,
    workload: Workload,
    sessions: Vec<ScratchSession>,
    rounds: Vec<Rate>,
}

impl Function {
    pub(super) async fn open(
        bench: &Bench,
        workload: &Workload,
        connections: usize,
    ) -> anyhow::Result<Self> {
        let lab = bench.lab(&[workload]).await?;
        let mut sessions = Vec::new();
        for _ in 0..connections {
            sessions.push(lab.scratch.session().await?);
        }
        Ok(Self {
            lab,
            workload: workload.clone(),
            sessions,
            rounds: Vec::new(),
        })
    }

    pub(super) async fn round(&mut self, round: usize, rounds: usize) -> anyhow::Result<()> {
        let events = self.lab.events(&self.workload.part(round, rounds))?;
        let batch = usize::from(self.lab.settings.worker.batch_max);
        let connections = self.sessions.len() as u128;
        let connection_of = |event: &CompletionEvent| {
            event
                .company_id()
                .map_or(0, |id| id.as_u128() % connections)
        };
        let began = Instant::now();
        let charging = (0..).zip(&mut self.sessions).map(async |(own, session)| {
            let of_own = |event: &&CompletionEvent| connection_of(event) == own;
            let events: Vec<&CompletionEvent> = events.iter().filter(of_own).collect();
            for events in events.chunks(batch) {
                session.deduct(events).await?;
            }
            anyhow::Ok(())
        });
        futures_util::future::try_join_all(charging).await?;
        let rate = Rate::new(events.len(), began.elapsed().as_secs_f64());
        self.rounds.push(rate);
        note(&format!(
            "  function, {} connections: {}",
            self.sessions.len(),
            per_second(rate)
        ));
        self.lab.check(events.len()).await
    }

    pub(super) fn rates(&self) -> Rates {
        Rates::of(&self.rounds)
    }
}

/// A preloaded backlog through the queue and a worker, until the last is charged.
pub(super) struct Backlog {
    name: &'static str,
    pub(super) lab: Arc<Lab>,
    workload: Workload,
    settings: Settings,
    locked: Vec<Uuid>,
    rounds: Vec<BacklogRound>,
}

struct BacklogRound {
    rate: Rate,
    batches: u64,
    charged: u64,
    acks: u64,
    peak_memory_mib: Option<f64>,
}

/// A backlog's figures.
#[derive(Debug, Clone, Serialize)]
pub(super) struct BacklogFigures {
    #[serde(flatten)]
    pub(super) rates: Rates,
    /// The mean; also what had to be asked again counts as a batch.
    pub(super) events_per_batch: f64,
    pub(super) messages_per_ack: f64,
    /// Of this process, publisher included, in the first round: later, it also has what others that took turns left.
    pub(super) peak_memory_mib: Option<f64>,
}

impl Backlog {
    pub(super) async fn open(
        bench: &Bench,
        name: &'static str,
        workload: &Workload,
    ) -> anyhow::Result<Self> {
        Ok(Self::of(bench.lab(&[workload]).await?, name, workload))
    }

    /// With one of the companies locked all the time; the others are measured.
    pub(super) async fn open_locked(
        bench: &Bench,
        name: &'static str,
        workload: &Workload,
    ) -> anyhow::Result<Self> {
        let patient = |settings: &mut Settings| settings.retry.attempts = PATIENT_ATTEMPTS;
        let lab = bench.lab_with(&[workload], patient).await?;
        Ok(Self {
            locked: vec![workload.company(0)],
            ..Self::of(lab, name, workload)
        })
    }

    /// In batches of at most so many.
    pub(super) fn batches_of(mut self, batch_max: u16) -> Self {
        self.settings.worker.batch_max = batch_max;
        self
    }

    fn of(lab: Arc<Lab>, name: &'static str, workload: &Workload) -> Self {
        Self {
            name,
            settings: lab.settings.clone(),
            lab,
            workload: workload.clone(),
            locked: Vec::new(),
            rounds: Vec::new(),
        }
    }

    pub(super) async fn round(&mut self, round: usize, rounds: usize) -> anyhow::Result<()> {
        let part = self.workload.part(round, rounds);
        forget_peak_memory();
        self.lab.publish(&part).await?;
        let lock = match self.locked.is_empty() {
            true => None,
            false => Some(self.lab.scratch.lock_companies(&self.locked).await?),
        };
        let pool = Pool::start(&self.settings)?;
        let began = pool.charged(1).await?;
        let ended = pool.charged(part.events_without(&self.locked)).await?;
        let batches = pool.batches();
        if let Some(lock) = lock {
            lock.release().await?;
            pool.charged(part.events()).await?;
        }
        let acks = pool.stop().await?;
        // What was charged when it began is not of this time.
        let events = ended.events - began.events;
        let rate = Rate::new(events, (ended.at - began.at).as_secs_f64());
        note(&format!("  {}: {}", self.name, per_second(rate)));
        self.rounds.push(BacklogRound {
            rate,
            batches,
            charged: ended.events,
            acks,
            peak_memory_mib: peak_memory_mib("self"),
        });
        self.lab.check(part.events()).await
    }

    pub(super) fn figures(&self) -> BacklogFigures {
        let sum = |of: fn(&BacklogRound) -> u64| self.rounds.iter().map(of).sum::<u64>() as f64;
        let rates: Vec<Rate> = self.rounds.iter().map(|round| round.rate).collect();
        BacklogFigures {
            rates: Rates::of(&rates),
            events_per_batch: sum(|round| round.charged) / sum(|round| round.batches),
            messages_per_ack: self.workload.events() as f64 / sum(|round| round.acks),
            peak_memory_mib: self.rounds.first().and_then(|round| round.peak_memory_mib),
        }
    }
}

/// `12,345 events/s`.
pub(super) fn per_second(rate: Rate) -> String {
    format!("{} events/s", thousands(rate.per_s().round() as i64))
}

/// Linux: the high-water mark starts again from the present size.
fn forget_peak_memory() {
    // Where that isn't possible the figure is that of the whole run so far, which is no smaller.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Linux: of a process, `self` or its id.
pub(super) fn peak_memory_mib(process: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}
