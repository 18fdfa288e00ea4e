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
//! - [`domain`]: the event, what the books can answer, the retry schedule, and what happens to a message.
//! - [`reconnect`]: how long to wait for something that is away.
//! - [`failpoint`]: dying on purpose, for tests.
//!
//! Floor 1, adapters:
//!
//! - [`storage`]: the books in `PostgreSQL`; the only place that names sqlx.
//! - [`broker`]: the queues in `RabbitMQ`; the only place that names lapin.
//!
//! Floor 2, engines:
//!
//! - [`worker`]: what happens to one message.
//! - [`sweeper`]: what happens to a charge that is owed.
//! - [`audit`]: whether the books are right.
//! - [`dead_letters`]: from their queue into the archive, and sent again from there.
//! - [`readiness`]: whether this process does what it is for.
//! - [`doctor`]: whether the installation is.
//!
//! Floor 3, faces:
//!
//! - [`cli`]: the command line.
//!
//! Roof:
//!
//! - [`app`]: builds adapters, starts roles, stops them in order.

pub mod config;
pub mod domain;
pub mod failpoint;
pub mod reconnect;
pub mod telemetry;

pub mod broker;
pub mod storage;

pub mod audit;
pub mod dead_letters;
pub mod doctor;
pub mod readiness;
pub mod sweeper;
pub mod worker;

pub mod cli;

pub mod app;
