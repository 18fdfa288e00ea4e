//! Keeping a queue consumed: everything is built anew after any failure.

mod reader;
mod window;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    broker::{BrokerError, Connection, Consumer, Delivered, SingleFile, Topology, Unreadable},
    config::Settings,
    reconnect::Reconnect,
    storage::{Storage, Waited},
};
use reader::Reader;

/// After the connection is lost nothing in flight can be acked any more. This long the lanes may take to
/// finish and to say what they saw; what then still runs is dropped.
const LOST_GRACE: Duration = Duration::from_secs(5);

/// How a role takes its messages.
#[derive(Debug)]
pub(crate) struct Intake {
    /// How its connection is called.
    pub(crate) name: &'static str,
    pub(crate) queue: String,
    /// Messages that the broker sends ahead of their acks.
    pub(crate) prefetch: u16,
    /// At each start, messages that were delivered before are processed one by one with only one in flight: if it was
    /// one of them that killed the last process, it is found there, and its death counts a delivery for itself alone.
    pub(crate) wary: bool,
}

/// What processes the messages of one connection, side by side. Those that are not reported as done when all have ended
/// come again.
pub(crate) struct Lanes {
    /// Takes each message to its lane. Dropped when no more come: then the lanes finish what they have, and end.
    pub(crate) feed: Box<dyn FnMut(Delivered) + Send>,
    pub(crate) tasks: JoinSet<Result<(), Requeue>>,
}

/// Makes the lanes of a new connection.
pub(crate) type StartLanes = Arc<dyn Fn(Session) -> Lanes + Send + Sync>;

/// What a lane knows of its connection.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    reports: mpsc::UnboundedSender<Report>,
    /// Something failed, and all is to be built anew: nothing more is begun.
    pub(crate) ending: CancellationToken,
    /// Told to stop: what can be finished is, but nothing is waited for.
    stop: CancellationToken,
    hold_max: Duration,
}

#[derive(Debug)]
enum Report {
    /// These are processed, and may be acked.
    Done(Vec<u64>),
    /// These wait for somebody else's lock.
    Aside(Vec<u64>),
}

impl Session {
    /// These are processed: whatever they stand for is committed, or confirmed in another queue.
    pub(crate) fn done(&self, tags: Vec<u64>) {
        if !tags.is_empty() {
            // Without a reader there is nobody to ack: they come again.
            let _ = self.reports.send(Report::Done(tags));
        }
    }

    /// These were looked at, and are processed later.
    pub(crate) fn aside(&self, tags: Vec<u64>) {
        let _ = self.reports.send(Report::Aside(tags));
    }

    /// For what is begun now.
    pub(crate) fn hold(&self) -> Hold {
        Hold {
            until: Instant::now() + self.hold_max,
            stop: self.stop.clone(),
        }
    }
}

/// A queue that is kept consumed.
#[derive(Debug)]
pub(crate) struct Consuming {
    intake: Intake,
    settings: Settings,
    storage: Arc<Storage>,
    topology: Topology,
    /// Whether there are consumers.
    running: watch::Sender<bool>,
    /// Why the queues can't be declared as these settings want them.
    refused: watch::Sender<Option<Arc<str>>>,
    /// A batch was acked since the connection was opened.
    progressed: Arc<AtomicBool>,
    /// Commands with which messages were acked.
    acks: Arc<AtomicU64>,
}

/// Why a connection was given up. What was not acked comes again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAcked {
    #[error(transparent)]
    Requeue(#[from] Requeue),
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// What is in flight goes back to its queue, unacked.
#[derive(Debug, thiserror::Error)]
#[error("requeued")]
pub(crate) struct Requeue;

/// How long a batch may stay in flight while something is away: until shutdown, or well before the
/// broker's consumer timeout, after which it would close the channel by itself. While nothing is away, shutdown ends
/// nothing that has begun.
#[derive(Debug)]
pub(crate) struct Hold {
    until: Instant,
    pub(crate) stop: CancellationToken,
}

impl Hold {
    /// Whether it goes on.
    pub(crate) fn check(&self) -> Result<(), Requeue> {
        if Instant::now() < self.until {
            Ok(())
        } else {
            Err(Requeue)
        }
    }

    /// Runs `wait` to its end, or to the end of the hold.
    pub(crate) async fn during<T>(&self, wait: impl Future<Output = T>) -> Result<T, Requeue> {
        tokio::select! {
            done = wait => Ok(done),
            () = self.stop.cancelled() => Err(Requeue),
            () = tokio::time::sleep_until(self.until.into()) => Err(Requeue),
        }
    }
}

impl Consuming {
    pub(crate) fn new(
        settings: &Settings,
        storage: &Arc<Storage>,
        topology: &Topology,
        intake: Intake,
    ) -> Self {
        Self {
            intake,
            settings: settings.clone(),
            storage: storage.clone(),
            topology: topology.clone(),
            running: watch::Sender::new(false),
            refused: watch::Sender::new(None),
            progressed: Arc::default(),
            acks: Arc::default(),
        }
    }

    /// Whether there are consumers. Changes can be awaited.
    pub(crate) fn running(&self) -> watch::Receiver<bool> {
        self.running.subscribe()
    }

    /// Commands with which messages were acked, since the start of the process.
    pub(crate) fn acks(&self) -> u64 {
        self.acks.load(Ordering::Relaxed)
    }

    /// Why the queues can't be declared as these settings want them, and what to do about it; `None` where they can.
    pub(crate) fn refused(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.refused.subscribe()
    }

    /// Has batches processed and acked until `stop`; then those in flight are finished.
    ///
    /// Connect, declare, consume; after any error all of it is thrown away and built again. What was unacked
    /// goes back to its queue by that.
    pub(crate) async fn run(&self, stop: &CancellationToken, start: StartLanes) {
        let mut reconnect = Reconnect::new(&self.settings.reconnect);
        let mut unreadable = Unreadable::default();
        // Nothing is taken from the queue that could not be dealt with.
        while self.storage.wait_until_available(stop).await != Waited::Cancelled {
            let opened_at = Instant::now();
            let queue = &self.intake.queue;
            let ended = loop {
                let ended = self.session(stop, &mut unreadable, &start).await;
                let is_unreadable = matches!(ended, Err(NotAcked::Broker(BrokerError::Unreadable)));
                if !is_unreadable || stop.is_cancelled() {
                    break ended;
                }
                // Again at once, for each pause would be one for all messages: nothing is away.
                unreadable.met(queue);
            };
            match ended {
                _ if stop.is_cancelled() => break,
                Ok(()) => {}
                Err(NotAcked::Requeue(_)) => tracing::warn!(queue, "requeued what was in flight"),
                // Readiness tells it, once.
                Err(NotAcked::Broker(error @ BrokerError::Differs { .. })) => {
                    self.refused.send_replace(Some(error.to_string().into()));
                }
                Err(error) => {
                    tracing::error!(queue, error.message = %error, "broker session ended: building it anew");
                }
            }
            self.running.send_replace(false);
            let lasted = opened_at.elapsed() > self.settings.reconnect.max;
            if self.progressed.swap(false, Ordering::Relaxed) || lasted {
                reconnect.reset();
            }
            if !reconnect.wait(stop).await {
                break;
            }
        }
        self.running.send_replace(false);
    }

    /// From one connection to its end.
    async fn session(
        &self,
        stop: &CancellationToken,
        unreadable: &mut Unreadable,
        start: &StartLanes,
    ) -> Result<(), NotAcked> {
        let connection = Connection::open(&self.settings.broker, self.intake.name).await?;
        // Declared a moment ago, if the last connection got as far as to a message.
        if !unreadable.is_about() {
            self.topology.declare(&connection).await?;
            self.refused.send_replace(None);
        }
        let work = self.consume(&connection, stop, unreadable, start);
        let lost = async {
            let lost = connection.closed().await;
            if !matches!(lost, BrokerError::Unreadable) {
                tokio::time::sleep(LOST_GRACE).await;
            }
            lost
        };
        let ended = tokio::select! {
            ended = work => ended,
            lost = lost => Err(lost.into()),
        };
        if connection.met_unreadable().await {
            return Err(BrokerError::Unreadable.into());
        }
        connection.close().await;
        ended
    }

    /// Until `stop` or an error; then the lanes finish, and what they have processed is acked.
    async fn consume(
        &self,
        connection: &Connection,
        stop: &CancellationToken,
        unreadable: &mut Unreadable,
        start: &StartLanes,
    ) -> Result<(), NotAcked> {
        let Intake {
            queue, prefetch, ..
        } = &self.intake;
        let consumer = Consumer::open(connection, queue, *prefetch).await?;
        let (reports, received) = mpsc::unbounded_channel();
        let session = Session {
            reports,
            ending: CancellationToken::new(),
            stop: stop.clone(),
            hold_max: self.settings.worker.hold_max,
        };
        let ending = session.ending.clone();
        let mut lanes = start(session);
        let mut reader = Reader::new(consumer, *prefetch, received, self);
        let ended = self.read(&mut reader, &mut lanes, stop, unreadable).await;
        if ended.is_err() {
            ending.cancel();
        }
        // The other half is for what is begun by then.
        let patience = self.settings.worker.drain_timeout / 2;
        let finished = reader.finish(lanes, &ending, patience).await;
        ended.and(finished)
    }

    async fn read(
        &self,
        reader: &mut Reader,
        lanes: &mut Lanes,
        stop: &CancellationToken,
        unreadable: &mut Unreadable,
    ) -> Result<(), NotAcked> {
        let queue = &self.intake.queue;
        // After a message that can't be read, what it came with is processed one by one as well: each of its
        // deliveries then counts for itself alone, and for none of those that were prefetched beside it.
        if self.intake.wary || unreadable.is_about() {
            let mut file = SingleFile::new(unreadable);
            reader.one_by_one(&mut file, lanes, stop).await?;
            if stop.is_cancelled() {
                return Ok(());
            }
            unreadable.gone(queue);
        }
        reader.start().await?;
        self.running.send_replace(true);
        tracing::info!(queue, "consuming");
        reader.read(lanes, stop).await
    }
}
