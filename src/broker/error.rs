//! Errors of the broker, or of the way to it.

use std::time::Duration;

use lapin::{
    ErrorKind,
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
};
use thiserror::Error;

/// What went wrong with a connection, a channel or a queue.
#[derive(Debug, Error)]
pub enum BrokerError {
    /// What lapin reported.
    #[error("{doing}: {source}")]
    Lapin {
        /// What we were at.
        doing: &'static str,
        source: lapin::Error,
    },
    /// `broker.url` can't be used.
    #[error("broker.url: {0}")]
    Url(String),
    /// No answer in time.
    #[error("{doing}: no answer within {}", humantime::format_duration(*.within))]
    Timeout {
        /// What we were at.
        doing: &'static str,
        within: Duration,
    },
    /// The broker ended the consumer though nobody asked: its queue was deleted, or moved.
    #[error("the broker cancelled the consumer of {0}")]
    ConsumerCancelled(String),
    /// Not tried, because something before it failed.
    #[error("not sent: an earlier message of the same call failed")]
    NotSent,
    /// The connection ended.
    #[error("the connection to the broker is lost")]
    ConnectionLost,
    /// An exchange or a queue of that name has other arguments than these settings would give it.
    #[error("{name} is not as these settings would declare it: {said}; {remedy}")]
    Differs {
        name: String,
        /// The difference, in the broker's words.
        said: String,
        /// What to do.
        remedy: String,
    },
    /// The broker has an alarm and reads nothing that is published.
    #[error("{doing}: the broker takes no messages, it is {reason}: no answer within {}", humantime::format_duration(*.within))]
    Alarm {
        /// What we were at.
        doing: &'static str,
        /// In the broker's words, such as `low on memory`.
        reason: String,
        /// How long we waited.
        within: Duration,
    },
    /// The client broke the connection over a message whose properties break AMQP, such as a header name that
    /// isn't UTF-8. The broker counts that as a delivery of it.
    #[error("a message can't be read: a name in its properties isn't UTF-8, or they are no AMQP")]
    Unreadable,
    /// An ack didn't reach the broker; the messages will come again.
    #[error("the acks were not taken: the channel is closed")]
    NotAcked,
}

impl BrokerError {
    /// Waits for the broker's answer, but not for ever: the client may wait for one that was lost with
    /// its connection.
    pub(super) async fn answered<T>(
        doing: &'static str,
        within: Duration,
        answer: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, Self> {
        match tokio::time::timeout(within, answer).await {
            Ok(answer) => answer.map_err(|source| Self::Lapin { doing, source }),
            Err(_) => Err(Self::Timeout { doing, within }),
        }
    }

    /// What the broker refused on a channel or a connection that it then closed: the code, and its words.
    fn said(&self) -> Option<(&AMQPErrorKind, &str)> {
        if let Self::Lapin { source, .. } = self
            && let ErrorKind::ProtocolError(said) = source.kind()
        {
            return Some((said.kind(), said.get_message().as_str()));
        }
        None
    }

    /// What it refused on a channel.
    pub(super) fn refusal(&self) -> Option<(&AMQPSoftError, &str)> {
        match self.said()? {
            (AMQPErrorKind::Soft(kind), words) => Some((kind, words)),
            (AMQPErrorKind::Hard(_), _) => None,
        }
    }

    /// Whether the user or the password is wrong, or a right is missing.
    pub fn is_access_refused(&self) -> bool {
        matches!(self.refusal(), Some((AMQPSoftError::ACCESSREFUSED, _)))
    }

    /// Whether the virtual host isn't there for this user.
    pub fn is_no_virtual_host(&self) -> bool {
        let not_allowed = AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED);
        self.said().is_some_and(|(kind, _)| *kind == not_allowed)
    }

    /// Whether there is nothing of that name.
    pub fn is_missing(&self) -> bool {
        matches!(self.refusal(), Some((AMQPSoftError::NOTFOUND, _)))
    }
}
