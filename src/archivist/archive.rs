//! Committing letters, whatever the database thinks of one of them.

use std::{sync::atomic::Ordering, time::Instant};

use tokio_util::sync::CancellationToken;

use super::{Archivist, Tally, arrival};
use crate::{
    reconnect::Reconnect,
    storage::{Arrival, Fault, StorageError, Waited},
};

/// A call that fails so often while the database looks well has a fault of its own.
const ENOUGH_TRIES: u32 = 3;

impl Archivist {
    /// The same as [`Archivist::archive`], again and again where the database is there and refuses (a right or a
    /// migration is missing, a lock is held), with the letters in hand: given back, each would count a delivery every
    /// few seconds, and come to the limit of its queue within hours. Not for ever: before the broker takes them back
    /// by itself.
    pub(super) async fn archive_in_hand(
        &self,
        arrivals: &[Arrival],
        stop: &CancellationToken,
    ) -> Result<Vec<i64>, StorageError> {
        let until = Instant::now() + self.settings.worker.hold_max;
        let mut pause = Reconnect::new(&self.settings.reconnect);
        loop {
            let error = match self.archive(arrivals, stop).await {
                Err(error) if !is_everybodys(&error) => error,
                done => return done,
            };
            self.held.store(arrivals.len(), Ordering::Relaxed);
            tracing::error!(%error, letters = arrivals.len(), "not archived: trying again");
            let again = async {
                pause.wait(stop).await
                    && self.storage.wait_until_available(stop).await != Waited::Cancelled
            };
            if !matches!(tokio::time::timeout_at(until.into(), again).await, Ok(true)) {
                return Err(error);
            }
        }
    }

    /// Archives all, in one transaction if nothing is wrong with any; the letters' ids, in order. The error
    /// that remains is nobody's letter's fault, or comes from being told to stop.
    async fn archive(
        &self,
        arrivals: &[Arrival],
        stop: &CancellationToken,
    ) -> Result<Vec<i64>, StorageError> {
        if arrivals.len() > 1 {
            match self.try_archive(arrivals, stop).await {
                Err(refusal) if !is_everybodys(&refusal) && !stop.is_cancelled() => {
                    tracing::warn!(error = %refusal, letters = arrivals.len(), "batch refused: archiving one by one");
                }
                done => return done,
            }
        }
        let mut ids = Vec::with_capacity(arrivals.len());
        for arrival in arrivals {
            ids.extend(self.archive_one(arrival, stop).await?);
        }
        Ok(ids)
    }

    async fn archive_one(
        &self,
        arrival: &Arrival,
        stop: &CancellationToken,
    ) -> Result<Vec<i64>, StorageError> {
        let one = std::slice::from_ref(arrival);
        let refusal = match self.try_archive(one, stop).await {
            Err(refusal) if !is_everybodys(&refusal) && !stop.is_cancelled() => refusal,
            done => return done,
        };
        if refusal.fault() != Fault::Rejected {
            // Nothing in hand takes the same lock by the same function: if that fails too, the letter is innocent.
            self.storage.archive(&[]).await?;
            if let Ok(id) = self.storage.archive(one).await {
                return Ok(id);
            }
        }
        let bare = arrival::bare(arrival, &refusal);
        let id = self.storage.archive(std::slice::from_ref(&bare)).await?;
        tracing::warn!(
            error = %refusal,
            dead_letter_id = id.first(),
            job_id = arrival.job_id.map(tracing::field::display),
            "archived without headers, properties and error: the database refused it whole"
        );
        Tally::add(&self.tally.bare, 1);
        Ok(id)
    }

    /// Again, a few times, if it may be bad luck: behind a held lock each try has waited already.
    async fn try_archive(
        &self,
        arrivals: &[Arrival],
        stop: &CancellationToken,
    ) -> Result<Vec<i64>, StorageError> {
        let mut reconnect = Reconnect::new(&self.settings.reconnect);
        let mut tries = 0;
        loop {
            let error = match self.storage.archive(arrivals).await {
                Ok(ids) => return Ok(ids),
                Err(error) => error,
            };
            tries += 1;
            if error.fault() == Fault::Installation {
                // If something is missing that everybody needs, what comes next finds it, and says so.
                self.storage.doubt();
            }
            let may_pass = matches!(
                error.fault(),
                Fault::Busy | Fault::Transient | Fault::Installation
            );
            if !may_pass || tries == ENOUGH_TRIES || !reconnect.wait(stop).await {
                return Err(error);
            }
        }
    }
}

/// The database as a whole, or the way to it.
fn is_everybodys(error: &StorageError) -> bool {
    matches!(error.fault(), Fault::Unavailable | Fault::Disconnected)
}
