//! One AMQP connection.

use std::{str::FromStr as _, time::Duration};

use lapin::{
    Channel, ConnectionProperties, options::QueueDeclareOptions, types::FieldTable, uri::AMQPUri,
};
use secrecy::ExposeSecret as _;

use super::BrokerError;
use crate::config;

/// How often a connection is looked at for whether it is still there.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A connection that is either for publishing or for consuming, never for both: under a memory alarm
/// the broker stops reading from connections that publish, and acks would hang there.
#[derive(Debug)]
pub struct Connection {
    inner: lapin::Connection,
    /// How long an answer may take: `broker.connect_timeout`.
    pub(super) patience: Duration,
}

impl Connection {
    /// Connects; `purpose` shows in the broker's list of connections.
    pub async fn open(broker: &config::Broker, purpose: &str) -> Result<Self, BrokerError> {
        let mut uri = AMQPUri::from_str(broker.url.expose_secret()).map_err(BrokerError::Url)?;
        uri.query.heartbeat = u16::try_from(broker.heartbeat.as_secs()).ok();
        // No automatic recovery: the supervisor rebuilds everything after any failure, by one path.
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("{} {purpose}", broker.prefix).as_str().into());
        let connecting = lapin::Connection::connect_uri(uri, properties);
        let patience = broker.connect_timeout;
        let inner = BrokerError::answered("connecting", patience, connecting).await?;
        Ok(Self { inner, patience })
    }

    pub(super) async fn channel(&self) -> Result<Channel, BrokerError> {
        BrokerError::answered(
            "opening a channel",
            self.patience,
            self.inner.create_channel(),
        )
        .await
    }

    /// How many messages are ready in a queue. Not what a consumer has in hand, nor a dead letter that the
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

    /// Returns when it is gone. By looking: a client that waits for an event of a connection that broke
    /// just before waits for ever.
    pub async fn closed(&self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        while self.is_open() {
            look.tick().await;
        }
    }

    /// Says goodbye. What is unacked goes back to its queue.
    pub async fn close(&self) {
        // If the broker doesn't answer, the connection ends with the process or its heartbeat.
        let closing = self.inner.close(200, "done".into());
        let _ = BrokerError::answered("closing the connection", self.patience, closing).await;
    }
}
