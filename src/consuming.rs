//! Keeping a queue consumed: everything is built anew after any failure.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    broker::{Batch, BrokerError, Connection, Consumer, SingleFile, Topology, Unreadable},
    config::Settings,
    reconnect::Reconnect,
    storage::{Storage, Waited},
};

/// After the connection is lost nothing in flight can be acked any more. This long the consumers may take to
/// finish and to say what they saw; what then still runs is dropped.
const LOST_GRACE: Duration = Duration::from_secs(5);

/// How a role takes its messages.
#[derive(Debug)]
pub(crate) struct Intake {
    /// How its connection is called.
    pub(crate) name: &'static str,
    pub(crate) queue: String,
    /// Consumers side by side, each with one batch at a time.
    pub(crate) consumers: u16,
    pub(crate) prefetch: u16,
    /// Messages of a batch.
    pub(crate) batch_max: u16,
    /// Bytes of bodies after which a batch takes no further message.
    pub(crate) batch_bytes: usize,
    /// At each start, messages that were delivered before are processed one by one with only one in flight: if it was
    /// one of them that killed the last process, it is found there, and its death counts a delivery for itself alone.
    pub(crate) wary: bool,
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
}

/// Processes one batch, and acks it.
pub(crate) type Process =
    Arc<dyn Fn(Batch, Hold) -> BoxFuture<'static, Result<(), NotAcked>> + Send + Sync>;

/// Why a batch was not acked. Its messages come again.
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
/// broker's consumer timeout, after which it would close the channel by itself.
#[derive(Debug)]
pub(crate) struct Hold {
    until: Instant,
    pub(crate) stop: CancellationToken,
}

impl Hold {
    /// Messages received now may be held for so long.
    fn new(max: Duration, stop: &CancellationToken) -> Self {
        let (until, stop) = (Instant::now() + max, stop.clone());
        Self { until, stop }
    }

    /// Whether it goes on.
    pub(crate) fn check(&self) -> Result<(), Requeue> {
        let over = self.stop.is_cancelled() || Instant::now() >= self.until;
        if over { Err(Requeue) } else { Ok(()) }
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
        }
    }

    /// Whether there are consumers. Changes can be awaited.
    pub(crate) fn running(&self) -> watch::Receiver<bool> {
        self.running.subscribe()
    }

    /// Why the queues can't be declared as these settings want them, and what to do about it; `None` where they can.
    pub(crate) fn refused(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.refused.subscribe()
    }

    /// Has batches processed and acked until `stop`; then those in flight are finished.
    ///
    /// Connect, declare, consume; after any error all of it is thrown away and built again. What was unacked
    /// goes back to its queue by that.
    pub(crate) async fn run(&self, stop: &CancellationToken, process: Process) {
        let mut reconnect = Reconnect::new(&self.settings.reconnect);
        let mut unreadable = Unreadable::default();
        // Nothing is taken from the queue that could not be dealt with.
        while self.storage.wait_until_available(stop).await != Waited::Cancelled {
            let opened_at = Instant::now();
            let queue = &self.intake.queue;
            let ended = loop {
                let ended = self.session(stop, &mut unreadable, &process).await;
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
        process: &Process,
    ) -> Result<(), NotAcked> {
        let connection = Connection::open(&self.settings.broker, self.intake.name).await?;
        // Declared a moment ago, if the last connection got as far as to a message.
        if !unreadable.is_about() {
            self.topology.declare(&connection).await?;
            self.refused.send_replace(None);
        }
        let hold_max = self.settings.worker.hold_max;
        let work = async {
            // After a message that can't be read, what it came with is processed one by one as well: each of its
            // deliveries then counts for itself alone, and for none of those that were prefetched beside it.
            if self.intake.wary || unreadable.is_about() {
                let queue = &self.intake.queue;
                let mut file = SingleFile::open(&connection, queue, unreadable).await?;
                while let Some(batch) = file.next(stop).await? {
                    process(batch, Hold::new(hold_max, stop)).await?;
                }
                file.close().await;
                if stop.is_cancelled() {
                    return Ok(());
                }
                unreadable.gone(queue);
            }
            self.consume(&connection, stop, process).await
        };
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

    async fn consume(
        &self,
        connection: &Connection,
        stop: &CancellationToken,
        process: &Process,
    ) -> Result<(), NotAcked> {
        let (intake, ending) = (&self.intake, stop.child_token());
        let hold_max = self.settings.worker.hold_max;
        let mut lanes = JoinSet::new();
        for _ in 0..intake.consumers {
            let mut consumer = Consumer::start(connection, &intake.queue, intake.prefetch).await?;
            let (max, bytes) = (usize::from(intake.batch_max), intake.batch_bytes);
            let (ending, process) = (ending.clone(), process.clone());
            let progressed = self.progressed.clone();
            lanes.spawn(async move {
                let ended = loop {
                    let batch = tokio::select! {
                        biased;
                        () = ending.cancelled() => break Ok(()),
                        batch = consumer.next_batch_within(max, bytes) => batch,
                    };
                    let processed = match batch {
                        Ok(batch) => process(batch, Hold::new(hold_max, &ending)).await,
                        Err(error) => Err(NotAcked::from(error)),
                    };
                    if processed.is_err() {
                        break processed;
                    }
                    progressed.store(true, Ordering::Relaxed);
                };
                // What was prefetched and not begun goes back to the queue.
                consumer.close().await;
                ended
            });
        }
        self.running.send_replace(true);
        tracing::info!(
            queue = intake.queue,
            consumers = intake.consumers,
            "consuming"
        );
        let mut first = Ok(());
        // The first to end, for whatever reason, ends all: each finishes its batch.
        while let Some(ended) = lanes.join_next().await {
            ending.cancel();
            let ended = ended.unwrap_or_else(|panic| {
                tracing::error!(error.message = %panic, "a consumer panicked");
                Err(NotAcked::Requeue(Requeue))
            });
            if first.is_ok() {
                first = ended;
            }
        }
        first
    }
}
