//! What is answered to whoever collects metrics: what this process counted, and how the whole installation stands.
//!
//! The latter is looked at when somebody asks, but not again before `ops.refresh`, and by one look at a time. A look
//! that takes long is waited for a moment only; then what was seen before is shown, and `status_up` and
//! `status_timestamp_seconds` tell of what age it is.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use crate::{
    broker::{BrokerError, Connection, Topology},
    config::Settings,
    domain::{Reason, RetrySchedule},
    storage::{Storage, StorageError, Trouble},
    telemetry::metrics::{Metrics, Seen, Source},
};

/// A scrape waits so long for a look.
const MOMENT: Duration = Duration::from_secs(1);
/// A look waits so long for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A look takes at most one part in so many of the time.
const SHARE: u32 = 20;

/// One for a process.
#[derive(Debug)]
pub struct Scrape {
    metrics: Arc<Metrics>,
    storage: Arc<Storage>,
    settings: Settings,
    topology: Topology,
    last: Arc<Mutex<Look>>,
}

#[derive(Debug, Default)]
struct Look {
    ended_at: Option<Instant>,
    /// Until it had seen all; zero where it couldn't.
    took: Duration,
    /// Kept open for the next.
    broker: Option<Connection>,
}

impl Scrape {
    /// Of this process's metrics, and of this installation.
    pub fn new(settings: &Settings, storage: Arc<Storage>, metrics: Arc<Metrics>) -> Self {
        let schedule = RetrySchedule::new(&settings.retry);
        Self {
            metrics,
            storage,
            settings: settings.clone(),
            topology: Topology::new(&settings.broker, &schedule),
            last: Arc::default(),
        }
    }

    /// All metrics in Prometheus's text format. Takes a second at most, whatever is away.
    pub async fn answer(self: &Arc<Self>) -> String {
        let looking = async {
            // While one looks, the others wait for what it sees.
            let mut last = self.last.clone().lock_owned().await;
            if last.is_due(self.settings.ops.refresh) {
                let scrape = self.clone();
                // It goes on when nobody waits any more: the next scrape is to find something.
                let look = tokio::spawn(async move { scrape.look(&mut last).await });
                let _ = look.await;
            }
        };
        let _ = tokio::time::timeout(MOMENT, looking).await;
        self.metrics.render()
    }

    /// Says goodbye to the broker.
    pub async fn close(&self) {
        let closing = async {
            if let Some(broker) = self.last.lock().await.broker.take() {
                broker.close().await;
            }
        };
        let _ = tokio::time::timeout(MOMENT, closing).await;
    }

    async fn look(&self, last: &mut Look) {
        let began = Instant::now();
        let broker = last.broker.take();
        let (database, broker) = tokio::join!(
            tokio::time::timeout(ANSWER_WITHIN, self.look_at_database()),
            tokio::time::timeout(ANSWER_WITHIN, self.look_at_broker(broker)),
        );
        let seen = database.unwrap_or(Err(StorageError::NoAnswer));
        let has_seen_all = seen.is_ok() && matches!(broker, Ok(Ok(_)));
        self.metrics.looked(Source::Database, seen.is_ok());
        match seen {
            Ok(seen) => self.metrics.show(&seen),
            Err(error) => {
                tracing::debug!(error.message = %error, "no look at the database for metrics");
            }
        }
        self.metrics
            .looked(Source::Broker, matches!(broker, Ok(Ok(_))));
        match broker {
            Ok(Ok(open)) => last.broker = Some(open),
            Ok(Err(error)) => {
                tracing::debug!(error.message = %error, "no look at the broker for metrics");
            }
            Err(_) => tracing::debug!("no look at the broker for metrics: it took too long"),
        }
        last.took = match has_seen_all {
            true => began.elapsed(),
            // Whoever is back is seen soon.
            false => Duration::ZERO,
        };
        last.ended_at = Some(Instant::now());
    }

    async fn look_at_database(&self) -> Result<Seen, StorageError> {
        // Known to be away: nobody waits for a connection to find out.
        if matches!(*self.storage.trouble().borrow(), Some(Trouble::Away)) {
            return Err(StorageError::NoAnswer);
        }
        let status = self.storage.status(Duration::ZERO).await?;
        let open = self.storage.open_dead_letters().await?;
        let parked = Reason::InsufficientBalance.as_str();
        let not_parked = open.iter().filter(|group| group.reason != parked);
        let oldest = not_parked.map(|group| group.oldest_age_seconds).max();
        Ok(Seen {
            pending: status.pending,
            pending_oldest_seconds: status.oldest_pending_age_seconds.unwrap_or(0),
            holds_open: status.open_holds,
            dead_letter_oldest_seconds: oldest.unwrap_or(0),
            dead_letters_open: open
                .into_iter()
                .map(|group| (group.reason, group.open))
                .collect(),
        })
    }

    async fn look_at_broker(&self, open: Option<Connection>) -> Result<Connection, BrokerError> {
        let open = match open.filter(Connection::is_open) {
            Some(open) => open,
            None => Connection::open(&self.settings.broker, "metrics").await?,
        };
        let topology = &self.topology;
        let queues = [
            topology.work_queue(),
            topology.dead_letters(),
            topology.unreadable(),
        ];
        for queue in queues.into_iter().chain(topology.delay_queues()) {
            let ready = match open.ready_count(&queue).await {
                // Not declared yet, or deleted by hand: there is nothing in it.
                Err(error) if error.is_missing() => 0,
                counted => counted?,
            };
            let prefix = topology.exchange();
            let name = queue.strip_prefix(prefix).unwrap_or(&queue);
            self.metrics.show_queue(name.trim_start_matches('.'), ready);
        }
        Ok(open)
    }
}

impl Look {
    fn is_due(&self, pause: Duration) -> bool {
        let pause = pause.max(self.took * SHARE);
        self.ended_at.is_none_or(|at| at.elapsed() >= pause)
    }
}
