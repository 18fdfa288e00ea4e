//! What happens to one message.
//!
//! A worker takes whatever has arrived (`pool.rs`), reads each body into an event, has all of them charged in
//! one transaction, decides for each message what its answer means ([`crate::domain::dispose`]), publishes what
//! must wait or is dead, and acks the batch (`batch.rs`). Where that fails, [`crate::storage::isolate`] finds whose
//! fault it is; while the database is away the batch waits (`outage.rs`).
//!
//! If the process dies:
//!
//! | at this moment | then |
//! |---|---|
//! | before the charge commits | nothing happened; the broker delivers the batch again |
//! | after the commit, before the ack | delivered again; each key answers with its first result |
//! | after `pending` was written, before the dead letter | delivered again; tried again, charged or marked again |
//! | after a delayed or dead copy was confirmed, before the ack | original and copy both arrive; one charge |
//! | after the ack | all is in the books or in a queue |

mod batch;
mod lag;
mod outage;
mod pool;
mod tally;

use std::{sync::Arc, time::Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    broker::{Publisher, Topology},
    config::Settings,
    domain::RetrySchedule,
    storage::Storage,
};

pub use lag::Lag;
pub use pool::run;
pub use tally::{Tallied, Tally};

/// What every worker of the pool shares.
#[derive(Debug)]
pub struct Worker {
    settings: Settings,
    storage: Arc<Storage>,
    publisher: Publisher,
    topology: Topology,
    schedule: RetrySchedule,
    tally: Arc<Tally>,
    /// Whether there are consumers.
    consuming: watch::Sender<bool>,
    /// Why the queues can't be declared as these settings want them.
    refused: watch::Sender<Option<Arc<str>>>,
}

impl Worker {
    /// A worker on this ledger, with the broker of the settings.
    pub fn new(settings: &Settings, storage: Arc<Storage>) -> Self {
        let schedule = RetrySchedule::new(&settings.retry);
        let topology = Topology::new(&settings.broker, &schedule);
        Self {
            publisher: Publisher::declaring(&settings.broker, &topology),
            settings: settings.clone(),
            storage,
            topology,
            schedule,
            tally: Arc::default(),
            consuming: watch::Sender::new(false),
            refused: watch::Sender::new(None),
        }
    }

    /// The running counts of what became of messages.
    pub fn tally(&self) -> Arc<Tally> {
        self.tally.clone()
    }

    /// Whether there are consumers; whether the database can be charged is the storage's to say. Changes
    /// can be awaited.
    pub fn consuming(&self) -> watch::Receiver<bool> {
        self.consuming.subscribe()
    }

    /// Why the broker takes no messages, in its own words; `None` while it does. What must be delayed or dead-lettered
    /// waits then, and with it the batch that it came in.
    pub fn alarm(&self) -> watch::Receiver<Option<String>> {
        self.publisher.alarm()
    }

    /// Why the queues can't be declared as these settings want them, and what to do about it; `None` where they can.
    pub fn refused(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.refused.subscribe()
    }

    /// Messages received now may be held until then.
    fn hold(&self, stop: &CancellationToken) -> Hold {
        Hold {
            until: Instant::now() + self.settings.worker.hold_max,
            stop: stop.clone(),
        }
    }
}

/// How long a batch may stay in flight while something is away: until shutdown, or well before the
/// broker's consumer timeout, after which it would close the channel by itself.
#[derive(Debug)]
struct Hold {
    until: Instant,
    stop: CancellationToken,
}

/// The batch in flight goes back to its queue; no message of it is acked.
#[derive(Debug, thiserror::Error)]
#[error("requeued")]
struct Requeue;

impl Hold {
    /// Whether it goes on.
    fn check(&self) -> Result<(), Requeue> {
        let over = self.stop.is_cancelled() || Instant::now() >= self.until;
        if over { Err(Requeue) } else { Ok(()) }
    }

    /// Runs `wait` to its end, or to the end of the hold.
    async fn during<T>(&self, wait: impl Future<Output = T>) -> Result<T, Requeue> {
        tokio::select! {
            done = wait => Ok(done),
            () = self.stop.cancelled() => Err(Requeue),
            () = tokio::time::sleep_until(self.until.into()) => Err(Requeue),
        }
    }
}
