//! Committing dead letters, whatever they hold, and whatever the database thinks of one of them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use time::OffsetDateTime;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{Archivist, BATCH_BYTES, copies::Copies};
use crate::{
    broker::Delivered,
    consuming::{Hold, Requeue, Session},
    domain::{Glimpse, excerpt, signature},
    failpoint,
    reconnect::Reconnect,
    storage::{Arrival, Fault, StorageError, enough_busy, isolate},
};

/// What fails so often while others are archived has a fault of its own.
const ENOUGH_TRIES: u32 = 3;
/// Bytes of the database's words in the error of a bare dead letter.
const REFUSAL_MAX: usize = 512;

impl Archivist {
    /// Whatever has arrived, a batch at a time, until no more comes.
    pub(super) async fn archive_all(
        &self,
        mut input: mpsc::UnboundedReceiver<Delivered>,
        copies: &Copies,
        session: &Session,
    ) -> Result<(), Requeue> {
        let max = usize::from(self.settings.archivist.batch_max);
        let mut next = input.recv().await;
        while let Some(first) = next.take() {
            // One that was delivered before comes alone: should it be what killed its archivist, it drags nobody along.
            let alone = first.redelivered;
            let mut bytes = first.body.len();
            let mut batch = vec![first];
            while !alone && batch.len() < max && bytes < BATCH_BYTES {
                match input.try_recv() {
                    Ok(message) if message.redelivered => {
                        next = Some(message);
                        break;
                    }
                    Ok(message) => {
                        bytes += message.body.len();
                        batch.push(message);
                    }
                    Err(_) => break,
                }
            }
            if session.ending.is_cancelled() {
                break;
            }
            self.process(&batch, copies, &session.hold()).await?;
            session.done(batch.iter().map(|message| message.tag).collect());
            if next.is_none() {
                next = input.recv().await;
            }
        }
        Ok(())
    }

    /// Commit, then copies; the ack comes after that.
    async fn process(
        &self,
        batch: &[Delivered],
        copies: &Copies,
        hold: &Hold,
    ) -> Result<(), Requeue> {
        let arrivals: Vec<Arrival> = batch.iter().map(arrival).collect();
        let jobs: Vec<Uuid> = arrivals.iter().filter_map(|one| one.job_id).collect();
        failpoint::hit("before_archive", jobs.iter().copied());
        let ids = self.archive(&arrivals, hold).await?;
        failpoint::hit("after_archive", jobs.iter().copied());
        self.metrics.archived(ids.len());
        for ((message, arrival), id) in batch.iter().zip(&arrivals).zip(ids) {
            tracing::debug!(
                dead_letter.id = id,
                job.id = arrival.job_id.map(tracing::field::display),
                dead_letter.reason = arrival.reason,
                "archived"
            );
            copies.offer(message, id);
        }
        failpoint::hit("after_copy", jobs);
        Ok(())
    }

    /// Archives all, in one transaction if nothing is wrong with any; their ids, in order.
    ///
    /// Where the database is there and refuses (a lock is held), again and again with the dead letters in flight:
    /// requeued, each would count a delivery every few seconds, and come to the limit of its queue within hours.
    async fn archive(&self, arrivals: &[Arrival], hold: &Hold) -> Result<Vec<i64>, Requeue> {
        let held = Held(&self.held);
        let mut pause = Reconnect::new(&self.settings.reconnect);
        let mut ids: Vec<Option<i64>> = vec![None; arrivals.len()];
        let mut tries = 0;
        loop {
            let left = (0..arrivals.len()).filter(|&at| ids[at].is_none());
            let left: Vec<usize> = left.collect();
            let ask = |some: Vec<usize>| async move {
                let some: Vec<&Arrival> = some.iter().map(|&at| &arrivals[at]).collect();
                self.storage.blame(self.storage.archive(&some).await).await
            };
            let outcomes = isolate(&left, |at| at, enough_busy, ask)
                .await
                .map_err(|error| {
                    self.note_outage(&error);
                    tracing::error!(error.message = %error, "not archived");
                    Requeue
                })?;
            let mut refused = Vec::new();
            for (at, outcome) in left.into_iter().zip(outcomes) {
                match outcome {
                    Ok(id) => ids[at] = Some(id),
                    Err(refusal) => refused.push((at, refusal)),
                }
            }
            let mut last = None;
            if !refused.is_empty() {
                // None at all takes the same lock by the same function: if that fails too, these are innocent.
                tries += u32::from(self.storage.archive(&[] as &[Arrival]).await.is_ok());
            }
            for (at, refusal) in refused {
                if refusal.fault() == Fault::Rejected || tries >= ENOUGH_TRIES {
                    ids[at] = self.archive_bare(&arrivals[at], &refusal).await;
                }
                last = last.or(ids[at].is_none().then_some(refusal));
            }
            let Some(error) = last else {
                return Ok(ids.into_iter().flatten().collect());
            };
            let dead_letters = ids.iter().filter(|id| id.is_none()).count();
            held.0.store(dead_letters, Ordering::Relaxed);
            tracing::error!(error.message = %error, dead_letters, "not archived: trying again");
            hold.during(async {
                pause.wait(&hold.stop).await;
                self.storage.wait_until_available(&hold.stop).await;
            })
            .await?;
        }
    }

    /// Archives what the database refuses, without whatever that may be about; `None`: not even that.
    async fn archive_bare(&self, whole: &Arrival, refusal: &Arc<StorageError>) -> Option<i64> {
        // If it isn't refused for good, what was in its way may have gone meanwhile.
        if refusal.fault() != Fault::Rejected
            && let Ok(ids) = self.storage.archive(&[whole]).await
        {
            return ids.first().copied();
        }
        match self.storage.archive(&[bare(whole, refusal)]).await {
            Ok(ids) => {
                tracing::warn!(
                    error.message = %refusal,
                    dead_letter.id = ids.first(),
                    job.id = whole.job_id.map(tracing::field::display),
                    "archived without headers, properties and error: the database refused it whole"
                );
                self.metrics.archived_bare();
                ids.first().copied()
            }
            Err(error) => {
                tracing::warn!(error.message = %error, "not even archived bare");
                None
            }
        }
    }
}

/// Counts dead letters as held as long as it lives, whatever ends it.
struct Held<'a>(&'a AtomicUsize);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// What the archive keeps of a message. Nothing that it holds can make this fail.
fn arrival(message: &Delivered) -> Arrival {
    let glimpse = Glimpse::of(&message.body, message.content_type());
    let error = message.error();
    Arrival {
        reason: message.reason().to_owned(),
        error_signature: signature(&error),
        error,
        body: message.body.clone(),
        properties: message.properties_json(),
        headers: message.headers_json(),
        job_id: glimpse.job_id,
        company_id: glimpse.company_id,
        article_id: glimpse.article_id,
        tokens: glimpse.tokens,
        attempts: i32::try_from(message.attempt())
            .unwrap_or(i32::MAX)
            .saturating_add(1),
        first_failed_at: message.first_failed_at(),
        last_failed_at: message.failed_at(),
        replay_of: message.replay_of(),
    }
}

/// The last resort for what the database refuses: the body byte for byte, the reason, what could be read of
/// the body, and the refusal, without anything else that somebody sent along.
fn bare(arrival: &Arrival, refusal: &StorageError) -> Arrival {
    let refusal = refusal.to_string().replace('\0', "");
    let error = format!(
        "Archived without its headers, properties and error, which the database refused: {}",
        excerpt::cut(&refusal, REFUSAL_MAX)
    );
    let now = OffsetDateTime::now_utc();
    Arrival {
        error_signature: signature(&error),
        error,
        properties: "{}".to_owned(),
        headers: "{}".to_owned(),
        attempts: 1,
        first_failed_at: now,
        last_failed_at: now,
        ..arrival.clone()
    }
}
