//! Sending dead letters again: what it would do (`plan.rs`, and `preview.rs` for each of them), doing it (`run.rs`,
//! which has the table of its crashes), following it (`running.rs`), and what came of it (`outcomes.rs`).

mod outcomes;
mod pace;
mod parked;
mod plan;
mod preview;
mod report;
mod run;
mod running;

pub use parked::Parked;
pub use plan::{CompanyForecast, Forecast, ReplayPlan, ReplaySelection};
pub use preview::{Preview, PreviewOutcome};
pub use report::{ReplayEnded, ReplayOrder, ReplayPhase, ReplayProgress, ReplayReport};
pub use running::RunningReplay;
pub(super) use running::RunningReplays;
