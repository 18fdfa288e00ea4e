//! One batch of messages, from its arrival to its ack.

use tracing::field;

use super::Worker;
use crate::{
    broker::{Batch, Delivered, Outgoing, Topology},
    consuming::{Hold, NotAcked, Requeue},
    domain::{
        CompletionEvent, Deduction, Disposition, PendingMark, Reason, TraceContext, Verdict,
        dispose,
    },
    failpoint,
    reconnect::Reconnect,
    storage::{Fault, Isolated, StorageError, enough_busy, isolate},
};

/// A message that is not acked yet, and what is to be done with it.
struct InFlight<'b> {
    message: &'b Delivered,
    /// `None`: its body is none.
    event: Option<CompletionEvent>,
    disposition: Disposition,
}

impl Worker {
    /// Processes every message of the batch, then acks them together.
    pub(super) async fn process(&self, batch: Batch, hold: &Hold) -> Result<(), NotAcked> {
        let mut messages = self.charge(batch.messages(), hold).await?;
        self.mark_pending(&mut messages, hold).await?;
        hit("after_pending", &messages);

        let mut outgoing = Vec::new();
        for one in &messages {
            self.tally.count_disposition(&one.disposition);
            outgoing.extend(one.outgoing(&self.topology));
        }
        self.publish_until_confirmed(outgoing, hold).await?;
        hit("after_publish", &messages);
        Ok(batch.ack().await?)
    }

    /// Reads the bodies, charges the events among them, and decides what that means for each message.
    async fn charge<'b>(
        &self,
        messages: &'b [Delivered],
        hold: &Hold,
    ) -> Result<Vec<InFlight<'b>>, Requeue> {
        let limits = &self.settings.limits;
        let read = messages.iter().map(|message| {
            CompletionEvent::parse(&message.body, message.content_type(), limits)
                .map_err(Verdict::from)
        });
        let read: Vec<Result<CompletionEvent, Verdict>> = read.collect();
        let events: Vec<&CompletionEvent> = read.iter().flatten().collect();
        failpoint::hit("before_charge", events.iter().map(|event| event.job_id()));
        // Also without an event: what is wrong with a body is said when the database can be written to again, and
        // until then nothing is dead.
        let charge = |some: Vec<_>| async move {
            hold.check()?;
            let wait = Some(self.settings.database.lock_timeout);
            self.outlast(hold, || self.storage.deduct(&some, wait))
                .await
        };
        let answers = isolate(&events, CompletionEvent::company_id, enough_busy, charge).await?;
        let committed_at = time::OffsetDateTime::now_utc();
        let mut answers = answers.into_iter();
        let mut in_flight = Vec::with_capacity(messages.len());
        for (message, read) in messages.iter().zip(read) {
            let (event, verdict) = match read {
                Ok(event) => {
                    let verdict = answers.next().map_or_else(unanswered, of_charge);
                    self.tally.record_lag(&event, &verdict, committed_at);
                    log_charge(&event, message, &verdict);
                    (Some(event), verdict)
                }
                Err(verdict) => (None, verdict),
            };
            self.tally.count_verdict(&verdict);
            in_flight.push(InFlight {
                message,
                event,
                disposition: dispose(verdict, message.attempt(), &self.schedule),
            });
        }
        hit("after_charge", &in_flight);
        Ok(in_flight)
    }

    /// Records as `pending` what is to be, and decides again with what came of it.
    async fn mark_pending(
        &self,
        messages: &mut [InFlight<'_>],
        hold: &Hold,
    ) -> Result<(), Requeue> {
        let mut reconnect = Reconnect::new(&self.settings.reconnect);
        loop {
            let charges: Vec<_> = messages.iter().filter_map(InFlight::to_mark).collect();
            if charges.is_empty() {
                return Ok(());
            }
            let mark = |some: Vec<_>| async move {
                self.outlast(hold, || self.storage.mark_pending(&some))
                    .await
            };
            let marks =
                isolate(&charges, |(event, _)| event.company_id(), enough_busy, mark).await?;
            let marked = messages.iter_mut().filter(|one| one.to_mark().is_some());
            for (one, mark) in marked.zip(marks) {
                let Some((event, error)) = one.to_mark() else {
                    continue;
                };
                if let Err(error) = &mark {
                    tracing::warn!(job.id = %event.job_id(), error.message = %error, "not recorded as pending");
                }
                let verdict = of_mark(mark, error);
                one.disposition = dispose(verdict, one.message.attempt(), &self.schedule);
            }
            let is_left = messages.iter().any(|one| one.to_mark().is_some());
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

impl InFlight<'_> {
    /// The charge that is to be recorded as pending, and why it couldn't be made.
    fn to_mark(&self) -> Option<(&CompletionEvent, &str)> {
        match (&self.event, &self.disposition) {
            (Some(event), Disposition::MarkPending { error }) => Some((event, error)),
            _ => None,
        }
    }

    /// What is to be published of it; says so.
    fn outgoing(&self, topology: &Topology) -> Option<Outgoing> {
        let message = self.message;
        let job_id = self
            .event
            .as_ref()
            .map(|event| field::display(event.job_id()));
        let trace = message.trace();
        let trace_id = trace.as_ref().map(TraceContext::trace_id);
        match &self.disposition {
            Disposition::Ack | Disposition::MarkPending { .. } => None,
            Disposition::Delay {
                delay,
                attempt,
                error,
            } => {
                tracing::warn!(
                    job.id = job_id,
                    retry.attempt = attempt,
                    retry.delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
                    error.message = error,
                    trace.id = trace_id,
                    "retrying later"
                );
                Some(Outgoing::delayed(
                    message, topology, *delay, *attempt, error,
                ))
            }
            Disposition::DeadLetter { reason, error } => {
                let reason = reason.as_str();
                tracing::warn!(
                    job.id = job_id,
                    dead_letter.reason = reason,
                    retry.attempt = message.attempt(),
                    error.message = error,
                    trace.id = trace_id,
                    "dead-lettered"
                );
                Some(Outgoing::dead_letter(message, topology, reason, error))
            }
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

fn hit(step: &str, messages: &[InFlight<'_>]) {
    let events = messages.iter().filter_map(|one| one.event.as_ref());
    failpoint::hit(step, events.map(CompletionEvent::job_id));
}

fn log_charge(event: &CompletionEvent, message: &Delivered, verdict: &Verdict) {
    let Verdict::Answered(Deduction::Charged { job_status_error }) = verdict else {
        return;
    };
    let job_id = event.job_id();
    if let Some(error) = job_status_error {
        tracing::warn!(job.id = %job_id, error.message = error, "charged, but article_jobs refused the status `completed`");
    }
    tracing::debug!(
        job.id = %job_id,
        charge.tokens = event.tokens(),
        trace.id = message.trace().as_ref().map(TraceContext::trace_id),
        "charged"
    );
}
