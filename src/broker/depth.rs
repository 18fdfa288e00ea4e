//! How much waits in a queue.

use lapin::{options::QueueDeclareOptions, types::FieldTable};

use super::{BrokerError, Connection};

impl Connection {
    /// Messages that are ready in a queue. Not those that a consumer has in hand, nor those that the
    /// broker is just moving there: 0 doesn't prove that nothing comes.
    pub async fn ready(&self, queue: &str) -> Result<u32, BrokerError> {
        // A channel of its own: a missing queue closes it.
        let channel = self.channel().await?;
        let options = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        let asked = channel.queue_declare(queue.into(), options, FieldTable::default());
        let queue = BrokerError::answered("asking for a queue", self.patience, asked).await?;
        let closed = channel.close(200, "asked".into());
        BrokerError::answered("closing a channel", self.patience, closed).await?;
        Ok(queue.message_count())
    }
}
