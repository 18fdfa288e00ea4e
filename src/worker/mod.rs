//! What happens to one message.
//!
//! One reader a process ([`crate::consuming`]) gives each event to the lane of its company (`lane.rs`). A lane takes
//! whatever has arrived, has all of it charged in one transaction, decides for each message what its answer means
//! ([`crate::domain::dispose`]), publishes what must be delayed or is dead, and reports the batch as done (`batch.rs`);
//! the reader acks. Where a batch fails, [`crate::storage::isolate`] finds whose fault it is; who is locked waits beside
//! the lane (`room.rs`); while the database is away the batch waits (`outage.rs`).
//!
//! If the process dies:
//!
//! | at this moment | then |
//! |---|---|
//! | before the charge commits | nothing happened; the broker delivers the batch again |
//! | after the commit, before the ack | delivered again; each key answers with its first result |
//! | after `pending` was written, before the dead letter | delivered again; tried again, charged or marked again |
//! | after a delayed or dead copy was confirmed, before the ack | original and copy both arrive; one charge |
//! | after a batch is reported as done, before the reader acks it | delivered again; each key answers with its first result |
//! | while an event waits for a lock | nothing happened to it; the broker delivers it again |
//! | after the ack | all is in the ledger or in a queue |

mod batch;
mod in_flight;
mod lane;
mod outage;
mod room;

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    broker::{Publisher, Topology},
    config::Settings,
    consuming::{Consuming, Intake, Lanes, Session},
    domain::{CompletionEvent, Deduction, RetrySchedule},
    storage::{Storage, StorageError},
    telemetry::metrics::Metrics,
};

use in_flight::InFlight;
use lane::Lane;

/// Between two lines of the log that say the same.
const SAID_FOR: Duration = Duration::from_mins(1);

/// What the consumers of the work queue share.
#[derive(Debug)]
pub struct Worker {
    settings: Settings,
    storage: Arc<Storage>,
    publisher: Publisher,
    topology: Topology,
    schedule: RetrySchedule,
    metrics: Arc<Metrics>,
    /// When it was last said that a batch fell back.
    said_fell_back: Mutex<Option<Instant>>,
    consuming: Consuming,
    /// Events in flight that wait for a lock.
    waiting: Arc<AtomicUsize>,
}

/// Charges until `stop`; then finishes what is in flight and returns.
pub async fn run(worker: Arc<Worker>, stop: CancellationToken) {
    let own = worker.clone();
    let start = Arc::new(move |session| lanes(&own, &session));
    worker.consuming.run(&stop, start).await;
    worker.publisher.close().await;
}

fn lanes(worker: &Arc<Worker>, session: &Session) -> Lanes {
    let mut tasks = JoinSet::new();
    let start = |_| {
        let (give, input) = mpsc::unbounded_channel();
        tasks.spawn(Lane::new(worker, session.clone(), input).run());
        give
    };
    let lanes: Vec<_> = (0..worker.settings.worker.lanes).map(start).collect();
    let limits = worker.settings.limits.clone();
    let feed = Box::new(move |message| {
        let one = InFlight::read(message, &limits);
        // A lane that has ended takes nothing: what it is given comes again.
        let _ = lanes[one.lane(lanes.len())].send(one);
    });
    Lanes { feed, tasks }
}

impl Worker {
    /// A worker on this ledger, with the broker of the settings.
    pub fn new(settings: &Settings, storage: Arc<Storage>, metrics: Arc<Metrics>) -> Self {
        let schedule = RetrySchedule::new(&settings.retry);
        let topology = Topology::new(&settings.broker, &schedule);
        let intake = Intake {
            name: "consumer",
            queue: topology.work_queue(),
            prefetch: settings.worker.prefetch,
            wary: true,
        };
        Self {
            publisher: Publisher::declaring(&settings.broker, &topology),
            consuming: Consuming::new(settings, &storage, &topology, intake),
            settings: settings.clone(),
            storage,
            topology,
            schedule,
            metrics,
            said_fell_back: Mutex::default(),
            waiting: Arc::default(),
        }
    }

    /// Has the ledger charge these events, and tells if that took the slower way.
    async fn deduct(
        &self,
        events: &[&CompletionEvent],
        lock_wait: Option<Duration>,
    ) -> Result<Vec<Deduction>, StorageError> {
        let answers = self.storage.deduct(events, lock_wait).await?;
        if let Some(error) = answers.fell_back {
            self.metrics.fell_back();
            let mut said = self
                .said_fell_back
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if said.is_none_or(|at| at.elapsed() > SAID_FOR) {
                *said = Some(Instant::now());
                tracing::warn!(
                    error.message = error,
                    "a batch can't be charged the fast way, but only event by event; said once a minute"
                );
            }
        }
        Ok(answers.deductions)
    }

    /// Commands with which messages were acked, since the start of the process.
    pub fn acks(&self) -> u64 {
        self.consuming.acks()
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
