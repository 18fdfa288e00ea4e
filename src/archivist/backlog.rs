//! What waits in the dead-letter queue, and what no client can read, as seen from time to time.

use std::{sync::atomic::Ordering, time::Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Archivist;
use crate::{
    broker::{BrokerError, Connection},
    config,
};

/// What was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// In the dead-letter queue.
    pub waiting: Waiting,
    /// Messages in the queue that nobody consumes.
    pub unreadable: u32,
}

/// How bad it is that dead letters wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Waiting {
    /// None do, or they will be archived in a moment.
    #[default]
    Short,
    /// More than `archivist.backlog_max`.
    Long,
    /// Some, and in `archivist.backlog_max_age` none was archived.
    Stuck,
}

/// Looks every `archivist.backlog_interval` until `stop`. While the broker is away the last judgement
/// stands: then it is not the backlog that is wrong.
pub async fn watch_backlog(
    archivist: &Archivist,
    judged: &watch::Sender<Backlog>,
    stop: &CancellationToken,
) {
    let mut looks = Looks::new(Instant::now());
    let mut connection = None;
    // Not at once: the queue of a new installation is only just being declared.
    let pause = archivist.settings.archivist.backlog_interval;
    let mut every = tokio::time::interval_at((Instant::now() + pause).into(), pause);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = every.tick() => {}
        }
        let looked = tokio::select! {
            () = stop.cancelled() => break,
            looked = look(archivist, &mut connection) => looked,
        };
        match looked {
            Ok((waiting, unreadable)) => {
                let archived = archivist.metrics.archivist_counts().archived;
                let limits = &archivist.settings.archivist;
                let seen = Backlog {
                    waiting: looks.judge(waiting, archived, Instant::now(), limits),
                    unreadable,
                };
                judged.send_if_modified(|known| std::mem::replace(known, seen) != seen);
            }
            Err(error) => {
                connection = None;
                tracing::debug!(error.message = %error, "could not look how many dead letters wait");
            }
        }
    }
    if let Some(connection) = connection {
        connection.close().await;
    }
}

async fn look(
    archivist: &Archivist,
    connection: &mut Option<Connection>,
) -> Result<(u32, u32), BrokerError> {
    let open = match connection.take().filter(Connection::is_open) {
        Some(open) => open,
        None => Connection::open(&archivist.settings.broker, "backlog").await?,
    };
    let ready = open.ready_count(&archivist.topology.dead_letters()).await?;
    // What is in flight is not ready, but waits as well while the database doesn't take it.
    let held = archivist.held.load(Ordering::Relaxed);
    let waiting = ready.saturating_add(u32::try_from(held).unwrap_or(u32::MAX));
    let unreadable = match open.ready_count(&archivist.topology.unreadable()).await {
        // Deleted by hand: then there is none, and it is declared again at the next connect.
        Err(error) if error.is_missing() => 0,
        counted => counted?,
    };
    *connection = Some(open);
    Ok((waiting, unreadable))
}

/// What earlier looks saw.
#[derive(Debug)]
struct Looks {
    waiting: u32,
    archived: u64,
    /// When the queue was last seen empty or shrinking, or a dead letter archived.
    moved_at: Instant,
}

impl Looks {
    fn new(now: Instant) -> Self {
        Self {
            waiting: 0,
            archived: 0,
            moved_at: now,
        }
    }

    /// A queue that shrinks is being archived, by another archivist if not by this one.
    fn judge(
        &mut self,
        waiting: u32,
        archived: u64,
        now: Instant,
        limits: &config::Archivist,
    ) -> Waiting {
        if waiting == 0 || self.waiting == 0 || waiting < self.waiting || archived > self.archived {
            self.moved_at = now;
        }
        (self.waiting, self.archived) = (waiting, archived);
        if waiting > limits.backlog_max {
            Waiting::Long
        } else if now.duration_since(self.moved_at) >= limits.backlog_max_age {
            Waiting::Stuck
        } else {
            Waiting::Short
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Looks at these seconds: waiting, archived → the judgement.
    fn judged(looks: &[(u64, u32, u64)]) -> Vec<Waiting> {
        let start = Instant::now();
        let limits = config::Archivist {
            backlog_max: 100,
            backlog_max_age: Duration::from_secs(60),
            ..config::Archivist::default()
        };
        let mut state = Looks::new(start);
        let judge = |&(second, waiting, archived): &(u64, u32, u64)| {
            state.judge(
                waiting,
                archived,
                start + Duration::from_secs(second),
                &limits,
            )
        };
        looks.iter().map(judge).collect()
    }

    #[test]
    fn a_queue_is_too_long_above_its_limit_only() {
        use Waiting::{Long, Short};
        assert_eq!(
            judged(&[(0, 100, 0), (10, 101, 0), (20, 100, 0)]),
            [Short, Long, Short]
        );
    }

    #[test]
    fn dead_letters_that_wait_while_none_is_archived_are_stuck() {
        use Waiting::{Short, Stuck};
        assert_eq!(
            judged(&[
                (100, 1, 0),
                (159, 2, 0),
                (160, 2, 0),
                (161, 0, 0),
                (300, 1, 0)
            ]),
            [Short, Short, Stuck, Short, Short]
        );
        // Archived here, or taken by another archivist.
        assert_eq!(judged(&[(0, 5, 0), (59, 6, 1), (118, 7, 1)]), [Short; 3]);
        assert_eq!(judged(&[(0, 5, 0), (59, 4, 0), (118, 4, 0)]), [Short; 3]);
    }
}
