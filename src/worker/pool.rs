//! The workers, and the supervisor that builds everything anew after any failure.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Worker, batch::NotProcessed};
use crate::{
    broker::{BrokerError, Connection, Consumer, SingleFile, Unreadable},
    reconnect::Reconnect,
    storage::Waited,
};

/// After the connection is lost nothing in flight can be acked any more. This long the workers may take to
/// finish and to say what they saw; what then still runs is dropped.
const LOST_GRACE: Duration = Duration::from_secs(5);

/// Charges until `stop`; then finishes the batches in flight and returns.
///
/// Connect, declare, consume; after any error all of it is thrown away and built again. What was unacked
/// goes back to its queue by that.
pub async fn run(worker: Arc<Worker>, stop: CancellationToken) {
    let mut reconnect = Reconnect::new(&worker.settings.reconnect);
    let mut unreadable = Unreadable::default();
    // Nothing is taken from the queue that could not be charged.
    while worker.storage.wait_until_available(&stop).await != Waited::Cancelled {
        let ended = loop {
            match session(&worker, &stop, &mut reconnect, &mut unreadable).await {
                Err(NotProcessed::Broker(BrokerError::Unreadable)) if stop.is_cancelled() => {
                    break Ok(());
                }
                // Again at once, for each pause would be one for all messages: nothing is away.
                Err(NotProcessed::Broker(BrokerError::Unreadable)) => {
                    unreadable.met(&worker.topology.work_queue());
                }
                ended => break ended,
            }
        };
        match ended {
            Ok(()) if stop.is_cancelled() => break,
            Ok(()) => tracing::warn!("requeued what was in flight"),
            // Readiness tells it, once.
            Err(NotProcessed::Broker(error @ BrokerError::Differs { .. })) => {
                worker.refused.send_replace(Some(error.to_string().into()));
            }
            Err(error) => {
                tracing::error!(error.message = %error, "broker session ended: building it anew");
            }
        }
        worker.consuming.send_replace(false);
        if !reconnect.wait(&stop).await {
            break;
        }
    }
    worker.consuming.send_replace(false);
    worker.publisher.close().await;
}

/// From one connection to its end.
async fn session(
    worker: &Arc<Worker>,
    stop: &CancellationToken,
    reconnect: &mut Reconnect,
    unreadable: &mut Unreadable,
) -> Result<(), NotProcessed> {
    let connection = Connection::open(&worker.settings.broker, "consumer").await?;
    // Declared a moment ago, if the last connection got as far as to a message.
    if !unreadable.is_about() {
        worker.topology.declare(&connection).await?;
        worker.refused.send_replace(None);
    }
    let work = async {
        single_file(worker, &connection, stop, unreadable).await?;
        if stop.is_cancelled() {
            return Ok(());
        }
        unreadable.gone(&worker.topology.work_queue());
        consume(worker, &connection, stop, reconnect).await
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
    match ended {
        Err(NotProcessed::Requeue(_)) => Ok(()),
        ended => ended,
    }
}

/// Before anything else, messages that were delivered before are processed one by one with only one in
/// flight: if it was one of them that killed the last process, it is found here, and its death counts a
/// delivery for itself alone.
async fn single_file(
    worker: &Worker,
    connection: &Connection,
    stop: &CancellationToken,
    unreadable: &Unreadable,
) -> Result<(), NotProcessed> {
    let queue = worker.topology.work_queue();
    let mut queue = SingleFile::open(connection, &queue, unreadable).await?;
    while let Some(batch) = queue.next(stop).await? {
        worker.process(batch, &worker.hold(stop)).await?;
    }
    queue.close().await;
    Ok(())
}

async fn consume(
    worker: &Arc<Worker>,
    connection: &Connection,
    stop: &CancellationToken,
    reconnect: &mut Reconnect,
) -> Result<(), NotProcessed> {
    let ending = stop.child_token();
    let queue = worker.topology.work_queue();
    let mut workers = JoinSet::new();
    for _ in 0..worker.settings.worker.concurrency {
        let consumer = Consumer::start(connection, &queue, worker.settings.worker.prefetch).await?;
        workers.spawn(work(worker.clone(), consumer, ending.clone()));
    }
    reconnect.reset();
    worker.consuming.send_replace(true);
    tracing::info!(
        queue,
        workers = worker.settings.worker.concurrency,
        "consuming"
    );
    let mut first = Ok(());
    // The first to end, for whatever reason, ends all: each finishes its batch.
    while let Some(ended) = workers.join_next().await {
        ending.cancel();
        let ended = ended.unwrap_or_else(|panic| {
            tracing::error!(error.message = %panic, "a worker panicked");
            Err(NotProcessed::Requeue(super::Requeue))
        });
        if first.is_ok() {
            first = ended;
        }
    }
    first
}

/// One worker: one channel, one batch at a time.
async fn work(
    worker: Arc<Worker>,
    mut consumer: Consumer,
    ending: CancellationToken,
) -> Result<(), NotProcessed> {
    let max = usize::from(worker.settings.worker.batch_max);
    let ended = loop {
        let batch = tokio::select! {
            biased;
            () = ending.cancelled() => break Ok(()),
            batch = consumer.next_batch(max) => batch,
        };
        let processed = match batch {
            Ok(batch) => worker.process(batch, &worker.hold(&ending)).await,
            Err(error) => Err(NotProcessed::from(error)),
        };
        if processed.is_err() {
            break processed;
        }
    };
    // What was prefetched and not begun goes back to the queue.
    consumer.close().await;
    ended
}
