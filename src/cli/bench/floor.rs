//! The function beside the least that charging can cost (`floor.sql`).

use serde::Serialize;

use super::{
    lab::Bench,
    side::{Called, Comparison, Side, SideFigures, take_turns},
    workload::Workload,
};

#[derive(Debug, Clone, Serialize)]
pub(super) struct FloorFigures {
    pub(super) function: SideFigures,
    pub(super) floor: SideFigures,
    /// The function to the floor.
    #[serde(flatten)]
    pub(super) function_to_floor: Comparison,
}

/// Both, over a number of companies each, in one database.
pub(super) struct Floor {
    function: Side,
    floor: Side,
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
            function: Side::open(&lab, Called::ChargeEvents, workload).await?,
            floor: Side::open(&lab, Called::Floor, &floors).await?,
        })
    }

    pub(super) async fn round(&mut self, round: usize, rounds: usize) -> anyhow::Result<()> {
        let sides = [&mut self.function, &mut self.floor];
        let events = take_turns(sides, round, rounds).await?;
        self.function.lab.check(2 * events).await
    }

    pub(super) fn figures(&self) -> FloorFigures {
        let (function, floor) = (self.function.figures(), self.floor.figures());
        FloorFigures {
            function_to_floor: function.to(&floor),
            function,
            floor,
        }
    }
}
