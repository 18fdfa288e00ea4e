//! `--wait`: what became of the event.

use std::time::Duration;

use anyhow::bail;
use serde::Serialize;

use crate::{
    cli::{
        Ended,
        output::{Format, note, printable, thousands},
    },
    domain::CompletionEvent,
    operations::{EventOutcome, JobLife, Operations, Outcome, PublishReport},
};

/// Someone who waits for one event.
pub(super) struct Waiting<'a> {
    pub(super) operations: &'a Operations,
    pub(super) within: Duration,
    /// Looked at before the event was published.
    pub(super) before: JobLife,
}

#[derive(Serialize)]
struct Waited<'a> {
    #[serde(flatten)]
    report: &'a PublishReport,
    #[serde(flatten)]
    outcome: &'a EventOutcome,
}

impl Waiting<'_> {
    /// Tells what became of an event that the broker has confirmed.
    pub(super) async fn tell(
        self,
        event: &CompletionEvent,
        report: &PublishReport,
        format: Format,
    ) -> anyhow::Result<Ended> {
        let outcome = self
            .operations
            .outcome(event, &self.before, self.within)
            .await;
        let job = event.job_id();
        let is_charged = outcome.outcome == Outcome::Charged;
        // Of what went otherwise people read on standard error.
        if format == Format::Json || is_charged {
            let waited = Waited {
                report,
                outcome: &outcome,
            };
            let tokens = thousands(event.tokens());
            format.print(&waited, |_| format!("charged: {tokens} tokens, job {job}"))?;
        }
        let why = [outcome.reason.as_deref(), outcome.message.as_deref()];
        let why: Vec<&str> = why.into_iter().flatten().collect();
        let why = printable(&why.join(": "));
        match outcome.outcome {
            Outcome::Charged => Ok(Ended::Done),
            Outcome::Refused => bail!("job {job} was refused: {why}"),
            Outcome::Pending => {
                note(&format!(
                    "job {job} is pending, and the sweeper charges it later: {why}"
                ));
                Ok(Ended::NeedsPerson)
            }
            Outcome::Queued => {
                let within = humantime::format_duration(self.within);
                let why = if why.is_empty() {
                    "is token-billing serve running?"
                } else {
                    &why
                };
                note(&format!(
                    "job {job} was published, and nothing has come of it within {within}: {why}; see token-billing \
                     show {job}"
                ));
                Ok(Ended::NeedsPerson)
            }
        }
    }
}
