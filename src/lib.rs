//! Charges every finished article exactly once: events come from `RabbitMQ`, the ledger is in
//! `PostgreSQL`, and nothing is lost between the two.
//!
//! # Layout
//!
//! The modules stand on floors. A file imports only from its own floor or from one below. How they fit, and the order
//! of locks, is in `deploy/ARCHITECTURE.md`.
//!
//! Floor 0, no I/O:
//!
//! - [`config`]: every setting with its default, unit and range.
//! - [`telemetry`]: log lines, metrics and traces.
//! - [`domain`]: the event, what the ledger can answer, the retry schedule, and what happens to a message.
//! - [`reconnect`]: how long to wait for something that is away.
//! - [`failpoint`]: dying on purpose, for tests.
//!
//! Floor 1, adapters:
//!
//! - [`storage`]: the ledger in `PostgreSQL`; the only place that names sqlx.
//! - [`broker`]: the queues in `RabbitMQ`; the only place that names lapin.
//!
//! Floor 2, engines:
//!
//! - [`consuming`]: keeping a queue consumed, whatever fails.
//! - [`worker`]: what happens to one message.
//! - [`sweeper`]: what happens to a charge that is pending.
//! - [`archivist`]: dead letters, from their queue into the archive.
//! - [`readiness`]: whether this process does what it is for.
//! - [`scrape`]: metrics, for whoever collects them.
//!
//! Floor 3, what a person may ask for, once for every face:
//!
//! - [`operations`]: publish, credit, refund, show, dead letters and their replay, audit, reconcile, doctor.
//!
//! Floor 4, faces: they parse, authorise and render:
//!
//! - [`api`]: HTTP calls, pages and the widget, and where a process tells how it is.
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

pub mod archivist;
pub mod consuming;
pub mod readiness;
pub mod scrape;
pub mod sweeper;
pub mod worker;

pub mod operations;

pub mod api;
pub mod cli;

pub mod app;
