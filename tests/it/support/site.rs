//! One installation of the product for one test: its database, its prefix, its settings.

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde_json::{Value, json};
use token_billing::{
    archivist::{self, Archivist},
    config::Settings,
    storage::{DeadLetter, Selection, Storage},
    telemetry::metrics::{ArchivistCounts, Metrics, WorkerCounts},
    worker::{self, Worker},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    broker::TestBroker,
    eventually::{PATIENCE, eventually},
    ledger::{Ledger, Record},
    servers::Servers,
};

/// The default schedule's delays.
pub(crate) const DELAYS: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// The installation.
pub(crate) struct Site {
    pub(crate) db: Ledger,
    pub(crate) broker: TestBroker,
    variables: HashMap<String, String>,
}

/// A pool of workers in this process.
pub(crate) struct Running {
    stop: CancellationToken,
    done: JoinHandle<()>,
    pub(crate) metrics: Arc<Metrics>,
}

/// An archivist in this process.
pub(crate) struct Archiving {
    stop: CancellationToken,
    done: JoinHandle<()>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Site {
    /// On the shared servers.
    pub(crate) async fn new() -> Self {
        Self::on(Servers::shared()).await
    }

    /// On these servers.
    pub(crate) async fn on(servers: &Servers) -> Self {
        let db = Ledger::open_on(servers).await;
        let broker = TestBroker::create(servers, &DELAYS).await;
        let mut site = Self {
            db,
            broker,
            variables: HashMap::new(),
        };
        let (url, amqp) = (site.db.url().to_owned(), site.broker.url().to_owned());
        let prefix = site.broker.prefix().to_owned();
        site.set("DATABASE__URL", &url);
        site.set("BROKER__URL", &amqp);
        site.set("BROKER__PREFIX", &prefix);
        site
    }

    /// Changes a setting: `WORKER__BATCH_MAX`.
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        self.variables
            .insert(format!("TOKEN_BILLING__{key}"), value.to_owned());
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings::load_from(None, self.variables.clone()).expect("the settings are good")
    }

    /// The settings as the environment of a process.
    pub(crate) fn environment(&self) -> Vec<(&str, &str)> {
        self.variables
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect()
    }

    pub(crate) fn storage(&self) -> Storage {
        let settings = self.settings();
        Storage::new(&settings.database, &settings.reconnect).expect("the URL is good")
    }

    /// Declares the queues and starts a pool of workers.
    pub(crate) async fn start(&self) -> Running {
        self.declare().await;
        self.start_unready()
    }

    /// Starts a pool of workers.
    pub(crate) fn start_unready(&self) -> Running {
        let (settings, stop) = (self.settings(), CancellationToken::new());
        let metrics = Arc::new(Metrics::new(&settings));
        let storage = Arc::new(self.storage());
        let worker = Arc::new(Worker::new(&settings, storage, metrics.clone()));
        let done = tokio::spawn(worker::run(worker, stop.clone()));
        Running {
            stop,
            done,
            metrics,
        }
    }

    /// Declares the queues and starts an archivist; returns when it takes dead letters.
    pub(crate) async fn archive_running(&self) -> Archiving {
        self.declare().await;
        let (settings, stop) = (self.settings(), CancellationToken::new());
        let metrics = Arc::new(Metrics::new(&settings));
        let storage = Arc::new(self.storage());
        let archivist = Arc::new(Archivist::new(&settings, storage, metrics.clone()));
        let mut archiving = archivist.archiving();
        let done = tokio::spawn(archivist::run(archivist, stop.clone()));
        let archives = archiving.wait_for(|archiving| *archiving);
        tokio::time::timeout(PATIENCE, archives)
            .await
            .expect("it archives soon")
            .expect("it runs");
        Archiving {
            stop,
            done,
            metrics,
        }
    }

    /// All archived dead letters, oldest first.
    pub(crate) async fn dead_letters(&self) -> Vec<DeadLetter> {
        let storage = self.storage();
        let (mut dead_letters, mut before) = (Vec::new(), None);
        loop {
            let page = storage
                .dead_letters(&Selection::default(), before, 1000)
                .await
                .expect("dead letters can be read");
            let Some(last) = page.last() else { break };
            before = Some(last.id);
            dead_letters.extend(page);
        }
        storage.close().await;
        dead_letters.reverse();
        dead_letters
    }

    /// Waits until the archive has so many dead letters; all of them, oldest first.
    pub(crate) async fn archived(&self, count: i64) -> Vec<DeadLetter> {
        eventually(
            &format!("{count} dead letters are archived"),
            PATIENCE,
            async || self.number("select count(*) from dead_letters").await,
            |&archived| archived == count,
        )
        .await;
        self.dead_letters().await
    }

    /// Declares the queues, so that events can be published before there is a worker.
    pub(crate) async fn declare(&self) {
        let mut settings = self.settings();
        // Past a proxy that the test may have put in between.
        settings.broker.url = self.broker.url().to_owned().into();
        let schedule = token_billing::domain::RetrySchedule::new(&settings.retry);
        let topology = token_billing::broker::Topology::new(&settings.broker, &schedule);
        let connection = token_billing::broker::Connection::open(&settings.broker, "test")
            .await
            .expect("connects");
        topology.declare(&connection).await.expect("declares");
        connection.close().await;
    }

    pub(crate) async fn company(&self, monthly: i64, purchased: i64) -> Uuid {
        self.db.company(monthly, purchased).await
    }

    pub(crate) async fn job(&self, company: Uuid) -> Uuid {
        self.db.job(company).await
    }

    pub(crate) async fn publish(&self, job: Uuid, company: Uuid, tokens: i64) {
        self.broker
            .publish(event(job, company, tokens).to_string())
            .await;
    }

    /// Monthly and purchased balance.
    pub(crate) async fn balance(&self, company: Uuid) -> (i64, i64) {
        self.db.balances(company).await
    }

    pub(crate) async fn record(&self, job: Uuid) -> Option<Record> {
        self.db.record(job).await
    }

    /// Waits until the record of the job has this status.
    pub(crate) async fn until(&self, job: Uuid, status: &str) -> Record {
        eventually(
            &format!("the record of {job} is {status}"),
            PATIENCE,
            async || self.record(job).await,
            |record| {
                record
                    .as_ref()
                    .is_some_and(|record| record.status == status)
            },
        )
        .await
        .expect("checked")
    }

    /// Status and message of the job.
    pub(crate) async fn job_status(&self, job: Uuid) -> (String, Option<String>) {
        self.db.job_status(job).await
    }

    /// One number from the database.
    pub(crate) async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql)
            .fetch_one(self.db.pool())
            .await
            .expect(sql)
    }

    /// Waits for a dead letter and takes it from the queue.
    pub(crate) async fn dead_letter(&self) -> super::broker::Message {
        let queue = self.broker.dead_letters();
        eventually(
            "a dead letter",
            PATIENCE,
            async || self.broker.take(&queue).await,
            Option::is_some,
        )
        .await
        .expect("checked")
    }
}

impl Running {
    pub(crate) fn counts(&self) -> WorkerCounts {
        self.metrics.worker_counts()
    }

    /// Stops as SIGTERM does, and waits for the drain.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.done.await.expect("the pool doesn't panic");
    }
}

impl Archiving {
    pub(crate) fn counts(&self) -> ArchivistCounts {
        self.metrics.archivist_counts()
    }

    /// Stops as SIGTERM does, and waits for the drain.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.done.await.expect("the archivist doesn't panic");
    }
}

/// A completion event.
pub(crate) fn event(job: Uuid, company: Uuid, tokens: i64) -> Value {
    json!({ "job_id": job, "tokens": tokens, "company_id": company })
}
