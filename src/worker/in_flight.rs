//! One message between its arrival and its ack.

use std::time::Instant;

use tracing::field;

use super::room::{Group, Wait};
use crate::{
    broker::{Delivered, Outgoing, Topology},
    config::Limits,
    domain::{CompletionEvent, Deduction, Disposition, TraceContext, Verdict},
};

/// A message that is not acked yet.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) message: Delivered,
    /// What its body says, or what is wrong with it.
    pub(super) event: Result<CompletionEvent, Verdict>,
    pub(super) delivered_at: Instant,
    /// Since it was found that it has to wait for a lock.
    pub(super) waits: Option<Wait>,
}

impl InFlight {
    pub(super) fn read(message: Delivered, limits: &Limits) -> Self {
        let event = CompletionEvent::parse(&message.body, message.content_type(), limits);
        Self {
            event: event.map_err(Verdict::from),
            message,
            delivered_at: Instant::now(),
            waits: None,
        }
    }

    /// Who pays: the company or, where only the job is known, that.
    pub(super) fn payer(&self) -> Option<Group> {
        self.event.as_ref().ok().map(payer)
    }

    /// Those that may be why it has to wait.
    pub(super) fn groups(&self) -> [Option<Group>; 2] {
        let job = self
            .event
            .as_ref()
            .ok()
            .map(|event| Group::Job(event.job_id()));
        [self.payer(), job]
    }

    /// It waits no more. Should it have to another time, its patience begins anew.
    pub(super) fn freed(self) -> Self {
        Self {
            waits: None,
            ..self
        }
    }

    /// It waits for this group; since now, unless it waits already.
    pub(super) fn wait_for(&mut self, group: Group, by_itself: bool) {
        let since = self.waits.map_or_else(Instant::now, |wait| wait.since);
        self.waits = Some(Wait {
            group,
            since,
            by_itself,
        });
    }

    /// One of so many lanes: always the same one for the same payer.
    pub(super) fn lane(&self, lanes: usize) -> usize {
        let number = match self.payer() {
            Some(Group::Company(id) | Group::Job(id)) => {
                let (high, low) = id.as_u64_pair();
                high ^ low
            }
            None => self.message.tag,
        };
        // Ids may differ in their first digits only, or in their last: the product's middle has a share of all (Knuth's
        // multiplicative hashing).
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        usize::try_from(mixed).unwrap_or(0) % lanes
    }

    /// What is to be published of it; says so.
    pub(super) fn outgoing(
        &self,
        disposition: &Disposition,
        topology: &Topology,
    ) -> Option<Outgoing> {
        let message = &self.message;
        let job_id = self.event.as_ref().ok();
        let job_id = job_id.map(|event| field::display(event.job_id()));
        let trace = message.trace();
        let trace_id = trace.as_ref().map(TraceContext::trace_id);
        match disposition {
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

    pub(super) fn log_charge(&self, verdict: &Verdict) {
        let (Ok(event), Verdict::Answered(Deduction::Charged { job_status_error })) =
            (&self.event, verdict)
        else {
            return;
        };
        let job_id = event.job_id();
        if let Some(error) = job_status_error {
            tracing::warn!(job.id = %job_id, error.message = error, "charged, but article_jobs refused the status `completed`");
        }
        tracing::debug!(
            job.id = %job_id,
            charge.tokens = event.tokens(),
            trace.id = self.message.trace().as_ref().map(TraceContext::trace_id),
            "charged"
        );
    }
}

pub(super) fn payer(event: &CompletionEvent) -> Group {
    let company = event.company_id().map(Group::Company);
    company.unwrap_or(Group::Job(event.job_id()))
}
