//! What goes on beside charging: the archive of dead letters, their replay, sweeps and audits.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    super::output::note,
    lab::{Bench, Lab},
    pool::{Pool, wait_until},
    rate::Rate,
    throughput::per_second,
    workload::Workload,
};
use crate::{
    archivist::{self, Archivist},
    config::ExternalWrites,
    domain::{CompletionEvent, PendingMark},
    operations::{
        Actor, Operations,
        replay::{ReplayEnded, ReplayOrder, ReplaySelection},
    },
    storage::{Selection, Storage},
    sweeper::Sweeper,
    telemetry::metrics::Metrics,
};

#[derive(Debug, Clone, Serialize)]
pub(super) struct UpkeepFigures {
    /// Dead letters, pending records, and half of the records of the audit.
    pub(super) each: usize,
    pub(super) archived_dead_letters_per_s: f64,
    /// From the replay's begin until the last is charged.
    pub(super) replayed_dead_letters_per_s: f64,
    pub(super) swept_records_per_s: f64,
    pub(super) audited_records_per_s: f64,
}

pub(super) async fn upkeep(bench: &Bench, workload: &Workload) -> anyhow::Result<UpkeepFigures> {
    let listed = |settings: &mut crate::config::Settings| {
        // That is how the companies come to their tokens.
        settings.audit.external_writes = ExternalWrites::Listed;
    };
    let lab = bench.lab_with(&[], listed).await?;
    let operations = Arc::new(Operations::open(&lab.settings).await?);
    let pending = Workload {
        set: workload.set + 1,
        ..workload.clone()
    };
    let named = |name, rate: Rate| {
        note(&format!("  {name}: {}", per_second(rate)));
        rate.per_s()
    };
    let figures = UpkeepFigures {
        each: workload.events(),
        archived_dead_letters_per_s: named("archive", archive(&lab, workload).await?),
        replayed_dead_letters_per_s: named("replay", replay(&lab, &operations, workload).await?),
        swept_records_per_s: named("sweep", sweep(&lab, &pending).await?),
        audited_records_per_s: named("audit", audit(&operations).await?),
    };
    operations.close().await;
    Ok(figures)
}

/// Events whose companies nobody knows become dead letters; these go from their queue into the archive.
async fn archive(lab: &Lab, workload: &Workload) -> anyhow::Result<Rate> {
    lab.publish(workload).await?;
    let pool = Pool::start(&lab.settings)?;
    pool.dead_lettered(workload.events()).await?;
    pool.stop().await?;
    let storage = Arc::new(Storage::new(
        &lab.settings.database,
        &lab.settings.reconnect,
    )?);
    let metrics = Arc::new(Metrics::new(&lab.settings));
    let archivist = Arc::new(Archivist::new(&lab.settings, storage, metrics.clone()));
    let stop = CancellationToken::new();
    // Dropped unfinished, it ends with the rest of the measurement.
    let mut running = tokio::task::JoinSet::new();
    running.spawn(archivist::run(archivist, stop.clone()));
    let archived = || metrics.archivist_counts().archived;
    let began = wait_until(1, archived).await?;
    let ended = wait_until(workload.events() as u64, archived).await?;
    stop.cancel();
    running.join_all().await;
    let seconds = (ended.at - began.at).as_secs_f64();
    Ok(Rate::new(ended.events - began.events, seconds))
}

/// Now the companies are known: all are sent again and charged.
async fn replay(
    lab: &Lab,
    operations: &Arc<Operations>,
    workload: &Workload,
) -> anyhow::Result<Rate> {
    lab.seed_companies(workload).await?;
    let selection = ReplaySelection::new(Selection::default(), true)?;
    let plan = operations.plan_replay(selection).await?;
    let order = ReplayOrder {
        actor: Actor::new("bench")?,
        note: None,
        rate: None,
        canary: None,
        wait: true,
    };
    let pool = Pool::start(&lab.settings)?;
    pool.consuming().await?;
    let began = Instant::now();
    let running = operations.replay(plan, order).await?;
    let ended = pool.charged(workload.events()).await?;
    let report = running.report().await?;
    ensure!(
        report.ended == ReplayEnded::Done,
        "the replay ended as {:?}",
        report.ended
    );
    pool.stop().await?;
    lab.check(workload.events()).await?;
    let seconds = (ended.at - began).as_secs_f64();
    Ok(Rate::new(workload.events(), seconds))
}

/// Charges that nobody could make, of articles that exist.
async fn sweep(lab: &Lab, workload: &Workload) -> anyhow::Result<Rate> {
    lab.seed_companies(workload).await?;
    let events = lab.events(workload)?;
    let storage = Arc::new(Storage::new(
        &lab.settings.database,
        &lab.settings.reconnect,
    )?);
    let numbers: Vec<usize> = workload.numbers.clone().collect();
    for numbers in numbers.chunks(10_000) {
        let articles: Vec<_> = numbers.iter().map(|&n| workload.article(n)).collect();
        let companies: Vec<_> = numbers.iter().map(|&n| workload.company_of(n)).collect();
        lab.scratch.seed_articles(&articles, &companies).await?;
    }
    for events in events.chunks(1024) {
        let tried: Vec<(&CompletionEvent, &str)> =
            events.iter().map(|event| (event, "measured")).collect();
        let marks = storage.mark_pending(&tried).await?;
        let all = marks
            .iter()
            .all(|mark| matches!(mark, PendingMark::Pending));
        ensure!(all, "not all could be made pending");
    }
    let sweeper = Sweeper::new(&lab.settings, storage.clone());
    let began = Instant::now();
    let report = sweeper
        .run_once(Duration::ZERO, &CancellationToken::new())
        .await?;
    let seconds = began.elapsed().as_secs_f64();
    storage.close().await;
    ensure!(report.charged == events.len() as u64, "the sweep: {report}");
    lab.check(workload.events()).await?;
    Ok(Rate::new(workload.events(), seconds))
}

async fn audit(operations: &Operations) -> anyhow::Result<Rate> {
    let began = Instant::now();
    let report = operations.audit(watch::Sender::default()).await?;
    let seconds = began.elapsed().as_secs_f64();
    let violations = report.violations_count();
    ensure!(violations == 0, "the audit found {violations} violations");
    Ok(Rate::new(report.size.records, seconds))
}
