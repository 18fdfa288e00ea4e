//! Builds the adapters, starts the roles, and stops them in order.

use std::{sync::Arc, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cli::Role,
    config::Settings,
    storage::Storage,
    sweeper::{self, SweepError, Sweeper},
    telemetry,
    worker::{self, Tally, Worker},
};

/// How often the counts are logged while anything happens.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Runs the roles until SIGTERM or SIGINT, then drains: what is in hand is finished and acked, within
/// `worker.drain_timeout`.
pub async fn serve(settings: Settings, roles: Vec<Role>) -> anyhow::Result<()> {
    // First of all, so that being told to stop while starting is no crash.
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    telemetry::init(&settings.log)?;
    let storage = Arc::new(Storage::new(&settings.database, &settings.reconnect)?);
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let worker = Arc::new(Worker::new(&settings, storage.clone()));
    if roles.contains(&Role::Worker) {
        tasks.spawn(worker::run(worker.clone(), stop.clone()));
        tasks.spawn(log_progress(worker.tally(), stop.clone()));
    }
    if roles.contains(&Role::Sweeper) {
        let sweeper = Sweeper::new(&settings, storage.clone());
        // A query that can't work is refused now. If the database is away, a pass will say so.
        if storage.reach().await.is_ok()
            && let Err(error @ SweepError::ArticleQuery(_)) = sweeper.article_query().await
        {
            return Err(error.into());
        }
        tasks.spawn(sweeper::run(sweeper, stop.clone()));
    }
    tasks.close();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "started");

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = tasks.wait() => {}
    }
    tracing::info!("stopping: finishing what is in hand");
    stop.cancel();
    let drained = tokio::time::timeout(settings.worker.drain_timeout, tasks.wait()).await;
    storage.close().await;
    let tally = worker.tally().read();
    if drained.is_err() {
        // Unacked messages go back to the queue; a charge that committed is found by its key.
        anyhow::bail!("not drained within worker.drain_timeout; {tally}");
    }
    tracing::info!("drained: {tally}");
    Ok(())
}

async fn log_progress(tally: Arc<Tally>, stop: CancellationToken) {
    let mut every = tokio::time::interval(PROGRESS_EVERY);
    let mut last = tally.read();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        let now = tally.read();
        if now != last {
            tracing::info!("{now}");
            last = now;
        }
    }
}
