//! One message on its way through queues like the real ones, which are made for it and deleted after it.

use std::time::{Duration, Instant};

use lapin::{BasicProperties, ExchangeKind, types::AMQPValue};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Ack, BrokerError, Connection, Consumer, Outgoing, PublishError, Publisher, Topology,
    topology::{Declarer, Part},
};
use crate::{
    config::{self, Retry},
    domain::RetrySchedule,
};

/// The time in the delay queue: short, and long enough to be seen to have passed.
pub const PROBE_DELAY: Duration = Duration::from_millis(200);
/// So many messages ought to stay in a queue
pub const KEPT: usize = 100;
/// for so long.
pub const KEPT_FOR: Duration = Duration::from_millis(500);
const FEW: usize = 10;
/// What nobody uses for so long deletes itself, should this process die before it can: 10 minutes.
const EXPIRES_MS: i64 = 10 * 60 * 1000;

/// Why a probe didn't come through.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// Connecting, declaring, consuming.
    #[error(transparent)]
    Broker(#[from] BrokerError),
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
    /// What policies do to queues of such names, as far as it shows at once.
    pub policies: Vec<String>,
    /// Names that could not be deleted, and why.
    pub left_behind: Vec<String>,
}

/// Sends one message through a delay queue into a work queue, and lets some rest in queues like the real ones, all
/// of a prefix of their own; and deletes them whatever happens. Every wait is bounded by `within`.
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
    let probing = async {
        let took = through(&scratch, &topology, within).await?;
        Ok((took, policies(&scratch, &topology).await?))
    };
    let probed = tokio::select! {
        probed = probing => probed,
        () = stop.cancelled() => Err(ProbeError::Interrupted),
    };
    let (took, policies) = match probed {
        Ok((took, policies)) => (Ok(took), policies),
        Err(error) => (Err(error), Vec::new()),
    };
    Probed {
        took,
        policies,
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
    let parts = topology.resting_parts().into_iter();
    for mut part in parts.chain(topology.charging_parts()) {
        if let Part::Queue { arguments, .. } = &mut part {
            arguments.insert("x-expires".into(), AMQPValue::LongLongInt(EXPIRES_MS));
        }
        channel.declare(&part).await?;
    }
    let mut consumer = Consumer::open(&connection, &topology.work_queue(), 1).await?;
    consumer.start().await?;
    let body = Uuid::new_v4().to_string().into_bytes();
    let publisher = Publisher::plain(scratch, topology);
    let sent = Instant::now();
    let message = Outgoing::into_queue(topology.delay_queue(PROBE_DELAY), body.clone());
    let published = publisher.publish(&[message]).await;
    publisher.close().await;
    for result in published {
        result?;
    }
    let back = tokio::time::timeout(within, consumer.next()).await;
    let back = back.map_err(|_| ProbeError::NotBack(within))??;
    let took = sent.elapsed();
    let same = back.body == body;
    consumer.ack(vec![Ack::One(back.tag)]).await?;
    consumer.close().await;
    connection.close().await;
    match same {
        false => Err(ProbeError::Another),
        true if took < PROBE_DELAY => Err(ProbeError::TooEarly(took)),
        true => Ok(took),
    }
}

/// Policies can't be asked for, but their effects seen: a queue that refuses is limited in length, and what is gone
/// by itself had a time to live. What is not limited that tightly can't be told from what isn't limited at all.
async fn policies(
    scratch: &config::Broker,
    topology: &Topology,
) -> Result<Vec<String>, ProbeError> {
    let publisher = Publisher::plain(scratch, topology);
    let queues = [
        topology.dead_letters(),
        topology.unreadable(),
        topology.work_queue(),
    ];
    let mut found = Vec::new();
    let mut taken = Vec::new();
    for queue in &queues {
        let messages: Vec<Outgoing> = (0..KEPT)
            .map(|n| Outgoing::into_queue(queue.clone(), n.to_string().into_bytes()))
            .collect();
        let mut refused = 0;
        // A few at a time: what is on its way already when a queue finds itself full is taken all the same.
        for few in messages.chunks(FEW) {
            for published in publisher.publish(few).await {
                match published {
                    Err(PublishError::Refused { .. }) => refused += 1,
                    other => other?,
                }
            }
        }
        if refused > 0 {
            found.push(format!(
                "of {KEPT} messages into {queue}, {refused} were refused: a policy limits its length"
            ));
        }
        taken.push(KEPT - refused);
    }
    publisher.close().await;
    tokio::time::sleep(KEPT_FOR).await;
    let connection = Connection::open(scratch, "doctor's probe").await?;
    for (queue, taken) in queues.iter().zip(taken) {
        let left = connection.ready_count(queue).await? as usize;
        if left < taken {
            found.push(format!(
                "of {taken} messages in {queue}, {} were gone after {} ms: a policy gives them a time to live",
                taken - left,
                KEPT_FOR.as_millis()
            ));
        }
    }
    connection.close().await;
    Ok(found)
}

/// On a connection of its own: the other one may be what broke. What was never made is no failure.
async fn clean_up(scratch: &config::Broker, topology: &Topology) -> Vec<String> {
    let connection = match Connection::open(scratch, "doctor's broom").await {
        Ok(connection) => connection,
        Err(error) => return vec![format!("{}*: {error}", topology.exchange())],
    };
    let mut left = Vec::new();
    // Upstream first, so that nothing is moved to where nothing is any more.
    let resting = [
        topology.work_queue(),
        topology.dead_letters(),
        topology.unreadable(),
    ];
    let queues = topology.delay_queues().chain(resting);
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
