//! Processes of their own on one queue: this program's, started as a service manager would.

use std::{
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use secrecy::ExposeSecret as _;
use serde::Serialize;
use tokio::process::{Child, Command};

use super::{
    super::output::note,
    lab::{Bench, Lab},
    rate::{Rate, Rates, Ratio},
    throughput::{peak_memory_mib, per_second},
    workload::Workload,
};
use crate::config::Settings;

/// Without progress for so long, something is wrong.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Debug, Clone, Serialize)]
pub(super) struct ProcessesFigures {
    /// Of the one process, and of the two in sum.
    pub(super) lanes: u16,
    pub(super) one: Rates,
    pub(super) two: Rates,
    pub(super) two_to_one: Ratio,
    /// Of the one process: `serve --role worker` and nothing else.
    pub(super) peak_memory_mib: Option<f64>,
}

pub(super) async fn processes(
    bench: &Bench,
    workload: &Workload,
) -> anyhow::Result<ProcessesFigures> {
    let each = (bench.settings.worker.lanes / 2).max(1);
    let mut one = Processes::open(bench, workload, 1, 2 * each).await?;
    let mut two = Processes::open(bench, workload, 2, each).await?;
    let rounds = bench.args.rounds as usize;
    for round in 0..rounds {
        one.round(round, rounds).await?;
        two.round(round, rounds).await?;
    }
    let peak_memory_mib = one.peak_memory_mib;
    let (one, two) = (Rates::of(&one.rounds), Rates::of(&two.rounds));
    Ok(ProcessesFigures {
        lanes: 2 * each,
        two_to_one: two.to(&one),
        one,
        two,
        peak_memory_mib,
    })
}

/// So many, with so many lanes each, that share a backlog.
struct Processes {
    lab: Arc<Lab>,
    workload: Workload,
    count: usize,
    lanes: u16,
    rounds: Vec<Rate>,
    peak_memory_mib: Option<f64>,
}

impl Processes {
    async fn open(
        bench: &Bench,
        workload: &Workload,
        count: usize,
        lanes: u16,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            lab: bench.lab(&[workload]).await?,
            workload: workload.clone(),
            count,
            lanes,
            rounds: Vec::new(),
            peak_memory_mib: None,
        })
    }

    async fn round(&mut self, round: usize, rounds: usize) -> anyhow::Result<()> {
        let part = self.workload.part(round, rounds);
        self.lab.publish(&part).await?;
        let before = self.lab.scratch.movements().await?;
        let mut children = Vec::new();
        for _ in 0..self.count {
            children.push(self.start()?);
        }
        let (first, began) = self.movements(before + 1, &mut children).await?;
        let events = i64::try_from(part.events())?;
        let (last, ended) = self.movements(before + events, &mut children).await?;
        for child in children {
            let pid = child.id().unwrap_or_default().to_string();
            let peaks = [self.peak_memory_mib, peak_memory_mib(&pid)];
            self.peak_memory_mib = peaks.into_iter().flatten().reduce(f64::max);
            stop(child, &pid).await?;
        }
        let rate = Rate::new(last - first, (ended - began).as_secs_f64());
        let (count, figure) = (self.count, per_second(rate));
        note(&format!("  processes, {count}: {figure}"));
        self.rounds.push(rate);
        self.lab.check(part.events()).await
    }

    /// What the ledger has come to once it is as far as this. It numbers a movement a moment before it commits it.
    async fn movements(
        &self,
        until: i64,
        children: &mut [Child],
    ) -> anyhow::Result<(i64, Instant)> {
        let mut look = tokio::time::interval(Duration::from_millis(2));
        let (mut last, mut progress_at) = (0, Instant::now());
        loop {
            look.tick().await;
            let now = self.lab.scratch.movements().await?;
            if now >= until {
                return Ok((now, Instant::now()));
            }
            if now != last {
                (last, progress_at) = (now, Instant::now());
            }
            ensure!(progress_at.elapsed() < PATIENCE, "no charge for a minute");
            for child in children.iter_mut() {
                if let Some(status) = child.try_wait()? {
                    bail!("a worker process ended by itself: {status}");
                }
            }
        }
    }

    fn start(&self) -> anyhow::Result<Child> {
        let executable = std::env::current_exe().context("finding this program")?;
        Command::new(executable)
            .args(["serve", "--role", "worker"])
            .envs(variables(&self.lab.settings, self.lanes))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("starting a worker process")
    }
}

/// The settings that matter to a worker on these queues, as its environment has them.
fn variables(settings: &Settings, lanes: u16) -> [(String, String); 13] {
    let Settings {
        database,
        broker,
        worker,
        retry,
        ..
    } = settings;
    let ms = |duration: Duration| format!("{}ms", duration.as_millis());
    [
        ("DATABASE__URL", database.url.expose_secret().to_owned()),
        (
            "DATABASE__MAX_CONNECTIONS",
            database.max_connections.to_string(),
        ),
        ("BROKER__URL", broker.url.expose_secret().to_owned()),
        ("BROKER__PREFIX", broker.prefix.clone()),
        ("BROKER__DELIVERY_LIMIT", broker.delivery_limit.to_string()),
        ("WORKER__LANES", lanes.to_string()),
        ("WORKER__BATCH_MAX", worker.batch_max.to_string()),
        ("WORKER__PREFETCH", worker.prefetch.to_string()),
        ("RETRY__BASE", ms(retry.base)),
        ("RETRY__FACTOR", retry.factor.to_string()),
        ("RETRY__MAX_DELAY", ms(retry.max_delay)),
        ("RETRY__ATTEMPTS", retry.attempts.to_string()),
        ("LOG__FILTER", "error".to_owned()),
    ]
    .map(|(name, value)| (format!("TOKEN_BILLING__{name}"), value))
}

/// Asks it to drain, so that nothing comes again in the next round.
async fn stop(mut child: Child, pid: &str) -> anyhow::Result<()> {
    let asked = Command::new("kill").args(["-s", "TERM", pid]).status();
    let asked = asked.await.context("running kill")?;
    ensure!(asked.success(), "kill -s TERM {pid}: {asked}");
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
    let ended = ended.context("a worker process doesn't end")??;
    ensure!(ended.success(), "a worker process: {ended}");
    Ok(())
}
