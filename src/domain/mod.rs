//! What the product is about, without any I/O.

mod chain;
mod deduction;
mod disposition;
mod event;
pub mod excerpt;
mod glimpse;
mod json;
mod moment;
mod reason;
mod retry;
mod signature;
mod trace;

pub use chain::{Buckets, Chain, ChargeFigures, Gap, Movement};
pub use deduction::{Deduction, Locked, PendingMark, Refusal};
pub use disposition::{Disposition, Verdict, dispose};
pub use event::{AmendError, CompletionEvent, DEFAULT_USAGE_TYPE, EventDraft, EventError, amend};
pub use event::{CLOUD_EVENT, EVENT_TYPE, event_schema};
pub use glimpse::Glimpse;
pub use json::layout;
pub(crate) use moment::moment;
pub use reason::Reason;
pub use retry::RetrySchedule;
pub use signature::signature;
pub use trace::TraceContext;
