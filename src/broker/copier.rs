//! Publishing that may get lost: copies for whoever watches.

use std::time::Duration;

use lapin::{Channel, options::BasicPublishOptions};

use super::{BrokerError, Connection, Outgoing, Topology};
use crate::config;

/// How long one copy may take. Under a memory alarm the broker stops reading, and nothing is worth
/// waiting for that.
const PATIENCE: Duration = Duration::from_secs(1);

/// A connection for copies only, opened when first needed and again after any failure. Neither confirmed
/// nor mandatory: no queue need be bound, and one that refuses is no trouble.
#[derive(Debug)]
pub struct Copier {
    broker: config::Broker,
    topology: Topology,
    live: Option<(Connection, Channel)>,
}

impl Copier {
    /// A copier that has yet to connect.
    pub fn new(broker: &config::Broker, topology: &Topology) -> Self {
        Self {
            broker: broker.clone(),
            topology: topology.clone(),
            live: None,
        }
    }

    /// Writes one copy to the broker. After an error the next call connects anew.
    pub async fn send(&mut self, copy: &Outgoing) -> Result<(), BrokerError> {
        // Out of its place while in use, so that what fails or is given up is not used again.
        let (connection, channel) = match self.live.take() {
            Some(live) if live.0.is_open() && live.1.status().connected() => live,
            _ => self.connect().await?,
        };
        let sending = channel.basic_publish(
            copy.exchange.as_str().into(),
            copy.routing_key.as_str().into(),
            BasicPublishOptions::default(),
            &copy.body,
            copy.properties.clone(),
        );
        BrokerError::answered("sending a copy", PATIENCE, sending).await?;
        self.live = Some((connection, channel));
        Ok(())
    }

    async fn connect(&self) -> Result<(Connection, Channel), BrokerError> {
        let connection = Connection::open(&self.broker, "copier").await?;
        self.topology.declare(&connection).await?;
        let channel = connection.channel().await?;
        Ok((connection, channel))
    }

    /// Closes the connection, if there is one, but waits little for a broker that doesn't listen.
    pub async fn close(&mut self) {
        if let Some((connection, _)) = self.live.take() {
            let _ = tokio::time::timeout(PATIENCE, connection.close()).await;
        }
    }
}
