//! Builds the adapters, starts the roles, and stops them in order.

mod faces;

use std::{fmt::Display, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api::Vitals,
    archivist::{self, Archivist, Backlog},
    config::{Role, Settings},
    readiness::{Readiness, Signs, watch_database, watch_readiness},
    scrape::Scrape,
    storage::{Purpose, Storage},
    sweeper::{self, SweepError, Sweeper},
    telemetry::{self, metrics::Metrics},
    worker::{self, Worker},
};

/// How often the counts are logged while anything happens.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Runs the roles until SIGTERM or SIGINT, then drains: what is in flight is finished and acked, within
/// `worker.drain_timeout`.
pub fn serve(settings: &Settings, roles: &[Role]) -> anyhow::Result<()> {
    let runtime = Runtime::new().context("starting the runtime")?;
    runtime.block_on(run(settings, roles))
}

async fn run(settings: &Settings, roles: &[Role]) -> anyhow::Result<()> {
    // First of all, so that being told to stop while starting is no crash.
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let traces = telemetry::start(&settings.log)?;
    for exposed in settings.exposed() {
        tracing::warn!("{exposed}");
    }
    let mut storage = Storage::new(&settings.database, &settings.reconnect)?;
    if roles == [Role::Http] {
        storage = storage.for_purpose(Purpose::Http);
    }
    let storage = Arc::new(storage);
    let sweeper = match roles.contains(&Role::Sweeper) {
        true => Some(sweeper(settings, &storage).await?),
        false => None,
    };
    let metrics = Arc::new(Metrics::new(settings));
    let service = Service::start(settings, &storage, &metrics, roles, sweeper);
    let mut faces = tokio::spawn(faces::run(
        settings.clone(),
        storage.clone(),
        metrics,
        roles.contains(&Role::Http),
        service.vitals.clone(),
        service.stop.clone(),
    ));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "started");

    let failed = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        () = service.working.wait() => None,
        ended = &mut faces => Some(ended),
    };
    tracing::info!("stopping: finishing what is in flight");
    service.stop.cancel();
    let ending = async {
        service.working.wait().await;
        match failed {
            Some(ended) => ended?,
            None => faces.await?,
        }
    };
    let drained = tokio::time::timeout(settings.worker.drain_timeout, ending).await;
    storage.close().await;
    traces.close().await;
    let counts = service.counts();
    let Ok(answered) = drained else {
        // Unacked messages go back to their queues; what committed is found by its key, or counted again.
        anyhow::bail!("not drained within worker.drain_timeout; {counts}");
    };
    answered?;
    tracing::info!("drained: {counts}");
    Ok(())
}

/// A sweeper whose query for articles can work. If the database is away or not migrated, that is found by a pass.
async fn sweeper(settings: &Settings, storage: &Arc<Storage>) -> anyhow::Result<Sweeper> {
    let sweeper = Sweeper::new(settings, storage.clone());
    if storage.probe().await.is_ok()
        && let Err(error @ SweepError::ArticleQuery(_)) = sweeper.article_query().await
    {
        return Err(error.into());
    }
    Ok(sweeper)
}

/// The roles of this process while they run.
struct Service {
    worker: Option<Arc<Worker>>,
    archivist: Option<Arc<Archivist>>,
    metrics: Arc<Metrics>,
    vitals: Vitals,
    working: TaskTracker,
    stop: CancellationToken,
}

impl Service {
    fn start(
        settings: &Settings,
        storage: &Arc<Storage>,
        metrics: &Arc<Metrics>,
        roles: &[Role],
        sweeper: Option<Sweeper>,
    ) -> Self {
        let has = |role| roles.contains(&role);
        let told = watch::Sender::new(Readiness::default());
        let service = Self {
            worker: has(Role::Worker)
                .then(|| Arc::new(Worker::new(settings, storage.clone(), metrics.clone()))),
            archivist: has(Role::Archivist)
                .then(|| Arc::new(Archivist::new(settings, storage.clone(), metrics.clone()))),
            metrics: metrics.clone(),
            vitals: Vitals {
                readiness: told.subscribe(),
                scrape: Arc::new(Scrape::new(settings, storage.clone(), metrics.clone())),
            },
            working: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        let (stop, working) = (&service.stop, &service.working);
        if let Some(worker) = &service.worker {
            working.spawn(worker::run(worker.clone(), stop.clone()));
            let metrics = metrics.clone();
            working.spawn(log_progress(move || metrics.worker_counts(), stop.clone()));
        }
        let backlog = watch::Sender::new(Backlog::default());
        let signs = Signs {
            database: storage.trouble(),
            charging: service.worker.as_ref().map(|worker| worker.consuming()),
            archiving: service.archivist.as_ref().map(|one| one.archiving()),
            backlog: service.archivist.as_ref().map(|_| backlog.subscribe()),
            alarm: service.worker.as_ref().map(|worker| worker.alarm()),
            refused: [
                service.worker.as_ref().map(|worker| worker.refused()),
                service.archivist.as_ref().map(|one| one.refused()),
            ]
            .into_iter()
            .flatten()
            .collect(),
        };
        if let Some(archivist) = service.archivist.clone() {
            working.spawn(archivist::run(archivist.clone(), stop.clone()));
            let metrics = metrics.clone();
            let read = move || metrics.archivist_counts();
            working.spawn(log_progress(read, stop.clone()));
            let stop = stop.clone();
            working.spawn(async move {
                archivist::watch_backlog(&archivist, &backlog, &stop).await;
            });
        }
        if let Some(sweeper) = sweeper {
            working.spawn(sweeper::run(sweeper, metrics.clone(), stop.clone()));
        }
        let (stop, storage, metrics) = (stop.clone(), storage.clone(), metrics.clone());
        working.spawn(async move {
            tokio::join!(
                watch_database(&storage, &stop),
                watch_readiness(signs, &told, &metrics, &stop)
            );
        });
        working.close();
        service
    }

    fn counts(&self) -> String {
        let worker = self
            .worker
            .iter()
            .map(|_| self.metrics.worker_counts().to_string());
        let archivist = self
            .archivist
            .iter()
            .map(|_| self.metrics.archivist_counts().to_string());
        worker.chain(archivist).collect::<Vec<_>>().join("; ")
    }
}

async fn log_progress<T: Display + PartialEq>(read: impl Fn() -> T, stop: CancellationToken) {
    let mut every = tokio::time::interval(PROGRESS_EVERY);
    let mut last = read();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        let now = read();
        if now != last {
            tracing::info!("{now}");
            last = now;
        }
    }
}
