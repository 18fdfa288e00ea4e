//! `publish` where it can't: an error and exit code 1 or 2, never a silent success.

use std::io::Write as _;

use lapin::{
    options::{QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::support::{
    broker::ROUTING_KEY,
    proxy::{ChaosProxy, Moment},
    site::{Site, event},
};

const PASSWORD: &str = "hunter2";

async fn declared() -> Site {
    let site = Site::new().await;
    site.declare().await;
    site
}

fn good_line() -> String {
    event(Uuid::new_v4(), Uuid::new_v4(), 1).to_string()
}

fn file(lines: &[Vec<u8>]) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(&lines.join(&b'\n')).expect("written");
    file
}

fn path(file: &NamedTempFile) -> &str {
    file.path().to_str().expect("UTF-8")
}

async fn in_the_queue(site: &Site) -> Vec<Vec<u8>> {
    let messages = site.broker.take_all(&site.broker.work_queue()).await;
    messages.into_iter().map(|message| message.body).collect()
}

/// Publishes one event and expects an error; what it says, and its job.
async fn refused(site: &Site) -> (String, String) {
    let job = Uuid::new_v4().to_string();
    let variables = [("JOB_ID", job.as_str()), ("TOKEN_AMOUNT", "1")];
    let ran = site.run_in(&variables, &["publish"]).await;
    let error = ran.refused(1);
    assert!(
        error.starts_with(&format!("error: job {job} was not confirmed: ")),
        "{error}"
    );
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    (error.to_owned(), job)
}

/// Puts a queue that has room for `room` messages and refuses all others in the work queue's place.
async fn put_full_queue_in_place(site: &Site, room: i64) {
    let (queue, channel) = (site.broker.work_queue(), site.broker.channel());
    channel
        .queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
        .await
        .expect("deleted");
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(room));
    arguments.insert(
        "x-overflow".into(),
        AMQPValue::LongString("reject-publish".into()),
    );
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(queue.as_str().into(), durable, arguments)
        .await
        .expect("declared");
    channel
        .queue_bind(
            queue.as_str().into(),
            site.broker.prefix().into(),
            ROUTING_KEY.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .expect("bound");
}

#[tokio::test]
async fn a_bad_line_73_is_named_with_its_reason_and_nothing_is_published() {
    let mut site = declared().await;
    let mut lines: Vec<Vec<u8>> = (0..100).map(|_| good_line().into_bytes()).collect();
    lines[72] = format!(r#"{{"job_id":"{}","tokens":1.5}}"#, Uuid::new_v4()).into_bytes();
    let file = file(&lines);
    let args = ["publish", "--file", path(&file)];
    let why = "tokens: expected an integer, got the fractional number 1.5";

    let ran = site.run(&args).await;
    let error = ran.refused(1);
    assert!(error.contains(&format!("line 73: {why}\n")), "{error}");
    assert!(error.contains("1 of 100 events can't be published; nothing was published"));
    assert_eq!(in_the_queue(&site).await, Vec::<Vec<u8>>::new());

    let ran = site
        .run_with_input(&["publish", "--file", "-"], lines.join(&b'\n'))
        .await;
    assert!(
        ran.refused(1)
            .contains(&format!("standard input line 73: {why}\n"))
    );
    assert_eq!(in_the_queue(&site).await, Vec::<Vec<u8>>::new());

    // The broker is not so much as asked before the whole file is in order.
    site.set("BROKER__URL", "amqp://nobody:at@home.invalid:1/%2f");
    let ran = site.run(&args).await;
    assert!(ran.refused(1).contains("line 73: "), "{ran:#?}");
    assert!(!ran.notes().contains("home.invalid"), "{ran:#?}");
}

#[tokio::test]
async fn every_bad_line_of_a_file_is_named() {
    let site = declared().await;
    let job = Uuid::new_v4();
    let bad = [
        (b"\xff".to_vec(), "body: not UTF-8 at byte 0"),
        (b"[1]".to_vec(), "expected an object"),
        (b"{\"tokens\":1}".to_vec(), "job_id: missing"),
        (
            format!(r#"{{"job_id":"{job}","tokens":"15000"}}"#).into_bytes(),
            "tokens: expected an integer",
        ),
        (
            format!(r#"{{"job_id":"{job}","tokens":1,"tokens":2}}"#).into_bytes(),
            "tokens",
        ),
        (
            format!(r#"{{"job_id":"{job}","tokens":0}}"#).into_bytes(),
            "tokens: 0 is not in 1..=10000000",
        ),
        (vec![b' '; 300_000].into_iter().chain(*b"{").collect(), ""),
        (
            [b"{\"a\":\"".to_vec(), vec![b'a'; 300_000]].concat(),
            "the limit is 262144",
        ),
        (b"{\"a\":\"\x1b[31m\"".to_vec(), ""),
    ];
    let mut lines = Vec::new();
    for (line, _) in &bad {
        lines.extend([good_line().into_bytes(), line.clone()]);
    }
    let file = file(&lines);
    let ran = site.run(&["publish", "--file", path(&file)]).await;
    let errors: Vec<&str> = ran.refused(1).lines().collect();
    assert_eq!(errors.len(), bad.len() + 1, "{errors:#?}");
    for (number, (error, (_, why))) in errors.iter().zip(&bad).enumerate() {
        let place = format!("line {}: ", 2 * (number + 1));
        assert!(
            error.contains(&place) && error.contains(why),
            "{error}; {why}"
        );
        assert!(!error.contains('\x1b'), "{error:?} reaches the terminal");
    }
    assert!(errors[bad.len()].contains("9 of 18 events can't be published; nothing was published"));
    assert_eq!(in_the_queue(&site).await, Vec::<Vec<u8>>::new());
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named() {
    let site = declared().await;
    let ran = site
        .run(&["publish", "--file", "/nowhere/events.ndjson"])
        .await;
    assert!(
        ran.refused(1)
            .starts_with("error: /nowhere/events.ndjson: "),
        "{ran:#?}"
    );
    let ran = site.run(&["publish", "--file", "/"]).await;
    assert!(ran.refused(1).starts_with("error: /: "), "{ran:#?}");
    let ran = site.run(&["publish", "--file", "-", "--tokens", "1"]).await;
    assert!(ran.refused(2).starts_with("error: --tokens "), "{ran:#?}");
}

#[tokio::test]
async fn a_wrong_event_is_wrong_usage_and_names_what_is_wrong() {
    let site = declared().await;
    let job = Uuid::new_v4().to_string();
    let good = [("JOB_ID", job.as_str()), ("TOKEN_AMOUNT", "1")];
    let rows = [
        (("JOB_ID", "42"), "job_id: \"42\" is not a UUID"),
        (
            ("TOKEN_AMOUNT", "1e3"),
            "TOKEN_AMOUNT: \"1e3\" is not a whole number of tokens",
        ),
        (("TOKEN_AMOUNT", "0"), "tokens: 0 is not in 1..=10000000"),
        (
            ("TOKEN_AMOUNT", "10000001"),
            "tokens: 10000001 is not in 1..=10000000",
        ),
        (("COMPANY_ID", "acme"), "company_id: \"acme\" is not a UUID"),
        (("ARTICLE_ID", "7"), "article_id: \"7\" is not a UUID"),
    ];
    for (variable, problem) in rows {
        let variables = [&good[..], &[variable]].concat();
        let ran = site.run_in(&variables, &["publish"]).await;
        assert_eq!(ran.refused(2), format!("error: {problem}\n"));
    }
    for (flag, value, problem) in [
        ("--tokens", "-5", "tokens: -5 is not in 1..=10000000"),
        ("--occurred-at", "yesterday", "occurred_at: "),
        ("--metadata", "[]", "metadata: "),
        ("--metadata", "{}, \"tokens\": 1", "metadata: "),
    ] {
        let ran = site.run_in(&good, &["publish", flag, value]).await;
        assert!(
            ran.refused(2).starts_with(&format!("error: {problem}")),
            "{ran:#?}"
        );
    }
    assert_eq!(in_the_queue(&site).await, Vec::<Vec<u8>>::new());
}

#[tokio::test]
async fn a_missing_exchange_is_an_error() {
    let site = Site::new().await;
    let (error, _) = refused(&site).await;
    let exchange = format!("no exchange '{}'", site.broker.prefix());
    assert!(error.contains(&exchange), "{error}");
    assert!(error.contains("token-billing serve declares"), "{error}");
}

#[tokio::test]
async fn an_event_that_no_queue_takes_is_an_error() {
    let site = declared().await;
    let queue = site.broker.work_queue();
    let unbound = site.broker.channel().queue_unbind(
        queue.as_str().into(),
        site.broker.prefix().into(),
        ROUTING_KEY.into(),
        FieldTable::default(),
    );
    unbound.await.expect("unbound");
    let (error, _) = refused(&site).await;
    assert!(
        error.contains("unroutable: no queue is bound to exchange"),
        "{error}"
    );
    assert!(error.contains(site.broker.prefix()), "{error}");

    let lines = file(&[good_line().into_bytes(), good_line().into_bytes()]);
    let ran = site.run(&["publish", "--file", path(&lines)]).await;
    let error = ran.refused(1);
    assert!(
        error.starts_with("error: confirmed 0 of 2 events; not confirmed: "),
        "{error}"
    );
    assert!(error.contains("unroutable"), "{error}");
    assert_eq!(in_the_queue(&site).await, Vec::<Vec<u8>>::new());
}

#[tokio::test]
async fn a_broker_that_refuses_is_an_error() {
    let site = declared().await;
    put_full_queue_in_place(&site, 0).await;
    let (error, _) = refused(&site).await;
    assert!(error.contains("is full"), "{error}");
    assert_eq!(in_the_queue(&site).await, Vec::<Vec<u8>>::new());
}

#[tokio::test]
async fn what_of_a_file_was_not_taken_is_named_by_line() {
    let site = declared().await;
    put_full_queue_in_place(&site, 1).await;
    let lines: Vec<String> = (0..3).map(|_| good_line()).collect();
    let job = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["job_id"].clone();
    // Line 2 is blank, so the events are on 1, 3 and 5.
    let ran = site
        .run_with_input(
            &["publish", "--file", "-", "--output", "json"],
            lines.join("\n\n"),
        )
        .await;
    let error = ran.failed(1);
    assert!(
        error
            .starts_with("error: confirmed 1 of 3 events; not confirmed: standard input lines 3-5"),
        "{error}"
    );
    let second_job = job(&lines[1]);
    assert!(
        error.contains(second_job.as_str().expect("text")),
        "{error}"
    );
    assert!(error.contains("is full"), "{error}");
    let report = ran.json();
    assert_eq!(
        report["unconfirmed_lines"],
        json!([{ "first": 3, "last": 5 }])
    );
    assert_eq!(
        (&report["published"], &report["events"]),
        (&json!(1), &json!(3))
    );
    assert!(error.contains(report["error"].as_str().expect("an error")));
    assert_eq!(in_the_queue(&site).await, [lines[0].as_bytes()]);
}

#[tokio::test]
async fn a_broker_that_is_away_is_an_error() {
    let mut site = declared().await;
    let proxy = ChaosProxy::start(site.broker.url()).await;
    proxy.refuse().await;
    site.set("BROKER__URL", &proxy.url());
    let (error, _) = refused(&site).await;
    assert!(error.contains("Connection refused"), "{error}");

    // One that takes the connection and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = silent.local_addr().expect("bound");
    site.set("BROKER__URL", &format!("amqp://u:{PASSWORD}@{address}/%2f"));
    site.set("BROKER__CONNECT_TIMEOUT", "200ms");
    let (error, _) = refused(&site).await;
    assert!(
        error.contains("connecting: no answer within 200ms"),
        "{error}"
    );
    assert!(!error.contains(PASSWORD), "{error}");
}

#[tokio::test]
async fn a_confirm_that_got_lost_is_an_error_and_the_same_can_be_run_again() {
    for moment in [Moment::BeforeTheServerHasIt, Moment::WhenTheServerAnswers] {
        let mut site = declared().await;
        let proxy = ChaosProxy::start(site.broker.url()).await;
        site.set("BROKER__URL", &proxy.url());
        let line = good_line();
        proxy.cut_when_client_sends(line.as_bytes(), moment, 1);
        let args = ["publish", "--file", "-"];
        let ran = site.run_with_input(&args, &line).await;
        assert!(
            ran.refused(1)
                .contains("confirmed 0 of 1 event; not confirmed: "),
            "{ran:#?}"
        );
        assert!(ran.notes().contains("run it again"), "{ran:#?}");
        assert_eq!(proxy.cuts(), 1);

        site.run_with_input(&args, &line).await.done();
        let bodies = in_the_queue(&site).await;
        assert!(
            bodies.len() <= 2 && bodies.contains(&line.into_bytes()),
            "{moment:?}: {bodies:?}"
        );
    }
}

#[tokio::test]
async fn a_wrong_password_is_an_error_that_does_not_show_it() {
    let mut site = declared().await;
    let (_, server) = site.broker.url().rsplit_once('@').expect("a user");
    let url = format!("amqp://nobody:{PASSWORD}@{server}");
    site.set("BROKER__URL", &url);
    let (error, _) = refused(&site).await;
    assert!(error.contains("ACCESS_REFUSED"), "{error}");
    assert!(error.contains("nobody"), "which user: {error}");
    assert!(!error.contains(PASSWORD), "{error}");

    let (_, database) = site.db.url().rsplit_once('@').expect("a user");
    let url = format!("postgres://nobody:{PASSWORD}@{database}");
    site.set("DATABASE__URL", &url);
    let company = Uuid::new_v4().to_string();
    for args in [&["balance", &company][..], &["migrate"]] {
        let ran = site.run(args).await;
        let error = ran.refused(1);
        assert!(
            error.contains("SQLSTATE 28") && error.contains("nobody"),
            "{error}"
        );
        assert!(!error.contains(PASSWORD), "{error}");
    }
}
