//! The documents of `schema event` and `schema asyncapi`, held against the parser and the broker.

use std::collections::BTreeSet;

use jsonschema::Validator;
use proptest::prelude::*;
use serde_json::{Value, json};
use token_billing::{config::Limits, domain::CompletionEvent};
use uuid::Uuid;

use crate::support::{
    broker::event_properties,
    command::Ran,
    eventually::{PATIENCE, eventually},
    site::{DELAYS, Site, event},
};

const JOB: &str = "8b0c1c1e-6f5e-4a43-9d0a-3f4c2f1d7a10";
const NIL: &str = "00000000-0000-0000-0000-000000000000";

async fn event_schema(settings: &[(&str, &str)]) -> (Value, Validator) {
    let printed = Ran::to_its_end(&["schema", "event"], settings, b"").await;
    let schema = printed.document();
    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    jsonschema::meta::validate(&schema).expect("a JSON Schema");
    let validator = jsonschema::options()
        .should_validate_formats(true)
        .build(&schema)
        .expect("a JSON Schema");
    (schema, validator)
}

fn parses(event: &Value) -> bool {
    let body = event.to_string();
    CompletionEvent::parse(body.as_bytes(), None, &Limits::default()).is_ok()
}

/// Values of each field: good ones, then bad ones. What no schema can say is not among them: 1.0 for 1, a key that is
/// there twice, U+0000, and sizes in bytes.
fn values() -> Vec<(&'static str, Vec<Value>, Vec<Value>)> {
    let ids = || json!([JOB, JOB.to_uppercase(), JOB.replace('-', "")]);
    let no_ids = || {
        json!([
            "",
            "x",
            format!("{{{JOB}}}"),
            format!("urn:uuid:{JOB}"),
            7,
            [],
            {},
            false
        ])
    };
    let array = |values: Value| values.as_array().expect("an array").clone();
    let mut no_job = array(no_ids());
    no_job.extend([json!(null), json!(NIL), json!(NIL.replace('-', ""))]);
    let mut company = array(ids());
    company.extend([json!(null), json!(NIL)]);
    let long = "é".repeat(100);
    let longer = "é".repeat(101);
    vec![
        ("job_id", array(ids()), no_job),
        (
            "tokens",
            array(json!([1, 15000, 10_000_000])),
            array(json!([
                0,
                -1,
                10_000_001,
                1.5,
                "1",
                null,
                true,
                [1],
                {},
                u64::MAX
            ])),
        ),
        ("company_id", company.clone(), array(no_ids())),
        ("article_id", company, array(no_ids())),
        (
            "usage_type",
            array(json!(["x", "a b", long, "文", null])),
            array(json!(["", "a\nb", "\u{7f}", "\u{85}", longer, 1, [], {}])),
        ),
        (
            "occurred_at",
            array(json!([
                "2026-11-21T10:00:00Z",
                "2026-11-21T10:00:00.5+08:00",
                null
            ])),
            array(json!([
                "",
                "2026-11-21",
                "2026-13-21T10:00:00Z",
                "2026-11-21T10:00:00",
                1,
                {}
            ])),
        ),
        (
            "metadata",
            array(json!([{}, { "a": [1, { "b": null }] }, null])),
            array(json!(["", "{}", [], 1, true])),
        ),
        ("anything_else", array(json!([1, {}, null])), vec![]),
    ]
}

#[tokio::test]
async fn the_schema_of_an_event_accepts_what_the_parser_accepts() {
    let (_, schema) = event_schema(&[]).await;
    let whole = json!({ "job_id": JOB, "tokens": 1 });
    for (field, good, bad) in values() {
        let cases = good.iter().map(|value| (value, true));
        for (value, expected) in cases.chain(bad.iter().map(|value| (value, false))) {
            let mut event = whole.clone();
            event[field] = value.clone();
            assert_eq!(parses(&event), expected, "the parser of {event}");
            assert_eq!(schema.is_valid(&event), expected, "the schema of {event}");
        }
    }
    for other in [
        json!({ "job_id": JOB }),
        json!({ "tokens": 1 }),
        json!([]),
        json!("x"),
        json!(null),
    ] {
        assert!(!parses(&other) && !schema.is_valid(&other), "{other}");
    }
}

#[tokio::test]
async fn the_schema_of_an_event_has_the_limits_of_the_settings() {
    let limit = [("TOKEN_BILLING__LIMITS__MAX_TOKENS_PER_EVENT", "500")];
    let (schema, validator) = event_schema(&limit).await;
    assert_eq!(schema["properties"]["tokens"]["maximum"], 500);
    assert!(validator.is_valid(&json!({ "job_id": JOB, "tokens": 500 })));
    assert!(!validator.is_valid(&json!({ "job_id": JOB, "tokens": 501 })));
}

/// A UUID with some characters put in, taken out or changed.
fn nearly_an_id() -> impl Strategy<Value = String> {
    let change = (0..3u8, 0..40usize, "[0-9a-gA-G{} -]");
    proptest::collection::vec(change, 0..3).prop_map(|changes| {
        let mut text: Vec<char> = JOB.chars().collect();
        for (what, at, with) in changes {
            let at = at % text.len();
            let with = with.chars().next().expect("one");
            match what {
                0 => text.insert(at, with),
                1 => drop(text.remove(at)),
                _ => text[at] = with,
            }
        }
        text.into_iter().collect()
    })
}

#[tokio::test]
async fn the_schema_and_the_parser_agree_on_whatever_comes() {
    let (_, schema) = event_schema(&[]).await;
    let text = prop_oneof!["[^\u{0}]{0,3}", "[a\u{1}-\u{20}\u{7e}-\u{a1}]{0,4}"];
    let cases = (nearly_an_id(), nearly_an_id(), -2..10_000_003i64, text);
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(2000)
    };
    proptest!(config, |((job, company, tokens, usage) in cases)| {
        let event = json!({ "job_id": job, "tokens": tokens, "company_id": company, "usage_type": usage });
        prop_assert_eq!(parses(&event), schema.is_valid(&event), "{}", event);
    });
}

/// The names of that kind in the document's bindings.
fn names(document: &Value, kind: &str) -> BTreeSet<String> {
    let channels = document["channels"].as_object().expect("channels");
    let name = |channel: &Value| {
        channel["bindings"]["amqp"][kind]["name"]
            .as_str()
            .map(str::to_owned)
    };
    channels.values().filter_map(name).collect()
}

/// What a reference leads to.
fn followed<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    let Some(to) = value["$ref"].as_str() else {
        return value;
    };
    let found = document.pointer(to.trim_start_matches('#'));
    followed(
        document,
        found.unwrap_or_else(|| panic!("{to} is not there")),
    )
}

fn follow_all(document: &Value, value: &Value) {
    followed(document, value);
    match value {
        Value::Object(members) => members
            .values()
            .for_each(|value| follow_all(document, value)),
        Value::Array(values) => values.iter().for_each(|value| follow_all(document, value)),
        _ => {}
    }
}

#[tokio::test]
async fn the_asyncapi_document_names_what_is_on_the_broker() {
    let site = Site::new().await;
    site.declare().await;
    let document = site.run(&["schema", "asyncapi"]).await.document();
    follow_all(&document, &document);
    let broker = &site.broker;
    let mut queues = BTreeSet::from([
        broker.work_queue(),
        broker.dead_letters(),
        broker.unreadable(),
    ]);
    queues.extend(DELAYS.map(|delay| broker.delay_queue(delay)));
    assert_eq!(names(&document, "queue"), queues);
    for queue in &queues {
        assert_eq!(broker.ready_count(queue).await, Some(0), "{queue}");
    }
    let exchanges = [
        broker.prefix().to_owned(),
        broker.dead_letters(),
        broker.watch_exchange(),
    ];
    assert_eq!(names(&document, "exchange"), BTreeSet::from(exchanges));
}

#[tokio::test]
async fn who_follows_the_asyncapi_document_is_charged_and_can_watch() {
    let mut site = Site::new().await;
    let worker = site.start().await;
    let archivist = site.archive_running().await;
    let document = site.run(&["schema", "asyncapi"]).await.document();
    let channel = |operation: &str| {
        let channel = followed(&document, &document["operations"][operation]["channel"]);
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        (
            text(&channel["bindings"]["amqp"]["exchange"]["name"]),
            text(&channel["address"]),
        )
    };
    let (watched, _) = channel("copyDeadLetter");
    let queue = site.broker.declare_queue("mine", Some(&watched)).await;
    let (exchange, key) = channel("chargeArticle");
    let (company, job) = (site.company(0, 10).await, Uuid::new_v4());
    for tokens in [10, 11] {
        let body = event(
            if tokens == 10 { job } else { Uuid::new_v4() },
            company,
            tokens,
        );
        let schema = jsonschema::validator_for(&document["components"]["schemas"]["event"]);
        schema
            .expect("a JSON Schema")
            .validate(&body)
            .expect("an event");
        let body = body.to_string();
        site.broker
            .send(&exchange, &key, body.as_bytes(), event_properties())
            .await;
    }
    site.until(job, "completed").await;
    let take = async || site.broker.take(&queue).await;
    let copy = eventually("a copy", PATIENCE, take, Option::is_some)
        .await
        .expect("one");
    let headers = &document["components"]["schemas"]["watchedHeaders"];
    let mut found = serde_json::Map::new();
    for (name, about) in headers["properties"].as_object().expect("headers") {
        let Some(text) = copy.header(name) else {
            continue;
        };
        let value = match about["type"].as_str() {
            Some("integer") => text.parse::<i64>().expect("a number").into(),
            _ => text.into(),
        };
        found.insert(name.clone(), value);
    }
    let schema = jsonschema::validator_for(headers).expect("a JSON Schema");
    let found = Value::Object(found);
    schema
        .validate(&found)
        .unwrap_or_else(|error| panic!("{error}: {found}"));
    let reasons = headers["properties"]["reason"]["examples"].as_array();
    assert!(
        reasons.expect("examples").contains(&found["reason"]),
        "{found}"
    );
    worker.stop().await;
    archivist.stop().await;
}
