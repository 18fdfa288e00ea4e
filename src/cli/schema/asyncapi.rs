//! What travels through the broker, as an `AsyncAPI` document: names from the topology, payloads from the parser.

use serde_json::{Map, Value, json};

use crate::{
    broker::Topology,
    config::Settings,
    domain::{CLOUD_EVENT, EVENT_TYPE, Reason, RetrySchedule, event_schema},
};

/// Of the AMQP bindings <https://github.com/asyncapi/bindings/tree/master/amqp>.
const BINDING: &str = "0.3.0";

pub(super) fn document(settings: &Settings) -> Value {
    let topology = Topology::new(&settings.broker, &RetrySchedule::new(&settings.retry));
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "token-billing",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Publish one persistent, mandatory, confirmed message for each finished article: it is \
                            charged once for each job, however often it arrives.",
        },
        "defaultContentType": "application/json",
        "channels": channels(&topology),
        "operations": {
            "chargeArticle": {
                "action": "receive",
                "summary": "Charges the company for a finished article, once for each job",
                "channel": { "$ref": "#/channels/events" },
                "bindings": { "amqp": { "deliveryMode": 2, "mandatory": true, "bindingVersion": BINDING } },
            },
            "copyDeadLetter": {
                "action": "send",
                "summary": "Copies each dead letter, once it is archived, to whoever has bound a queue; unconfirmed",
                "channel": { "$ref": "#/channels/watchedDeadLetters" },
                "bindings": { "amqp": { "deliveryMode": 2, "mandatory": false, "bindingVersion": BINDING } },
            },
        },
        "components": { "messages": messages(), "schemas": schemas(settings) },
    })
}

fn channels(topology: &Topology) -> Value {
    let events = ["event", "cloudEvent"];
    let dead = ["deadLetter"];
    let mut channels = Map::new();
    let mut add = |name: &str, channel| channels.insert(name.to_owned(), channel);
    add(
        "events",
        exchange(
            topology.exchange(),
            "direct",
            topology.routing_key(),
            &events,
        ),
    );
    add("work", queue(&topology.work_queue(), &events));
    for (step, name) in (1..).zip(topology.delay_queues()) {
        add(&format!("retry{step}"), queue(&name, &events));
    }
    let dead_letters = topology.dead_letters();
    let key = topology.dead_letter_key();
    add("deadLetters", exchange(&dead_letters, "direct", key, &dead));
    add("deadLetterQueue", queue(&dead_letters, &dead));
    add("unreadable", queue(&topology.unreadable(), &[]));
    add(
        "watchedDeadLetters",
        exchange(&topology.watchers(), "fanout", key, &["watchedDeadLetter"]),
    );
    channels.into()
}

fn exchange(name: &str, kind: &str, routing_key: &str, messages: &[&str]) -> Value {
    let exchange = json!({ "name": name, "type": kind, "durable": true, "autoDelete": false });
    let binding = json!({ "is": "routingKey", "exchange": exchange, "bindingVersion": BINDING });
    json!({
        "address": routing_key,
        "messages": references(messages),
        "bindings": { "amqp": binding },
    })
}

fn queue(name: &str, messages: &[&str]) -> Value {
    let queue = json!({ "name": name, "durable": true, "exclusive": false, "autoDelete": false });
    let binding = json!({ "is": "queue", "queue": queue, "bindingVersion": BINDING });
    json!({
        "address": name,
        "messages": references(messages),
        "bindings": { "amqp": binding },
    })
}

fn references(messages: &[&str]) -> Value {
    let reference = |name: &&str| {
        let to = format!("#/components/messages/{name}");
        ((*name).to_owned(), json!({ "$ref": to }))
    };
    messages.iter().map(reference).collect::<Map<_, _>>().into()
}

fn messages() -> Value {
    let message = |title: &str, content_type: &str, headers: &str, payload: Value| {
        json!({
            "title": title,
            "contentType": content_type,
            "headers": { "$ref": format!("#/components/schemas/{headers}") },
            "payload": payload,
        })
    };
    let event = json!({ "$ref": "#/components/schemas/event" });
    let envelope = json!({ "$ref": "#/components/schemas/cloudEvent" });
    let json = "application/json";
    let anything =
        json!({ "description": "Byte for byte what was published, which may be no JSON" });
    json!({
        "event": message("A finished article", json, "eventHeaders", event),
        "cloudEvent": message("The same as a CloudEvent 1.0", CLOUD_EVENT, "eventHeaders", envelope),
        "deadLetter": message("A dead letter", json, "deadLetterHeaders", anything.clone()),
        "watchedDeadLetter": message("An archived dead letter", json, "watchedHeaders", anything),
    })
}

fn schemas(settings: &Settings) -> Value {
    let mut event = event_schema(&settings.limits);
    // The dialect is that of the whole document.
    event.remove("$schema");
    let text = |about: &str| json!({ "type": "string", "description": about });
    let number = |about: &str| json!({ "type": "integer", "minimum": 0, "description": about });
    let moment =
        |about: &str| json!({ "type": "string", "format": "date-time", "description": about });
    let with_trace = |mut headers: Value, required: &[&str]| {
        headers["traceparent"] = text("W3C trace context, carried through every queue");
        headers["tracestate"] = text("Belongs to traceparent");
        json!({ "type": "object", "properties": headers, "required": required })
    };
    let dead = json!({
        "attempt": number("Tries before the last one; 0 at first"),
        "reason": { "type": "string", "description": "Usually one of the examples", "examples": Reason::ALL },
        "error": text("The same for a person; at most 1 KiB"),
        "first-failed-at": moment("The first failure"),
        "failed-at": moment("The last failure"),
        "replay-of": number("The archived dead letter whose replay this is"),
    });
    let mut watched = dead.clone();
    watched["dead-letter-id"] = number("Its number in the archive");
    let named = [
        "attempt",
        "reason",
        "error",
        "first-failed-at",
        "failed-at",
        "dead-letter-id",
    ];
    json!({
        "event": event,
        "cloudEvent": {
            "type": "object",
            "properties": {
                "specversion": { "const": "1.0" },
                "type": { "const": EVENT_TYPE },
                "id": { "type": "string", "minLength": 1 },
                "source": { "type": "string", "minLength": 1 },
                "data": { "$ref": "#/components/schemas/event" },
            },
            "required": ["specversion", "type", "id", "source", "data"],
        },
        "eventHeaders": with_trace(json!({}), &[]),
        // The broker moves what it gives up at its delivery limit, without any of them.
        "deadLetterHeaders": with_trace(dead, &[]),
        "watchedHeaders": with_trace(watched, &named),
    })
}
