//! What happens to one message.
//!
//! A worker takes whatever has arrived, reads each body into an event, has all of them charged in one
//! transaction, decides for each message what its answer means ([`crate::domain::dispose`]), publishes what must
//! wait or is dead, and acks the batch (`batch.rs`). Where that fails, [`crate::storage::isolate`] finds whose fault
//! it is; while the database is away the batch waits (`outage.rs`).
//!
//! If the process dies:
//!
//! | at this moment | then |
//! |---|---|
//! | before the charge commits | nothing happened; the broker delivers the batch again |
//! | after the commit, before the ack | delivered again; each key answers with its first result |
//! | after `pending` was written, before the dead letter | delivered again; tried again, charged or marked again |
//! | after a delayed or dead copy was confirmed, before the ack | original and copy both arrive; one charge |
//! | after the ack | all is in the ledger or in a queue |

mod batch;
mod lag;
mod outage;
mod tally;

use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    broker::{Publisher, Topology},
    config::Settings,
    consuming::{Consuming, Intake},
    domain::RetrySchedule,
    storage::Storage,
};

pub use lag::Lag;
pub use tally::{Tallied, Tally};

/// What the consumers of the work queue share.
#[derive(Debug)]
pub struct Worker {
    settings: Settings,
    storage: Arc<Storage>,
    publisher: Publisher,
    topology: Topology,
    schedule: RetrySchedule,
    tally: Arc<Tally>,
    consuming: Consuming,
}

/// Charges until `stop`; then finishes the batches in flight and returns.
pub async fn run(worker: Arc<Worker>, stop: CancellationToken) {
    let own = worker.clone();
    let process = move |batch, hold| {
        let worker = own.clone();
        async move { worker.process(batch, &hold).await }.boxed()
    };
    worker.consuming.run(&stop, Arc::new(process)).await;
    worker.publisher.close().await;
}

impl Worker {
    /// A worker on this ledger, with the broker of the settings.
    pub fn new(settings: &Settings, storage: Arc<Storage>) -> Self {
        let schedule = RetrySchedule::new(&settings.retry);
        let topology = Topology::new(&settings.broker, &schedule);
        let intake = Intake {
            name: "consumer",
            queue: topology.work_queue(),
            consumers: settings.worker.concurrency,
            prefetch: settings.worker.prefetch,
            batch_max: settings.worker.batch_max,
            batch_bytes: usize::MAX,
            wary: true,
        };
        Self {
            publisher: Publisher::declaring(&settings.broker, &topology),
            consuming: Consuming::new(settings, &storage, &topology, intake),
            settings: settings.clone(),
            storage,
            topology,
            schedule,
            tally: Arc::default(),
        }
    }

    /// The running counts of what became of messages.
    pub fn tally(&self) -> Arc<Tally> {
        self.tally.clone()
    }

    /// Whether there are consumers; whether the database can be charged is the storage's to say. Changes
    /// can be awaited.
    pub fn consuming(&self) -> watch::Receiver<bool> {
        self.consuming.running()
    }

    /// Why the broker takes no messages, in its own words; `None` while it does. What must be delayed or dead-lettered
    /// waits then, and with it the batch that it came in.
    pub fn alarm(&self) -> watch::Receiver<Option<String>> {
        self.publisher.alarm()
    }

    /// Why the queues can't be declared as these settings want them, and what to do about it; `None` where they can.
    pub fn refused(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.consuming.refused()
    }
}
