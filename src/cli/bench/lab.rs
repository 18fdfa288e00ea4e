//! Scratch installations: a database and queues of a measurement's own.

use std::{
    mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use anyhow::{Context as _, ensure};
use uuid::Uuid;

use super::{
    super::output::note,
    args::BenchArgs,
    workload::{TOKENS, Workload},
};
use crate::{
    broker::{Connection, Outgoing, Publisher, Topology},
    config::Settings,
    domain::{CompletionEvent, RetrySchedule},
    storage::Scratch,
};

/// One run of the program, and what it has to remove.
pub(super) struct Bench {
    pub(super) settings: Settings,
    pub(super) args: BenchArgs,
    labs: Mutex<Vec<Arc<Lab>>>,
}

impl Bench {
    pub(super) fn new(settings: &Settings, args: BenchArgs) -> Self {
        Self {
            settings: settings.clone(),
            args,
            labs: Mutex::default(),
        }
    }

    /// Sets up a scratch installation with the companies of these workloads, and jobs of half of their events.
    pub(super) async fn lab(&self, workloads: &[&Workload]) -> anyhow::Result<Arc<Lab>> {
        self.lab_with(workloads, |_| {}).await
    }

    /// The same with other settings.
    pub(super) async fn lab_with(
        &self,
        workloads: &[&Workload],
        set: impl FnOnce(&mut Settings),
    ) -> anyhow::Result<Arc<Lab>> {
        let mut settings = self.settings.clone();
        set(&mut settings);
        let lab = Arc::new(Lab::new(settings)?);
        // Before anything is there: whatever happens then, it is removed.
        self.open_labs(|labs| labs.push(lab.clone()));
        lab.create().await?;
        for workload in workloads {
            lab.seed(workload).await?;
        }
        lab.scratch.settle().await?;
        Ok(lab)
    }

    /// Removes all that was set up.
    pub(super) async fn close_labs(&self) {
        for lab in self.open_labs(mem::take) {
            lab.close().await;
        }
    }

    fn open_labs<T>(&self, change: impl FnOnce(&mut Vec<Arc<Lab>>) -> T) -> T {
        change(&mut self.labs.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A scratch installation.
pub(super) struct Lab {
    pub(super) settings: Settings,
    pub(super) scratch: Scratch,
    /// Purchased tokens that its companies were given.
    given: AtomicI64,
    /// Records that its ledger has to have, of which so many are as good as charged elsewhere.
    records: AtomicI64,
    seeded_records: AtomicI64,
}

impl Lab {
    fn new(mut settings: Settings) -> anyhow::Result<Self> {
        let mark = Uuid::new_v4().simple().to_string();
        let name = format!("token_billing_bench_{mark}");
        let scratch = Scratch::new(&settings.database, &settings.reconnect, name)?;
        settings.database = scratch.database.clone();
        settings.broker.prefix = format!("token-billing-bench-{}", &mark[..12]);
        Ok(Self {
            settings,
            scratch,
            given: AtomicI64::new(0),
            records: AtomicI64::new(0),
            seeded_records: AtomicI64::new(0),
        })
    }

    async fn create(&self) -> anyhow::Result<()> {
        let created = self.scratch.create().await;
        created.context("creating a scratch database (the role needs CREATEDB)")?;
        let connection = self.connect().await?;
        self.topology().declare(&connection).await?;
        connection.close().await;
        Ok(())
    }

    async fn seed(&self, workload: &Workload) -> anyhow::Result<()> {
        self.seed_companies(workload).await?;
        // Half of the jobs are known to the application.
        let known: Vec<usize> = workload.numbers.clone().step_by(2).collect();
        for numbers in known.chunks(10_000) {
            let jobs: Vec<Uuid> = numbers.iter().map(|&n| workload.job(n)).collect();
            let companies: Vec<Uuid> = numbers.iter().map(|&n| workload.company_of(n)).collect();
            self.scratch.seed_jobs(&jobs, &companies).await?;
        }
        Ok(())
    }

    /// Each could pay for all of it twice.
    pub(super) async fn seed_companies(&self, workload: &Workload) -> anyhow::Result<()> {
        let (companies, balance) = (workload.company_ids(), 2 * workload.tokens());
        self.scratch.seed_companies(&companies, balance).await?;
        let given = balance * i64::try_from(companies.len())?;
        self.given.fetch_add(given, Ordering::Relaxed);
        Ok(())
    }

    /// Completed records that are there before anything is charged.
    pub(super) async fn seed_records(
        &self,
        records: u32,
        workload: &Workload,
    ) -> anyhow::Result<()> {
        let in_time_order = workload.keys == super::args::Keys::V7;
        let (records, companies) = (i64::from(records), workload.company_ids());
        self.scratch
            .seed_records(records, in_time_order, &companies, TOKENS)
            .await?;
        self.records.fetch_add(records, Ordering::Relaxed);
        self.seeded_records.fetch_add(records, Ordering::Relaxed);
        Ok(self.scratch.settle().await?)
    }

    /// Removes database and queues.
    async fn close(&self) {
        let prefix = &self.settings.broker.prefix;
        let queues = async {
            let connection = self.connect().await?;
            self.topology().delete(&connection).await?;
            connection.close().await;
            anyhow::Ok(())
        };
        if let Err(error) = queues.await {
            note(&format!(
                "warning: queues {prefix}* are left behind: {error:#}"
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

    pub(super) fn topology(&self) -> Topology {
        Topology::new(
            &self.settings.broker,
            &RetrySchedule::new(&self.settings.retry),
        )
    }

    /// The events as the worker has them, once it has read them.
    pub(super) fn events(&self, workload: &Workload) -> anyhow::Result<Vec<CompletionEvent>> {
        let limits = &self.settings.limits;
        let parse = |body: String| CompletionEvent::parse(body.as_bytes(), None, limits);
        let events: Result<_, _> = workload.bodies().map(parse).collect();
        Ok(events?)
    }

    /// Publishes all of it, as fast as the broker confirms.
    pub(super) async fn publish(&self, workload: &Workload) -> anyhow::Result<()> {
        let topology = self.topology();
        let publisher = Publisher::plain(&self.settings.broker, &topology);
        let mut events = workload
            .bodies()
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

    /// So many more events are charged, each exactly once: records, usage logs and balances say so.
    pub(super) async fn check(&self, events: usize) -> anyhow::Result<()> {
        let events = i64::try_from(events)?;
        let records = self.records.fetch_add(events, Ordering::Relaxed) + events;
        let charged = records - self.seeded_records.load(Ordering::Relaxed);
        let left = self.given.load(Ordering::Relaxed) - charged * TOKENS;
        let is = (
            self.scratch.totals().await?,
            self.scratch.purchased(None).await?,
        );
        let ought = ((records, records, records * TOKENS), left);
        ensure!(
            is == ought,
            "the ledger is wrong: ((records, logs, tokens), tokens left) are {is:?} instead of {ought:?}"
        );
        Ok(())
    }
}
