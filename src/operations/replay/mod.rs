//! Sending dead letters again: what it would do (`plan.rs`), doing it (`run.rs`, which has the table of its
//! crashes), and what came of it (`outcomes.rs`).

mod order;
mod outcomes;
mod pace;
mod plan;
mod run;

pub use order::{Ended, Order, Progress, Report};
pub use pace::Pace;
pub use plan::{CompanyPlan, Forecast, Plan, plan};
pub use run::Replay;
