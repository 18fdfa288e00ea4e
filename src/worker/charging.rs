//! Asking the books, and finding out whose fault it is when they don't answer.

use uuid::Uuid;

use super::{GiveBack, Hold, Worker};
use crate::{
    domain::{CompletionEvent, Deduction, Reason, Verdict},
    reconnect::Reconnect,
    storage::{Fault, StorageError, Waited},
};

impl Worker {
    /// One verdict per event, in order. While the database is away this waits, and no event's attempt
    /// is used up by that.
    ///
    /// A batch that fails as a whole is split by company: most failures (a held lock, a deadlock) are
    /// one company's. A company that fails again is not split further unless the database rejects
    /// something in it for good: behind a held lock, each single item would wait its full time.
    pub(super) async fn charge(
        &self,
        events: &[&CompletionEvent],
        hold: &Hold,
    ) -> Result<Vec<Verdict>, GiveBack> {
        let error = match self.ask(events, hold).await? {
            Ok(deductions) => return Ok(answered(deductions).collect()),
            Err(error) => error,
        };
        let companies = by_company(events);
        if companies.len() > 1 {
            tracing::warn!(%error, events = events.len(), companies = companies.len(), "batch failed: splitting it by company");
        }
        let mut verdicts: Vec<Option<Verdict>> = events.iter().map(|_| None).collect();
        let mut whole = (companies.len() == 1).then_some(error);
        let mut failed_in_a_row = 0;
        let mut last_error = String::new();
        for indices in companies {
            let of_company: Vec<&CompletionEvent> =
                indices.iter().map(|&index| events[index]).collect();
            let settled = if failed_in_a_row >= ENOUGH_FAILED {
                transient(&of_company, &last_error)
            } else {
                let asked = match whole.take() {
                    Some(error) => Err(error),
                    None => self.ask(&of_company, hold).await?,
                };
                match asked {
                    Ok(deductions) => {
                        failed_in_a_row = 0;
                        answered(deductions).collect()
                    }
                    Err(error) => {
                        failed_in_a_row += u32::from(error.fault() != Fault::Rejected);
                        last_error = error.to_string();
                        self.charge_failed_company(&of_company, error, hold).await?
                    }
                }
            };
            for (index, verdict) in indices.into_iter().zip(settled) {
                verdicts[index] = Some(verdict);
            }
        }
        Ok(verdicts.into_iter().flatten().collect())
    }

    async fn charge_failed_company(
        &self,
        events: &[&CompletionEvent],
        error: StorageError,
        hold: &Hold,
    ) -> Result<Vec<Verdict>, GiveBack> {
        if error.fault() != Fault::Rejected {
            return Ok(transient(events, &error.to_string()));
        }
        // Something among them can't be charged, ever. Find it.
        let mut verdicts = Vec::with_capacity(events.len());
        for event in events {
            verdicts.push(match self.ask(&[event], hold).await? {
                Ok(deductions) => match answered(deductions).next() {
                    Some(verdict) => verdict,
                    None => Verdict::Transient {
                        error: "no answer".to_owned(),
                    },
                },
                Err(error) if error.fault() == Fault::Rejected => Verdict::Hopeless {
                    reason: Reason::RejectedByDatabase,
                    error: error.to_string(),
                },
                Err(error) => Verdict::Transient {
                    error: error.to_string(),
                },
            });
        }
        Ok(verdicts)
    }

    /// Asks once, and again as long as it is the database as a whole that fails. The error that remains
    /// is about these events.
    async fn ask(
        &self,
        events: &[&CompletionEvent],
        hold: &Hold,
    ) -> Result<Result<Vec<Deduction>, StorageError>, GiveBack> {
        let mut outage = Outage::new(self);
        loop {
            hold.check()?;
            match self.storage.deduct(events).await {
                Ok(deductions) => return Ok(Ok(deductions)),
                Err(error) => {
                    if !outage.explains(&error, hold).await? {
                        return Ok(Err(error));
                    }
                }
            }
        }
    }
}

/// When so many companies of a batch have failed one after the other, the rest is not asked: it would
/// only wait for as many lock timeouts again.
const ENOUGH_FAILED: u32 = 3;
/// Tells, over several tries of one call, whether its failures are the database's or its own.
pub(super) struct Outage<'w> {
    worker: &'w Worker,
    server: Option<time::OffsetDateTime>,
    reconnect: Reconnect,
    /// Connections that broke while the database was there all the time.
    unexplained: u32,
}

impl<'w> Outage<'w> {
    pub(super) fn new(worker: &'w Worker) -> Self {
        Self {
            worker,
            server: worker.storage.server_started_at(),
            reconnect: Reconnect::new(&worker.settings.reconnect),
            unexplained: 0,
        }
    }

    /// `true`: the database was away, is back now, and the call should be repeated.
    pub(super) async fn explains(
        &mut self,
        error: &StorageError,
        hold: &Hold,
    ) -> Result<bool, GiveBack> {
        let storage = &self.worker.storage;
        match error.fault() {
            Fault::Busy | Fault::Transient | Fault::Rejected => return Ok(false),
            // Said within a statement, perhaps by a trigger of the application's that fails for one company. The
            // installation is asked, which changes nothing that others see unless it is at fault.
            Fault::Installation => {
                if !storage.doubt() {
                    return Ok(false);
                }
            }
            Fault::Unavailable => {
                storage.distrust_connections();
                storage.heard(Some(error));
                // Whatever the next look says: it may be able to look and still not to work.
                if !hold.during(self.reconnect.wait(&hold.stop)).await? {
                    return Err(GiveBack);
                }
            }
            Fault::Disconnected => {
                storage.distrust_connections();
                tracing::warn!(%error, "connection lost, or of no use any more");
            }
        }
        let waited = hold
            .during(storage.wait_until_available(&hold.stop))
            .await?;
        let server = storage.server_started_at();
        let restarted = server != self.server;
        self.server = server;
        // It was seen away, or the server that answers now is another process than before.
        if waited == Waited::CameBack || restarted {
            return Ok(true);
        }
        match error.fault() {
            Fault::Unavailable => Ok(true),
            // A first cut may be bad luck; a second one is about what we sent.
            Fault::Disconnected => {
                self.unexplained += 1;
                Ok(self.unexplained < 2)
            }
            // Nothing is missing, so it is about these events.
            _ => Ok(false),
        }
    }
}

fn transient(events: &[&CompletionEvent], error: &str) -> Vec<Verdict> {
    events
        .iter()
        .map(|_| Verdict::Transient {
            error: error.to_owned(),
        })
        .collect()
}

fn answered(deductions: Vec<Deduction>) -> impl Iterator<Item = Verdict> {
    deductions.into_iter().map(Verdict::Answered)
}

/// Positions of the events of each company, in order of first appearance. Events that leave their
/// company to the job's row are a group of their own.
fn by_company(events: &[&CompletionEvent]) -> Vec<Vec<usize>> {
    let mut companies: Vec<(Option<Uuid>, Vec<usize>)> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for (index, event) in events.iter().enumerate() {
        let place = *places.entry(event.company_id()).or_insert_with(|| {
            companies.push((event.company_id(), Vec::new()));
            companies.len() - 1
        });
        companies[place].1.push(index);
    }
    companies.into_iter().map(|(_, indices)| indices).collect()
}
