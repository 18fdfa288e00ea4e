//! One AMQP connection.

use std::{str::FromStr as _, time::Duration};

use futures_util::{Stream, StreamExt as _};
use lapin::{
    Channel, ConnectionProperties, ErrorKind, Event, options::QueueDeclareOptions,
    types::FieldTable, uri::AMQPUri,
};
use secrecy::ExposeSecret as _;
use tokio::{sync::watch, task::AbortHandle};

use super::BrokerError;
use crate::config;

/// How often a connection is looked at for whether it is still there.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A connection that is either for publishing or for consuming, never for both: under a memory alarm
/// the broker stops reading from connections that publish, and acks would hang there.
#[derive(Debug)]
pub struct Connection {
    inner: lapin::Connection,
    /// It broke on what the broker sent.
    unreadable: watch::Receiver<bool>,
    listening: AbortHandle,
    /// How long an answer may take: `broker.connect_timeout`.
    pub(super) patience: Duration,
}

/// Why the broker reads nothing that is published, in its own words, such as `low on memory`; `None` while it does. It
/// says so only to a connection that tried.
pub(super) type Alarm = watch::Sender<Option<String>>;

impl Drop for Connection {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Connection {
    /// Connects; `purpose` shows in the broker's list of connections.
    pub async fn open(broker: &config::Broker, purpose: &str) -> Result<Self, BrokerError> {
        Self::open_telling(broker, purpose, Alarm::default()).await
    }

    /// The same, and tells of alarms.
    pub(super) async fn open_telling(
        broker: &config::Broker,
        purpose: &str,
        alarm: Alarm,
    ) -> Result<Self, BrokerError> {
        let mut uri = AMQPUri::from_str(broker.url.expose_secret()).map_err(BrokerError::Url)?;
        uri.query.heartbeat = u16::try_from(broker.heartbeat.as_secs()).ok();
        // No automatic recovery: the supervisor rebuilds everything after any failure, by one path.
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("{} {purpose}", broker.prefix).as_str().into());
        let connecting = lapin::Connection::connect_uri(uri, properties);
        let patience = broker.connect_timeout;
        let inner = BrokerError::answered("connecting", patience, connecting).await?;
        let (told, unreadable) = watch::channel(false);
        alarm.send_replace(None);
        let listening = tokio::spawn(listen(inner.events_listener(), told, alarm)).abort_handle();
        Ok(Self {
            inner,
            unreadable,
            listening,
            patience,
        })
    }

    pub(super) async fn channel(&self) -> Result<Channel, BrokerError> {
        BrokerError::answered(
            "opening a channel",
            self.patience,
            self.inner.create_channel(),
        )
        .await
    }

    /// How many messages are ready in a queue. Not what a consumer has in flight, nor a dead letter that the
    /// broker has still to move.
    pub async fn ready_count(&self, queue: &str) -> Result<u32, BrokerError> {
        // A channel of its own, which a missing queue closes.
        let channel = self.channel().await?;
        let options = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        let declared = channel.queue_declare(queue.into(), options, FieldTable::default());
        let queue = BrokerError::answered("counting messages", self.patience, declared).await?;
        let closed = channel.close(200, "counted".into());
        BrokerError::answered("closing a channel", self.patience, closed).await?;
        Ok(queue.message_count())
    }

    /// Whether it was still there when last heard of.
    pub fn is_open(&self) -> bool {
        self.inner.status().connected()
    }

    /// Returns when it is gone, with the reason: [`BrokerError::Unreadable`] or [`BrokerError::ConnectionLost`].
    /// By looking as well: a client that waits for an event of a connection that broke just before waits for ever.
    pub async fn closed(&self) -> BrokerError {
        let mut unreadable = self.unreadable.clone();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.tick().await;
        loop {
            if *unreadable.borrow_and_update() {
                return BrokerError::Unreadable;
            }
            // Before the wait, so that what breaks it is told once more before it counts as lost.
            let is_open = self.is_open();
            tokio::select! {
                Ok(()) = unreadable.changed() => {}
                _ = look.tick() => if !is_open { return BrokerError::ConnectionLost; }
            }
        }
    }

    /// Whether it is gone because of a message that no client can read, whatever a call of ours said of its end.
    pub async fn met_unreadable(&self) -> bool {
        !self.is_open() && matches!(self.closed().await, BrokerError::Unreadable)
    }

    /// Says goodbye. What is unacked goes back to its queue.
    pub async fn close(&self) {
        // If the broker doesn't answer, the connection ends with the process or its heartbeat.
        let closing = self.inner.close(200, "done".into());
        let _ = BrokerError::answered("closing the connection", self.patience, closing).await;
    }
}

async fn listen(events: impl Stream<Item = Event>, unreadable: watch::Sender<bool>, alarm: Alarm) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Event::ConnectionBlocked(reason) => {
                tracing::warn!(
                    reason,
                    "the broker has an alarm and takes no messages: publishing waits"
                );
                alarm.send_replace(Some(reason));
            }
            Event::ConnectionUnblocked => {
                tracing::info!("the broker takes messages again");
                alarm.send_replace(None);
            }
            Event::Error(error) if matches!(error.kind(), ErrorKind::ParsingError(_)) => {
                unreadable.send_replace(true);
            }
            _ => {}
        }
    }
}
