//! Dead letters, from their queue into the archive.
//!
//! The archivist takes whatever has arrived, makes of each message what the archive keeps of it and commits all
//! of them in one transaction (`archive.rs`), offers a copy of each to whoever watches (`copies.rs`), and acks. How
//! many wait is looked at from time to time (`backlog.rs`).
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

use std::sync::{Arc, atomic::AtomicUsize};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use crate::{
    broker::Topology,
    config::Settings,
    consuming::{Consuming, Intake, Lanes, Session},
    domain::RetrySchedule,
    reconnect::Reconnect,
    storage::{Fault, Storage, StorageError},
    telemetry::metrics::Metrics,
};

pub use backlog::{Backlog, Waiting, watch_backlog};

/// Bytes of bodies in one transaction: it has them two or three times in memory.
const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// What the archivist's tasks share.
#[derive(Debug)]
pub struct Archivist {
    settings: Settings,
    storage: Arc<Storage>,
    topology: Topology,
    metrics: Arc<Metrics>,
    consuming: Consuming,
    /// Dead letters in flight that the database doesn't take at present.
    held: AtomicUsize,
}

/// Archives until `stop`; then finishes the batch in flight and returns.
pub async fn run(archivist: Arc<Archivist>, stop: CancellationToken) {
    let (copies, sending) = copies::copies(&archivist);
    let (own, copies) = (archivist.clone(), Arc::new(copies));
    let start = Arc::new(move |session: Session| {
        let (give, input) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        let (archivist, copies) = (own.clone(), copies.clone());
        tasks.spawn(async move { archivist.archive_all(input, &copies, &session).await });
        // Once the lane has ended it takes nothing: what it is given comes again.
        let feed = Box::new(move |message| drop(give.send(message)));
        Lanes { feed, tasks }
    });
    let reconnect = Reconnect::new(&archivist.settings.reconnect);
    tokio::join!(
        archivist.consuming.run(&stop, start),
        sending.run(reconnect, stop.clone()),
        archivist.resolve(&stop)
    );
}

impl Archivist {
    /// An archivist into this database, with the broker of the settings.
    pub fn new(settings: &Settings, storage: Arc<Storage>, metrics: Arc<Metrics>) -> Self {
        let schedule = RetrySchedule::new(&settings.retry);
        let topology = Topology::new(&settings.broker, &schedule);
        let intake = Intake {
            name: "archivist",
            queue: topology.dead_letters(),
            prefetch: settings.archivist.prefetch,
            wary: false,
        };
        Self {
            consuming: Consuming::new(settings, &storage, &topology, intake),
            settings: settings.clone(),
            storage,
            topology,
            metrics,
            held: AtomicUsize::new(0),
        }
    }

    /// Whether dead letters are being taken from their queue. Changes can be awaited.
    pub fn archiving(&self) -> watch::Receiver<bool> {
        self.consuming.running()
    }

    /// Why the queues can't be declared as these settings want them, and what to do about it; `None` where they can.
    pub fn refused(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.consuming.refused()
    }

    /// From time to time, marks as resolved the dead letters whose jobs were charged meanwhile.
    async fn resolve(&self, stop: &CancellationToken) {
        let mut every = tokio::time::interval(self.settings.archivist.resolve_interval);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let resolving = async {
            loop {
                every.tick().await;
                match self.storage.resolve_dead_letters().await {
                    Ok(0) => {}
                    Ok(dead_letters) => {
                        self.metrics
                            .resolved(u64::try_from(dead_letters).unwrap_or(0));
                        tracing::info!(dead_letters, "resolved: their jobs were charged meanwhile");
                    }
                    Err(error) => {
                        self.note_outage(&error);
                        tracing::warn!(error.message = %error, "could not resolve dead letters: trying again later");
                        self.storage.wait_until_available(stop).await;
                    }
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = resolving => {}
        }
    }

    fn note_outage(&self, error: &StorageError) {
        let fault = error.fault();
        if matches!(fault, Fault::Unavailable | Fault::Disconnected) {
            self.storage.distrust_connections();
        }
        if fault == Fault::Unavailable {
            self.storage.heard(Some(error));
        }
    }
}
