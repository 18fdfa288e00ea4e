//! Dead letters, from their queue into the archive.
//!
//! The archivist takes whatever has arrived (`supervisor.rs`), makes of each message what the archive keeps of
//! it and commits all of them in one transaction (`archive.rs`), offers a copy of each to whoever watches
//! (`copies.rs`), and acks. How many wait is looked at from time to time (`backlog.rs`).
//!
//! | if the process dies at this moment | then |
//! |---|---|
//! | before the archive commits | nothing happened; the broker delivers the batch again |
//! | after the commit, before the ack | delivered again; the same open dead letters count one occurrence more |
//! | after the commit, before the copies are sent | the watchers get them with the next delivery |
//! | after the copies, before the ack | the watchers get them twice |
//! | after the ack, while copies wait to be sent | the watchers never get these; the archive has the dead letters |
//!
//! While the database is away nothing is consumed: the dead letters wait in their queue. Its delivery limit is a
//! thousand, for the sake of what no client can read; so dead letters that the database refuses are kept in flight.
//! The copies are for convenience: nothing waits for them, and a watcher that is full, or the broker's refusal,
//! loses copies and nothing else.

mod archive;
mod backlog;
mod copies;
mod supervisor;
mod tally;

use std::sync::{Arc, atomic::AtomicUsize};

use tokio::sync::watch;

use crate::{
    broker::{BrokerError, Topology},
    config::Settings,
    domain::RetrySchedule,
    storage::{Storage, StorageError},
};

pub use backlog::{Backlog, Waiting, watch_backlog};
pub use supervisor::run;
pub use tally::{Tallied, Tally};

/// Why a batch was not acked. Its dead letters come again.
#[derive(Debug, thiserror::Error)]
enum NotArchived {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The database as a whole can't work.
    #[error("not archived: {0}")]
    Storage(#[from] StorageError),
    /// It is there, and refused for as long as the batch could be kept in flight.
    #[error("not archived: {0}")]
    Refused(Arc<StorageError>),
}

/// What the archivist's tasks share.
#[derive(Debug)]
pub struct Archivist {
    settings: Settings,
    storage: Arc<Storage>,
    topology: Topology,
    tally: Arc<Tally>,
    /// Whether there is a consumer.
    archiving: watch::Sender<bool>,
    /// Why the queues can't be declared as these settings want them.
    refused: watch::Sender<Option<Arc<str>>>,
    /// Dead letters in flight that the database doesn't take at present.
    held: AtomicUsize,
}

impl Archivist {
    /// An archivist into this database, with the broker of the settings.
    pub fn new(settings: &Settings, storage: Arc<Storage>) -> Self {
        let schedule = RetrySchedule::new(&settings.retry);
        Self {
            settings: settings.clone(),
            storage,
            topology: Topology::new(&settings.broker, &schedule),
            tally: Arc::default(),
            archiving: watch::Sender::new(false),
            refused: watch::Sender::new(None),
            held: AtomicUsize::new(0),
        }
    }

    /// The running counts of what became of dead letters.
    pub fn tally(&self) -> Arc<Tally> {
        self.tally.clone()
    }

    /// Whether dead letters are being taken from their queue. Changes can be awaited.
    pub fn archiving(&self) -> watch::Receiver<bool> {
        self.archiving.subscribe()
    }

    /// Why the queues can't be declared as these settings want them, and what to do about it; `None` where they can.
    pub fn refused(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.refused.subscribe()
    }
}
