//! Settings of the archive of dead letters, and of replays from it.

use std::time::Duration;

use serde::Deserialize;

use super::values::{self, DAY, HOUR, MILLISECOND};

/// How dead letters are taken into the archive.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section")]
pub struct Archivist {
    /// Dead letters archived in one transaction, at most. 1..=1024, default 32.
    #[serde(deserialize_with = "values::whole::<1, 1024, _, _>")]
    pub batch_max: u16,
    /// Dead letters the broker sends ahead of their acks: few, since each may have megabytes. 1..=65535 and
    /// not below `batch_max`, default 64.
    #[serde(deserialize_with = "values::whole::<1, 65_535, _, _>")]
    pub prefetch: u16,
    /// Between two looks for dead letters whose jobs were charged meanwhile. 100ms..=1day, default 1m.
    #[serde(deserialize_with = "values::duration::<{ 100 * MILLISECOND }, DAY, _>")]
    pub resolve_interval: Duration,
    /// Between two looks at how many dead letters wait in their queue. 100ms..=1h, default 10s.
    #[serde(deserialize_with = "values::duration::<{ 100 * MILLISECOND }, HOUR, _>")]
    pub backlog_interval: Duration,
    /// Dead letters that may wait before readiness says no. 0..=1000000000, default 10000.
    #[serde(deserialize_with = "values::whole::<0, 1_000_000_000, _, _>")]
    pub backlog_max: u32,
    /// How long any dead letter may wait while none is archived, before readiness says no. 100ms..=1day,
    /// default 5m.
    #[serde(deserialize_with = "values::duration::<{ 100 * MILLISECOND }, DAY, _>")]
    pub backlog_max_age: Duration,
}

impl Default for Archivist {
    fn default() -> Self {
        Self {
            batch_max: 32,
            prefetch: 64,
            resolve_interval: Duration::from_mins(1),
            backlog_interval: Duration::from_secs(10),
            backlog_max: 10_000,
            backlog_max_age: Duration::from_mins(5),
        }
    }
}

/// How dead letters are sent again.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section")]
pub struct Replay {
    /// How long dead letters stay in the hands of a replay that died. Sending one page must take less.
    /// 100ms..=1h, default 1m.
    #[serde(deserialize_with = "values::duration::<{ 100 * MILLISECOND }, HOUR, _>")]
    pub claim: Duration,
    /// Dead letters of one company that a plan tries in the ledger, oldest first; they hold the company's row for
    /// as long. 1..=1000000, default 5000.
    #[serde(deserialize_with = "values::whole::<1, 1_000_000, _, _>")]
    pub plan_max: usize,
    /// Dead letters that must come back against the plan before a replay stops by itself, if they are most of
    /// those of which anything is known. 1..=1000000, default 50.
    #[serde(deserialize_with = "values::whole::<1, 1_000_000, _, _>")]
    pub stop_after: u32,
    /// How long a replay waits for outcomes while none comes in. 100ms..=1day, default 2m.
    #[serde(deserialize_with = "values::duration::<{ 100 * MILLISECOND }, DAY, _>")]
    pub outcome_timeout: Duration,
}

impl Default for Replay {
    fn default() -> Self {
        Self {
            claim: Duration::from_mins(1),
            plan_max: 5000,
            stop_after: 50,
            outcome_timeout: Duration::from_mins(2),
        }
    }
}
