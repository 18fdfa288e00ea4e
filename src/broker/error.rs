//! Errors of the broker, or of the way to it.

use std::time::Duration;

use thiserror::Error;

/// What went wrong with a connection, a channel or a queue.
#[derive(Debug, Error)]
pub enum BrokerError {
    /// What lapin reported.
    #[error("{doing}: {source}")]
    Lapin {
        /// What we were at.
        doing: &'static str,
        /// The cause.
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
        /// The limit.
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
}
