//! Publishing that is certain: persistent, mandatory, confirmed.

use std::{sync::Arc, time::Duration};

use lapin::{Channel, Confirmation, options::BasicPublishOptions};
use thiserror::Error;
use tokio::sync::Mutex;

use super::{BrokerError, Connection, Outgoing, Topology};
use crate::config;

/// How many messages may be on their way unconfirmed: enough that the broker never waits for us, few
/// enough that memory stays bounded.
const WINDOW: usize = 1024;

/// Why a message is not certain to be in a queue. It may be in one all the same if the connection broke.
#[derive(Debug, Error)]
pub enum PublishError {
    /// The way to the broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// No queue takes it.
    #[error(
        "unroutable: no queue is bound to exchange {exchange:?} with routing key {routing_key:?}"
    )]
    Unroutable {
        /// Where it was sent.
        exchange: String,
        /// With which key.
        routing_key: String,
    },
    /// The broker said no.
    #[error(
        "the broker refused the message for exchange {exchange:?}, routing key {routing_key:?}"
    )]
    Refused {
        /// Where it was sent.
        exchange: String,
        /// With which key.
        routing_key: String,
    },
}

/// A connection for publishing only, opened when first needed and again after any failure.
#[derive(Debug)]
pub struct Publisher {
    broker: config::Broker,
    topology: Topology,
    declares: bool,
    live: Mutex<Option<Arc<Live>>>,
}

#[derive(Debug)]
struct Live {
    connection: Connection,
    channel: Channel,
}

impl Publisher {
    /// A publisher that also declares the topology whenever it connects, so that a queue somebody
    /// deleted is there again at the next try.
    pub fn declaring(broker: &config::Broker, topology: &Topology) -> Self {
        Self {
            broker: broker.clone(),
            topology: topology.clone(),
            declares: true,
            live: Mutex::default(),
        }
    }

    /// A publisher that only publishes: a missing exchange or queue is an error, as its user expects.
    pub fn plain(broker: &config::Broker, topology: &Topology) -> Self {
        Self {
            declares: false,
            ..Self::declaring(broker, topology)
        }
    }

    /// Publishes all and waits for every confirm; one result per message, in order. `Ok` means that the
    /// broker has it in a queue, on disk.
    pub async fn publish(&self, messages: &[Outgoing]) -> Vec<Result<(), PublishError>> {
        let mut results = Vec::with_capacity(messages.len());
        for window in messages.chunks(WINDOW) {
            let sent = match self.live().await {
                Ok(live) => self.publish_window(&live.channel, window).await,
                Err(error) => {
                    results.push(Err(error.into()));
                    break;
                }
            };
            let failed = sent.iter().any(Result::is_err);
            results.extend(sent);
            if failed {
                // Whatever it was, the next try starts on a new connection.
                self.live.lock().await.take();
                break;
            }
        }
        results.resize_with(messages.len(), || {
            Err(PublishError::Broker(BrokerError::NotSent))
        });
        results
    }

    async fn publish_window(
        &self,
        channel: &Channel,
        window: &[Outgoing],
    ) -> Vec<Result<(), PublishError>> {
        let mut confirms = Vec::with_capacity(window.len());
        for message in window {
            let options = BasicPublishOptions {
                mandatory: true,
                immediate: false,
            };
            let sent = channel
                .basic_publish(
                    message.exchange.as_str().into(),
                    message.routing_key.as_str().into(),
                    options,
                    &message.body,
                    message.properties.clone(),
                )
                .await;
            confirms.push(sent);
        }
        let deadline = tokio::time::Instant::now() + self.broker.confirm_timeout;
        let mut results = Vec::with_capacity(window.len());
        for (confirm, message) in confirms.into_iter().zip(window) {
            let confirmed = match confirm {
                Err(error) => Err(error),
                Ok(confirm) => match tokio::time::timeout_at(deadline, confirm).await {
                    Ok(confirmed) => confirmed,
                    Err(_) => {
                        results.push(Err(unconfirmed(self.broker.confirm_timeout)));
                        continue;
                    }
                },
            };
            results.push(match confirmed {
                // A message that no queue took is confirmed too, with the message returned.
                Ok(Confirmation::Ack(None)) => Ok(()),
                Ok(Confirmation::Ack(Some(_))) => Err(PublishError::Unroutable {
                    exchange: message.exchange.clone(),
                    routing_key: message.routing_key.clone(),
                }),
                Ok(Confirmation::Nack(_) | Confirmation::NotRequested) => {
                    Err(PublishError::Refused {
                        exchange: message.exchange.clone(),
                        routing_key: message.routing_key.clone(),
                    })
                }
                Err(source) => Err(BrokerError::Lapin {
                    doing: "publishing",
                    source,
                }
                .into()),
            });
        }
        results
    }

    async fn live(&self) -> Result<Arc<Live>, BrokerError> {
        let mut live = self.live.lock().await;
        if let Some(live) = live.as_ref()
            && live.connection.is_open()
            && live.channel.status().connected()
        {
            return Ok(live.clone());
        }
        let connection = Connection::open(&self.broker, "publisher").await?;
        if self.declares {
            self.topology.declare(&connection).await?;
        }
        let channel = connection.channel().await?;
        channel
            .confirm_select(Default::default())
            .await
            .map_err(BrokerError::at("asking for confirms"))?;
        Ok(live
            .insert(Arc::new(Live {
                connection,
                channel,
            }))
            .clone())
    }

    /// Closes the connection, if there is one.
    pub async fn close(&self) {
        if let Some(live) = self.live.lock().await.take() {
            live.connection.close().await;
        }
    }
}

fn unconfirmed(within: Duration) -> PublishError {
    BrokerError::Timeout {
        doing: "waiting for the broker's confirm",
        within,
    }
    .into()
}
