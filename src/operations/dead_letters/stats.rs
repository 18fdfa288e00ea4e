//! How many dead letters are open, how old, how fast they come.

use std::time::Duration;

use serde::Serialize;

use crate::broker::{Connection, Topology};
use crate::domain::RetrySchedule;
use crate::operations::{OperationError, Operations};
use crate::storage::OpenByReason;

/// What a probe finds too much.
#[derive(Debug, Clone, Copy, Default)]
pub struct Thresholds {
    /// More than so many open ones, those that no client can read included.
    pub max_open: Option<u32>,
    /// One that is open for longer.
    pub max_age: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Stats {
    pub open: i64,
    /// The tokens they ask for, where that can be read.
    pub tokens: i64,
    /// Since when the oldest of them is archived.
    pub oldest_age_seconds: Option<i64>,
    /// The open ones by reason, the most frequent first.
    pub by_reason: Vec<OpenByReason>,
    /// Whatever became of them.
    pub arrived_last_minute: i64,
    /// Over the last quarter of an hour.
    pub arrivals_per_minute: f64,
    /// Not archived yet; null: the broker couldn't be asked.
    pub waiting_in_queue: Option<u32>,
    /// Where nobody consumes, since no client can read them; null: the broker couldn't be asked.
    pub unreadable: Option<u32>,
    /// The thresholds that are exceeded, by their names.
    pub exceeded: Vec<&'static str>,
    /// Why the broker couldn't be asked.
    #[serde(skip)]
    pub queue_unknown: Option<String>,
}

impl Operations {
    /// The figures, held against thresholds. A broker that can't be asked is no failure.
    ///
    /// # Errors
    ///
    /// The database can't be asked.
    pub async fn dead_letter_stats(&self, thresholds: Thresholds) -> Result<Stats, OperationError> {
        self.resolve_charged().await;
        let (by_reason, lately, queues) = tokio::join!(
            self.storage.open_dead_letters(),
            self.storage.dead_letter_arrivals(),
            self.ready_counts()
        );
        let (by_reason, (last_minute, last_15_minutes)) = (by_reason?, lately?);
        let queue_unknown = queues.as_ref().err().map(OperationError::to_string);
        let (waiting_in_queue, unreadable) = queues.ok().unzip();
        let mut stats = Stats {
            open: by_reason.iter().map(|one| one.open).sum(),
            tokens: by_reason
                .iter()
                .fold(0, |sum, one| one.tokens.saturating_add(sum)),
            oldest_age_seconds: by_reason.iter().map(|one| one.oldest_age_seconds).max(),
            by_reason,
            arrived_last_minute: last_minute,
            arrivals_per_minute: last_15_minutes as f64 / 15.0,
            waiting_in_queue,
            unreadable,
            exceeded: Vec::new(),
            queue_unknown,
        };
        stats.exceeded = thresholds.exceeded_by(&stats);
        Ok(stats)
    }

    /// The open ones by reason, the most frequent first.
    ///
    /// # Errors
    ///
    /// The database can't be asked.
    pub async fn open_dead_letters(&self) -> Result<Vec<OpenByReason>, OperationError> {
        Ok(self.storage.open_dead_letters().await?)
    }

    /// What waits in the dead-letter queue, and where nobody consumes.
    async fn ready_counts(&self) -> Result<(u32, u32), OperationError> {
        let broker = self.settings.require_broker()?;
        let topology = Topology::new(broker, &RetrySchedule::new(&self.settings.retry));
        let connection = Connection::open(broker, "stats").await?;
        let waiting = connection.ready_count(&topology.dead_letters()).await;
        let unreadable = connection.ready_count(&topology.unreadable()).await;
        connection.close().await;
        Ok((waiting?, unreadable?))
    }
}

impl Thresholds {
    fn exceeded_by(self, stats: &Stats) -> Vec<&'static str> {
        let open = stats.open + i64::from(stats.unreadable.unwrap_or(0));
        let oldest = stats.oldest_age_seconds.unwrap_or(0).unsigned_abs();
        let too_many = self.max_open.is_some_and(|max| open > i64::from(max));
        let too_old = self.max_age.is_some_and(|max| oldest > max.as_secs());
        let exceeded = [("max_open", too_many), ("max_age", too_old)];
        let exceeded = exceeded.into_iter().filter(|(_, exceeded)| *exceeded);
        exceeded.map(|(name, _)| name).collect()
    }
}
