//! Watchers of dead letters: anyone may bind a queue, and none can hurt the archive or the charging.

use std::time::Instant;

use lapin::{
    options::{QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use uuid::Uuid;

use crate::support::{
    broker::{Message, event_properties},
    eventually::{PATIENCE, eventually},
    process::Process,
    servers::PrivateServers,
    site::{Site, event},
};

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn dead_letter_id(copy: &Message) -> i64 {
    let id = copy.header("dead-letter-id").expect("the dead letter's id");
    id.parse().expect("a number")
}

/// What has arrived at a watcher, once there are so many.
async fn copies(site: &Site, queue: &str, count: usize) -> Vec<Message> {
    let mut copies = Vec::new();
    while copies.len() < count {
        let copy = eventually(
            &format!("copy {} of {count}", copies.len() + 1),
            PATIENCE,
            async || site.broker.take(queue).await,
            Option::is_some,
        )
        .await;
        copies.extend(copy);
    }
    copies
}

#[tokio::test]
async fn a_watcher_gets_each_dead_letter_after_its_commit_with_its_id_and_reason() {
    let mut site = Site::new().await;
    let archiving = site.archive_running().await;
    let exchange = site.broker.watch_exchange();
    let queue = site.broker.declare_queue("watcher", Some(&exchange)).await;
    let running = site.start_unready();
    let (job, company) = (Uuid::new_v4(), site.company(0, 7).await);
    let mut headers = FieldTable::default();
    headers.insert("tenant".into(), text("acme"));
    let properties = event_properties()
        .with_message_id("m-1".into())
        .with_headers(headers);
    let body = event(job, company, 500).to_string();
    site.broker.publish_with(&body, properties).await;

    let copy = copies(&site, &queue, 1).await.remove(0);
    // Committed before it was sent.
    let dead_letters = site.dead_letters().await;
    assert_eq!(dead_letter_id(&copy), dead_letters[0].id);
    assert_eq!(copy.body, body.as_bytes());
    let properties = &copy.properties;
    assert_eq!(properties.content_type(), &Some("application/json".into()));
    assert_eq!(properties.message_id(), &Some("m-1".into()));
    for (name, value) in [
        ("reason", "insufficient_balance"),
        ("error", dead_letters[0].error.as_str()),
        ("attempt", "0"),
        ("tenant", "acme"),
    ] {
        assert_eq!(copy.header(name).as_deref(), Some(value));
    }

    // One that the broker moved: why is in headers that must not be copied.
    let mut death = FieldTable::default();
    death.insert("reason".into(), text("delivery_limit"));
    death.insert("queue".into(), text("somewhere"));
    let mut headers = FieldTable::default();
    let deaths = vec![AMQPValue::FieldTable(death)];
    headers.insert("x-death".into(), AMQPValue::FieldArray(deaths.into()));
    headers.insert("expiration".into(), text("1"));
    let properties = event_properties()
        .with_headers(headers)
        .with_reply_to("x".into());
    let dead_letters = site.broker.dead_letters();
    site.broker
        .publish_to_queue_with(&dead_letters, b"\xff", properties)
        .await;
    let copy = copies(&site, &queue, 1).await.remove(0);
    assert_eq!(dead_letter_id(&copy), site.dead_letters().await[1].id);
    assert_eq!(copy.body, b"\xff");
    assert_eq!(copy.header("reason").as_deref(), Some("delivery_limit"));
    let error = copy.header("error").expect("the error");
    assert!(error.starts_with("The broker gave up"), "{error}");
    let names: Vec<String> = copy
        .properties
        .headers()
        .iter()
        .flat_map(|headers| headers.inner().keys().map(ToString::to_string))
        .filter(|name| name.starts_with("x-") && name != "x-delivery-count")
        .collect();
    assert!(names.is_empty(), "{names:?}");
    assert!(copy.properties.reply_to().is_none());
    running.stop().await;
    archiving.stop().await;
}

#[tokio::test]
async fn a_full_watcher_and_one_that_never_reads_change_nothing() {
    let mut site = Site::new().await;
    let archiving = site.archive_running().await;
    let exchange = site.broker.watch_exchange();
    let idle = site.broker.declare_queue("idle", Some(&exchange)).await;
    let full = declare_full_queue(&mut site, &exchange).await;
    let running = site.start_unready();
    let company = site.company(0, 1000).await;
    let mut jobs = Vec::new();
    for n in 0..100 {
        jobs.push(Uuid::new_v4());
        // One article of all is affordable in between.
        let tokens = if n == 50 { 1000 } else { 5000 };
        site.publish(jobs[n], company, tokens).await;
    }
    let dead_letters = site.archived(99).await;
    site.until(jobs[50], "completed").await;
    assert_eq!(copies(&site, &idle, 99).await.len(), 99);
    let metrics = archiving.metrics.clone();
    running.stop().await;
    archiving.stop().await;

    let counts = metrics.archivist_counts();
    assert_eq!((counts.archived, counts.copied), (99, 99));
    assert!(
        dead_letters
            .iter()
            .all(|dead_letter| dead_letter.occurrences == 1)
    );
    let queue = site.broker.dead_letters();
    assert!(site.broker.take(&queue).await.is_none());
    assert!(site.broker.take_all(&full).await.len() <= 1);
    assert_eq!(site.balance(company).await, (0, 0));
    let usage = "select count(*) from token_usage_logs";
    assert_eq!(site.number(usage).await, 1);
}

/// Has room for one copy and refuses all others.
async fn declare_full_queue(site: &mut Site, exchange: &str) -> String {
    let name = format!("{}.full", site.broker.prefix());
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(1));
    arguments.insert("x-overflow".into(), text("reject-publish"));
    let options = QueueDeclareOptions {
        // Goes with the test's connection.
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let channel = site.broker.channel();
    channel
        .queue_declare(name.as_str().into(), options, arguments)
        .await
        .expect("declared");
    channel
        .queue_bind(
            name.as_str().into(),
            exchange.into(),
            "".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .expect("bound");
    name
}

#[tokio::test]
async fn a_broker_out_of_memory_stops_neither_the_archiving_nor_the_shutdown() {
    let servers = PrivateServers::start("alarm").await;
    let site = Site::on(servers.servers()).await;
    site.declare().await;
    // Copies of more bytes than the way to the broker has room for.
    let body = |n: u8| [vec![b'x'; 256 * 1024], vec![n]].concat();
    let queue = site.broker.dead_letters();
    for n in 0..100 {
        site.broker.publish_to_queue(&queue, body(n)).await;
    }
    servers
        .rabbitmqctl(&["set_vm_memory_high_watermark", "0.000001"])
        .await;
    let mut process = Process::start(&["serve", "--role", "archivist"], &site.environment());
    let dead_letters = site.archived(100).await;
    assert!(
        dead_letters
            .iter()
            .all(|dead_letter| dead_letter.occurrences == 1)
    );
    process
        .wait_for_log("copies for the watchers are lost", PATIENCE)
        .await;
    process.terminate().await;
    let asked = Instant::now();
    assert_eq!(
        process.wait(PATIENCE).await,
        Some(0),
        "{:#?}",
        process.log()
    );
    assert!(asked.elapsed().as_secs() < 10, "{:?}", asked.elapsed());
    servers
        .rabbitmqctl(&["set_vm_memory_high_watermark", "0.6"])
        .await;
}
