//! Sending letters again: claim a page, publish it confirmed, mark it, look what came of it.
//!
//! Every letter is in the archive, and only a mark that follows a confirm changes its state. So if the
//! process dies:
//!
//! | at this moment | then |
//! |---|---|
//! | before a claim commits | nothing happened |
//! | after the claim, before the publish | the letters are open; the claim runs out after `replay.claim`, and any replay takes them |
//! | after the publish, before the mark | the message is in the work queue, its letter still open. Charged: the letter is resolved by whoever settles next. Failed: its new letter names it (`replay-of`), which marks it. Neither when the claim runs out: the next replay sends a second copy, which the key makes harmless |
//! | after the mark | all is as it should be; what came of it is read from the books and from the new letters |
//! | before the run's counts are written | they can be computed as before; the action lacks them |
//! | not dead, but hanging past its claim | another replay may send the same letters; the mark leaves alone what is in other hands |
//!
//! Two replays at once: a letter goes to whoever claims it first. A run takes no letter twice and none that
//! arrived after its plan, so what fails again is never sent round and round.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{Ended, Order, Pace, Progress, Report, outcomes::Watch};
use crate::{
    broker::{Outgoing, Publisher, Topology},
    config, failpoint,
    storage::{Claimable, Storage, StorageError},
};

/// Bytes of the bodies of one page.
const PAGE_BYTES: usize = 8 * 1024 * 1024;
/// Pages of which the ids are read ahead: with a rate, a second's worth.
const PAGES_AHEAD: usize = 10;
/// Between two looks whether letters in other hands are free, at most.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What a replay works with.
#[derive(Debug, Clone, Copy)]
pub struct Replay<'a> {
    /// The archive and the books.
    pub storage: &'a Storage,
    /// The way to the work queue.
    pub publisher: &'a Publisher,
    /// Its names.
    pub topology: &'a Topology,
    /// Limits.
    pub settings: &'a config::Replay,
}

impl Replay<'_> {
    /// Runs an order to its end, or until `stop`.
    ///
    /// # Errors
    ///
    /// It couldn't begin. Whatever happens later is in the report.
    pub async fn run(
        &self,
        order: &Order<'_>,
        stop: &CancellationToken,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Report, StorageError> {
        let details = serde_json::json!({
            "up_to": order.selection.up_to, "rate": order.rate, "canary": order.canary,
        });
        let action_id = self
            .storage
            .begin_replay(order.actor, order.subject, order.note, &details)
            .await?;
        let mut run = Run {
            replay: *self,
            order,
            stop,
            progress,
            action_id,
            pace: Pace::new(order.rate),
            watch: Watch::new(*self, action_id, order.expected_failures),
            done: 0,
            sent: 0,
            settled: 0,
            unmarked: 0,
        };
        let started = Instant::now();
        let mut ended = run.send_all().await.err().unwrap_or(Ended::Done);
        let seconds = (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        if ended == Ended::Done && order.wait {
            // Interrupted now, it has done its work all the same.
            let waited = run.wait().await.err();
            ended = waited
                .filter(|ended| *ended != Ended::Interrupted)
                .unwrap_or(Ended::Done);
        }
        // The archivist would do the same within a minute.
        let _ = self.storage.settle_dead_letters().await;
        let report = run.report(ended, seconds).await;
        // The report is right in any case; the action's details may lack it.
        if let Ok(details) = serde_json::to_value(&report) {
            let _ = self.storage.finish_replay(action_id, &details).await;
        }
        Ok(report)
    }
}

struct Run<'a> {
    replay: Replay<'a>,
    order: &'a Order<'a>,
    stop: &'a CancellationToken,
    progress: &'a mut dyn FnMut(Progress<'_>),
    action_id: i64,
    pace: Pace,
    watch: Watch<'a>,
    done: u64,
    sent: u64,
    settled: u64,
    unmarked: u64,
}

/// `Err`: it ends here.
type Step<T = ()> = Result<T, Ended>;

impl From<StorageError> for Ended {
    fn from(error: StorageError) -> Self {
        Self::Failed(format!("database: {error}"))
    }
}

impl Run<'_> {
    async fn send_all(&mut self) -> Step {
        if let Some(canary) = self.order.canary {
            self.go_through(Some(canary.into())).await?;
            self.wait().await?;
            let outcomes = self.watch.outcomes();
            if outcomes.failed_again > 0 || outcomes.under_way() > 0 {
                return Err(Ended::CanaryFailed);
            }
        }
        self.go_through(None).await
    }

    /// All of the selection, or so many letters of it; what is in other hands is waited for.
    async fn go_through(&mut self, most: Option<u64>) -> Step {
        loop {
            self.pass(most).await?;
            if most.is_some_and(|most| self.sent >= most) {
                return Ok(());
            }
            let rest = self
                .replay
                .storage
                .rest(self.order.selection, self.action_id)
                .await?;
            if rest.letters == 0 {
                return Ok(());
            }
            // Who had them may have died: then they are free when the claim has run out.
            let ms = |ms: i64| Duration::from_millis(ms.try_into().unwrap_or(0));
            if rest.held > 0 {
                (self.progress)(Progress::Held {
                    letters: rest.held,
                    longest: ms(rest.last_free_ms),
                });
            }
            let pause = ms(rest.first_free_ms).clamp(LOOK_AGAIN / 10, LOOK_AGAIN);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => return Err(Ended::Interrupted),
            }
        }
    }

    /// Once through the selection, oldest first; at most so many letters.
    async fn pass(&mut self, most: Option<u64>) -> Step {
        let (storage, selection) = (self.replay.storage, self.order.selection);
        let limit = self.pace.page() * PAGES_AHEAD;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut cursor = 0;
        loop {
            let ahead = storage
                .claimable(selection, self.action_id, cursor, limit)
                .await?;
            let Some(last) = ahead.last() else {
                return Ok(());
            };
            cursor = last.id;
            let mut ahead = ahead.as_slice();
            while !ahead.is_empty() {
                let left = most.map_or(u64::MAX, |most| most.saturating_sub(self.sent));
                let page = page(&mut ahead, left.min(self.pace.page() as u64));
                if page.is_empty() {
                    return Ok(());
                }
                self.page(&page).await?;
            }
        }
    }

    /// One page in its turn, and what is to be seen after it.
    async fn page(&mut self, ids: &[i64]) -> Step {
        if self.stop.is_cancelled() {
            return Err(Ended::Interrupted);
        }
        self.pace.turn().await;
        self.send(ids).await?;
        if self.watch.look_if_due().await? && self.watch.piled_up() {
            return Err(Ended::FailuresPiledUp);
        }
        (self.progress)(Progress::At {
            done: self.done,
            outcomes: self.watch.outcomes(),
        });
        Ok(())
    }

    /// One page: claimed, published, marked.
    async fn send(&mut self, ids: &[i64]) -> Step {
        let Replay {
            storage,
            publisher,
            topology,
            settings,
        } = self.replay;
        let claim = storage.claim(self.action_id, ids, settings.claim).await?;
        let jobs: Vec<_> = claim.letters.iter().flat_map(|l| l.job_id).collect();
        failpoint::hit("after_claim", jobs.iter().copied());
        self.settled += claim.settled;
        self.done += claim.settled;
        let Some(claimed_at) = claim.letters.first().map(|letter| letter.claimed_at) else {
            return Ok(());
        };
        let (ids, messages): (Vec<i64>, Vec<Outgoing>) = claim
            .letters
            .into_iter()
            .map(|l| {
                let message = Outgoing::replay(topology, l.body, &l.properties, &l.headers, l.id);
                (l.id, message)
            })
            .unzip();
        let results = publisher.publish(&messages).await;
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
        if !sent.is_empty() {
            let marked = storage
                .mark_replayed(self.action_id, &sent, claimed_at)
                .await?;
            let count = sent.len() as u64;
            self.unmarked += count.saturating_sub(marked);
            self.sent += count;
            self.done += count;
        }
        failpoint::hit("after_mark", jobs);
        let Some(cause) = cause else {
            return Ok(());
        };
        // Where this fails as well, the claims run out by themselves.
        let _ = storage.release(self.action_id, &unsent).await;
        Err(Ended::Failed(format!(
            "not confirmed by the broker: {cause}"
        )))
    }

    /// Waits until all that was sent is back, or nothing has come back for `replay.outcome_timeout`.
    async fn wait(&mut self) -> Step {
        self.watch.look().await?;
        let mut last_change = Instant::now();
        while self.watch.outcomes().under_way() > 0
            && last_change.elapsed() < self.replay.settings.outcome_timeout
        {
            (self.progress)(Progress::Waiting(self.watch.outcomes()));
            tokio::select! {
                () = tokio::time::sleep(self.watch.pause()) => {}
                () = self.stop.cancelled() => return Err(Ended::Interrupted),
            }
            let before = *self.watch.outcomes();
            self.watch.look().await?;
            if before != *self.watch.outcomes() {
                last_change = Instant::now();
            }
        }
        Ok(())
    }

    async fn report(mut self, mut ended: Ended, seconds: f64) -> Report {
        if let Err(error) = self.watch.look().await
            && !matches!(ended, Ended::Failed(_))
        {
            ended = error.into();
        }
        let failures = self.replay.storage.failures_of(self.action_id).await;
        let mut outcomes = *self.watch.outcomes();
        // If the last look failed, at least this is known.
        outcomes.sent = outcomes.sent.max(self.sent.try_into().unwrap_or(i64::MAX));
        Report {
            action_id: self.action_id,
            ended,
            settled: self.settled,
            unmarked: self.unmarked,
            outcomes,
            failures: failures.unwrap_or_default(),
            seconds,
        }
    }
}

/// Takes up to `most` from the front, as many as fit into memory and at least one.
fn page(letters: &mut &[Claimable], most: u64) -> Vec<i64> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let mut bytes = 0;
    let fits = |letter: &&Claimable| {
        bytes += usize::try_from(letter.body_bytes).unwrap_or(0);
        bytes <= PAGE_BYTES
    };
    let count = letters.iter().take_while(fits).count().max(1).min(most);
    let (page, rest) = letters.split_at(count.min(letters.len()));
    *letters = rest;
    page.iter().map(|letter| letter.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_cut_by_number_and_by_bytes_and_leaves_the_rest() {
        const MIB: i32 = 1024 * 1024;
        let letters = [1, 2, 6, 9, 1].map(|size| Claimable {
            id: size.into(),
            body_bytes: size * MIB,
        });
        let mut rest = &letters[..];
        for expected in [&[1, 2][..], &[6], &[9], &[1], &[]] {
            assert_eq!(page(&mut rest, 500), expected);
        }
        let mut rest = &letters[..];
        assert_eq!(page(&mut rest, 1), [1]);
        assert_eq!(page(&mut rest, 0), [0; 0]);
        assert_eq!(rest.len(), 4);
    }
}
