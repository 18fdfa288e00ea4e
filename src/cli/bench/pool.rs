//! A worker in this process, and what it counts.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::bail;
use metrics::Histogram;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::lag::Lag;
use crate::{
    config::Settings,
    storage::Storage,
    telemetry::metrics::Metrics,
    worker::{self, Worker},
};

/// Without a charge for so long, something is wrong.
const PATIENCE: Duration = Duration::from_mins(1);

pub(super) struct Pool {
    worker: Arc<Worker>,
    metrics: Arc<Metrics>,
    lag: Arc<Lag>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

/// What was charged at a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Charged {
    pub(super) events: u64,
    pub(super) at: Instant,
}

impl Pool {
    pub(super) fn start(settings: &Settings) -> anyhow::Result<Self> {
        let storage = Arc::new(Storage::new(&settings.database, &settings.reconnect)?);
        let lag = Arc::<Lag>::default();
        let ages = Histogram::from_arc(lag.clone());
        let metrics = Arc::new(Metrics::new(settings).with_event_age(ages));
        let worker = Arc::new(Worker::new(settings, storage, metrics.clone()));
        let stop = CancellationToken::new();
        let running = tokio::spawn(worker::run(worker.clone(), stop.clone()));
        Ok(Self {
            worker,
            metrics,
            lag,
            stop,
            running,
        })
    }

    pub(super) async fn consuming(&self) -> anyhow::Result<()> {
        let mut consuming = self.worker.consuming();
        consuming.wait_for(|&consuming| consuming).await?;
        Ok(())
    }

    /// Of those charges whose events name the time.
    pub(super) fn lag(&self) -> &Lag {
        &self.lag
    }

    /// Batches that the ledger was asked about.
    pub(super) fn batches(&self) -> u64 {
        self.metrics.batches()
    }

    /// Waits until so many are charged.
    pub(super) async fn charged(&self, events: usize) -> anyhow::Result<Charged> {
        wait_until(events as u64, || self.metrics.worker_counts().charged).await
    }

    /// Waits until so many are in dead-letter queues.
    pub(super) async fn dead_lettered(&self, events: usize) -> anyhow::Result<Charged> {
        let count = || self.metrics.worker_counts().dead_lettered;
        wait_until(events as u64, count).await
    }

    /// Drains, acks the last batch, and ends. Returns how many commands all acks took.
    pub(super) async fn stop(mut self) -> anyhow::Result<u64> {
        self.stop.cancel();
        (&mut self.running).await?;
        Ok(self.worker.acks())
    }
}

impl Drop for Pool {
    /// Interrupted, it must not go on without its database.
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// Looks every millisecond until the count is so high, and goes on counting.
pub(super) async fn wait_until(events: u64, count: impl Fn() -> u64) -> anyhow::Result<Charged> {
    let mut look = tokio::time::interval(Duration::from_millis(1));
    let (mut last, mut progress_at) = (0, Instant::now());
    loop {
        look.tick().await;
        let now = count();
        if now >= events {
            return Ok(Charged {
                events: now,
                at: Instant::now(),
            });
        }
        if now != last {
            (last, progress_at) = (now, Instant::now());
        }
        if progress_at.elapsed() > PATIENCE {
            bail!("no progress for a minute, at {now} of {events}");
        }
    }
}
