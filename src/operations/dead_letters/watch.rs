//! Dead letters as they arrive, for any number of people at once.
//!
//! One connection of the process listens, whoever watches. What it says is only "look": what is new each asks of
//! the table, by `last_arrival`, so whatever was missed while the database was away is found at the next look.

use std::sync::{Arc, PoisonError};

use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{TAIL_LIMITS, check_within};
use crate::operations::{OperationError, Operations};
use crate::reconnect::Reconnect;
use crate::storage::{DeadLetter, Selection, Storage, StorageError};

/// Dead letters of one look.
const PAGE: i64 = 500;
/// Dead letters that [`Operations::dead_letters_since`] tells at once.
pub const MISSED: i64 = PAGE;

/// Dead letters in the order of their arrivals, each again when it arrives again. Dropped, it watches no more.
#[derive(Debug)]
pub struct Arrivals {
    storage: Arc<Storage>,
    selection: Selection,
    /// What had arrived before, to begin with.
    tail: Vec<DeadLetter>,
    /// The last arrival that was looked at.
    seen: i64,
    /// The last look found all there was.
    caught_up: bool,
    /// The last look failed.
    away: bool,
    reconnect: Reconnect,
    told: watch::Receiver<()>,
    _listener: Arc<Listener>,
}

/// What [`Arrivals::next`] has to tell.
#[derive(Debug)]
pub enum News {
    /// These arrived, in this order. Several arrivals of one dead letter since the last look are one.
    Arrived(Vec<DeadLetter>),
    /// The database can't be asked; it is tried again.
    Away(OperationError),
}

/// Tells whoever watches to look. Ends with the last of them.
#[derive(Debug)]
pub(in crate::operations) struct Listener {
    told: watch::Receiver<()>,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener {
    fn start(storage: Arc<Storage>, mut reconnect: Reconnect) -> Self {
        let (tell, told) = watch::channel(());
        let task = tokio::spawn(async move {
            loop {
                let told = || {
                    reconnect.reset();
                    tell.send_replace(());
                };
                if storage.follow_arrivals(told).await.is_err() {
                    // They look, find that they can't, and say so.
                    tell.send_replace(());
                    reconnect.wait(&CancellationToken::new()).await;
                }
            }
        });
        Self { told, task }
    }
}

impl Operations {
    /// Arrivals from now on, in whatever state they are when they are looked at, and the last `tail` before.
    ///
    /// # Errors
    ///
    /// [`OperationError::Invalid`] for a selection that can't match, or a tail beyond [`TAIL_LIMITS`]. Later, nothing ends it.
    pub async fn watch_dead_letters(
        &self,
        selection: &Selection,
        tail: i64,
    ) -> Result<Arrivals, OperationError> {
        check_within("tail", tail, &TAIL_LIMITS)?;
        let selection = self.meant(selection, &[], "reason").await?;
        let seen = self.storage.last_arrival().await?;
        // One that arrives again just now is missing in the tail, and is the first news.
        let before = (0, seen);
        let mut tail = self
            .storage
            .arrivals(&selection, before, true, tail)
            .await?;
        tail.reverse();
        let listener = self.listener();
        Ok(Arrivals {
            storage: self.storage.clone(),
            selection,
            tail,
            seen,
            caught_up: false,
            away: false,
            reconnect: Reconnect::new(&self.settings.reconnect),
            told: listener.told.clone(),
            _listener: listener,
        })
    }

    /// The first [`MISSED`] that arrived after this one, in the order of their arrivals.
    ///
    /// # Errors
    ///
    /// The database can't be asked.
    pub async fn dead_letters_since(&self, seen: i64) -> Result<Vec<DeadLetter>, OperationError> {
        let newest = self.storage.last_arrival().await?;
        let all = Selection::default();
        let arrived = self.storage.arrivals(&all, (seen, newest), false, MISSED);
        Ok(arrived.await?)
    }

    /// The one of this process, started for the first who watches.
    fn listener(&self) -> Arc<Listener> {
        let mut shared = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let reconnect = Reconnect::new(&self.settings.reconnect);
            let listener = Arc::new(Listener::start(self.storage.clone(), reconnect));
            *shared = Arc::downgrade(&listener);
            listener
        })
    }
}

impl Arrivals {
    /// Waits for arrivals, or for something else to tell. It may be dropped while it waits.
    pub async fn next(&mut self) -> News {
        if !self.tail.is_empty() {
            return News::Arrived(std::mem::take(&mut self.tail));
        }
        loop {
            if self.caught_up && !self.away {
                // Only a listener that is gone says no more: then it is asked now and then.
                self.away = self.told.changed().await.is_err();
                // Dropped while it looks, it looks again the next time.
                self.caught_up = false;
            }
            if self.away {
                self.reconnect.wait(&CancellationToken::new()).await;
            }
            match self.look().await {
                Ok(arrived) => {
                    self.away = false;
                    self.reconnect.reset();
                    if !arrived.is_empty() {
                        return News::Arrived(arrived);
                    }
                }
                Err(error) => {
                    self.away = true;
                    self.storage.distrust_connections();
                    return News::Away(error.into());
                }
            }
        }
    }

    /// What came since the last look.
    async fn look(&mut self) -> Result<Vec<DeadLetter>, StorageError> {
        if self.away {
            // For the reason, if it can't be reached: a pool only says that time was up.
            self.storage.reach().await?;
        }
        // What comes from here on is told once more.
        self.told.mark_unchanged();
        // Between the two statements one may arrive again: then it is found next time.
        let newest = self.storage.last_arrival().await?;
        // Less than before: a standby took over that hadn't received everything.
        self.seen = self.seen.min(newest);
        let since = (self.seen, newest);
        let arrived = self
            .storage
            .arrivals(&self.selection, since, false, PAGE)
            .await?;
        self.caught_up = (arrived.len() as i64) < PAGE;
        self.seen = match arrived.last() {
            Some(last) if !self.caught_up => last.last_arrival,
            // What doesn't match needn't be looked at again.
            _ => newest,
        };
        Ok(arrived)
    }
}
