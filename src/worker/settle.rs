//! From a batch in hand to a batch acked.

use super::{GiveBack, Hold, Worker};
use crate::{
    broker::{Batch, BrokerError, Delivered, Outgoing},
    domain::{CompletionEvent, Deduction, Disposition, EventFault, Reason, Verdict, dispose},
    failpoint,
    reconnect::Reconnect,
};

/// Why a batch was not acked. Its messages come again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsettled {
    #[error(transparent)]
    GiveBack(#[from] GiveBack),
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl Worker {
    /// Settles every message of the batch, then acks them together.
    pub(super) async fn settle(&self, batch: Batch, hold: &Hold) -> Result<(), Unsettled> {
        let parsed: Vec<Result<CompletionEvent, Verdict>> = batch
            .messages()
            .iter()
            .map(|message| self.read(message))
            .collect();
        let events: Vec<&CompletionEvent> = parsed.iter().flatten().collect();
        let jobs = || parsed.iter().flatten().map(CompletionEvent::job_id);

        failpoint::hit("before_charge", jobs());
        let mut verdicts = self.charge(&events, hold).await?.into_iter();
        failpoint::hit("after_charge", jobs());

        let committed_at = time::OffsetDateTime::now_utc();
        let mut dispositions = Vec::with_capacity(batch.messages().len());
        for (message, parsed) in batch.messages().iter().zip(&parsed) {
            let (verdict, event) = match parsed {
                Ok(event) => {
                    let verdict = verdicts.next().unwrap_or_else(unanswered);
                    self.tally.record_lag(event, &verdict, committed_at);
                    (verdict, Some(event))
                }
                Err(verdict) => (verdict.clone(), None),
            };
            self.tally.count_verdict(&verdict);
            log_verdict(event, message, &verdict);
            dispositions.push(dispose(verdict, message.attempt(), &self.schedule));
        }
        self.record_owed(batch.messages(), &parsed, &mut dispositions, hold)
            .await?;
        failpoint::hit("after_pending", jobs());

        let mut outgoing = Vec::new();
        for ((message, parsed), disposition) in
            batch.messages().iter().zip(&parsed).zip(&dispositions)
        {
            self.tally.count_disposition(disposition);
            log_disposition(parsed.as_ref().ok(), message, disposition);
            outgoing.extend(self.outgoing(message, disposition));
        }
        self.publish_until_confirmed(outgoing, hold).await?;
        failpoint::hit("after_publish", jobs());
        Ok(batch.ack().await?)
    }

    fn read(&self, message: &Delivered) -> Result<CompletionEvent, Verdict> {
        CompletionEvent::parse(&message.body, message.content_type(), &self.settings.limits)
            .map_err(|error| Verdict::Hopeless {
                reason: match error.fault() {
                    EventFault::Malformed => Reason::Malformed,
                    EventFault::AmountOutOfRange => Reason::AmountOutOfRange,
                    EventFault::PayloadTooLarge => Reason::PayloadTooLarge,
                },
                error: error.to_string(),
            })
    }

    fn outgoing(&self, message: &Delivered, disposition: &Disposition) -> Option<Outgoing> {
        match disposition {
            Disposition::Ack => None,
            Disposition::Delay {
                delay,
                attempt,
                error,
            } => Some(Outgoing::delayed(
                message,
                &self.topology,
                *delay,
                *attempt,
                error,
            )),
            Disposition::DeadLetter { reason, error, .. } => Some(Outgoing::dead_letter(
                message,
                &self.topology,
                reason.as_str(),
                error,
            )),
        }
    }

    /// Publishes until the broker has confirmed each. What is in hand stays unacked meanwhile; a message
    /// whose confirm was lost is published twice, which the key makes harmless.
    async fn publish_until_confirmed(
        &self,
        mut outgoing: Vec<Outgoing>,
        hold: &Hold,
    ) -> Result<(), GiveBack> {
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
                tracing::error!(%error, messages = outgoing.len(), "not confirmed: publishing again");
                if !hold.during(reconnect.wait(&hold.stop)).await? {
                    return Err(GiveBack);
                }
            }
        }
        Ok(())
    }
}

fn unanswered() -> Verdict {
    Verdict::Transient {
        error: "the books gave no answer".to_owned(),
    }
}

fn log_verdict(event: Option<&CompletionEvent>, message: &Delivered, verdict: &Verdict) {
    let (Some(event), Verdict::Answered(Deduction::Charged(receipt))) = (event, verdict) else {
        return;
    };
    let job_id = event.job_id();
    if let Some(error) = &receipt.job_status_error {
        tracing::warn!(%job_id, error, "charged, but article_jobs refused the status `completed`");
    }
    tracing::debug!(
        %job_id,
        tokens = event.tokens(),
        balance_after = receipt.balance_after,
        trace_id = message.trace().as_ref().map(|trace| trace.trace_id().to_owned()),
        "charged"
    );
}

fn log_disposition(
    event: Option<&CompletionEvent>,
    message: &Delivered,
    disposition: &Disposition,
) {
    let job_id = event.map(|event| tracing::field::display(event.job_id()));
    let trace_id = message
        .trace()
        .as_ref()
        .map(|trace| trace.trace_id().to_owned());
    match disposition {
        Disposition::Ack => {}
        Disposition::Delay {
            delay,
            attempt,
            error,
        } => {
            let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(job_id, attempt, delay_ms, error, trace_id, "retrying later");
        }
        Disposition::DeadLetter { reason, error, .. } => {
            tracing::warn!(
                job_id,
                reason = reason.as_str(),
                attempt = message.attempt(),
                error,
                trace_id,
                "dead-lettered"
            );
        }
    }
}
