//! Consuming in natural batches: whatever has arrived, up to a limit.

use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::{
    Channel,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};

use super::{BrokerError, Connection, Delivered};

/// One channel and its consumer. Messages of a batch are acked together: the batch before must be
/// processed before the next one is taken, so that everything below the last tag is processed.
#[derive(Debug)]
pub struct Consumer {
    channel: Channel,
    patience: Duration,
    queue: String,
    deliveries: lapin::Consumer,
    /// A redelivered message that ended the last batch; it is a batch of its own.
    alone: Option<Delivered>,
}

/// Messages in flight, at least one.
#[derive(Debug)]
pub struct Batch {
    pub(super) messages: Vec<Delivered>,
    pub(super) patience: Duration,
}

impl Batch {
    /// The messages, oldest first.
    pub fn messages(&self) -> &[Delivered] {
        &self.messages
    }

    /// Acks all of them. Call it only when each is processed.
    pub async fn ack(self) -> Result<(), BrokerError> {
        let Some(last) = self.messages.last() else {
            return Ok(());
        };
        // Everything unacked on this channel up to the last: this batch, and nothing else.
        let acked = last.acker.ack(BasicAckOptions { multiple: true });
        if BrokerError::answered("acking", self.patience, acked).await? {
            Ok(())
        } else {
            Err(BrokerError::NotAcked)
        }
    }
}

impl Consumer {
    /// Starts consuming. `prefetch` is all that bounds memory: the client buffers what it is given.
    pub async fn start(
        connection: &Connection,
        queue: &str,
        prefetch: u16,
    ) -> Result<Self, BrokerError> {
        let (channel, patience) = (connection.channel().await?, connection.patience);
        let set = channel.basic_qos(prefetch, BasicQosOptions::default());
        BrokerError::answered("setting the prefetch", patience, set).await?;
        // The broker gives the consumer its name.
        let (name, options) = ("".into(), BasicConsumeOptions::default());
        let started = channel.basic_consume(queue.into(), name, options, FieldTable::default());
        let deliveries = BrokerError::answered("starting to consume", patience, started).await?;
        Ok(Self {
            channel,
            patience,
            queue: queue.to_owned(),
            deliveries,
            alone: None,
        })
    }

    /// Waits for a message, then takes what else has arrived, at most `max`. A message that has been
    /// delivered before comes alone: should it be what killed its worker, it drags nobody along.
    ///
    /// Cancel safe: the only wait is for the first message.
    pub async fn next_batch(&mut self, max: usize) -> Result<Batch, BrokerError> {
        self.next_batch_within(max, usize::MAX).await
    }

    /// The same, and no further message once the bodies have `max_bytes` together.
    pub async fn next_batch_within(
        &mut self,
        max: usize,
        max_bytes: usize,
    ) -> Result<Batch, BrokerError> {
        let first = match self.alone.take() {
            Some(message) => message,
            None => {
                let next = self.deliveries.next().await;
                self.received(next)?
            }
        };
        let alone = first.redelivered;
        let mut bytes = first.body.len();
        let mut messages = vec![first];
        while !alone && messages.len() < max && bytes < max_bytes {
            let Some(next) = self.deliveries.next().now_or_never() else {
                break;
            };
            let message = self.received(next)?;
            if message.redelivered {
                self.alone = Some(message);
                break;
            }
            bytes += message.body.len();
            messages.push(message);
        }
        Ok(Batch {
            messages,
            patience: self.patience,
        })
    }

    fn received(&self, next: Option<lapin::Result<Delivery>>) -> Result<Delivered, BrokerError> {
        match next {
            Some(Ok(delivery)) => Ok(delivered(delivery)),
            Some(Err(source)) => Err(BrokerError::Lapin {
                doing: "consuming",
                source,
            }),
            None => Err(BrokerError::ConsumerCancelled(self.queue.clone())),
        }
    }

    /// Ends it; what is unacked goes back to the queue.
    pub async fn close(&self) {
        close(&self.channel, self.patience).await;
    }
}

pub(super) async fn close(channel: &Channel, patience: Duration) {
    // Should the goodbye fail, the connection is gone, and the broker does the same by itself.
    let closing = channel.close(200, "done".into());
    let _ = BrokerError::answered("closing a channel", patience, closing).await;
}

pub(super) fn delivered(delivery: Delivery) -> Delivered {
    Delivered {
        body: delivery.data,
        redelivered: delivery.redelivered,
        properties: delivery.properties,
        acker: delivery.acker,
    }
}
