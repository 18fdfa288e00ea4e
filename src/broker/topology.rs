//! Every exchange and queue, and why each argument is as it is.

use std::time::Duration;

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    protocol::AMQPSoftError,
    types::{AMQPValue, FieldTable},
};

use super::{BrokerError, Connection};
use crate::{config, domain::RetrySchedule};

/// Failing to archive a dead letter may happen often. But one that no client can read would stand in the way of
/// all others for ever, so there is an end: it is moved on to where nobody consumes.
const DEAD_LETTER_DELIVERY_LIMIT: i64 = 1_000;
/// What can't be read is never dropped by counting: browsing may happen any number of times. (-1, "no limit", makes
/// 3.10 drop a message at its first return; and without a limit 4.x has one of 20.)
const UNREADABLE_DELIVERY_LIMIT: i64 = 1_000_000;

/// The names, and what is declared under them. `prefix` keeps installations apart on one broker.
#[derive(Debug, Clone)]
pub struct Topology {
    prefix: String,
    delivery_limit: u32,
    delays: Vec<Duration>,
}

impl Topology {
    /// The topology of these settings.
    pub fn new(broker: &config::Broker, schedule: &RetrySchedule) -> Self {
        Self {
            prefix: broker.prefix.clone(),
            delivery_limit: broker.delivery_limit,
            delays: schedule.steps(),
        }
    }

    /// Where completion events are published; direct.
    pub fn exchange(&self) -> &str {
        &self.prefix
    }

    /// The routing key of completion events.
    pub fn routing_key(&self) -> &'static str {
        "article.completed"
    }

    /// The work queue.
    pub fn work_queue(&self) -> String {
        format!("{}.deductions", self.prefix)
    }

    /// The queue in which a message waits for `delay`. The time is in the name, because a queue's
    /// arguments can't change: another schedule makes other queues.
    pub fn delay_queue(&self, delay: Duration) -> String {
        format!("{}.retry.{}ms", self.work_queue(), delay.as_millis())
    }

    /// The delay queues of the schedule.
    pub fn delay_queues(&self) -> impl Iterator<Item = String> {
        self.delays.iter().map(|delay| self.delay_queue(*delay))
    }

    /// The dead-letter exchange, and the queue behind it.
    pub fn dead_letters(&self) -> String {
        format!("{}.dead-letters", self.prefix)
    }

    /// The routing key of dead letters.
    pub fn dead_letter_key(&self) -> &'static str {
        "dead-letter"
    }

    /// Where messages end that break every client that takes them; nobody consumes from it.
    pub fn unreadable(&self) -> String {
        format!("{}.unreadable", self.prefix)
    }

    /// The fanout to which each archived dead letter is copied for whoever watches.
    pub fn watchers(&self) -> String {
        format!("{}.dead-letters.watch", self.prefix)
    }

    /// Declares everything; what exists already with the same arguments stays as it is.
    pub async fn declare(&self, connection: &Connection) -> Result<(), BrokerError> {
        // A channel of its own: a difference in arguments (406) closes the channel.
        let channel = Declarer::open(connection).await?;
        for part in self.parts() {
            let declared = channel.declare(&part).await;
            declared.map_err(|error| self.explained(error, &part))?;
        }
        channel.close().await
    }

    /// A difference in arguments with what to do about it.
    fn explained(&self, error: BrokerError, part: &Part) -> BrokerError {
        match error.refusal() {
            Some((AMQPSoftError::PRECONDITIONFAILED, said)) => {
                let name = part.to_string();
                BrokerError::Differs {
                    remedy: self.remedy(&name),
                    said: said.to_owned(),
                    name,
                }
            }
            _ => error,
        }
    }

    /// What to do about an exchange or a queue that has other arguments. Arguments can't be changed, only declared
    /// anew, and nothing may be lost on the way.
    pub fn remedy(&self, name: &str) -> String {
        let anew = |first: &str| {
            format!(
                "{first}, stop serve, delete it (rabbitmqctl delete_queue --if-empty {name}) and start serve, which \
                 declares it anew"
            )
        };
        if name == self.work_queue() {
            let change =
                anew("stop the publishers, let a serve with the old value empty the queue");
            format!(
                "put broker.delivery_limit (now {}) back to the value that it was declared with; or, to change it, \
                 {change}",
                self.delivery_limit
            )
        } else if name == self.exchange() || name == self.watchers() {
            "stop serve, delete it and start serve, which declares it anew; what is published meanwhile is refused"
                .to_owned()
        } else {
            anew(
                "it was declared by another version or by hand: let a serve of that version empty it",
            )
        }
    }

    /// Everything there is to declare, in this order. Targets of dead letters come before what
    /// dead-letters to them: a dead letter that finds no queue waits minutes in the broker before it is
    /// offered again.
    pub(super) fn parts(&self) -> Vec<Part> {
        let dead_letters = self.dead_letters();
        let exchange = |name: &str, kind| Part::Exchange {
            name: name.to_owned(),
            kind,
            auto_delete: false,
        };
        let mut parts = self.resting_parts();
        parts.extend([
            // Direct, with one queue: on a fanout, a stranger's full queue could refuse our dead letters.
            exchange(&dead_letters, ExchangeKind::Direct),
            exchange(&self.watchers(), ExchangeKind::Fanout),
            Part::Binding {
                queue: dead_letters.clone(),
                exchange: dead_letters,
                key: self.dead_letter_key(),
            },
            exchange(self.exchange(), ExchangeKind::Direct),
        ]);
        parts.extend(self.charging_parts());
        parts
    }

    /// The dead-letter queue, and before it the one behind it.
    pub(super) fn resting_parts(&self) -> Vec<Part> {
        let mut last = quorum();
        limit_deliveries(&mut last, UNREADABLE_DELIVERY_LIMIT);
        // So that a length limit by a policy refuses, and drops nothing: the dead-letter queue keeps it then.
        last.insert(
            "x-overflow".into(),
            AMQPValue::LongString("reject-publish".into()),
        );
        let mut guarded = quorum();
        limit_deliveries(&mut guarded, DEAD_LETTER_DELIVERY_LIMIT);
        // By the default exchange: nothing to bind, and nothing that could be unbound. (`reject-publish`, which this
        // sets as well, is for our own publishes too: a policy's length limit then refuses a dead letter, and whoever
        // has it keeps it, where the default would silently drop the oldest.)
        dead_letter_to(&mut guarded, "", &self.unreadable());
        vec![
            Part::Queue {
                name: self.unreadable(),
                arguments: last,
            },
            Part::Queue {
                name: self.dead_letters(),
                arguments: guarded,
            },
        ]
    }

    /// The work queue, its binding, and the delay queues.
    pub(super) fn charging_parts(&self) -> Vec<Part> {
        let mut arguments = quorum();
        // A crash guard, never the retry policy: a message that kills its worker this often is dead.
        limit_deliveries(&mut arguments, self.delivery_limit.into());
        dead_letter_to(&mut arguments, &self.dead_letters(), self.dead_letter_key());
        let mut parts = vec![
            Part::Queue {
                name: self.work_queue(),
                arguments,
            },
            Part::Binding {
                queue: self.work_queue(),
                exchange: self.exchange().to_owned(),
                key: self.routing_key(),
            },
        ];
        parts.extend(self.delays.iter().map(|delay| {
            let mut arguments = quorum();
            // By queue, never by message: a long wait at the head would hold up the short ones behind it.
            let ttl = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
            arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(ttl));
            dead_letter_to(&mut arguments, self.exchange(), self.routing_key());
            Part::Queue {
                name: self.delay_queue(*delay),
                arguments,
            }
        }));
        parts
    }

    /// Deletes every queue and exchange, with all that is in them. For scratch prefixes only.
    pub async fn delete(&self, connection: &Connection) -> Result<(), BrokerError> {
        let (channel, patience) = (connection.channel().await?, connection.patience);
        let queues = [self.work_queue(), self.dead_letters(), self.unreadable()]
            .into_iter()
            .chain(self.delay_queues());
        for queue in queues {
            let deleted = channel.queue_delete(queue.as_str().into(), Default::default());
            BrokerError::answered("deleting a queue", patience, deleted).await?;
        }
        for exchange in [
            self.exchange().to_owned(),
            self.dead_letters(),
            self.watchers(),
        ] {
            let deleted = channel.exchange_delete(exchange.as_str().into(), Default::default());
            BrokerError::answered("deleting an exchange", patience, deleted).await?;
        }
        Ok(())
    }
}

/// Replicated and fsynced; the only kind with a delivery limit and at-least-once dead-lettering.
fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    arguments
}

fn limit_deliveries(arguments: &mut FieldTable, limit: i64) {
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(limit));
}

/// The broker's own hop, made as safe as ours: it keeps the message until the target has confirmed it.
/// `reject-publish` is what makes at-least-once take effect; without a length limit it rejects nothing.
fn dead_letter_to(arguments: &mut FieldTable, exchange: &str, routing_key: &str) {
    for (name, value) in [
        ("x-dead-letter-exchange", exchange),
        ("x-dead-letter-routing-key", routing_key),
        ("x-dead-letter-strategy", "at-least-once"),
        ("x-overflow", "reject-publish"),
    ] {
        arguments.insert(name.into(), AMQPValue::LongString(value.into()));
    }
}

/// One thing to declare.
#[derive(Debug, Clone)]
pub(super) enum Part {
    Exchange {
        name: String,
        kind: ExchangeKind,
        /// Gone with its last binding. For scratch only.
        auto_delete: bool,
    },
    Queue {
        name: String,
        arguments: FieldTable,
    },
    Binding {
        queue: String,
        exchange: String,
        key: &'static str,
    },
}

/// A channel for declaring.
pub(super) struct Declarer {
    channel: Channel,
    patience: Duration,
}

impl Declarer {
    pub(super) async fn open(connection: &Connection) -> Result<Self, BrokerError> {
        Ok(Self {
            channel: connection.channel().await?,
            patience: connection.patience,
        })
    }

    pub(super) async fn declare(&self, part: &Part) -> Result<(), BrokerError> {
        match part {
            Part::Exchange {
                name,
                kind,
                auto_delete,
            } => {
                let options = ExchangeDeclareOptions {
                    durable: true,
                    auto_delete: *auto_delete,
                    ..Default::default()
                };
                let (name, kind) = (name.as_str().into(), kind.clone());
                let arguments = FieldTable::default();
                let declared = self
                    .channel
                    .exchange_declare(name, kind, options, arguments);
                BrokerError::answered("declaring an exchange", self.patience, declared).await
            }
            Part::Queue { name, arguments } => {
                let options = QueueDeclareOptions {
                    durable: true,
                    ..Default::default()
                };
                let name = name.as_str().into();
                let declared = self.channel.queue_declare(name, options, arguments.clone());
                BrokerError::answered("declaring a queue", self.patience, declared)
                    .await
                    .map(drop)
            }
            Part::Binding {
                queue,
                exchange,
                key,
            } => {
                let bound = self.channel.queue_bind(
                    queue.as_str().into(),
                    exchange.as_str().into(),
                    (*key).into(),
                    QueueBindOptions::default(),
                    FieldTable::default(),
                );
                BrokerError::answered("binding a queue", self.patience, bound).await
            }
        }
    }

    pub(super) async fn close(self) -> Result<(), BrokerError> {
        let closed = self.channel.close(200, "declared".into());
        BrokerError::answered("closing a channel", self.patience, closed).await
    }
}
