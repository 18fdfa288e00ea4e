//! One message at a time, so that a message that kills whoever takes it drags nobody along.
//!
//! Two kinds do: one that kills the process, and one that no client can read, for a name in its properties isn't
//! UTF-8: the client breaks the connection at each delivery, and cannot be told not to. The broker counts each, and
//! past the queue's delivery limit takes the message away. So after such a death the messages that come back are
//! taken in single file, and by a new connection at once: a hundred deliveries of the one are over in seconds, and
//! count for nobody else. Without that, whatever was prefetched beside it would come to its limit with it.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{BrokerError, Consumer, Delivered};

/// What a dead connection held is back in its queue after this: the queue was empty, or had fresh messages, for so
/// long.
const BACK_WITHIN: Duration = Duration::from_secs(1);
/// How often an empty queue is looked at meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Between two lines of the log about a message that comes again and again.
const LOG_EVERY: u32 = 100;

/// Takes single messages, each on request, so that exactly one is being processed.
#[derive(Debug)]
pub struct SingleFile {
    /// When the last message came that had been delivered before.
    last_returned: Instant,
    /// Until then a fresh message doesn't end it.
    not_before: Option<Instant>,
    over: bool,
}

impl SingleFile {
    pub fn new(unreadable: &Unreadable) -> Self {
        Self {
            last_returned: Instant::now(),
            not_before: unreadable.met_at.map(|at| at + BACK_WITHIN),
            over: false,
        }
    }

    /// The message at the head of the queue. `None`: whatever a dead connection held is through, or `stop`.
    ///
    /// The broker offers returned messages first, so the first fresh one ends it. An empty queue doesn't at
    /// once: the broker may not have noticed yet that the last connection is dead. Nor does a fresh one at once
    /// after a message that can't be read: that one may be on its way back, or break another process just now.
    pub async fn next(
        &mut self,
        consumer: &Consumer,
        stop: &CancellationToken,
    ) -> Result<Option<Delivered>, BrokerError> {
        while !stop.is_cancelled() && !self.over && self.last_returned.elapsed() < BACK_WITHIN {
            let Some(message) = consumer.get().await? else {
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            };
            let may_be_back = self.not_before.is_some_and(|end| Instant::now() < end);
            if message.redelivered || may_be_back {
                self.last_returned = Instant::now();
            } else {
                self.over = true;
            }
            return Ok(Some(message));
        }
        Ok(None)
    }
}

/// What one consumer of a queue knows of messages that nobody can read.
#[derive(Debug, Default)]
pub struct Unreadable {
    met_at: Option<Instant>,
    deliveries: u32,
}

impl Unreadable {
    /// One broke the connection.
    pub fn met(&mut self, queue: &str) {
        self.met_at = Some(Instant::now());
        if self.deliveries.is_multiple_of(LOG_EVERY) {
            tracing::warn!(
                queue,
                deliveries = self.deliveries,
                "a message can't be read (a name in its properties isn't UTF-8) and breaks the connection: taking it \
                 alone until the broker moves it on at the queue's delivery limit"
            );
        }
        self.deliveries = self.deliveries.saturating_add(1);
    }

    /// Whether one was met since the last [`Unreadable::gone`].
    pub fn is_about(&self) -> bool {
        self.met_at.is_some()
    }

    /// None is about any more, as far as this process can tell.
    pub fn gone(&mut self, queue: &str) {
        if self.is_about() {
            let deliveries = self.deliveries;
            tracing::info!(
                queue,
                deliveries,
                "no message breaks the connection any more"
            );
        }
        *self = Self::default();
    }
}
