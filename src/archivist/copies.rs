//! Copies of archived dead letters for whoever watches. What can't be sent at once is lost: nothing waits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::Archivist;
use crate::{
    broker::{Copier, Delivered, Outgoing, Topology},
    reconnect::Reconnect,
    telemetry::metrics::Metrics,
};

/// Copies that may wait to be sent.
const ROOM: usize = 1024;
/// Bytes of the bodies of those together.
const ROOM_BYTES: usize = 32 * 1024 * 1024;
/// At shutdown, for the copies that wait.
const GRACE: Duration = Duration::from_secs(1);

/// The archivist's end.
#[derive(Debug)]
pub(super) struct Copies {
    queue: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
    topology: Topology,
    losses: Arc<Losses>,
}

/// The sending task's end.
#[derive(Debug)]
pub(super) struct Sending {
    queue: mpsc::Receiver<Waiting>,
    copier: Copier,
    losses: Arc<Losses>,
}

#[derive(Debug)]
struct Waiting {
    copy: Outgoing,
    _room: OwnedSemaphorePermit,
}

/// What both ends count.
#[derive(Debug)]
struct Losses {
    metrics: Arc<Metrics>,
    /// The last copy was lost.
    losing: AtomicBool,
}

pub(super) fn copies(archivist: &Archivist) -> (Copies, Sending) {
    let (sender, receiver) = mpsc::channel(ROOM);
    let losses = Arc::new(Losses {
        metrics: archivist.metrics.clone(),
        losing: AtomicBool::new(false),
    });
    let copies = Copies {
        queue: sender,
        room: Arc::new(Semaphore::new(ROOM_BYTES)),
        topology: archivist.topology.clone(),
        losses: losses.clone(),
    };
    let sending = Sending {
        queue: receiver,
        copier: Copier::new(&archivist.settings.broker, &archivist.topology),
        losses,
    };
    (copies, sending)
}

impl Copies {
    /// Offers a copy of a dead letter that is in the archive. Never waits.
    pub(super) fn offer(&self, message: &Delivered, id: i64) {
        let bytes = u32::try_from(message.body.len().clamp(1, ROOM_BYTES)).unwrap_or(u32::MAX);
        let room = self.room.clone().try_acquire_many_owned(bytes).ok();
        let offered = room.and_then(|room| {
            let copy = Outgoing::watched(&self.topology, message, id);
            self.queue.try_send(Waiting { copy, _room: room }).ok()
        });
        if offered.is_none() {
            self.losses
                .lost(&"the broker doesn't take them fast enough");
        }
    }
}

impl Sending {
    /// Sends until the archivist's end is dropped; then what waits, but not for long. While the broker is
    /// away or blocked, copies are lost.
    pub(super) async fn run(mut self, mut reconnect: Reconnect, stop: CancellationToken) {
        let ended = async {
            stop.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        let sending = async {
            while let Some(waiting) = self.queue.recv().await {
                match self.copier.send(&waiting.copy).await {
                    Ok(()) => {
                        reconnect.reset();
                        self.losses.sent();
                    }
                    Err(error) => {
                        self.losses.lost(&error);
                        reconnect.wait(&stop).await;
                    }
                }
            }
        };
        tokio::select! {
            () = sending => {}
            () = ended => {}
        }
        let left = std::iter::from_fn(|| self.queue.try_recv().ok()).count();
        self.losses.metrics.copies_lost(left);
        self.copier.close().await;
    }
}

impl Losses {
    /// Counts a copy that nobody will get; says so once, until one is sent again.
    fn lost(&self, error: &dyn std::fmt::Display) {
        self.metrics.copies_lost(1);
        if !self.losing.swap(true, Ordering::Relaxed) {
            tracing::warn!(error.message = %error, "copies for the watchers are lost; the archive has the dead letters");
        }
    }

    fn sent(&self) {
        self.metrics.copied();
        if self.losing.swap(false, Ordering::Relaxed) {
            let copies_lost = self.metrics.archivist_counts().copies_lost;
            tracing::info!(copies_lost, "copies for the watchers are sent again");
        }
    }
}
