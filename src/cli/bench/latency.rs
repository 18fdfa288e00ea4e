//! How long an event waits: from publish to committed, while nothing, locks or a flood are in the way.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde::Serialize;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::{
    lab::{Bench, Lab},
    lag::Lag,
    pool::Pool,
    throughput::PATIENT_ATTEMPTS,
    workload::Workload,
};
use crate::{
    broker::{Outgoing, Publisher},
    config::Settings,
};

/// Events a second of the steady traffic.
pub(super) const STEADY_RATE: u32 = 500;
/// Companies of which some are locked.
const COMPANIES: usize = 40;
/// Companies beside the one with a flood, with an event a second each.
const OTHERS: u32 = 100;
/// Writes to the disk in one series.
const FSYNCS: usize = 200;
/// A page of the database's.
const PAGE_BYTES: usize = 8192;

/// From publish to committed, by this machine's clock.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Latency {
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
    /// For the picture: what share of all took at most so long.
    #[serde(skip)]
    pub(super) distribution: Vec<(f64, f64)>,
}

impl Latency {
    pub(super) fn of(lag: &Lag) -> Self {
        let at = |share| ms(lag.quantile(share).unwrap_or_default());
        // Each percent, and the last one in tenths.
        let shares = (10..990).step_by(10).chain(990..1000);
        let shares = shares.map(|share| f64::from(share) / 1000.0);
        Self {
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: ms(lag.max()),
            distribution: shares.map(|share| (share, at(share))).collect(),
        }
    }
}

/// Steady traffic, and the disk's own part of it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct LatencyFigures {
    #[serde(flatten)]
    pub(super) latency: Latency,
    /// 8 KiB written over and synced, half of them before and half after.
    pub(super) fsync_p50_ms: f64,
    pub(super) fsync_p99_ms: f64,
}

/// Of those companies that aren't locked.
#[derive(Debug, Clone, Serialize)]
pub(super) struct LockedFigures {
    pub(super) companies: usize,
    pub(super) locked_1: Latency,
    pub(super) locked_10: Latency,
}

/// One company has a flood of events.
#[derive(Debug, Clone, Serialize)]
pub(super) struct FloodFigures {
    pub(super) events: usize,
    pub(super) published_within_seconds: f64,
    pub(super) drained_within_seconds: f64,
    /// Of 100 other companies, with an event a second each meanwhile.
    pub(super) others: Latency,
}

pub(super) async fn latency(bench: &Bench, workload: &Workload) -> anyhow::Result<LatencyFigures> {
    let lab = bench.lab(&[workload]).await?;
    let mut fsyncs = fsyncs(&bench.args.fsync_dir).await?;
    let latency = steady(&lab, workload, 0).await?;
    fsyncs.extend(self::fsyncs(&bench.args.fsync_dir).await?);
    fsyncs.sort();
    Ok(LatencyFigures {
        latency,
        fsync_p50_ms: ms(fsyncs[fsyncs.len() / 2]),
        fsync_p99_ms: ms(fsyncs[fsyncs.len() * 99 / 100]),
    })
}

pub(super) async fn locked(bench: &Bench, workload: &Workload) -> anyhow::Result<LockedFigures> {
    let workload = Workload {
        companies: COMPANIES,
        ..workload.clone()
    };
    let measure = async |locked| {
        let patient = |settings: &mut Settings| settings.retry.attempts = PATIENT_ATTEMPTS;
        let lab = bench.lab_with(&[&workload], patient).await?;
        steady(&lab, &workload, locked).await
    };
    Ok(LockedFigures {
        companies: COMPANIES,
        locked_1: measure(1).await?,
        locked_10: measure(10).await?,
    })
}

/// Events at a steady pace, each charged when it comes, with so many companies locked all the time: of the others.
async fn steady(lab: &Lab, workload: &Workload, locked: usize) -> anyhow::Result<Latency> {
    let locked = &workload.company_ids()[..locked];
    let lock = lab.scratch.lock_companies(locked).await?;
    let pool = Pool::start(&lab.settings)?;
    pool.consuming().await?;
    let to_the_end = CancellationToken::new();
    publish_steadily(lab, workload, STEADY_RATE, &to_the_end).await?;
    pool.charged(workload.events_without(locked)).await?;
    let latency = Latency::of(pool.lag());
    lock.release().await?;
    pool.charged(workload.events()).await?;
    pool.stop().await?;
    lab.check(workload.events()).await?;
    Ok(latency)
}

pub(super) async fn flood(bench: &Bench) -> anyhow::Result<FloodFigures> {
    let keys = bench.args.keys;
    let flood = Workload {
        set: 0,
        numbers: 0..bench.args.flood as usize,
        companies: 1,
        keys,
    };
    // More than come to be published.
    let others = Workload {
        set: 1,
        numbers: 0..OTHERS as usize * 600,
        companies: OTHERS as usize,
        keys,
    };
    let lab = bench.lab(&[&flood, &others]).await?;
    let pool = Pool::start(&lab.settings)?;
    pool.consuming().await?;
    let company = flood.company(0);
    let left = lab.scratch.purchased(Some(company)).await? - flood.tokens();
    let (began, drained) = (Instant::now(), CancellationToken::new());
    let flooding = async {
        lab.publish(&flood).await?;
        anyhow::Ok(began.elapsed())
    };
    let draining = async {
        let mut look = tokio::time::interval(Duration::from_millis(50));
        while lab.scratch.purchased(Some(company)).await? > left {
            look.tick().await;
        }
        drained.cancel();
        anyhow::Ok(began.elapsed())
    };
    let beside = publish_steadily(&lab, &others, OTHERS, &drained);
    let (published, drained, beside) = tokio::try_join!(flooding, draining, beside)?;
    let events = flood.events() + beside;
    pool.charged(events).await?;
    // Only theirs name the time.
    let others = Latency::of(pool.lag());
    pool.stop().await?;
    lab.check(events).await?;
    Ok(FloodFigures {
        events: flood.events(),
        published_within_seconds: published.as_secs_f64(),
        drained_within_seconds: drained.as_secs_f64(),
        others,
    })
}

/// Publishes the events at this pace, each with the time when it was due, until the last or `stop`; says how many.
async fn publish_steadily(
    lab: &Lab,
    workload: &Workload,
    per_second: u32,
    stop: &CancellationToken,
) -> anyhow::Result<usize> {
    let topology = lab.topology();
    let (due, mut to_publish) = tokio::sync::mpsc::unbounded_channel();
    let mut tick = tokio::time::interval(Duration::from_secs(1) / per_second);
    let producing = async {
        let mut events = 0;
        for n in workload.numbers.clone() {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => break,
            }
            let now = OffsetDateTime::now_utc();
            let body = workload.body(n, Some(now)).into_bytes();
            due.send(Outgoing::event(&topology, body, "application/json", None))?;
            events += 1;
        }
        drop(due);
        anyhow::Ok(events)
    };
    // As a publisher does that doesn't wait for each confirm: what came due meanwhile goes together.
    let publisher = Publisher::plain(&lab.settings.broker, &topology);
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
    let (events, ()) = tokio::try_join!(producing, publishing)?;
    publisher.close().await;
    Ok(events)
}

/// What one write and fdatasync takes, as a database's log does it: over what is there already.
async fn fsyncs(dir: &Path) -> anyhow::Result<Vec<Duration>> {
    let dir: PathBuf = dir.to_owned();
    let what = format!("--fsync-dir {}", dir.display());
    let measured =
        tokio::task::spawn_blocking(move || write_and_sync(&tempfile::tempfile_in(dir)?));
    measured.await?.context(what)
}

fn write_and_sync(file: &File) -> io::Result<Vec<Duration>> {
    let page = [0x5a; PAGE_BYTES];
    let place = |page: usize| (page * PAGE_BYTES) as u64;
    for at in 0..FSYNCS {
        file.write_all_at(&page, place(at))?;
    }
    file.sync_all()?;
    let mut took = Vec::with_capacity(FSYNCS);
    for at in 0..FSYNCS {
        let began = Instant::now();
        file.write_all_at(&page, place(at))?;
        file.sync_data()?;
        took.push(began.elapsed());
    }
    Ok(took)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
