//! One message, as it goes on.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use serde_json::{Map, Value};
use time::format_description::well_known::Rfc3339;

use super::{
    Delivered, Topology,
    dead_letter::text_of,
    headers,
    message::{PERSISTENT, foreign_headers, insert_trace, long},
};
use crate::domain::TraceContext;

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
        topology: &Topology,
        body: Vec<u8>,
        content_type: &'static str,
        trace: Option<&TraceContext>,
    ) -> Self {
        let mut headers = FieldTable::default();
        if let Some(trace) = trace {
            insert_trace(&mut headers, trace);
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

    /// The same message, into the delay queue for `delay`, to come back as attempt `attempt`.
    pub fn delayed(
        message: &Delivered,
        topology: &Topology,
        delay: std::time::Duration,
        attempt: u32,
        error: &str,
    ) -> Self {
        let mut headers = message.failed_headers(error);
        headers.insert("attempt".into(), AMQPValue::LongLongInt(attempt.into()));
        Self {
            // The default exchange: straight to the queue of that name.
            exchange: String::new(),
            routing_key: topology.delay_queue(delay),
            body: message.body.clone(),
            properties: message.travelling_properties().with_headers(headers),
        }
    }

    /// The same message as a dead letter.
    pub fn dead_letter(
        message: &Delivered,
        topology: &Topology,
        reason: &'static str,
        error: &str,
    ) -> Self {
        let mut headers = message.failed_headers(error);
        headers.insert(
            "attempt".into(),
            AMQPValue::LongLongInt(message.attempt().into()),
        );
        headers.insert("reason".into(), long(reason));
        Self {
            exchange: topology.dead_letters(),
            routing_key: topology.dead_letter_key().to_owned(),
            body: message.body.clone(),
            properties: message.travelling_properties().with_headers(headers),
        }
    }

    /// An archived dead letter as an event again, at its first attempt: body, content type and the other kept
    /// properties, the publisher's own headers and the trace as they came (`properties` and `headers` as
    /// the archive has them), and whose replay it is. What isn't an object counts as empty.
    pub fn replay(
        topology: &Topology,
        body: Vec<u8>,
        properties: &str,
        headers: &str,
        dead_letter_id: i64,
    ) -> Self {
        let object = |text| serde_json::from_str::<Map<String, Value>>(text).unwrap_or_default();
        let all = headers::from_json(&object(headers));
        let text = |name| all.inner().get(name).and_then(text_of);
        let mut headers = foreign_headers(&all);
        let trace =
            text("traceparent").and_then(|parent| TraceContext::parse(parent, text("tracestate")));
        if let Some(trace) = trace {
            insert_trace(&mut headers, &trace);
        }
        headers.insert("replay-of".into(), AMQPValue::LongLongInt(dead_letter_id));
        Self {
            exchange: topology.exchange().to_owned(),
            routing_key: topology.routing_key().to_owned(),
            body,
            properties: headers::kept_from_json(&object(properties))
                .with_delivery_mode(PERSISTENT)
                .with_headers(headers),
        }
    }

    /// A copy of an archived dead letter for whoever watches: why it is dead in the headers, whoever
    /// said so, and the dead letter's id.
    pub fn watched(topology: &Topology, dead_letter: &Delivered, dead_letter_id: i64) -> Self {
        let mut headers = dead_letter.travelling_headers();
        headers.insert(
            "dead-letter-id".into(),
            AMQPValue::LongLongInt(dead_letter_id),
        );
        headers.insert("reason".into(), long(dead_letter.reason()));
        headers.insert("error".into(), long(&dead_letter.error()));
        headers.insert(
            "attempt".into(),
            AMQPValue::LongLongInt(dead_letter.attempt().into()),
        );
        for (name, at) in [
            ("first-failed-at", dead_letter.first_failed_at()),
            ("failed-at", dead_letter.failed_at()),
        ] {
            let at = at.format(&Rfc3339).unwrap_or_default();
            headers.insert(name.into(), long(&at));
        }
        Self {
            exchange: topology.watchers(),
            routing_key: topology.dead_letter_key().to_owned(),
            body: dead_letter.body.clone(),
            properties: dead_letter.travelling_properties().with_headers(headers),
        }
    }
}
