//! Publishing that is certain: persistent, mandatory, confirmed.

use std::{collections::HashSet, time::Instant};

use lapin::{Channel, Confirmation, options::BasicPublishOptions};
use thiserror::Error;
use tokio::sync::{Mutex, watch};

use super::{BrokerError, Connection, Outgoing, Topology, connection::Alarm};
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
    /// The broker said no: no queue of ours has a limit of its own, so a policy gave one to it, and it is full.
    #[error(
        "refused: the queue behind exchange {exchange:?}, routing key {routing_key:?} is full (by a max-length policy: \
         rabbitmqctl list_policies)"
    )]
    Refused {
        /// Where it was sent.
        exchange: String,
        /// With which key.
        routing_key: String,
    },
}

/// A connection for publishing only, opened when first needed and again after any failure.
///
/// One call publishes at a time: the client numbers messages and sends them under two locks, so that two
/// callers on one channel could each be given the other's confirm.
#[derive(Debug)]
pub struct Publisher {
    broker: config::Broker,
    topology: Topology,
    declares: bool,
    alarm: Alarm,
    live: Mutex<Option<Live>>,
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
            alarm: Alarm::default(),
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

    /// The names of where it publishes to.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Why the broker takes no messages at present, in its own words, such as `low on memory`.
    pub fn alarm(&self) -> watch::Receiver<Option<String>> {
        self.alarm.subscribe()
    }

    /// Publishes all and waits for every confirm; one result per message, in order. `Ok` means that the
    /// broker has it in a queue, on disk. Dropped before its end, it leaves nothing that a later call
    /// could take for its own.
    pub async fn publish(&self, messages: &[Outgoing]) -> Vec<Result<(), PublishError>> {
        let mut slot = self.live.lock().await;
        let mut results = Vec::with_capacity(messages.len());
        for window in messages.chunks(WINDOW) {
            // Out of its place while in use: only a window that went well puts the connection back, and
            // whatever else happens, the next try starts on a new one.
            let live = match self.still_live(slot.take()).await {
                Ok(live) => live,
                Err(error) => {
                    results.push(Err(error.into()));
                    break;
                }
            };
            let sent = self.publish_window(&live.channel, window).await;
            let failed = sent.iter().any(Result::is_err);
            results.extend(sent);
            if failed {
                break;
            }
            *slot = Some(live);
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
        // Sending waits as well when the broker stops reading, as it does under a memory alarm.
        let deadline = Instant::now() + self.broker.confirm_timeout;
        let left = || deadline.saturating_duration_since(Instant::now());
        let mut confirms = Vec::with_capacity(window.len());
        for message in window {
            let sending = channel.basic_publish(
                message.exchange.as_str().into(),
                message.routing_key.as_str().into(),
                BasicPublishOptions {
                    mandatory: true,
                    immediate: false,
                },
                &message.body,
                message.properties.clone(),
            );
            let sent = BrokerError::answered("publishing", left(), sending).await;
            confirms.push(sent.map_err(|late| self.late(late)));
        }
        let mut confirmed = Vec::with_capacity(window.len());
        for confirm in confirms {
            confirmed.push(match confirm {
                Ok(confirm) => {
                    BrokerError::answered("waiting for the broker's confirm", left(), confirm)
                        .await
                        .map_err(|late| self.late(late))
                }
                Err(error) => Err(error),
            });
        }
        certain(confirmed, window)
    }

    /// What is late because of an alarm, told as that; and by the setting, not by what was left of it.
    fn late(&self, error: BrokerError) -> BrokerError {
        let within = self.broker.confirm_timeout;
        match (error, self.alarm.borrow().clone()) {
            (BrokerError::Timeout { doing, .. }, Some(reason)) => BrokerError::Alarm {
                doing,
                reason,
                within,
            },
            (BrokerError::Timeout { doing, .. }, None) => BrokerError::Timeout { doing, within },
            (error, _) => error,
        }
    }

    async fn still_live(&self, live: Option<Live>) -> Result<Live, BrokerError> {
        if let Some(live) = live
            && live.connection.is_open()
            && live.channel.status().connected()
        {
            return Ok(live);
        }
        let alarm = self.alarm.clone();
        let connection = Connection::open_telling(&self.broker, "publisher", alarm).await?;
        if self.declares {
            self.topology.declare(&connection).await?;
        }
        let channel = connection.channel().await?;
        let selected = channel.confirm_select(Default::default());
        BrokerError::answered("asking for confirms", connection.patience, selected).await?;
        Ok(Live {
            connection,
            channel,
        })
    }

    /// Closes the connection, if there is one.
    pub async fn close(&self) {
        if let Some(live) = self.live.lock().await.take() {
            live.connection.close().await;
        }
    }
}

/// A message that no queue took is confirmed too, with the message returned, but the client gives a
/// return to whichever confirm comes next. So a return counts against every message of the window that
/// went the same way.
fn certain(
    confirmed: Vec<Result<Confirmation, BrokerError>>,
    window: &[Outgoing],
) -> Vec<Result<(), PublishError>> {
    let mut returned = HashSet::new();
    for confirmation in confirmed.iter().flatten() {
        if let Confirmation::Ack(Some(message)) | Confirmation::Nack(Some(message)) = confirmation {
            returned.insert((
                message.exchange.to_string(),
                message.routing_key.to_string(),
            ));
        }
    }
    let judge = |(confirmation, message): (Result<Confirmation, BrokerError>, &Outgoing)| {
        let way = (message.exchange.clone(), message.routing_key.clone());
        let unroutable = returned.contains(&way);
        let (exchange, routing_key) = way;
        match confirmation? {
            _ if unroutable => Err(PublishError::Unroutable {
                exchange,
                routing_key,
            }),
            Confirmation::Ack(_) => Ok(()),
            Confirmation::Nack(_) | Confirmation::NotRequested => Err(PublishError::Refused {
                exchange,
                routing_key,
            }),
        }
    };
    confirmed.into_iter().zip(window).map(judge).collect()
}
