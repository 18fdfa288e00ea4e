//! One process, and two, on one queue.

use std::sync::Arc;

use serde::Serialize;

use super::{
    super::output::note,
    children::Children,
    lab::{Bench, Lab},
    rate::{Rate, Rates, Ratio},
    throughput::{peak_memory_mib, per_second},
    workload::Workload,
};
use crate::config::Settings;

#[derive(Debug, Clone, Serialize)]
pub(super) struct ProcessesFigures {
    /// Of the one process, and of the two in sum.
    pub(super) lanes: u16,
    pub(super) one: Rates,
    pub(super) two: Rates,
    pub(super) two_to_one: Ratio,
    /// Of the one process: `serve --role worker` and nothing else.
    pub(super) peak_memory_mib: Option<f64>,
}

pub(super) async fn processes(
    bench: &Bench,
    workload: &Workload,
) -> anyhow::Result<ProcessesFigures> {
    let each = (bench.settings.worker.lanes / 2).max(1);
    let mut one = Processes::open(bench, workload, 1, 2 * each).await?;
    let mut two = Processes::open(bench, workload, 2, each).await?;
    let rounds = bench.args.rounds as usize;
    for round in 0..rounds {
        one.round(round, rounds).await?;
        two.round(round, rounds).await?;
    }
    let peak_memory_mib = one.peak_memory_mib;
    let (one, two) = (Rates::of(&one.rounds), Rates::of(&two.rounds));
    Ok(ProcessesFigures {
        lanes: 2 * each,
        two_to_one: two.to(&one),
        one,
        two,
        peak_memory_mib,
    })
}

/// So many, with so many lanes each, that share a backlog.
struct Processes {
    lab: Arc<Lab>,
    workload: Workload,
    settings: Settings,
    count: usize,
    rounds: Vec<Rate>,
    peak_memory_mib: Option<f64>,
}

impl Processes {
    async fn open(
        bench: &Bench,
        workload: &Workload,
        count: usize,
        lanes: u16,
    ) -> anyhow::Result<Self> {
        let lab = bench.lab(&[workload]).await?;
        let mut settings = lab.settings.clone();
        settings.worker.lanes = lanes;
        Ok(Self {
            lab,
            workload: workload.clone(),
            settings,
            count,
            rounds: Vec::new(),
            peak_memory_mib: None,
        })
    }

    async fn round(&mut self, round: usize, rounds: usize) -> anyhow::Result<()> {
        let part = self.workload.part(round, rounds);
        self.lab.publish(&part).await?;
        let before = self.lab.scratch.movements().await?;
        let mut children = Children::default();
        for _ in 0..self.count {
            children.start(&self.settings, &["worker"])?;
        }
        let (first, began) = children.movements(&self.lab, before + 1).await?;
        let events = i64::try_from(part.events())?;
        let (last, ended) = children.movements(&self.lab, before + events).await?;
        for pid in children.pids() {
            let peaks = [self.peak_memory_mib, peak_memory_mib(&pid)];
            self.peak_memory_mib = peaks.into_iter().flatten().reduce(f64::max);
        }
        children.stop().await?;
        let rate = Rate::new(last - first, (ended - began).as_secs_f64());
        let (count, figure) = (self.count, per_second(rate));
        note(&format!("  processes, {count}: {figure}"));
        self.rounds.push(rate);
        self.lab.check(part.events()).await
    }
}
