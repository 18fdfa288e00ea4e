//! The supervisor that builds everything anew after any failure, and one batch from the queue to its ack.

use std::sync::{Arc, atomic::Ordering};

use tokio_util::sync::CancellationToken;

use super::{
    Archivist, NotArchived, Tally,
    archive::arrival,
    copies::{Copies, copies},
};
use crate::{
    broker::{Batch, BrokerError, Connection, Consumer, SingleFile, Unreadable},
    failpoint,
    reconnect::Reconnect,
    storage::{Arrival, Fault, StorageError, Waited},
};

/// Bytes of bodies in one transaction: it has them two or three times in memory.
const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// Archives until `stop`; then finishes the batch in flight and returns.
pub async fn run(archivist: Arc<Archivist>, stop: CancellationToken) {
    let (copies, sending) = copies(&archivist);
    let patience = || Reconnect::new(&archivist.settings.reconnect);
    let consuming = async {
        supervise(&archivist, copies, patience(), &stop).await;
    };
    tokio::join!(
        consuming,
        sending.run(patience(), stop.clone()),
        resolve(&archivist, &stop)
    );
}

/// Connect, declare, consume; after any error all of it is thrown away and built again. What was unacked
/// goes back to its queue by that.
async fn supervise(
    archivist: &Archivist,
    copies: Copies,
    mut reconnect: Reconnect,
    stop: &CancellationToken,
) {
    let storage = &archivist.storage;
    let mut unreadable = Unreadable::default();
    // Nothing is taken from the queue that could not be archived.
    while storage.wait_until_available(stop).await != Waited::Cancelled {
        let ended = loop {
            match session(archivist, &copies, &mut reconnect, &mut unreadable, stop).await {
                Err(NotArchived::Broker(BrokerError::Unreadable)) if stop.is_cancelled() => {
                    break Ok(());
                }
                // Again at once: nothing is away.
                Err(NotArchived::Broker(BrokerError::Unreadable)) => {
                    unreadable.met(&archivist.topology.dead_letters());
                }
                ended => break ended,
            }
        };
        match ended {
            Ok(()) => break,
            // Readiness tells it, once.
            Err(NotArchived::Broker(error @ BrokerError::Differs { .. })) => {
                archivist
                    .refused
                    .send_replace(Some(error.to_string().into()));
            }
            Err(error) => {
                if let NotArchived::Storage(error) = &error {
                    note_outage(archivist, error);
                }
                tracing::error!(error.message = %error, "archivist's session ended: building it anew");
            }
        }
        archivist.archiving.send_replace(false);
        if !reconnect.wait(stop).await {
            break;
        }
    }
    archivist.archiving.send_replace(false);
}

fn note_outage(archivist: &Archivist, error: &StorageError) {
    match error.fault() {
        Fault::Unavailable => {
            archivist.storage.distrust_connections();
            archivist.storage.heard(Some(error));
        }
        Fault::Disconnected => archivist.storage.distrust_connections(),
        Fault::Installation | Fault::Busy | Fault::Transient | Fault::Rejected => {}
    }
}

/// From one connection to its end.
async fn session(
    archivist: &Archivist,
    copies: &Copies,
    reconnect: &mut Reconnect,
    unreadable: &mut Unreadable,
    stop: &CancellationToken,
) -> Result<(), NotArchived> {
    let settings = &archivist.settings;
    let connection = Connection::open(&settings.broker, "archivist").await?;
    // Declared a moment ago, if the last connection got as far as to a message.
    if !unreadable.is_about() {
        archivist.topology.declare(&connection).await?;
        archivist.refused.send_replace(None);
    }
    let queue = archivist.topology.dead_letters();
    let work = async {
        if unreadable.is_about() {
            single_file(archivist, copies, &connection, unreadable, stop).await?;
            if stop.is_cancelled() {
                return Ok(());
            }
            unreadable.gone(&queue);
        }
        let mut consumer =
            Consumer::start(&connection, &queue, settings.archivist.prefetch).await?;
        archivist.archiving.send_replace(true);
        tracing::info!(queue, "archiving");
        let ended = consume(archivist, copies, &mut consumer, reconnect, stop).await;
        // What was prefetched and not begun goes back to the queue.
        consumer.close().await;
        ended
    };
    let ended = tokio::select! {
        ended = work => ended,
        // A batch whose ack can't reach the broker any more comes again, whatever becomes of it here.
        lost = connection.closed() => Err(lost.into()),
    };
    // Also where the connection was lost in the middle of it.
    archivist.held.store(0, Ordering::Relaxed);
    if connection.met_unreadable().await {
        return Err(BrokerError::Unreadable.into());
    }
    connection.close().await;
    ended
}

/// After a message that can't be read, what it came with is archived one by one: each of its deliveries then
/// counts for itself alone, and for none of those that were prefetched beside it.
async fn single_file(
    archivist: &Archivist,
    copies: &Copies,
    connection: &Connection,
    unreadable: &Unreadable,
    stop: &CancellationToken,
) -> Result<(), NotArchived> {
    let queue = archivist.topology.dead_letters();
    let mut queue = SingleFile::open(connection, &queue, unreadable).await?;
    while let Some(batch) = queue.next(stop).await? {
        archive_batch(archivist, copies, batch, stop).await?;
    }
    queue.close().await;
    Ok(())
}

async fn consume(
    archivist: &Archivist,
    copies: &Copies,
    consumer: &mut Consumer,
    reconnect: &mut Reconnect,
    stop: &CancellationToken,
) -> Result<(), NotArchived> {
    let max = usize::from(archivist.settings.archivist.batch_max);
    loop {
        let batch = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            batch = consumer.next_batch_within(max, BATCH_BYTES) => batch?,
        };
        archive_batch(archivist, copies, batch, stop).await?;
        reconnect.reset();
    }
}

/// Commit, copies, ack: in this order.
async fn archive_batch(
    archivist: &Archivist,
    copies: &Copies,
    batch: Batch,
    stop: &CancellationToken,
) -> Result<(), NotArchived> {
    let arrivals: Vec<Arrival> = batch.messages().iter().map(arrival).collect();
    let jobs: Vec<_> = arrivals
        .iter()
        .filter_map(|arrival| arrival.job_id)
        .collect();

    failpoint::hit("before_archive", jobs.iter().copied());
    let ids = archivist.archive(&arrivals, stop).await;
    archivist.held.store(0, Ordering::Relaxed);
    let ids = ids?;
    failpoint::hit("after_archive", jobs.iter().copied());

    Tally::add(&archivist.tally.archived, ids.len());
    for ((message, arrival), id) in batch.messages().iter().zip(&arrivals).zip(ids) {
        tracing::debug!(
            dead_letter.id = id,
            job.id = arrival.job_id.map(tracing::field::display),
            dead_letter.reason = arrival.reason,
            "archived"
        );
        copies.offer(message, id);
    }
    failpoint::hit("after_copy", jobs);
    Ok(batch.ack().await?)
}

/// From time to time, marks as resolved the dead letters whose jobs were charged meanwhile.
async fn resolve(archivist: &Archivist, stop: &CancellationToken) {
    let (storage, tally) = (&archivist.storage, &archivist.tally);
    let mut every = tokio::time::interval(archivist.settings.archivist.settle_interval);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let resolving = async {
        loop {
            every.tick().await;
            match storage.settle_dead_letters().await {
                Ok(0) => {}
                Ok(dead_letters) => {
                    Tally::add(&tally.resolved, usize::try_from(dead_letters).unwrap_or(0));
                    tracing::info!(dead_letters, "resolved: their jobs were charged meanwhile");
                }
                Err(error) => {
                    note_outage(archivist, &error);
                    tracing::warn!(error.message = %error, "could not resolve dead letters: trying again later");
                    storage.wait_until_available(stop).await;
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = resolving => {}
    }
}
