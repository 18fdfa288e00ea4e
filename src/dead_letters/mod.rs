//! What happens to a dead letter: planned and sent again by a person.

mod pace;
mod plan;
mod replay;
mod watch;

pub use pace::Pace;
pub use plan::{CompanyPlan, Forecast, Plan, plan};
pub use replay::{Ended, Order, Progress, Replay, Report};
