//! The archivist: every kind of dead letter, into the archive with all that is known of it.

use lapin::{
    BasicProperties,
    options::{BasicGetOptions, BasicNackOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use token_billing::storage::{ChargeState, DeadLetter, DeadLetterState};
use uuid::Uuid;

use crate::support::{
    broker::event_properties,
    eventually::{PATIENCE, eventually},
    site::{Site, event},
};

/// What only the table shows, by dead letter, oldest first.
#[derive(Debug, sqlx::FromRow)]
struct Kept {
    body: Vec<u8>,
    properties: Value,
    headers: Value,
    error_signature: String,
}

async fn kept(site: &Site) -> Vec<Kept> {
    sqlx::query_as(
        "select body, properties, headers, error_signature from dead_letters order by id",
    )
    .fetch_all(site.db.pool())
    .await
    .expect("read")
}

fn long(bytes: impl AsRef<[u8]>) -> AMQPValue {
    AMQPValue::LongString(bytes.as_ref().to_vec().into())
}

fn table(members: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in members {
        table.insert((*name).into(), value.clone());
    }
    table
}

/// Failed just now, not in the future, and the first time not after the last.
fn assert_recent(dead_letter: &DeadLetter) {
    let now = OffsetDateTime::now_utc();
    // A broker's own note has whole seconds.
    let recent = now - Duration::minutes(2)..=now + Duration::seconds(1);
    assert!(
        recent.contains(&dead_letter.last_failed_at),
        "{dead_letter:#?}"
    );
    assert!(dead_letter.first_failed_at <= dead_letter.last_failed_at);
}

#[tokio::test]
async fn a_refused_event_is_archived_with_all_that_is_known_of_it() {
    let site = Site::new().await;
    let archiving = site.archive_running().await;
    let running = site.start_unready();
    let company = site.company(0, 7).await;
    let (job, article) = (Uuid::new_v4(), Uuid::new_v4());
    let mut body = event(job, company, 500);
    body["article_id"] = json!(article);
    let body = body.to_string();
    let properties = event_properties()
        .with_message_id("m-1".into())
        .with_app_id("the publisher".into())
        .with_timestamp(1_763_719_200);
    site.broker.publish_with(&body, properties).await;

    let dead_letters = site.archived(1).await;
    running.stop().await;
    archiving.stop().await;

    let dead_letter = &dead_letters[0];
    let error = "Not enough tokens: the article needs 500 and the company has 7.";
    assert_eq!(dead_letter.reason, "insufficient_balance");
    assert_eq!(dead_letter.error, error);
    assert_eq!(dead_letter.job_id, Some(job));
    assert_eq!(dead_letter.company_id, Some(company));
    assert_eq!(dead_letter.article_id, Some(article));
    assert_eq!(dead_letter.tokens, Some(500));
    assert_eq!((dead_letter.attempts, dead_letter.occurrences), (1, 1));
    assert_eq!(dead_letter.state, DeadLetterState::Open);
    assert_eq!(dead_letter.charge_state, ChargeState::NeverCharged);
    assert_recent(dead_letter);
    let [kept] = &kept(&site).await[..] else {
        panic!("one dead letter");
    };
    assert_eq!(kept.body, body.as_bytes());
    assert_eq!(
        kept.error_signature,
        "Not enough tokens: the article needs # and the company has #."
    );
    assert_eq!(
        kept.properties,
        json!({
            "content_type": "application/json", "delivery_mode": 2, "message_id": "m-1",
            "app_id": "the publisher", "timestamp": 1_763_719_200,
        })
    );
    assert_eq!(kept.headers["reason"], "insufficient_balance");
    assert_eq!(kept.headers["error"], error);
    assert_eq!(kept.headers["attempt"], 0);
    assert_eq!(site.balance(company).await, (0, 7));
}

#[tokio::test]
async fn a_body_that_is_no_event_is_archived_byte_for_byte() {
    let mut site = Site::new().await;
    // More than one frame, and more than any event.
    site.set("LIMITS__MAX_BODY_BYTES", "100000");
    let archiving = site.archive_running().await;
    let running = site.start_unready();
    let (job, company) = (Uuid::new_v4(), site.company(0, 100).await);
    let malformed = format!(r#"{{"job_id":"{job}","company_id":"{company}","tokens":1.5}}"#);
    let mut not_utf8 = format!(r#"{{"job_id":"{job}","tokens":7,"x":""#).into_bytes();
    not_utf8.extend(b"\xff\x00\x1b[31m\"}");
    let mut huge = format!(r#"{{"job_id":"{job}","tokens":8,"x":""#).into_bytes();
    huge.extend((0..2 * 1024 * 1024).map(|n: u32| (n % 251) as u8));
    let bodies = [malformed.into_bytes(), not_utf8, huge, Vec::new()];
    for body in &bodies {
        site.broker.publish(body).await;
    }

    let dead_letters = site.archived(4).await;
    running.stop().await;
    archiving.stop().await;

    let mut seen: Vec<_> = kept(&site)
        .await
        .into_iter()
        .zip(&dead_letters)
        .map(|(kept, one)| (kept.body, &*one.reason, one.job_id, one.tokens))
        .collect();
    // Workers decide side by side.
    seen.sort_by_key(|(body, ..)| bodies.iter().position(|published| published == body));
    let [malformed, not_utf8, huge, empty] = bodies;
    assert!(
        seen == [
            (malformed, "malformed", Some(job), None),
            (not_utf8, "malformed", Some(job), Some(7)),
            (huge, "payload_too_large", Some(job), Some(8)),
            (empty, "malformed", None, None),
        ],
        "{dead_letters:#?}"
    );
    let errors: Vec<&str> = dead_letters.iter().map(|one| &*one.error).collect();
    for error in ["body: empty", "body: not UTF-8 at byte "] {
        let said = |text: &&str| text.starts_with(error);
        assert!(errors.iter().any(said), "{error}: {errors:#?}");
    }
    assert_eq!(site.balance(company).await, (0, 100));
}

#[tokio::test]
async fn a_message_that_the_broker_gave_up_on_says_so() {
    let mut site = Site::new().await;
    site.set("BROKER__DELIVERY_LIMIT", "2");
    site.declare().await;
    let (job, company) = (Uuid::new_v4(), Uuid::new_v4());
    // Its own headers are those of an earlier life: it was delayed once, and a person put it back.
    let headers = table(&[
        ("attempt", AMQPValue::LongLongInt(1)),
        ("reason", long("insufficient_balance")),
        ("error", long("deadlock detected")),
        ("first-failed-at", long("2026-01-02T03:04:05Z")),
        ("failed-at", long("2026-01-02T03:04:06Z")),
    ]);
    let body = event(job, company, 5).to_string();
    let properties = event_properties().with_headers(headers);
    site.broker.publish_with(&body, properties).await;
    // A worker that dies each time.
    let queue = site.broker.work_queue();
    eventually(
        "the broker has moved it",
        PATIENCE,
        async || {
            let options = BasicGetOptions { no_ack: false };
            let got = site
                .broker
                .channel()
                .basic_get(queue.as_str().into(), options);
            if let Some(message) = got.await.expect("asked") {
                let requeue = BasicNackOptions {
                    requeue: true,
                    ..BasicNackOptions::default()
                };
                message
                    .delivery
                    .acker
                    .nack(requeue)
                    .await
                    .expect("given back");
            }
            site.broker.ready_count(&site.broker.dead_letters()).await
        },
        |ready| *ready == Some(1),
    )
    .await;

    let archiving = site.archive_running().await;
    let dead_letters = site.archived(1).await;
    archiving.stop().await;

    let dead_letter = &dead_letters[0];
    assert_eq!(dead_letter.reason, "delivery_limit");
    let said = format!(
        "The broker gave up: each worker that was given it died, or lost its connection, before it was done \
         with it, as often as the delivery limit of {queue:?} allows. Its last error before: deadlock detected"
    );
    assert_eq!(dead_letter.error, said);
    assert_eq!(
        (dead_letter.job_id, dead_letter.tokens),
        (Some(job), Some(5))
    );
    assert_eq!(dead_letter.attempts, 2);
    assert_recent(dead_letter);
    assert_eq!(dead_letter.first_failed_at.year(), 2026);
    assert_eq!(dead_letter.first_failed_at.unix_timestamp(), 1_767_323_045);
    let kept = kept(&site).await;
    assert_eq!(kept[0].body, body.as_bytes());
    assert_eq!(kept[0].headers["x-death"][0]["reason"], "delivery_limit");
    assert_eq!(kept[0].headers["x-death"][0]["queue"], queue);
}

#[tokio::test]
async fn a_charge_that_is_pending_is_shown_as_pending() {
    let mut site = Site::new().await;
    site.set("DATABASE__LOCK_TIMEOUT", "50ms");
    site.set("RETRY__ATTEMPTS", "1");
    site.set("RETRY__BASE", "1s");
    let archiving = site.archive_running().await;
    let running = site.start_unready();
    let company = site.company(0, 100).await;
    let mut locker = site.db.pool().begin().await.expect("begun");
    sqlx::query("select from company_subscriptions where company_id = $1 for update")
        .bind(company)
        .execute(&mut *locker)
        .await
        .expect("locked");
    let job = Uuid::new_v4();
    site.publish(job, company, 10).await;

    let dead_letters = site.archived(1).await;
    locker.rollback().await.expect("released");
    assert_eq!(dead_letters[0].reason, "retries_exhausted");
    assert!(dead_letters[0].error.contains("lock"));
    assert_eq!(
        (dead_letters[0].attempts, dead_letters[0].job_id),
        (2, Some(job))
    );
    assert_eq!(dead_letters[0].charge_state, ChargeState::Pending);
    let apart = dead_letters[0].last_failed_at - dead_letters[0].first_failed_at;
    assert!(apart >= Duration::seconds(1), "{apart}");

    // Charged by another way; the archivist finds out by itself.
    assert!(site.db.deduct(job, company, 10).await.success);
    assert_eq!(
        site.dead_letters().await[0].charge_state,
        ChargeState::Charged
    );
    running.stop().await;
    archiving.stop().await;
    site.set("ARCHIVIST__RESOLVE_INTERVAL", "100ms");
    let archiving = site.archive_running().await;
    eventually(
        "it is resolved",
        PATIENCE,
        async || site.dead_letters().await.remove(0).state,
        |&state| state == DeadLetterState::Resolved,
    )
    .await;
    archiving.stop().await;
    assert_eq!(site.balance(company).await, (0, 90));
}

fn hostile_headers() -> FieldTable {
    let mut deep = long("the heart");
    for _ in 0..100 {
        deep = AMQPValue::FieldTable(table(&[("in", deep)]));
    }
    table(&[
        ("binary", long(b"\xff\x00\xfe")),
        ("nul", long("a\0b")),
        ("na\0me", AMQPValue::Boolean(true)),
        (
            "nested",
            AMQPValue::FieldTable(table(&[(
                "li\0st",
                AMQPValue::FieldArray(vec![long("x"), AMQPValue::Void].into()),
            )])),
        ),
        ("deep", deep),
        ("double", AMQPValue::Double(f64::MAX)),
        ("time", AMQPValue::Timestamp(u64::MAX)),
        // Ours, but nothing of ours.
        ("reason", long("a reason\n\u{1b}[31m with everything")),
        ("error", long("wrong\0 \u{202e} \u{1b}[31m".repeat(500))),
        ("attempt", AMQPValue::LongLongInt(i64::MAX)),
        ("replay-of", long("1; drop table dead_letters")),
        ("first-failed-at", long("9999-12-31T23:59:59-23:59")),
        ("failed-at", long("soon")),
        ("x-death", AMQPValue::FieldArray(vec![long("me")].into())),
    ])
}

#[tokio::test]
async fn headers_of_any_kind_are_kept_and_none_can_keep_a_dead_letter_out() {
    let site = Site::new().await;
    site.declare().await;
    let hostile = hostile_headers();
    let properties = BasicProperties::default()
        .with_headers(hostile)
        .with_content_type("te\0xt".into())
        .with_timestamp(u64::MAX);
    // Straight to where dead letters go, as any client with the right could.
    let queue = site.broker.dead_letters();
    site.broker
        .publish_to_queue_with(&queue, b"{", properties)
        .await;
    site.broker.publish_to_queue(&queue, b"a plain one").await;

    let archiving = site.archive_running().await;
    let dead_letters = site.archived(2).await;
    let tally = archiving.counts();
    archiving.stop().await;

    assert_eq!((tally.archived, tally.bare), (2, 0));
    assert_eq!(dead_letters[0].reason, "unknown");
    assert!(dead_letters[0].error.starts_with("wrong␀ ") && dead_letters[0].error.len() <= 1024);
    assert_eq!(
        (dead_letters[0].attempts, dead_letters[0].job_id),
        (i32::MAX, None)
    );
    assert_recent(&dead_letters[0]);
    let kept = kept(&site).await;
    assert_eq!(kept[0].body, b"{");
    assert_eq!(kept[0].properties["content_type"], "te␀xt");
    let headers = &kept[0].headers;
    assert_eq!(headers["binary"], json!({ "hex": "ff00fe" }));
    assert_eq!(headers["nul"], json!({ "hex": "610062" }));
    assert_eq!(headers["na␀me"], true);
    assert_eq!(headers["nested"], json!({ "li␀st": ["x", null] }));
    assert_eq!(
        headers["double"],
        json!({ "float": "1.7976931348623157e308" })
    );
    assert_eq!(headers["time"], json!({ "timestamp": u64::MAX }));
    assert!(headers["deep"]["in"]["in"].is_object());

    assert_eq!(dead_letters[1].reason, "unknown");
    assert_eq!(dead_letters[1].attempts, 1);
    assert_recent(&dead_letters[1]);
    assert!(dead_letters[1].error.contains("somebody else put it here"));
}

#[tokio::test]
async fn foreign_headers_pass_through_the_worker_into_the_archive() {
    let site = Site::new().await;
    let archiving = site.archive_running().await;
    let running = site.start_unready();
    let headers = table(&[
        ("tenant", long("é")),
        ("binary", long(b"\xff\x00")),
        (
            "list",
            AMQPValue::FieldArray(vec![AMQPValue::ShortInt(-3)].into()),
        ),
        ("x-custom", long("stays behind")),
        ("CC", AMQPValue::FieldArray(vec![long("elsewhere")].into())),
        ("replay-of", AMQPValue::LongInt(77)),
        (
            "traceparent",
            long("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ),
    ]);
    let properties = event_properties().with_headers(headers);
    site.broker.publish_with(b"no event", properties).await;
    site.archived(1).await;
    running.stop().await;
    archiving.stop().await;

    let headers = &kept(&site).await[0].headers;
    assert_eq!(headers["tenant"], "é");
    assert_eq!(headers["binary"], json!({ "hex": "ff00" }));
    assert_eq!(headers["list"], json!([-3]));
    assert_eq!(headers["replay-of"], 77);
    assert!(headers["traceparent"].is_string());
    assert!(headers.get("x-custom").is_none() && headers.get("CC").is_none());
}
