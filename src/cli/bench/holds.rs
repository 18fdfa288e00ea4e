//! What it costs that tokens are held: the function where each event's job has an open hold of its own, and where
//! nothing is held at all.

use anyhow::ensure;
use serde::Serialize;

use super::{
    lab::Bench,
    side::{Called, Comparison, Side, SideFigures, take_turns},
    workload::{TOKENS, Workload},
};

#[derive(Debug, Clone, Serialize)]
pub(super) struct HoldsFigures {
    pub(super) with: SideFigures,
    pub(super) without: SideFigures,
    /// With to without.
    #[serde(flatten)]
    pub(super) with_to_without: Comparison,
}

/// In a database each: one open hold anywhere is looked at by all charges.
struct Holds {
    with: Side,
    without: Side,
    open: i64,
}

pub(super) async fn holds(bench: &Bench, workload: &Workload) -> anyhow::Result<HoldsFigures> {
    let mut holds = Holds::open(bench, workload).await?;
    let rounds = bench.args.rounds as usize;
    for round in 0..rounds {
        bench.announce(round);
        holds.round(round, rounds).await?;
    }
    let (with, without) = (holds.with.figures(), holds.without.figures());
    Ok(HoldsFigures {
        with_to_without: with.to(&without),
        with,
        without,
    })
}

impl Holds {
    async fn open(bench: &Bench, workload: &Workload) -> anyhow::Result<Self> {
        let with = bench.lab(&[workload]).await?;
        let numbers: Vec<usize> = workload.numbers.clone().collect();
        for numbers in numbers.chunks(10_000) {
            let jobs: Vec<_> = numbers.iter().map(|&n| workload.job(n)).collect();
            let companies: Vec<_> = numbers.iter().map(|&n| workload.company_of(n)).collect();
            with.scratch.seed_holds(&jobs, &companies, TOKENS).await?;
        }
        with.scratch.settle().await?;
        let without = bench.lab(&[workload]).await?;
        Ok(Self {
            with: Side::open(&with, Called::ChargeEvents, workload).await?,
            without: Side::open(&without, Called::ChargeEvents, workload).await?,
            open: i64::try_from(numbers.len())?,
        })
    }

    async fn round(&mut self, round: usize, rounds: usize) -> anyhow::Result<()> {
        let sides = [&mut self.with, &mut self.without];
        let events = take_turns(sides, round, rounds).await?;
        self.with.lab.check(events).await?;
        self.without.lab.check(events).await?;
        self.open -= i64::try_from(events)?;
        let open = self.with.lab.scratch.open_holds().await?;
        ensure!(
            open == self.open,
            "{open} holds are open instead of {}",
            self.open
        );
        Ok(())
    }
}
