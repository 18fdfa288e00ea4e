//! One batch of messages, from its first look to what can be acked.

use std::{sync::atomic::Ordering, time::Duration};

use tracing::{Instrument as _, Span, trace_span};

use super::{
    Worker,
    in_flight::{InFlight, payer},
    room::{Ask, Group, Processed, Wait},
};
use crate::{
    broker::Outgoing,
    consuming::{Hold, Requeue, Session},
    domain::{
        CompletionEvent, Deduction, Disposition, Locked, PendingMark, Reason, Verdict, dispose,
    },
    failpoint,
    reconnect::Reconnect,
    storage::{Fault, Isolated, StorageError, enough_busy, isolate},
    telemetry::{metrics::BatchCount, traces},
};

/// The patience of events that wait for a lock, while there are too many of them. Other batches' locks don't last as long.
const CROWDED: Duration = Duration::from_secs(1);

/// A message of which it is known what is to be done.
struct Decided {
    one: InFlight,
    disposition: Disposition,
}

impl Worker {
    /// Processes every message that need not wait, and reports these as done.
    pub(super) async fn process(&self, ask: Ask, session: &Session) -> Result<Processed, Requeue> {
        let span = self.span(&ask.messages);
        self.process_all(ask, session).instrument(span).await
    }

    /// Of a batch, linked to the traces that its events belong to.
    fn span(&self, messages: &[InFlight]) -> Span {
        let span = trace_span!(
            target: traces::TARGET,
            "charge batch",
            otel.kind = "consumer",
            messaging.system = "rabbitmq",
            messaging.operation.r#type = "process",
            messaging.destination.name = self.topology.work_queue(),
            messaging.batch.message_count = messages.len(),
        );
        if !span.is_disabled() {
            let contexts = messages.iter().filter_map(|one| one.message.trace());
            contexts.for_each(|trace| traces::link(&span, &trace));
        }
        span
    }

    async fn process_all(&self, ask: Ask, session: &Session) -> Result<Processed, Requeue> {
        let hold = session.hold();
        self.metrics.asked(ask.messages.len());
        let (mut decided, processed) = self.charge(ask, &hold).await?;
        self.mark_pending(&mut decided, &hold).await?;
        hit("after_pending", decided.iter().map(|decided| &decided.one));

        let mut outgoing = Vec::new();
        for Decided { one, disposition } in &decided {
            self.metrics.disposed(disposition);
            outgoing.extend(one.outgoing(disposition, &self.topology));
        }
        self.publish_until_confirmed(outgoing, &hold).await?;
        hit("after_publish", decided.iter().map(|decided| &decided.one));
        let tags = decided.iter().map(|decided| decided.one.message.tag);
        session.done(tags.collect());
        Ok(processed)
    }

    /// Charges the events, and decides what that means for each message.
    async fn charge(&self, ask: Ask, hold: &Hold) -> Result<(Vec<Decided>, Processed), Requeue> {
        let Ask {
            messages,
            groups: asked,
            lock_wait,
        } = ask;
        let events: Vec<&CompletionEvent> = messages.iter().flat_map(|one| &one.event).collect();
        failpoint::hit("before_charge", events.iter().map(|event| event.job_id()));
        // Also without an event: what is wrong with a body is said when the database can be written to again, and
        // until then nothing is dead.
        let charge = |some: Vec<_>| async move {
            hold.check()?;
            self.outlast(hold, || self.deduct(&some, lock_wait)).await
        };
        // Whatever a batch had to wait for, nobody in it waits longer: each is asked about by himself, in his turn.
        let answers = isolate(&events, payer, |busy| busy > 0, charge).await?;
        let committed_at = time::OffsetDateTime::now_utc();
        let mut answers = answers.into_iter();
        let mut decided = Vec::with_capacity(messages.len());
        let (mut still, mut refused) = (Vec::new(), Vec::new());
        let mut count = BatchCount::default();
        for mut one in messages {
            let answer = one.event.is_ok().then(|| answers.next()).flatten();
            if let Some(answer) = &answer
                && self.has_to_wait(&mut one, answer)
            {
                still.push(one);
                continue;
            }
            let verdict = match (&one.event, answer) {
                (Err(wrong), _) => wrong.clone(),
                (Ok(_), None) => unanswered(),
                (Ok(event), Some(answer)) => {
                    if matches!(&answer, Err(error) if error.fault() != Fault::Busy) {
                        refused.push(payer(event));
                    }
                    let verdict = of_charge(answer);
                    if matches!(verdict, Verdict::Answered(Deduction::Charged { .. })) {
                        self.metrics.charged(event, one.delivered_at, committed_at);
                    }
                    one.log_charge(&verdict);
                    verdict
                }
            };
            count.answer(one.event.as_ref().ok(), &verdict);
            let disposition = dispose(verdict, one.message.attempt(), &self.schedule);
            decided.push(Decided { one, disposition });
        }
        self.metrics.answered(&count);
        hit("after_charge", decided.iter().map(|decided| &decided.one));
        let processed = Processed {
            asked,
            still,
            refused,
        };
        Ok((decided, processed))
    }

    /// Whether its charge couldn't be made for something that passes, and its patience isn't over.
    fn has_to_wait(&self, one: &mut InFlight, answer: &Isolated<Deduction>) -> bool {
        let Ok(event) = &one.event else {
            return false;
        };
        let (group, by_itself) = match answer {
            Ok(Deduction::Locked(Locked::Company)) => (payer(event), false),
            Ok(Deduction::Locked(Locked::Job)) => (Group::Job(event.job_id()), false),
            Err(error) if error.fault() == Fault::Busy => (payer(event), true),
            _ => return false,
        };
        let lock_timeout = self.settings.database.lock_timeout;
        let patience = match self.is_crowded() {
            true => CROWDED.min(lock_timeout),
            false => lock_timeout,
        };
        let is_over = |wait: Wait| wait.since.elapsed() >= patience;
        if one.waits.is_some_and(is_over) {
            return false;
        }
        one.wait_for(group, by_itself);
        true
    }

    /// Whether those that wait take half of what the broker sends: soon nobody else's events would come.
    fn is_crowded(&self) -> bool {
        let room = usize::from(self.settings.worker.prefetch) / 2;
        self.waiting.load(Ordering::Relaxed) > room
    }

    /// Records as `pending` what is to be, and decides again with what came of it.
    async fn mark_pending(&self, decided: &mut [Decided], hold: &Hold) -> Result<(), Requeue> {
        let mut reconnect = Reconnect::new(&self.settings.reconnect);
        loop {
            let charges: Vec<_> = decided.iter().filter_map(Decided::to_mark).collect();
            if charges.is_empty() {
                return Ok(());
            }
            let mark = |some: Vec<_>| async move {
                self.outlast(hold, || self.storage.mark_pending(&some))
                    .await
            };
            let marks = isolate(&charges, |(event, _)| payer(event), enough_busy, mark).await?;
            let marked = decided.iter_mut().filter(|one| one.to_mark().is_some());
            for (decided, mark) in marked.zip(marks) {
                let Some((event, error)) = decided.to_mark() else {
                    continue;
                };
                if let Err(error) = &mark {
                    tracing::warn!(job.id = %event.job_id(), error.message = %error, "not recorded as pending");
                }
                let verdict = of_mark(mark, error);
                let attempt = decided.one.message.attempt();
                decided.disposition = dispose(verdict, attempt, &self.schedule);
            }
            let is_left = decided.iter().any(|one| one.to_mark().is_some());
            if is_left && !hold.during(reconnect.wait(&hold.stop)).await? {
                return Err(Requeue);
            }
        }
    }

    /// Publishes until the broker has confirmed each. What is in flight stays unacked meanwhile; a message
    /// whose confirm was lost is published twice, which the key makes harmless.
    async fn publish_until_confirmed(
        &self,
        mut outgoing: Vec<Outgoing>,
        hold: &Hold,
    ) -> Result<(), Requeue> {
        let mut reconnect = Reconnect::new(&self.settings.reconnect);
        while !outgoing.is_empty() {
            let results = self.publisher.publish(&outgoing).await;
            let mut trouble = None;
            let mut results = results.into_iter();
            outgoing.retain(|_| match results.next() {
                Some(Err(error)) => {
                    trouble.get_or_insert(error);
                    true
                }
                _ => false,
            });
            if let Some(error) = trouble {
                let messages = outgoing.len();
                tracing::error!(error.message = %error, messages, "not confirmed: publishing again");
                if !hold.during(reconnect.wait(&hold.stop)).await? {
                    return Err(Requeue);
                }
            }
        }
        Ok(())
    }
}

impl Decided {
    /// The charge that is to be recorded as pending, and why it couldn't be made.
    fn to_mark(&self) -> Option<(&CompletionEvent, &str)> {
        match (&self.one.event, &self.disposition) {
            (Ok(event), Disposition::MarkPending { error }) => Some((event, error)),
            _ => None,
        }
    }
}

fn of_charge(answer: Isolated<Deduction>) -> Verdict {
    match answer {
        Ok(deduction) => Verdict::Answered(deduction),
        Err(error) if error.fault() == Fault::Rejected => rejected(&error),
        Err(error) => Verdict::Transient {
            error: error.to_string(),
        },
    }
}

fn of_mark(mark: Isolated<PendingMark>, why: &str) -> Verdict {
    match mark {
        Err(error) if error.fault() == Fault::Rejected => rejected(&error),
        mark => Verdict::Marked {
            mark: mark.ok(),
            error: why.to_owned(),
        },
    }
}

fn rejected(error: &StorageError) -> Verdict {
    Verdict::Hopeless {
        reason: Reason::RejectedByDatabase,
        error: error.to_string(),
    }
}

fn unanswered() -> Verdict {
    Verdict::Transient {
        error: "the ledger gave no answer".to_owned(),
    }
}

fn hit<'m>(step: &str, messages: impl Iterator<Item = &'m InFlight>) {
    let events = messages.filter_map(|one| one.event.as_ref().ok());
    failpoint::hit(step, events.map(CompletionEvent::job_id));
}
