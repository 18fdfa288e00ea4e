//! What the product is about, without any I/O.

mod chain;
mod deduction;
mod disposition;
mod event;
pub mod excerpt;
mod json;
mod retry;
mod trace;

pub use chain::{Buckets, Chain, ChargeFigures, Gap, Movement};
pub use deduction::{Charge, Deduction, Receipt, Refusal, RefusalCause};
pub use disposition::{Disposition, Reason, Verdict, dispose};
pub use event::{
    AmendError, CompletionEvent, DEFAULT_USAGE_TYPE, EventDraft, EventError, EventFault, amend,
};
pub use json::layout;
pub use retry::RetrySchedule;
pub use trace::TraceContext;
