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

use super::{Archivist, Tally};
use crate::{
    broker::{Copier, Delivered, Outgoing, Topology},
    reconnect::Reconnect,
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
    tally: Arc<Tally>,
    losing: Arc<AtomicBool>,
}

/// The sending task's end.
#[derive(Debug)]
pub(super) struct Sending {
    queue: mpsc::Receiver<Waiting>,
    copier: Copier,
    tally: Arc<Tally>,
    losing: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Waiting {
    copy: Outgoing,
    _room: OwnedSemaphorePermit,
}

/// Both ends.
pub(super) fn copies(archivist: &Archivist) -> (Copies, Sending) {
    let (sender, receiver) = mpsc::channel(ROOM);
    let losing = Arc::<AtomicBool>::default();
    let copies = Copies {
        queue: sender,
        room: Arc::new(Semaphore::new(ROOM_BYTES)),
        topology: archivist.topology.clone(),
        tally: archivist.tally.clone(),
        losing: losing.clone(),
    };
    let sending = Sending {
        queue: receiver,
        copier: Copier::new(&archivist.settings.broker, &archivist.topology),
        tally: archivist.tally.clone(),
        losing,
    };
    (copies, sending)
}

impl Copies {
    /// Offers a copy of a dead letter that is in the archive. Never waits.
    pub(super) fn offer(&self, message: &Delivered, id: i64) {
        let bytes = u32::try_from(message.body.len().clamp(1, ROOM_BYTES)).unwrap_or(u32::MAX);
        let offered = self
            .room
            .clone()
            .try_acquire_many_owned(bytes)
            .ok()
            .and_then(|room| {
                let copy = Outgoing::watched(&self.topology, message, id);
                self.queue.try_send(Waiting { copy, _room: room }).ok()
            });
        if offered.is_none() {
            lost(
                &self.tally,
                &self.losing,
                &"the broker doesn't take them fast enough",
            );
        }
    }
}

impl Sending {
    /// Sends until the archivist's end is dropped; then what waits, but not for long. While the broker is
    /// away or blocked, copies are lost.
    pub(super) async fn run(mut self, reconnect: Reconnect, stop: CancellationToken) {
        let ended = async {
            stop.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            () = send_all(&mut self.queue, &mut self.copier, &self.tally, &self.losing, reconnect, &stop) => {}
            () = ended => {}
        }
        let mut left = 0;
        while self.queue.try_recv().is_ok() {
            left += 1;
        }
        Tally::add(&self.tally.copies_lost, left);
        self.copier.close().await;
    }
}

async fn send_all(
    queue: &mut mpsc::Receiver<Waiting>,
    copier: &mut Copier,
    tally: &Tally,
    losing: &AtomicBool,
    mut reconnect: Reconnect,
    stop: &CancellationToken,
) {
    while let Some(waiting) = queue.recv().await {
        match copier.send(&waiting.copy).await {
            Ok(()) => {
                Tally::add(&tally.copied, 1);
                reconnect.reset();
                if losing.swap(false, Ordering::Relaxed) {
                    tracing::info!(
                        copies_lost = tally.read().copies_lost,
                        "copies for the watchers are sent again"
                    );
                }
            }
            Err(error) => {
                lost(tally, losing, &error);
                reconnect.wait(stop).await;
            }
        }
    }
}

/// Counts a copy that nobody will get; says so once, until one is sent again.
fn lost(tally: &Tally, losing: &AtomicBool, error: &dyn std::fmt::Display) {
    Tally::add(&tally.copies_lost, 1);
    if !losing.swap(true, Ordering::Relaxed) {
        tracing::warn!(error.message = %error, "copies for the watchers are lost; the archive has the dead letters");
    }
}
