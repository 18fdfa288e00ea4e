//! Charges that nobody has been able to make: recorded as `pending` before their dead letters are
//! published. A dead letter without its record would be a debt that the sweeper doesn't know of.

use super::{GiveBack, Hold, Worker, charging::Outage};
use crate::{
    broker::Delivered,
    domain::{CompletionEvent, Disposition, Reason, Verdict},
    reconnect::Reconnect,
    storage::{Fault, PendingMark, StorageError},
};

impl Worker {
    /// Records what is owed among the messages, and changes the dispositions of those that turn out
    /// not to be.
    pub(super) async fn record_owed(
        &self,
        messages: &[Delivered],
        parsed: &[Result<CompletionEvent, Verdict>],
        dispositions: &mut [Disposition],
        hold: &Hold,
    ) -> Result<(), GiveBack> {
        let mut owed = Vec::new();
        for ((message, parsed), disposition) in messages.iter().zip(parsed).zip(dispositions) {
            if let (
                Ok(event),
                Disposition::DeadLetter {
                    owed: true, error, ..
                },
            ) = (parsed, &*disposition)
            {
                owed.push((message.attempt(), event, error.clone(), disposition));
            }
        }
        let asked: Vec<(&CompletionEvent, &str)> = owed
            .iter()
            .map(|(_, event, error, _)| (*event, error.as_str()))
            .collect();
        let marks = self.mark_each(&asked, hold).await?;
        for ((attempt, _, error, disposition), mark) in owed.into_iter().zip(marks) {
            match mark {
                Ok(PendingMark::Owed | PendingMark::NoCompany) => {}
                Ok(PendingMark::ChargedMeanwhile) => *disposition = Disposition::Ack,
                Err(rejection) if rejection.fault() == Fault::Rejected => {
                    *disposition = Disposition::DeadLetter {
                        reason: Reason::RejectedByDatabase,
                        error: rejection.to_string(),
                        owed: false,
                    };
                }
                // Once more around the longest delay, with the attempt as it is: what was settled is
                // answered by the books at once, what could not be recorded is tried again.
                Ok(PendingMark::Settled) | Err(_) => {
                    if let Some(&delay) = self.schedule.steps().last() {
                        *disposition = Disposition::Delay {
                            delay,
                            attempt,
                            error,
                        };
                    }
                }
            }
        }
        Ok(())
    }

    /// One mark per event. What the database rejects for good is found one by one.
    async fn mark_each(
        &self,
        owed: &[(&CompletionEvent, &str)],
        hold: &Hold,
    ) -> Result<Vec<Result<PendingMark, StorageError>>, GiveBack> {
        if owed.is_empty() {
            return Ok(Vec::new());
        }
        let mut marks = Vec::with_capacity(owed.len());
        match self.mark(owed, hold).await? {
            Ok(all) => marks.extend(all.into_iter().map(Ok)),
            Err(_) if owed.len() > 1 => {
                for one in owed {
                    let mark = self.mark(std::slice::from_ref(one), hold).await?;
                    marks.push(mark.and_then(|mut mark| mark.pop().ok_or(StorageError::NoAnswer)));
                }
            }
            Err(error) => marks.push(Err(error)),
        }
        Ok(marks)
    }

    async fn mark(
        &self,
        owed: &[(&CompletionEvent, &str)],
        hold: &Hold,
    ) -> Result<Result<Vec<PendingMark>, StorageError>, GiveBack> {
        let mut outage = Outage::new(self);
        let mut reconnect = Reconnect::new(&self.settings.reconnect);
        loop {
            let error = match self.storage.mark_pending(owed).await {
                Ok(marks) => return Ok(Ok(marks)),
                Err(error) => error,
            };
            if outage.explains(&error, hold).await? {
                continue;
            }
            tracing::warn!(%error, "could not record what is owed");
            // Without a delay queue there is nowhere to wait but here.
            if error.fault() == Fault::Rejected || !self.schedule.steps().is_empty() {
                return Ok(Err(error));
            }
            if !hold.during(reconnect.wait(&hold.stop)).await? {
                return Err(GiveBack);
            }
        }
    }
}
