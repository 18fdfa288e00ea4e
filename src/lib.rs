//! Charges every finished article exactly once: events come from `RabbitMQ`, the books are in
//! `PostgreSQL`, and nothing is lost between the two.
//!
//! # Layout
//!
//! The modules stand on floors. A file imports only from its own floor or from one below.
//!
//! Floor 0, no I/O:
//!
//! - [`config`]: every setting with its default, unit and range.
//! - [`telemetry`]: where log lines go, and in what form.
//! - [`domain`]: the event, the retry schedule, the trace context.

pub mod config;
pub mod telemetry;

pub mod domain;
