//! Comparing what there is on the broker with what would be declared, without changing it.

use std::fmt;

use lapin::{
    ExchangeKind,
    options::{ExchangeDeclareOptions, QueueDeclareOptions},
    protocol::AMQPSoftError,
    types::FieldTable,
};

use super::{
    BrokerError, Connection, Topology,
    topology::{Declarer, Part},
};

/// An exchange or a queue that there should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// `exchange` or `queue`.
    pub kind: &'static str,
    pub name: String,
    /// What there is.
    pub found: PartFound,
}

/// What there is under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartFound {
    /// An exchange as it would be declared.
    Exchange,
    /// A queue as it would be declared.
    Queue {
        /// Messages that wait in it.
        ready: u32,
        /// Who consumes from it.
        consumers: u32,
    },
    Missing,
    /// Something with other arguments; in the broker's words.
    Differs(String),
    /// The broker doesn't let us look or declare; in its words.
    Refused(String),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exchange { name, .. } | Self::Queue { name, .. } => f.write_str(name),
            Self::Binding {
                queue,
                exchange,
                key,
            } => write!(f, "{queue} to {exchange} by {key}"),
        }
    }
}

impl Topology {
    /// Looks for every exchange and queue, and declares again only what is there. An error means that the
    /// broker doesn't answer any more.
    pub async fn compare(&self, connection: &Connection) -> Result<Vec<Compared>, BrokerError> {
        let mut compared = Vec::new();
        for part in self.parts() {
            let (kind, found) = match &part {
                Part::Exchange { name, .. } => ("exchange", connection.has_exchange(name).await),
                Part::Queue { name, .. } => ("queue", connection.has_queue(name).await),
                // Can't be looked for; declared, a missing one would be made.
                Part::Binding { .. } => continue,
            };
            let found = match answer(found)? {
                Ok(found) => match answer(connection.declare_again(&part).await)? {
                    Ok(()) => found,
                    Err(refused) => refused,
                },
                Err(refused) => refused,
            };
            compared.push(Compared {
                kind,
                name: part.to_string(),
                found,
            });
        }
        Ok(compared)
    }

    /// The bindings that there should be, for people.
    pub fn bindings(&self) -> Vec<String> {
        let parts = self.parts();
        let bindings = parts
            .iter()
            .filter(|part| matches!(part, Part::Binding { .. }));
        bindings.map(ToString::to_string).collect()
    }
}

impl Connection {
    async fn has_exchange(&self, name: &str) -> Result<PartFound, BrokerError> {
        let channel = self.channel().await?;
        let options = ExchangeDeclareOptions {
            passive: true,
            ..Default::default()
        };
        // Passive: the kind is not compared.
        let kind = ExchangeKind::Direct;
        let asked = channel.exchange_declare(name.into(), kind, options, FieldTable::default());
        BrokerError::answered("looking for an exchange", self.patience, asked).await?;
        let closed = channel.close(200, "looked".into());
        BrokerError::answered("closing a channel", self.patience, closed).await?;
        Ok(PartFound::Exchange)
    }

    async fn has_queue(&self, name: &str) -> Result<PartFound, BrokerError> {
        let channel = self.channel().await?;
        let options = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        let asked = channel.queue_declare(name.into(), options, FieldTable::default());
        let queue = BrokerError::answered("looking for a queue", self.patience, asked).await?;
        let closed = channel.close(200, "looked".into());
        BrokerError::answered("closing a channel", self.patience, closed).await?;
        Ok(PartFound::Queue {
            ready: queue.message_count(),
            consumers: queue.consumer_count(),
        })
    }

    async fn declare_again(&self, part: &Part) -> Result<(), BrokerError> {
        let channel = Declarer::open(self).await?;
        channel.declare(part).await?;
        channel.close().await
    }
}

/// What the broker said to one thing; the outer error: it says nothing.
fn answer<T>(asked: Result<T, BrokerError>) -> Result<Result<T, PartFound>, BrokerError> {
    let error = match asked {
        Ok(found) => return Ok(Ok(found)),
        Err(error) => error,
    };
    let Some((kind, words)) = error.refusal() else {
        return Err(error);
    };
    let words = words.to_owned();
    Ok(Err(match kind {
        AMQPSoftError::NOTFOUND => PartFound::Missing,
        AMQPSoftError::PRECONDITIONFAILED => PartFound::Differs(words),
        _ => PartFound::Refused(words),
    }))
}
