//! Sending dead letters again: claim a page, publish it confirmed, mark it, look what came of it.
//!
//! Every dead letter is in the archive, and only a mark that follows a confirm changes its state. So if the
//! process dies:
//!
//! | at this moment | then |
//! |---|---|
//! | before the action's row commits | nothing happened |
//! | before a claim commits | nothing happened, but that the action is in the record, and stays unfinished |
//! | after the claim, before the publish | the dead letters are open; the claim runs out after `replay.claim`, and any replay takes them |
//! | after the publish, before the mark | the message is in the work queue, its dead letter still open. Charged: it is resolved by whoever looks next. Failed: the new one names it (`replay-of`), which marks it. Neither when the claim runs out: the next replay sends a second copy, which the key makes harmless |
//! | after the mark | all is as it should be; what came of it is read from the ledger and from the new dead letters |
//! | before the run's counts are written | they can be computed as before; the action lacks them, and [`Operations::replay_report`] has no report |
//! | not dead, but hanging past its claim | another replay may send the same; the mark leaves alone what is in other hands |
//! | not dead, but nobody follows it any more | it goes on; [`Operations::running_replay`] finds it, and [`Operations::close`] stops it |
//!
//! Two replays at once: a dead letter goes to whoever claims it first. A run takes none twice and none that
//! arrived after its plan, so what fails again is never sent round and round.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    ReplayEnded, ReplayOrder, ReplayPhase, ReplayPlan, ReplayProgress, ReplayReport, RunningReplay,
    outcomes::{OutcomeWatch, piled_up},
    pace::{Pace, page},
};
use crate::{
    broker::{Outgoing, Publisher},
    config::redacted_url,
    failpoint,
    operations::{Dependency, OperationError, Operations},
    storage::{Outcomes, Selection},
};

/// Pages of which the ids are read ahead: with a rate, a second's worth.
const PAGES_AHEAD: usize = 10;
/// Between two looks whether dead letters in other hands are free, at most.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A replay under way.
struct Run {
    operations: Arc<Operations>,
    publisher: Arc<Publisher>,
    selection: Selection,
    order: ReplayOrder,
    stop: CancellationToken,
    progress: watch::Sender<ReplayProgress>,
    action_id: i64,
    pace: Pace,
    watch: OutcomeWatch,
    sent: u64,
    resolved: u64,
    unmarked: u64,
}

impl Operations {
    /// Begins to carry out a plan: by the time this returns, the action is in the record and the replay goes on by
    /// itself, until its end, `stop` or [`Operations::close`].
    ///
    /// # Errors
    ///
    /// It couldn't begin. Whatever happens later is in the report.
    pub async fn replay(
        self: &Arc<Self>,
        plan: ReplayPlan,
        order: ReplayOrder,
    ) -> Result<RunningReplay, OperationError> {
        let publisher = self.publisher()?.clone();
        let details = serde_json::json!({
            "up_to": plan.selection.up_to, "rate": order.rate, "canary": order.canary,
        });
        let (actor, note) = (order.actor.name(), order.note.as_deref());
        let begun = self
            .storage
            .begin_replay(actor, &plan.subject, note, &details);
        let action_id = begun.await?;
        // No await from here on: whoever asked may go away at any.
        let (progress, followers) = watch::channel(ReplayProgress {
            action_id,
            planned: plan.to_send(),
            done: 0,
            phase: ReplayPhase::Sending,
            outcomes: Outcomes::default(),
            report: None,
        });
        let running = RunningReplay {
            action_id,
            progress: followers,
            stop: CancellationToken::new(),
        };
        let run = Run {
            operations: self.clone(),
            publisher,
            pace: Pace::new(order.rate),
            watch: OutcomeWatch::new(&self.storage, action_id, plan.failing),
            selection: plan.selection,
            order,
            stop: running.stop.clone(),
            progress,
            action_id,
            sent: 0,
            resolved: 0,
            unmarked: 0,
        };
        self.replays.add(running.clone());
        tokio::spawn(run.carry_out());
        Ok(running)
    }
}

/// `Err`: it ends here.
type Step<T = ()> = Result<T, ReplayEnded>;

impl Run {
    /// Carries out the plan, or as much of it as it can until it is stopped, and writes down what came of it.
    async fn carry_out(mut self) {
        let started = Instant::now();
        let mut ended = self.send_all().await.err().unwrap_or(ReplayEnded::Done);
        let seconds = (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        if ended == ReplayEnded::Done && self.order.wait {
            // Interrupted now, it has done its work all the same.
            let waited = self.wait().await.err();
            ended = waited
                .filter(|ended| *ended != ReplayEnded::Interrupted)
                .unwrap_or(ReplayEnded::Done);
        }
        let storage = self.operations.storage.clone();
        // The archivist would do the same within a minute.
        let _ = storage.resolve_dead_letters().await;
        let report = self.report(ended, seconds).await;
        let failed_again = self.watch.outcomes.failed_again.try_into().unwrap_or(0);
        self.count("failed_again", failed_again);
        // The report is right in any case; the action's details may lack it.
        if let Ok(details) = serde_json::to_value(&report) {
            let _ = storage.finish_replay(self.action_id, &details).await;
        }
        self.tell(ReplayPhase::Ended, Some(report));
    }

    fn count(&self, result: &'static str, dead_letters: u64) {
        if let Some(metrics) = &self.operations.metrics {
            metrics.replayed(result, dead_letters);
        }
    }

    /// For whoever follows.
    fn tell(&self, phase: ReplayPhase, report: Option<ReplayReport>) {
        self.progress.send_modify(|progress| {
            progress.done = self.sent + self.resolved;
            progress.phase = phase;
            progress.outcomes = self.watch.outcomes;
            progress.report = report;
        });
    }

    async fn send_all(&mut self) -> Step {
        if let Some(canary) = self.order.canary {
            self.go_through(Some(canary.into())).await?;
            self.wait().await?;
            let outcomes = &self.watch.outcomes;
            if outcomes.failed_again > 0 || outcomes.under_way() > 0 {
                return Err(ReplayEnded::CanaryFailed);
            }
        }
        self.go_through(None).await
    }

    /// All of the selection, or so many dead letters of it; what is in other hands is waited for.
    async fn go_through(&mut self, most: Option<u64>) -> Step {
        loop {
            self.pass(most).await?;
            if most.is_some_and(|most| self.sent >= most) {
                return Ok(());
            }
            let storage = &self.operations.storage;
            let rest = storage.rest(&self.selection, self.action_id).await?;
            if rest.dead_letters == 0 {
                return Ok(());
            }
            // Who had them may have died: then they are free when the claim has run out.
            if rest.held > 0 {
                let (held, free_in_ms) = (rest.held, rest.last_free_ms);
                self.tell(ReplayPhase::Held { held, free_in_ms }, None);
            }
            let free_in = Duration::from_millis(rest.first_free_ms.try_into().unwrap_or(0));
            let pause = free_in.clamp(LOOK_AGAIN / 10, LOOK_AGAIN);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => return Err(ReplayEnded::Interrupted),
            }
        }
    }

    /// Once through the selection, oldest first; at most so many dead letters.
    async fn pass(&mut self, most: Option<u64>) -> Step {
        let limit = self.pace.page() * PAGES_AHEAD;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut cursor = 0;
        loop {
            let storage = &self.operations.storage;
            let ahead = storage.claimable(&self.selection, self.action_id, cursor, limit);
            let ahead = ahead.await?;
            let Some(&(last, _)) = ahead.last() else {
                return Ok(());
            };
            cursor = last;
            let mut ahead = ahead.as_slice();
            while !ahead.is_empty() {
                let left = most.map_or(u64::MAX, |most| most.saturating_sub(self.sent));
                let most = usize::try_from(left).unwrap_or(usize::MAX);
                let most = most.min(self.pace.page());
                let page = page(&mut ahead, most, |(_, bytes)| *bytes);
                if page.is_empty() {
                    return Ok(());
                }
                let ids: Vec<i64> = page.iter().map(|(id, _)| *id).collect();
                self.page(&ids).await?;
            }
        }
    }

    /// One page in its turn, and what is to be seen after it.
    async fn page(&mut self, ids: &[i64]) -> Step {
        if self.stop.is_cancelled() {
            return Err(ReplayEnded::Interrupted);
        }
        self.pace.turn().await;
        self.send(ids).await?;
        let stop_after = self.operations.settings.replay.stop_after;
        if self.watch.look_if_due().await? && piled_up(&self.watch.outcomes, stop_after) {
            return Err(ReplayEnded::FailuresPiledUp);
        }
        self.tell(ReplayPhase::Sending, None);
        Ok(())
    }

    /// One page: claimed, published, marked.
    async fn send(&mut self, ids: &[i64]) -> Step {
        let storage = &self.operations.storage;
        let settings = &self.operations.settings;
        let claim = storage
            .claim(self.action_id, ids, settings.replay.claim)
            .await?;
        let jobs: Vec<_> = claim.dead_letters.iter().flat_map(|l| l.job_id).collect();
        failpoint::hit("after_claim", jobs.iter().copied());
        self.resolved += claim.resolved;
        self.count("resolved", claim.resolved);
        let Some(claimed_at) = claim
            .dead_letters
            .first()
            .map(|dead_letter| dead_letter.claimed_at)
        else {
            return Ok(());
        };
        let topology = self.publisher.topology();
        let (ids, messages): (Vec<i64>, Vec<Outgoing>) = claim
            .dead_letters
            .into_iter()
            .map(|l| {
                let message = Outgoing::replay(topology, l.body, &l.properties, &l.headers, l.id);
                (l.id, message)
            })
            .unzip();
        let results = self.publisher.publish(&messages).await;
        failpoint::hit("after_replay_publish", jobs.iter().copied());
        let (mut sent, mut unsent, mut cause) = (Vec::new(), Vec::new(), None);
        for (id, result) in ids.into_iter().zip(results) {
            match result {
                Ok(()) => sent.push(id),
                Err(error) => {
                    unsent.push(id);
                    cause.get_or_insert(error);
                }
            }
        }
        self.count("sent", sent.len() as u64);
        self.count("not_sent", unsent.len() as u64);
        if !sent.is_empty() {
            let marked = storage
                .mark_replayed(self.action_id, &sent, claimed_at)
                .await?;
            let count = sent.len() as u64;
            self.unmarked += count.saturating_sub(marked);
            self.sent += count;
        }
        failpoint::hit("after_mark", jobs);
        let Some(cause) = cause else {
            return Ok(());
        };
        // Where this fails as well, the claims run out by themselves.
        let _ = storage.release(self.action_id, &unsent).await;
        let place = redacted_url(&settings.broker.url);
        Err(ReplayEnded::Failed {
            dependency: Dependency::Broker,
            why: format!("not confirmed by the broker: {cause} ({place})"),
        })
    }

    /// Waits until all that was sent is back, or nothing has come back for `replay.outcome_timeout`.
    async fn wait(&mut self) -> Step {
        self.watch.look().await?;
        let mut last_change = Instant::now();
        while self.watch.outcomes.under_way() > 0
            && last_change.elapsed() < self.operations.settings.replay.outcome_timeout
        {
            self.tell(ReplayPhase::Waiting, None);
            tokio::select! {
                () = tokio::time::sleep(self.watch.pause()) => {}
                () = self.stop.cancelled() => return Err(ReplayEnded::Interrupted),
            }
            let before = self.watch.outcomes;
            self.watch.look().await?;
            if before != self.watch.outcomes {
                last_change = Instant::now();
            }
        }
        Ok(())
    }

    async fn report(&mut self, mut ended: ReplayEnded, seconds: f64) -> ReplayReport {
        if let Err(error) = self.watch.look().await
            && !matches!(ended, ReplayEnded::Failed { .. })
        {
            ended = error.into();
        }
        let failures = self.operations.storage.failures_of(self.action_id).await;
        let mut outcomes = self.watch.outcomes;
        // If the last look failed, at least this is known.
        outcomes.sent = outcomes.sent.max(self.sent.try_into().unwrap_or(i64::MAX));
        ReplayReport {
            action_id: self.action_id,
            ended,
            resolved: self.resolved,
            unmarked: self.unmarked,
            outcomes,
            failures: failures.unwrap_or_default(),
            seconds,
        }
    }
}
