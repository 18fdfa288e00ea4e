//! One message, as it came and as it goes on.

use lapin::{
    Acker, BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::domain::{TraceContext, excerpt};

/// Foreign headers travel on up to this size, in bytes: the header frame of a publish is limited, and a
/// message that can't be published on could neither be delayed nor dead-lettered.
const FOREIGN_HEADERS_MAX: usize = 16 * 1024;
/// The `error` header, in bytes.
const ERROR_MAX: usize = 1024;
/// The headers that are ours.
const OWN: [&str; 8] = [
    "attempt",
    "replay-of",
    "reason",
    "error",
    "first-failed-at",
    "failed-at",
    "traceparent",
    "tracestate",
];

/// A message that was delivered and is not acked yet.
#[derive(Debug)]
pub struct Delivered {
    /// The body, byte for byte.
    pub body: Vec<u8>,
    /// Delivered before: to a worker that died, lost its connection or gave it back.
    pub redelivered: bool,
    pub(super) properties: BasicProperties,
    pub(super) acker: Acker,
}

impl Delivered {
    /// The `content-type` property.
    pub fn content_type(&self) -> Option<&str> {
        self.properties
            .content_type()
            .as_ref()
            .map(ShortString::as_str)
    }

    /// How often the event failed before: the `attempt` header. What isn't a count is 0.
    pub fn attempt(&self) -> u32 {
        let number = match self.header("attempt") {
            Some(AMQPValue::LongLongInt(n)) => *n,
            Some(AMQPValue::LongInt(n)) => i64::from(*n),
            Some(AMQPValue::LongUInt(n)) => i64::from(*n),
            Some(AMQPValue::ShortInt(n)) => i64::from(*n),
            Some(AMQPValue::ShortUInt(n)) => i64::from(*n),
            Some(AMQPValue::ShortShortInt(n)) => i64::from(*n),
            Some(AMQPValue::ShortShortUInt(n)) => i64::from(*n),
            _ => 0,
        };
        u32::try_from(number.max(0)).unwrap_or(u32::MAX)
    }

    /// The W3C trace context that the publisher sent along.
    pub fn trace(&self) -> Option<TraceContext> {
        TraceContext::parse(
            self.text_header("traceparent")?,
            self.text_header("tracestate"),
        )
    }

    fn header(&self, name: &str) -> Option<&AMQPValue> {
        self.properties.headers().as_ref()?.inner().get(name)
    }

    fn text_header(&self, name: &str) -> Option<&str> {
        match self.header(name)? {
            AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
            AMQPValue::ShortString(text) => Some(text.as_str()),
            _ => None,
        }
    }

    /// The same message to be sent on after a failure: same body, same trace, the failure in the
    /// headers. What the broker or the publisher set to steer routing and expiry stays behind.
    fn failed(&self, error: &str) -> (BasicProperties, FieldTable) {
        let now = OffsetDateTime::now_utc()
            .format(&Rfc3339)
            .unwrap_or_default();
        // A publisher may have sent anything under this name.
        let first = self
            .text_header("first-failed-at")
            .filter(|text| text.len() <= 64 && OffsetDateTime::parse(text, &Rfc3339).is_ok())
            .unwrap_or(&now);
        let mut headers = self.foreign_headers();
        headers.insert("first-failed-at".into(), long(first));
        headers.insert("failed-at".into(), long(&now));
        headers.insert("error".into(), long(&excerpt::cut(error, ERROR_MAX)));
        if let Some(AMQPValue::LongLongInt(letter)) = self.header("replay-of") {
            headers.insert("replay-of".into(), AMQPValue::LongLongInt(*letter));
        }
        if let Some(trace) = self.trace() {
            headers.insert("traceparent".into(), long(trace.traceparent()));
            if let Some(state) = trace.tracestate() {
                headers.insert("tracestate".into(), long(state));
            }
        }
        let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        if let Some(text) = self.properties.content_type() {
            properties = properties.with_content_type(text.clone());
        }
        if let Some(text) = self.properties.content_encoding() {
            properties = properties.with_content_encoding(text.clone());
        }
        if let Some(text) = self.properties.message_id() {
            properties = properties.with_message_id(text.clone());
        }
        if let Some(text) = self.properties.correlation_id() {
            properties = properties.with_correlation_id(text.clone());
        }
        if let Some(text) = self.properties.app_id() {
            properties = properties.with_app_id(text.clone());
        }
        if let Some(timestamp) = self.properties.timestamp() {
            properties = properties.with_timestamp(*timestamp);
        }
        (properties, headers)
    }

    /// The publisher's own headers. Never `x-…`: the broker takes copies of its own dead-letter headers
    /// for a cycle and hides the message. Never CC and BCC: they would route it elsewhere as well.
    fn foreign_headers(&self) -> FieldTable {
        let mut kept = FieldTable::default();
        let Some(headers) = self.properties.headers() else {
            return kept;
        };
        let mut size = 0;
        for (name, value) in headers.inner() {
            let steers = name.as_str().starts_with("x-") || matches!(name.as_str(), "CC" | "BCC");
            if steers || OWN.contains(&name.as_str()) {
                continue;
            }
            size += name.as_str().len() + encoded_size(value);
            kept.insert(name.clone(), value.clone());
        }
        if size > FOREIGN_HEADERS_MAX {
            FieldTable::default()
        } else {
            kept
        }
    }
}

const PERSISTENT: u8 = 2;

/// A message to be published.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub(super) exchange: String,
    pub(super) routing_key: String,
    pub(super) body: Vec<u8>,
    pub(super) properties: BasicProperties,
}

impl Outgoing {
    /// A completion event, as a publisher sends it: plain (`application/json`) or in an envelope
    /// (`application/cloudevents+json`).
    pub fn event(
        topology: &super::Topology,
        body: Vec<u8>,
        content_type: &'static str,
        trace: Option<&TraceContext>,
    ) -> Self {
        let mut headers = FieldTable::default();
        if let Some(trace) = trace {
            headers.insert("traceparent".into(), long(trace.traceparent()));
            if let Some(state) = trace.tracestate() {
                headers.insert("tracestate".into(), long(state));
            }
        }
        Self {
            exchange: topology.exchange().to_owned(),
            routing_key: topology.routing_key().to_owned(),
            body,
            properties: BasicProperties::default()
                .with_delivery_mode(PERSISTENT)
                .with_content_type(content_type.into())
                .with_headers(headers),
        }
    }

    /// An archived letter as an event again.
    pub fn replay(
        topology: &super::Topology,
        body: Vec<u8>,
        properties: &str,
        _headers: &str,
        letter_id: i64,
    ) -> Self {
        let mut headers = FieldTable::default();
        headers.insert("replay-of".into(), AMQPValue::LongLongInt(letter_id));
        let given: serde_json::Value = serde_json::from_str(properties).unwrap_or_default();
        let mut properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_headers(headers);
        if let Some(text) = given["content_type"].as_str() {
            properties = properties.with_content_type(text.into());
        }
        Self {
            exchange: topology.exchange().to_owned(),
            routing_key: topology.routing_key().to_owned(),
            body,
            properties,
        }
    }

    /// The same message, into the delay queue for `delay`, to come back as attempt `attempt`.
    pub fn delayed(
        message: &Delivered,
        topology: &super::Topology,
        delay: std::time::Duration,
        attempt: u32,
        error: &str,
    ) -> Self {
        let (properties, mut headers) = message.failed(error);
        headers.insert("attempt".into(), AMQPValue::LongLongInt(attempt.into()));
        Self {
            // The default exchange: straight to the queue of that name.
            exchange: String::new(),
            routing_key: topology.delay_queue(delay),
            body: message.body.clone(),
            properties: properties.with_headers(headers),
        }
    }

    /// The same message as a dead letter.
    pub fn dead_letter(
        message: &Delivered,
        topology: &super::Topology,
        reason: &'static str,
        error: &str,
    ) -> Self {
        let (properties, mut headers) = message.failed(error);
        headers.insert(
            "attempt".into(),
            AMQPValue::LongLongInt(message.attempt().into()),
        );
        headers.insert("reason".into(), long(reason));
        Self {
            exchange: topology.dead_letters(),
            routing_key: topology.dead_letter_key().to_owned(),
            body: message.body.clone(),
            properties: properties.with_headers(headers),
        }
    }
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// Bytes on the wire, near enough for a limit.
fn encoded_size(value: &AMQPValue) -> usize {
    let table =
        |(name, value): (&ShortString, &AMQPValue)| name.as_str().len() + encoded_size(value);
    match value {
        AMQPValue::ShortString(text) => text.as_str().len() + 2,
        AMQPValue::LongString(text) => text.as_bytes().len() + 5,
        AMQPValue::ByteArray(bytes) => bytes.as_slice().len() + 5,
        AMQPValue::FieldArray(values) => {
            5 + values.as_slice().iter().map(encoded_size).sum::<usize>()
        }
        AMQPValue::FieldTable(values) => 5 + values.inner().iter().map(table).sum::<usize>(),
        _ => 9,
    }
}
