//! The measurements, each on a fresh scratch database and prefix that are removed after it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    super::output::note,
    workload::{TOKENS, Workload},
};
use crate::{
    broker::{Connection, Outgoing, Publisher, Topology},
    config::Settings,
    domain::{CompletionEvent, RetrySchedule},
    storage::{Scratch, Storage},
    worker::{self, Worker},
};

/// One figure: how many, in what time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    pub(super) events: usize,
    pub(super) seconds: f64,
}

impl Rate {
    pub(super) fn per_second(self) -> f64 {
        self.events as f64 / self.seconds
    }
}

/// From publish to committed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Latency {
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    pub(super) max: Duration,
}

/// A scratch installation.
pub(super) struct Lab {
    settings: Settings,
    scratch: Scratch,
}

impl Lab {
    /// Sets it up on the configured servers.
    pub(super) async fn open(settings: &Settings, workload: Workload) -> anyhow::Result<Self> {
        let mark = Uuid::new_v4().simple().to_string();
        let name = format!("token_billing_bench_{mark}");
        let scratch = Scratch::create(&settings.database, &settings.reconnect, name)
            .await
            .context("creating a scratch database (the role needs CREATEDB)")?;
        let mut settings = settings.clone();
        settings.database = scratch.database.clone();
        settings.broker.prefix = format!("token-billing-bench-{}", &mark[..12]);
        let lab = Self { settings, scratch };
        match lab.prepare(workload).await {
            Ok(()) => Ok(lab),
            Err(error) => {
                lab.close().await;
                Err(error)
            }
        }
    }

    async fn prepare(&self, workload: Workload) -> anyhow::Result<()> {
        let spent_at_most = i64::try_from(workload.events)? * TOKENS * 2;
        self.scratch
            .seed_companies(&workload.company_ids(), spent_at_most)
            .await?;
        // Half of the jobs are known to the application.
        let known: Vec<usize> = (0..workload.events).step_by(2).collect();
        for numbers in known.chunks(10_000) {
            let jobs: Vec<Uuid> = numbers.iter().map(|&n| workload.job(n)).collect();
            let companies: Vec<Uuid> = numbers.iter().map(|&n| workload.company_of(n)).collect();
            self.scratch.seed_jobs(&jobs, &companies).await?;
        }
        let connection = self.connect().await?;
        self.topology().declare(&connection).await?;
        connection.close().await;
        Ok(self.scratch.settle().await?)
    }

    /// Removes database and queues.
    pub(super) async fn close(self) {
        let queues = async {
            let connection = self.connect().await?;
            self.topology().delete(&connection).await?;
            connection.close().await;
            anyhow::Ok(())
        };
        if let Err(error) = queues.await {
            note(&format!(
                "warning: queues {}* are left behind: {error:#}",
                self.settings.broker.prefix
            ));
        }
        if let Err(error) = self.scratch.drop_database().await {
            note(&format!(
                "warning: a scratch database is left behind: {error}"
            ));
        }
    }

    async fn connect(&self) -> anyhow::Result<Connection> {
        Ok(Connection::open(&self.settings.broker, "bench").await?)
    }

    fn topology(&self) -> Topology {
        Topology::new(
            &self.settings.broker,
            &RetrySchedule::new(&self.settings.retry),
        )
    }

    /// The function alone, called with ready arrays.
    pub(super) async fn function(
        &self,
        workload: Workload,
        connections: usize,
    ) -> anyhow::Result<Rate> {
        let limits = &self.settings.limits;
        let batch = usize::from(self.settings.worker.batch_max);
        let events: Vec<CompletionEvent> = workload
            .events()
            .map(|body| CompletionEvent::parse(body.as_bytes(), None, limits))
            .collect::<Result<_, _>>()?;
        let began = Instant::now();
        let share = events.len().div_ceil(connections);
        futures_util::future::try_join_all(events.chunks(share).map(async |events| {
            for events in events.chunks(batch) {
                let events: Vec<&CompletionEvent> = events.iter().collect();
                self.scratch.deduct(&events).await?;
            }
            anyhow::Ok(())
        }))
        .await?;
        let rate = Rate {
            events: events.len(),
            seconds: began.elapsed().as_secs_f64(),
        };
        self.check(workload.events).await?;
        Ok(rate)
    }

    /// A preloaded backlog through the queue and a pool of workers, until the last is acked.
    pub(super) async fn backlog(
        &self,
        workload: Workload,
        batch_max: Option<u16>,
    ) -> anyhow::Result<Rate> {
        self.publish(workload).await?;
        let mut settings = self.settings.clone();
        settings.worker.batch_max = batch_max.unwrap_or(settings.worker.batch_max);
        let pool = Pool::start(&settings)?;
        let began = pool.charged(1).await?;
        pool.charged(workload.events as u64).await?;
        pool.stop().await?;
        let rate = Rate {
            events: workload.events,
            seconds: began.elapsed().as_secs_f64(),
        };
        self.check(workload.events).await?;
        Ok(rate)
    }

    /// Events at a steady pace, each charged when it comes.
    pub(super) async fn steady(
        &self,
        workload: Workload,
        per_second: u32,
    ) -> anyhow::Result<Latency> {
        let pool = Pool::start(&self.settings)?;
        pool.worker
            .consuming()
            .wait_for(|&consuming| consuming)
            .await?;
        let topology = self.topology();
        let (due, mut to_publish) = tokio::sync::mpsc::unbounded_channel();
        let mut tick = tokio::time::interval(Duration::from_secs(1) / per_second);
        let producing = async {
            for n in 0..workload.events {
                tick.tick().await;
                let body = workload
                    .body(n, Some(OffsetDateTime::now_utc()))
                    .into_bytes();
                due.send(Outgoing::event(&topology, body, "application/json", None))?;
            }
            drop(due);
            anyhow::Ok(())
        };
        // As a publisher does that doesn't wait for each confirm: what came due meanwhile goes together.
        let publisher = Publisher::plain(&self.settings.broker, &topology);
        let publishing = async {
            let mut window = Vec::new();
            while to_publish.recv_many(&mut window, 1024).await > 0 {
                for published in publisher.publish(&window).await {
                    published?;
                }
                window.clear();
            }
            anyhow::Ok(())
        };
        tokio::try_join!(producing, publishing)?;
        publisher.close().await;
        pool.charged(workload.events as u64).await?;
        let tally = pool.worker.tally();
        let lag = tally.lag();
        let latency = Latency {
            p50: lag.quantile(0.5).unwrap_or_default(),
            p99: lag.quantile(0.99).unwrap_or_default(),
            max: lag.max(),
        };
        pool.stop().await?;
        self.check(workload.events).await?;
        Ok(latency)
    }

    async fn publish(&self, workload: Workload) -> anyhow::Result<()> {
        let (publisher, topology) = (
            Publisher::plain(&self.settings.broker, &self.topology()),
            self.topology(),
        );
        let mut events = workload
            .events()
            .map(|body| Outgoing::event(&topology, body.into_bytes(), "application/json", None));
        loop {
            let window: Vec<Outgoing> = events.by_ref().take(1024).collect();
            if window.is_empty() {
                break;
            }
            for published in publisher.publish(&window).await {
                published?;
            }
        }
        publisher.close().await;
        Ok(())
    }

    /// A figure for work that wasn't done right is worth nothing.
    async fn check(&self, events: usize) -> anyhow::Result<()> {
        let events = i64::try_from(events)?;
        let totals = self.scratch.totals().await?;
        ensure!(
            totals == (events, events, events * TOKENS),
            "the ledger is wrong after {events} events: records, logs, tokens are {totals:?}"
        );
        Ok(())
    }
}

/// A pool of workers in this process.
struct Pool {
    worker: Arc<Worker>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

impl Pool {
    fn start(settings: &Settings) -> anyhow::Result<Self> {
        let storage = Arc::new(Storage::new(&settings.database, &settings.reconnect)?);
        let worker = Arc::new(Worker::new(settings, storage));
        let stop = CancellationToken::new();
        let running = tokio::spawn(worker::run(worker.clone(), stop.clone()));
        Ok(Self {
            worker,
            stop,
            running,
        })
    }

    /// Waits until so many are charged; returns when that was seen.
    async fn charged(&self, events: u64) -> anyhow::Result<Instant> {
        let tally = self.worker.tally();
        let mut look = tokio::time::interval(Duration::from_millis(1));
        let (mut last, mut progress_at) = (0, Instant::now());
        loop {
            look.tick().await;
            let now = tally.read();
            if now.charged >= events {
                return Ok(Instant::now());
            }
            if now.charged != last {
                (last, progress_at) = (now.charged, Instant::now());
            }
            if progress_at.elapsed() > Duration::from_secs(60) {
                bail!("no charge for a minute: {now}");
            }
        }
    }

    /// Drains, acks the last batch, and ends.
    async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        Ok(self.running.await?)
    }
}
