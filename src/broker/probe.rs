//! One message on its way through queues like the real ones, which are made for it and deleted after it.

use std::time::{Duration, Instant};

use lapin::{BasicProperties, ExchangeKind, types::AMQPValue};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    BrokerError, Connection, Consumer, Outgoing, PublishError, Publisher, Topology,
    topology::{Declarer, Part},
};
use crate::{
    config::{self, Retry},
    domain::RetrySchedule,
};

/// The time in the delay queue: short, and long enough to be seen to have passed.
pub const PROBE_DELAY: Duration = Duration::from_millis(200);
/// What nobody uses for so long deletes itself, should this process die before it can: 10 minutes.
const EXPIRES_MS: i64 = 10 * 60 * 1000;

/// Why a probe didn't come through.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// Connecting, declaring, consuming.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// Publishing.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// It went into the delay queue and was not seen again.
    #[error("the message didn't come back from the delay queue within {}", humantime::format_duration(*.0))]
    NotBack(Duration),
    /// Something else came.
    #[error("another message came back")]
    Another,
    /// It didn't wait.
    #[error("the message came back after {0:?}, before its time was up")]
    TooEarly(Duration),
    /// Told to stop.
    #[error("interrupted")]
    Interrupted,
}

/// What a probe found.
#[derive(Debug)]
pub struct Probed {
    /// What the names of its exchange and queues began with.
    pub prefix: String,
    /// How long the message was on its way.
    pub took: Result<Duration, ProbeError>,
    /// Names that could not be deleted, and why.
    pub left_behind: Vec<String>,
}

/// Sends one message through a delay queue into a work queue, both of a prefix of their own, and deletes
/// them whatever happens. Every wait is bounded by `within`.
pub async fn probe(broker: &config::Broker, within: Duration, stop: &CancellationToken) -> Probed {
    let mut scratch = broker.clone();
    // Below the real prefix: rights that are given by pattern hold for it too.
    scratch.prefix = format!("{}.doctor-{}", broker.prefix, Uuid::new_v4().simple());
    scratch.connect_timeout = scratch.connect_timeout.min(within);
    scratch.confirm_timeout = scratch.confirm_timeout.min(within);
    let schedule = RetrySchedule::new(&Retry {
        base: PROBE_DELAY,
        max_delay: PROBE_DELAY,
        attempts: 1,
        ..Retry::default()
    });
    let topology = Topology::new(&scratch, &schedule);
    let took = tokio::select! {
        took = through(&scratch, &topology, within) => took,
        () = stop.cancelled() => Err(ProbeError::Interrupted),
    };
    Probed {
        took,
        left_behind: clean_up(&scratch, &topology).await,
        prefix: scratch.prefix,
    }
}

async fn through(
    scratch: &config::Broker,
    topology: &Topology,
    within: Duration,
) -> Result<Duration, ProbeError> {
    let connection = Connection::open(scratch, "doctor's probe").await?;
    let channel = Declarer::open(&connection).await?;
    channel
        .declare(&Part::Exchange {
            name: topology.exchange().to_owned(),
            kind: ExchangeKind::Direct,
            auto_delete: true,
        })
        .await?;
    for mut part in topology.charging_parts() {
        if let Part::Queue { arguments, .. } = &mut part {
            arguments.insert("x-expires".into(), AMQPValue::LongLongInt(EXPIRES_MS));
        }
        channel.declare(&part).await?;
    }
    let mut consumer = Consumer::start(&connection, &topology.work_queue(), 1).await?;
    let body = Uuid::new_v4().to_string().into_bytes();
    let publisher = Publisher::plain(scratch, topology);
    let sent = Instant::now();
    let message = Outgoing::into_queue(topology.delay_queue(PROBE_DELAY), body.clone());
    let published = publisher.publish(&[message]).await;
    publisher.close().await;
    for result in published {
        result?;
    }
    let batch = tokio::time::timeout(within, consumer.next_batch(1)).await;
    let batch = batch.map_err(|_| ProbeError::NotBack(within))??;
    let took = sent.elapsed();
    let same = batch.messages().iter().all(|message| message.body == body);
    batch.ack().await?;
    consumer.close().await;
    connection.close().await;
    match same {
        false => Err(ProbeError::Another),
        true if took < PROBE_DELAY => Err(ProbeError::TooEarly(took)),
        true => Ok(took),
    }
}

/// On a connection of its own: the other one may be what broke. What was never made is no failure.
async fn clean_up(scratch: &config::Broker, topology: &Topology) -> Vec<String> {
    let connection = match Connection::open(scratch, "doctor's broom").await {
        Ok(connection) => connection,
        Err(error) => return vec![format!("{}*: {error}", topology.exchange())],
    };
    let mut left = Vec::new();
    // Upstream first, so that nothing is moved to where nothing is any more.
    let queues = topology.delay_queues().chain([topology.work_queue()]);
    for name in queues {
        if let Err(error) = connection.delete_queue(&name).await {
            left.push(format!("{name}: {error}"));
        }
    }
    if let Err(error) = connection.delete_exchange(topology.exchange()).await {
        left.push(format!("{}: {error}", topology.exchange()));
    }
    connection.close().await;
    left
}

impl Outgoing {
    /// Straight into a queue, by the default exchange.
    fn into_queue(queue: String, body: Vec<u8>) -> Self {
        Self {
            exchange: String::new(),
            routing_key: queue,
            body,
            // Persistent.
            properties: BasicProperties::default().with_delivery_mode(2),
        }
    }
}

impl Connection {
    async fn delete_queue(&self, name: &str) -> Result<(), BrokerError> {
        let channel = self.channel().await?;
        let deleted = channel.queue_delete(name.into(), Default::default());
        BrokerError::answered("deleting a queue", self.patience, deleted).await?;
        Ok(())
    }

    async fn delete_exchange(&self, name: &str) -> Result<(), BrokerError> {
        let channel = self.channel().await?;
        let deleted = channel.exchange_delete(name.into(), Default::default());
        BrokerError::answered("deleting an exchange", self.patience, deleted).await
    }
}
