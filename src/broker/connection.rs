//! One AMQP connection.

use std::str::FromStr as _;

use lapin::{Channel, ConnectionProperties, uri::AMQPUri};
use secrecy::ExposeSecret as _;

use super::BrokerError;
use crate::config;

/// A connection that is either for publishing or for consuming, never for both: under a memory alarm
/// the broker stops reading from connections that publish, and acks would hang there.
#[derive(Debug)]
pub struct Connection(lapin::Connection);

impl Connection {
    /// Connects; `purpose` shows in the broker's list of connections.
    pub async fn open(broker: &config::Broker, purpose: &str) -> Result<Self, BrokerError> {
        let mut uri = AMQPUri::from_str(broker.url.expose_secret()).map_err(BrokerError::Url)?;
        uri.query.heartbeat = u16::try_from(broker.heartbeat.as_secs()).ok();
        // No automatic recovery: the supervisor rebuilds everything after any failure, by one path.
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("{} {purpose}", broker.prefix).as_str().into());
        let connecting = lapin::Connection::connect_uri(uri, properties);
        match tokio::time::timeout(broker.connect_timeout, connecting).await {
            Ok(connection) => Ok(Self(connection.map_err(BrokerError::at("connecting"))?)),
            Err(_) => Err(BrokerError::Timeout {
                doing: "connecting",
                within: broker.connect_timeout,
            }),
        }
    }

    pub(super) async fn channel(&self) -> Result<Channel, BrokerError> {
        self.0
            .create_channel()
            .await
            .map_err(BrokerError::at("opening a channel"))
    }

    /// Whether it was still there when last heard of.
    pub fn is_open(&self) -> bool {
        self.0.status().connected()
    }

    /// Says goodbye. What is unacked goes back to its queue.
    pub async fn close(&self) {
        // If the broker doesn't answer, the connection ends with the process or its heartbeat.
        let closing = self.0.close(200, "done".into());
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), closing).await;
    }
}
