//! Every setting: default, unit, range.
//!
//! A value comes from the first of these that has it: the environment
//! (`TOKEN_BILLING__SECTION__KEY`), the TOML file given with `--config`, the default.
//! Unknown keys, bad values and impossible combinations are refused by [`Settings::load`] with the
//! key's full name and the place it was set. `deploy/token-billing.toml` lists the same settings
//! for people who operate this.

mod dead_letters;
mod exposed;
mod http;
mod ledger;
mod load;
mod ops;
mod role;
mod upgrade;
mod values;

#[cfg(test)]
mod tests;

use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;

pub use dead_letters::{Archivist, Replay};
pub use exposed::Exposed;
pub use http::Http;
pub use ledger::{Audit, ExpiredMonthly, ExternalWrites, Holds, Refund, Sweeper};
pub use load::ConfigError;
pub use ops::Ops;
pub use role::Role;
pub use upgrade::{Plan, Text, Upgrade};
pub use values::redacted_url;
use values::{DAY, HOUR, MILLISECOND, MINUTE, SECOND};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Everything that can be set. `Debug` never shows a secret.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table of sections")]
pub struct Settings {
    pub database: Database,
    pub broker: Broker,
    /// How events are taken from the work queue.
    pub worker: Worker,
    /// How dead letters are taken into the archive.
    pub archivist: Archivist,
    /// The delay before an event is tried again.
    pub retry: Retry,
    /// The pause between attempts to reach the database or the broker.
    pub reconnect: Reconnect,
    /// How pending charges are swept.
    pub sweeper: Sweeper,
    /// What the audit takes for wrong.
    pub audit: Audit,
    /// What an event may hold.
    pub limits: Limits,
    /// How dead letters are sent again.
    pub replay: Replay,
    /// What a refund gives back.
    pub refund: Refund,
    /// How long tokens are held for a job.
    pub holds: Holds,
    /// The HTTP API.
    pub http: Http,
    /// What a process tells those who run it.
    pub ops: Ops,
    /// The page where plans are chosen.
    pub upgrade: Upgrade,
    /// The log on standard error.
    pub log: Log,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section")]
pub struct Database {
    /// `postgres://user:password@host:port/database`. Required by what uses the database. A secret.
    #[serde(deserialize_with = "values::database_url")]
    pub url: SecretString,
    /// Connections in the pool. 1..=1000, default 8.
    #[serde(deserialize_with = "values::whole::<1, 1000, _, _>")]
    pub max_connections: u32,
    /// For opening one connection. 100ms..=10m, default 5s.
    #[serde(deserialize_with = "values::duration::<{ 100 * MILLISECOND }, { 10 * MINUTE }, _>")]
    pub connect_timeout: Duration,
    /// For getting a connection from the pool. 100ms..=10m, default 30s.
    #[serde(deserialize_with = "values::duration::<{ 100 * MILLISECOND }, { 10 * MINUTE }, _>")]
    pub acquire_timeout: Duration,
    /// For one row lock. 1ms..=10m and below `statement_timeout`, default 5s.
    #[serde(deserialize_with = "values::duration::<MILLISECOND, { 10 * MINUTE }, _>")]
    pub lock_timeout: Duration,
    /// For one statement. 1ms..=1h, default 30s.
    #[serde(deserialize_with = "values::duration::<MILLISECOND, HOUR, _>")]
    pub statement_timeout: Duration,
    /// For one lock that `migrate` needs; whoever needs the same one waits behind it meanwhile. 10ms..=1m, default 1s.
    #[serde(deserialize_with = "values::duration::<{ 10 * MILLISECOND }, MINUTE, _>")]
    pub migrate_lock_timeout: Duration,
    /// For all of `migrate`'s tries together. 0s..=1d, default 10m.
    #[serde(deserialize_with = "values::duration::<0, DAY, _>")]
    pub migrate_patience: Duration,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            url: SecretString::default(),
            max_connections: 8,
            connect_timeout: Duration::from_secs(5),
            acquire_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
            migrate_lock_timeout: Duration::from_secs(1),
            migrate_patience: Duration::from_mins(10),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section")]
pub struct Broker {
    /// `amqp://user:password@host:port/vhost`, or `amqps`. Required by what uses the broker. A secret.
    #[serde(deserialize_with = "values::broker_url")]
    pub url: SecretString,
    /// The first word in the name of every queue and exchange: several installations can share a
    /// broker. 1 to 64 of `A-Z a-z 0-9 . _ -`, default `token-billing`.
    #[serde(deserialize_with = "values::prefix")]
    pub prefix: String,
    /// Deliveries of one message before the broker dead-letters it. A guard against crash loops and
    /// not the retry policy, so at least 20 in earnest. 1..=1000000, default 100. A queue that exists keeps its own:
    /// another value is refused by whoever declares.
    #[serde(deserialize_with = "values::whole::<1, 1_000_000, _, _>")]
    pub delivery_limit: u32,
    /// Between heartbeats, in whole seconds. 1s..=10m, default 10s.
    #[serde(deserialize_with = "values::duration::<SECOND, { 10 * MINUTE }, _>")]
    pub heartbeat: Duration,
    /// For opening one connection. 100ms..=10m, default 10s.
    #[serde(deserialize_with = "values::duration::<{ 100 * MILLISECOND }, { 10 * MINUTE }, _>")]
    pub connect_timeout: Duration,
    /// For the broker to confirm a publish. 100ms..=10m, default 30s.
    #[serde(deserialize_with = "values::duration::<{ 100 * MILLISECOND }, { 10 * MINUTE }, _>")]
    pub confirm_timeout: Duration,
}

impl Default for Broker {
    fn default() -> Self {
        Self {
            url: SecretString::default(),
            prefix: "token-billing".to_owned(),
            delivery_limit: 100,
            heartbeat: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            confirm_timeout: Duration::from_secs(30),
        }
    }
}

/// How events are taken from the work queue.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section")]
pub struct Worker {
    /// Batches charged at once, each of other companies and on a database connection of its own. 1..=64; default: the
    /// processors that this process may use, at most 4.
    #[serde(deserialize_with = "values::whole::<1, 64, _, _>")]
    pub lanes: u16,
    /// Events charged in one transaction, at most. 1..=4096, default 1024.
    #[serde(deserialize_with = "values::whole::<1, 4096, _, _>")]
    pub batch_max: u16,
    /// Events the broker sends ahead of their acks. 1..=65535 and not below `batch_max`, default 2048.
    #[serde(deserialize_with = "values::whole::<1, 65_535, _, _>")]
    pub prefetch: u16,
    /// For finishing what is in flight at shutdown. 100ms..=1h, default 30s.
    #[serde(deserialize_with = "values::duration::<{ 100 * MILLISECOND }, HOUR, _>")]
    pub drain_timeout: Duration,
    /// How long events are kept in flight while the database is away, before they are requeued.
    /// 1s up to, not including, 15m, half of the broker's consumer timeout; default 10m.
    #[serde(deserialize_with = "values::duration::<SECOND, DAY, _>")]
    pub hold_max: Duration,
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            lanes: processors().clamp(1, 4),
            batch_max: 1024,
            prefetch: 2048,
            drain_timeout: Duration::from_secs(30),
            hold_max: Duration::from_mins(10),
        }
    }
}

fn processors() -> u16 {
    let known = std::thread::available_parallelism().map_or(1, usize::from);
    u16::try_from(known).unwrap_or(u16::MAX)
}

/// The delay before an event is tried again: `base`, then each `factor` times the one before, up to
/// `max_delay`. [`RetrySchedule`](crate::domain::RetrySchedule) writes the steps out.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section")]
pub struct Retry {
    /// The first delay. 1ms..=1day, default 1s.
    #[serde(deserialize_with = "values::duration::<MILLISECOND, DAY, _>")]
    pub base: Duration,
    /// Growth from one delay to the next. 1..=10, default 2.
    #[serde(deserialize_with = "values::whole::<1, 10, _, _>")]
    pub factor: u32,
    /// No delay is longer. 1ms..=1day and not below `base`, default 10s.
    #[serde(deserialize_with = "values::duration::<MILLISECOND, DAY, _>")]
    pub max_delay: Duration,
    /// Tries after the first. 0..=20, default 3.
    #[serde(deserialize_with = "values::whole::<0, 20, _, _>")]
    pub attempts: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(1),
            factor: 2,
            max_delay: Duration::from_secs(10),
            attempts: 3,
        }
    }
}

/// The pause between attempts to reach the database or the broker; it grows, with jitter.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section")]
pub struct Reconnect {
    /// The first pause. 1ms..=1h, default 200ms.
    #[serde(deserialize_with = "values::duration::<MILLISECOND, HOUR, _>")]
    pub initial: Duration,
    /// No pause is longer. 1ms..=1h and not below `initial`, default 10s.
    #[serde(deserialize_with = "values::duration::<MILLISECOND, HOUR, _>")]
    pub max: Duration,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(200),
            max: Duration::from_secs(10),
        }
    }
}

/// What an event may hold.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section")]
pub struct Limits {
    /// Tokens charged by one event. 1..=1000000000000 (sums of whole batches then stay far inside a
    /// `bigint`), default 10000000.
    #[serde(deserialize_with = "values::whole::<1, 1_000_000_000_000, _, _>")]
    pub max_tokens_per_event: u64,
    /// Bytes of one message body. 1024..=16777216, default 262144.
    #[serde(deserialize_with = "values::whole::<KIB, { 16 * MIB }, _, _>")]
    pub max_body_bytes: usize,
    /// Bytes of an event's `metadata`. 2..=16777216, default 16384.
    #[serde(deserialize_with = "values::whole::<2, { 16 * MIB }, _, _>")]
    pub max_metadata_bytes: usize,
    /// Objects and arrays inside one another, the event itself included. 2..=100, default 32.
    #[serde(deserialize_with = "values::whole::<2, 100, _, _>")]
    pub max_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_tokens_per_event: 10_000_000,
            max_body_bytes: 262_144,
            max_metadata_bytes: 16_384,
            max_depth: 32,
        }
    }
}

/// The log on standard error.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section")]
pub struct Log {
    /// `text` or `json`, default `text`.
    #[serde(deserialize_with = "values::log_format")]
    pub format: LogFormat,
    /// What is logged, in the syntax of tracing's `EnvFilter`: `info`, `warn,token_billing=debug`.
    /// Default `info`.
    #[serde(deserialize_with = "values::log_filter")]
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            filter: "info".to_owned(),
        }
    }
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    /// One JSON object a line, for machines.
    Json,
}
