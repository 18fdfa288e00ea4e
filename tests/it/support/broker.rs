//! A queue prefix for each test, and a client that sends what no publisher of ours would.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};

use super::finish;
use super::servers::Servers;

/// Of every event.
pub(crate) const ROUTING_KEY: &str = "article.completed";

/// The installation of one test's own on the shared broker, deleted with it, also when it panics.
#[derive(Debug)]
pub(crate) struct TestBroker {
    prefix: String,
    url: String,
    delays: Vec<Duration>,
    own_queues: Vec<String>,
    connection: Connection,
    channel: Channel,
}

/// What lay in a queue.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) body: Vec<u8>,
    pub(crate) properties: BasicProperties,
}

impl Message {
    /// A header of its own, as text; `None` where it is missing or is not text or a number.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let headers = self.properties.headers().as_ref()?;
        match headers.inner().get(name)? {
            AMQPValue::LongString(text) => Some(text.to_string()),
            AMQPValue::ShortString(text) => Some(text.to_string()),
            AMQPValue::LongInt(number) => Some(number.to_string()),
            AMQPValue::LongLongInt(number) => Some(number.to_string()),
            AMQPValue::LongUInt(number) => Some(number.to_string()),
            AMQPValue::ShortShortUInt(number) => Some(number.to_string()),
            _ => None,
        }
    }
}

impl TestBroker {
    /// Declares nothing: the product does. `delays` are the retry steps that the test configures
    /// the product with, so that their queues can be deleted.
    pub(crate) async fn create(servers: &Servers, delays: &[Duration]) -> Self {
        let url = servers.broker_url.clone();
        let (connection, channel) = connect(&url).await;
        Self {
            prefix: unique_prefix(),
            url,
            delays: delays.to_vec(),
            own_queues: Vec::new(),
            connection,
            channel,
        }
    }

    /// As the product's setting wants it.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Of every name; also that of the exchange that takes the events.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The queue that the worker consumes.
    pub(crate) fn work_queue(&self) -> String {
        format!("{}.deductions", self.prefix)
    }

    /// The queue of one retry step.
    pub(crate) fn delay_queue(&self, delay: Duration) -> String {
        format!("{}.deductions.retry.{}ms", self.prefix, delay.as_millis())
    }

    /// Both the dead-letter exchange and its queue.
    pub(crate) fn dead_letters(&self) -> String {
        format!("{}.dead-letters", self.prefix)
    }

    /// Where messages end that no client can read.
    pub(crate) fn unreadable(&self) -> String {
        format!("{}.unreadable", self.prefix)
    }

    /// The fanout of archived dead letters.
    pub(crate) fn watch_exchange(&self) -> String {
        format!("{}.dead-letters.watch", self.prefix)
    }

    /// A connection anew, after the broker was killed.
    pub(crate) async fn reconnect(&mut self) {
        (self.connection, self.channel) = connect(&self.url).await;
    }

    /// A well-formed event, as JSON, persistent; returns when the broker has it.
    pub(crate) async fn publish(&self, body: impl AsRef<[u8]>) {
        self.publish_with(body, event_properties()).await;
    }

    /// Any bytes with any headers and content type, to where events go.
    pub(crate) async fn publish_with(&self, body: impl AsRef<[u8]>, properties: BasicProperties) {
        self.send(&self.prefix, ROUTING_KEY, body.as_ref(), properties)
            .await;
    }

    /// Straight into a queue, past every exchange.
    pub(crate) async fn publish_to_queue(&self, queue: &str, body: impl AsRef<[u8]>) {
        self.publish_to_queue_with(queue, body, event_properties())
            .await;
    }

    /// The same, with any headers.
    pub(crate) async fn publish_to_queue_with(
        &self,
        queue: &str,
        body: impl AsRef<[u8]>,
        properties: BasicProperties,
    ) {
        self.send("", queue, body.as_ref(), properties).await;
    }

    /// To any exchange; returns when the broker has it in a queue.
    pub(crate) async fn send(
        &self,
        exchange: &str,
        routing_key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) {
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let confirmation = self
            .channel
            .basic_publish(
                exchange.into(),
                routing_key.into(),
                options,
                body,
                properties,
            )
            .await
            .expect("the broker takes a message")
            .await
            .expect("the broker answers");
        assert_eq!(
            confirmation,
            Confirmation::Ack(None),
            "{exchange:?} {routing_key} did not take it"
        );
    }

    /// The first message of a queue, removed from it.
    pub(crate) async fn take(&self, queue: &str) -> Option<Message> {
        let options = BasicGetOptions { no_ack: true };
        let got = self
            .channel
            .basic_get(queue.into(), options)
            .await
            .unwrap_or_else(|error| panic!("{queue}: {error}"))?;
        Some(Message {
            properties: got.delivery.properties,
            body: got.delivery.data,
        })
    }

    /// Everything that is ready in a queue, removed from it, first come first.
    pub(crate) async fn take_all(&self, queue: &str) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(message) = self.take(queue).await {
            messages.push(message);
        }
        messages
    }

    /// How many messages are ready, or `None` where there is no such queue. Does not count what a
    /// consumer holds, nor a dead letter that is on its way: not a proof of emptiness.
    pub(crate) async fn ready_count(&self, queue: &str) -> Option<u32> {
        // On a channel of its own, which a missing queue closes.
        let channel = self.connection.create_channel().await.expect("a channel");
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let declared = channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await;
        let count = declared.map(|queue| queue.message_count()).ok();
        if count.is_some() {
            channel
                .close(200, "counted".into())
                .await
                .expect("a channel can be closed");
        }
        count
    }

    /// A durable quorum queue of the test's own, `<prefix>.<name>`, bound to an exchange for every
    /// event or dead letter where one is named.
    pub(crate) async fn declare_queue(&mut self, name: &str, exchange: Option<&str>) -> String {
        let queue = format!("{}.{name}", self.prefix);
        let mut arguments = FieldTable::default();
        arguments.insert(
            "x-queue-type".into(),
            AMQPValue::LongString("quorum".into()),
        );
        let durable = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        self.own_queues.push(queue.clone());
        self.channel
            .queue_declare(queue.as_str().into(), durable, arguments)
            .await
            .expect("a queue can be declared");
        if let Some(exchange) = exchange {
            self.channel
                .queue_bind(
                    queue.as_str().into(),
                    exchange.into(),
                    ROUTING_KEY.into(),
                    QueueBindOptions::default(),
                    FieldTable::default(),
                )
                .await
                .expect("a queue can be bound");
        }
        queue
    }

    /// Deletes a queue with what is in it.
    pub(crate) async fn delete(&self, queue: &str) {
        let deleted = self
            .channel
            .queue_delete(queue.into(), QueueDeleteOptions::default());
        deleted.await.expect("a queue can be deleted");
    }

    /// A channel for what has no method here.
    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// What the test or the product may have declared. Where nobody did, deleting does nothing.
    fn names(&self) -> (Vec<String>, Vec<String>) {
        let delay_queues = self.delays.iter().map(|&delay| self.delay_queue(delay));
        // Upstream first, so that nothing is dead-lettered into what is gone already.
        let mut queues = vec![self.work_queue()];
        queues.extend(delay_queues);
        queues.extend([self.dead_letters(), self.unreadable()]);
        queues.extend(self.own_queues.iter().cloned());
        let exchanges = vec![
            self.prefix.clone(),
            self.dead_letters(),
            self.watch_exchange(),
        ];
        (queues, exchanges)
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        let (queues, exchanges) = self.names();
        finish(&self.prefix, async {
            // Not the test's own connection, whose runtime stands still here.
            let connection =
                Connection::connect(&self.url, ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            for queue in queues {
                channel
                    .queue_delete(queue.into(), QueueDeleteOptions::default())
                    .await?;
            }
            for exchange in exchanges {
                channel
                    .exchange_delete(exchange.into(), ExchangeDeleteOptions::default())
                    .await?;
            }
            Ok(connection.close(200, "cleaned up".into()).await?)
        });
    }
}

/// Persistent JSON, as every publisher ought to send it.
pub(crate) fn event_properties() -> BasicProperties {
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
}

async fn connect(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default())
        .await
        .unwrap_or_else(|error| panic!("{url}: {error}"));
    let channel = connection.create_channel().await.expect("a channel");
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .expect("confirms");
    (connection, channel)
}

/// Also over runs: what a killed one left must not be met again.
fn unique_prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is past 1970");
    format!(
        "test-{}-{}-{number}",
        since_epoch.as_millis(),
        std::process::id()
    )
}

mod tests {
    use lapin::ExchangeKind;
    use lapin::options::ExchangeDeclareOptions;

    use super::*;

    #[tokio::test]
    async fn what_is_published_can_be_taken_byte_for_byte() {
        let mut broker = TestBroker::create(Servers::shared(), &[]).await;
        let exchange = broker.prefix().to_owned();
        broker
            .channel()
            .exchange_declare(
                exchange.as_str().into(),
                ExchangeKind::Direct,
                ExchangeDeclareOptions::default(),
                FieldTable::default(),
            )
            .await
            .expect("an exchange");
        let queue = broker.declare_queue("catch", Some(&exchange)).await;
        let mut headers = FieldTable::default();
        headers.insert("attempt".into(), AMQPValue::LongInt(2));

        let raw = b"\xff not JSON at all";
        broker
            .publish_with(raw, BasicProperties::default().with_headers(headers))
            .await;
        broker.publish(b"{}").await;

        let messages = broker.take_all(&queue).await;
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[0].body, raw);
        assert_eq!(messages[0].header("attempt").as_deref(), Some("2"));
        assert_eq!(messages[1].body, b"{}");
    }

    #[tokio::test]
    async fn nothing_of_a_test_stays_on_the_broker() {
        let onlooker = TestBroker::create(Servers::shared(), &[]).await;
        let mut broker = TestBroker::create(Servers::shared(), &[]).await;
        let queue = broker.declare_queue("left", None).await;
        broker.publish_to_queue(&queue, b"1").await;
        assert!(onlooker.ready_count(&queue).await.is_some());
        drop(broker);
        assert_eq!(onlooker.ready_count(&queue).await, None);
    }
}
