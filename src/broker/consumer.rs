//! One channel on which a queue is consumed.

use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _, future::try_join_all};
use lapin::{
    Channel,
    message::Delivery,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicQosOptions,
    },
    types::FieldTable,
};

use super::{BrokerError, Connection, Delivered};

/// A channel with at most one consumer on it. Its messages are numbered in the order of their delivery ([`Delivered::tag`]).
#[derive(Debug)]
pub struct Consumer {
    channel: Channel,
    patience: Duration,
    queue: String,
    deliveries: Option<lapin::Consumer>,
}

/// One command to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    One(u64),
    /// All that are unacked up to this one, which has to be unacked.
    UpTo(u64),
}

impl Consumer {
    /// Opens the channel. `prefetch` is all that bounds memory: the client buffers what it is given.
    pub async fn open(
        connection: &Connection,
        queue: &str,
        prefetch: u16,
    ) -> Result<Self, BrokerError> {
        let (channel, patience) = (connection.channel().await?, connection.patience);
        let set = channel.basic_qos(prefetch, BasicQosOptions::default());
        BrokerError::answered("setting the prefetch", patience, set).await?;
        Ok(Self {
            channel,
            patience,
            queue: queue.to_owned(),
            deliveries: None,
        })
    }

    /// The message at the head of the queue, if there is one: without, or before, consuming.
    pub async fn get(&self) -> Result<Option<Delivered>, BrokerError> {
        let options = BasicGetOptions { no_ack: false };
        let got = self.channel.basic_get(self.queue.as_str().into(), options);
        let got = BrokerError::answered("getting a message", self.patience, got).await?;
        Ok(got.map(|got| delivered(got.delivery)))
    }

    /// From now on, messages come.
    pub async fn start(&mut self) -> Result<(), BrokerError> {
        // The broker gives the consumer its name.
        let (name, options) = ("".into(), BasicConsumeOptions::default());
        let queue = self.queue.as_str().into();
        let started = self
            .channel
            .basic_consume(queue, name, options, FieldTable::default());
        let started = BrokerError::answered("starting to consume", self.patience, started).await?;
        self.deliveries = Some(started);
        Ok(())
    }

    /// The next message, waited for. Cancel safe.
    pub async fn next(&mut self) -> Result<Delivered, BrokerError> {
        let next = match &mut self.deliveries {
            Some(deliveries) => deliveries.next().await,
            None => None,
        };
        match next {
            Some(Ok(delivery)) => Ok(delivered(delivery)),
            Some(Err(source)) => Err(BrokerError::Lapin {
                doing: "consuming",
                source,
            }),
            None => Err(BrokerError::ConsumerCancelled(self.queue.clone())),
        }
    }

    /// The next message, if it has arrived.
    pub fn arrived(&mut self) -> Option<Result<Delivered, BrokerError>> {
        self.next().now_or_never()
    }

    /// No more messages come, but for those that are on their way: these.
    pub async fn cancel(&mut self) -> Result<Vec<Delivered>, BrokerError> {
        let Some(mut deliveries) = self.deliveries.take() else {
            return Ok(Vec::new());
        };
        let cancelled = self
            .channel
            .basic_cancel(deliveries.tag(), BasicCancelOptions::default());
        BrokerError::answered("cancelling the consumer", self.patience, cancelled).await?;
        let mut left = Vec::new();
        while let Some(Some(Ok(delivery))) = deliveries.next().now_or_never() {
            left.push(delivered(delivery));
        }
        Ok(left)
    }

    /// Sends all of these; returns when they are written.
    pub async fn ack(&self, acks: Vec<Ack>) -> Result<(), BrokerError> {
        let sent = acks.into_iter().map(|ack| {
            let (tag, multiple) = match ack {
                Ack::One(tag) => (tag, false),
                Ack::UpTo(tag) => (tag, true),
            };
            self.channel.basic_ack(tag, BasicAckOptions { multiple })
        });
        BrokerError::answered("acking", self.patience, try_join_all(sent)).await?;
        Ok(())
    }

    /// Ends it; what is unacked goes back to the queue.
    pub async fn close(&self) {
        // Should the goodbye fail, the connection is gone, and the broker does the same by itself.
        let closing = self.channel.close(200, "done".into());
        let _ = BrokerError::answered("closing a channel", self.patience, closing).await;
    }
}

fn delivered(delivery: Delivery) -> Delivered {
    Delivered {
        tag: delivery.delivery_tag,
        body: delivery.data,
        redelivered: delivery.redelivered,
        properties: delivery.properties,
    }
}
