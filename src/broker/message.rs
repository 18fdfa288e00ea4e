//! One message, as it came.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::dead_letter::text_of;
use crate::domain::{TraceContext, excerpt};

/// Foreign headers travel on up to this size, in bytes: the header frame of a publish is limited, and a
/// message that can't be published on could neither be delayed nor dead-lettered.
const FOREIGN_HEADERS_MAX: usize = 16 * 1024;
/// The `error` header, in bytes.
const ERROR_MAX: usize = 1024;
/// The headers that are ours.
const OWN: [&str; 8] = [
    "attempt",
    "reason",
    "error",
    "first-failed-at",
    "failed-at",
    "replay-of",
    "traceparent",
    "tracestate",
];

/// A message that was delivered and is not acked yet.
#[derive(Debug)]
pub struct Delivered {
    /// Its number on its channel, by which it is acked.
    pub tag: u64,
    /// The body, byte for byte.
    pub body: Vec<u8>,
    /// Delivered before: to a worker that died, lost its connection or gave it back.
    pub redelivered: bool,
    pub(super) properties: BasicProperties,
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
        let number = self.whole_header("attempt").unwrap_or(0);
        u32::try_from(number.max(0)).unwrap_or(u32::MAX)
    }

    /// A whole number of whatever width.
    pub(super) fn whole_header(&self, name: &str) -> Option<i64> {
        match self.header(name)? {
            AMQPValue::LongLongInt(n) => Some(*n),
            AMQPValue::LongInt(n) => Some(i64::from(*n)),
            AMQPValue::LongUInt(n) => Some(i64::from(*n)),
            AMQPValue::ShortInt(n) => Some(i64::from(*n)),
            AMQPValue::ShortUInt(n) => Some(i64::from(*n)),
            AMQPValue::ShortShortInt(n) => Some(i64::from(*n)),
            AMQPValue::ShortShortUInt(n) => Some(i64::from(*n)),
            _ => None,
        }
    }

    /// The W3C trace context that the publisher sent along.
    pub fn trace(&self) -> Option<TraceContext> {
        TraceContext::parse(
            self.text_header("traceparent")?,
            self.text_header("tracestate"),
        )
    }

    pub(super) fn header(&self, name: &str) -> Option<&AMQPValue> {
        self.properties.headers().as_ref()?.inner().get(name)
    }

    pub(super) fn text_header(&self, name: &str) -> Option<&str> {
        text_of(self.header(name)?)
    }

    /// The headers that the same message is sent on with after a failure: the publisher's own, the same
    /// trace, and the failure.
    pub(super) fn failed_headers(&self, error: &str) -> FieldTable {
        let now = OffsetDateTime::now_utc()
            .format(&Rfc3339)
            .unwrap_or_default();
        // A publisher may have sent anything under this name.
        let first = self
            .text_header("first-failed-at")
            .filter(|text| text.len() <= 64 && OffsetDateTime::parse(text, &Rfc3339).is_ok())
            .unwrap_or(&now);
        let mut headers = self.travelling_headers();
        headers.insert("first-failed-at".into(), long(first));
        headers.insert("failed-at".into(), long(&now));
        headers.insert("error".into(), long(&excerpt::cut(error, ERROR_MAX)));
        headers
    }

    /// The headers that go wherever the message goes: the publisher's own, the trace, and whose replay it is.
    pub(super) fn travelling_headers(&self) -> FieldTable {
        let mut headers = FieldTable::default();
        if let Some(all) = self.properties.headers() {
            headers = foreign_headers(all);
        }
        if let Some(trace) = self.trace() {
            insert_trace(&mut headers, &trace);
        }
        if let Some(id) = self.replay_of() {
            headers.insert("replay-of".into(), AMQPValue::LongLongInt(id));
        }
        headers
    }

    /// The properties that go with it. What the broker or the publisher set to steer routing and expiry
    /// stays behind.
    pub(super) fn travelling_properties(&self) -> BasicProperties {
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
        properties
    }
}

/// The publisher's own among these headers. Never `x-…`: the broker takes copies of its own dead-letter
/// headers for a cycle and hides the message. Never CC and BCC: they would route it elsewhere as well.
pub(super) fn foreign_headers(headers: &FieldTable) -> FieldTable {
    let mut kept = FieldTable::default();
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

pub(super) fn insert_trace(headers: &mut FieldTable, trace: &TraceContext) {
    headers.insert("traceparent".into(), long(trace.traceparent()));
    if let Some(state) = trace.tracestate() {
        headers.insert("tracestate".into(), long(state));
    }
}

pub(super) const PERSISTENT: u8 = 2;

pub(super) fn long(text: &str) -> AMQPValue {
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
