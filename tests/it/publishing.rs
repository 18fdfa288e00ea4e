//! `publish`: what it takes, and exactly what then lies in the work queue.

use std::io::Write as _;

use serde_json::json;
use tempfile::NamedTempFile;
use uuid::Uuid;

use crate::support::{
    broker::Message,
    command::keys,
    eventually::{PATIENCE, eventually},
    process::Process,
    site::{DELAYS, Site, event},
};

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const PLAIN: &str = "application/json";
const CLOUD_EVENT: &str = "application/cloudevents+json";

async fn declared() -> Site {
    let site = Site::new().await;
    site.declare().await;
    site
}

fn id() -> String {
    Uuid::new_v4().to_string()
}

/// Content type and body of everything in the work queue.
async fn published(site: &Site) -> Vec<(String, String)> {
    let messages = site.broker.take_all(&site.broker.work_queue()).await;
    messages.into_iter().map(content).collect()
}

fn content(message: Message) -> (String, String) {
    assert_eq!(*message.properties.delivery_mode(), Some(2), "persistent");
    assert_eq!(message.header("attempt"), None, "a first attempt");
    let content_type = message.properties.content_type().as_ref();
    let content_type = content_type.expect("a content type").to_string();
    let body = String::from_utf8(message.body).expect("UTF-8");
    (content_type, body)
}

fn plain(body: impl Into<String>) -> (String, String) {
    (PLAIN.to_owned(), body.into())
}

fn file(bytes: impl AsRef<[u8]>) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes.as_ref()).expect("written");
    file
}

fn path(file: &NamedTempFile) -> &str {
    file.path().to_str().expect("UTF-8")
}

#[tokio::test]
async fn a_ci_step_publishes_from_its_environment() {
    let site = declared().await;
    let (job, company, article) = (id(), id(), id());
    let variables = [
        ("JOB_ID", job.as_str()),
        ("TOKEN_AMOUNT", " 15000\n"),
        ("COMPANY_ID", &company),
        ("ARTICLE_ID", &article),
        ("TRACEPARENT", TRACEPARENT),
        ("TRACESTATE", "ci=7"),
    ];
    let ran = site.run_in(&variables, &["publish"]).await;
    assert!(ran.done().starts_with("published 1 event in "), "{ran:#?}");
    assert_eq!(ran.notes(), "");

    let messages = site.broker.take_all(&site.broker.work_queue()).await;
    let [message] = <[Message; 1]>::try_from(messages).expect("one message");
    assert_eq!(message.header("traceparent").as_deref(), Some(TRACEPARENT));
    assert_eq!(message.header("tracestate").as_deref(), Some("ci=7"));
    let expected = format!(
        r#"{{"job_id":"{job}","tokens":15000,"company_id":"{company}","article_id":"{article}","usage_type":"article_generation","metadata":{{}}}}"#
    );
    assert_eq!(content(message), plain(expected));
}

#[tokio::test]
async fn a_variable_that_is_set_to_nothing_counts_as_absent() {
    let site = declared().await;
    let job = id();
    let empty = [
        ("COMPANY_ID", ""),
        ("ARTICLE_ID", "  "),
        ("TRACEPARENT", ""),
    ];
    let variables = [
        &[("JOB_ID", job.as_str()), ("TOKEN_AMOUNT", "1")],
        &empty[..],
    ]
    .concat();
    let ran = site.run_in(&variables, &["publish"]).await;
    ran.done();
    assert_eq!(ran.notes(), "");
    let body = format!(
        r#"{{"job_id":"{job}","tokens":1,"usage_type":"article_generation","metadata":{{}}}}"#
    );
    assert_eq!(published(&site).await, [plain(body)]);

    for (name, flag) in [("JOB_ID", "--job-id"), ("TOKEN_AMOUNT", "--tokens")] {
        for nothing in ["", " \n"] {
            let variables = [&variables[..], &[(name, nothing)]].concat();
            let ran = site.run_in(&variables, &["publish"]).await;
            let problem = format!("error: {flag} (or {name}) is missing");
            assert!(ran.refused(2).starts_with(&problem), "{ran:#?}");
        }
    }
    assert_eq!(published(&site).await, []);
}

#[tokio::test]
async fn flags_describe_an_event_whole_and_go_before_the_environment() {
    let site = declared().await;
    let (job, company, article) = (id(), id(), id());
    let metadata = r#"{"words": 1200.50, "model":"größer", "a":[]}"#;
    let others = id();
    let variables = [
        ("JOB_ID", others.as_str()),
        ("TOKEN_AMOUNT", "9"),
        ("COMPANY_ID", &others),
        ("ARTICLE_ID", &others),
        (
            "TRACEPARENT",
            "00-11111111111111111111111111111111-2222222222222222-00",
        ),
        ("TRACESTATE", "of=others"),
    ];
    let args = [
        ["--job-id", &job.to_uppercase()],
        ["--tokens", "10000000"],
        ["--company-id", &company],
        ["--article-id", &article],
        ["--usage-type", "image \"small\""],
        ["--occurred-at", "2026-11-21T10:00:00+01:00"],
        ["--metadata", metadata],
        ["--traceparent", TRACEPARENT],
    ];
    let args = [&["publish"][..], args.as_flattened()].concat();
    site.run_in(&variables, &args).await.done();

    let messages = site.broker.take_all(&site.broker.work_queue()).await;
    let [message] = <[Message; 1]>::try_from(messages).expect("one message");
    assert_eq!(message.header("traceparent").as_deref(), Some(TRACEPARENT));
    assert_eq!(message.header("tracestate"), None, "of another trace");
    let expected = format!(
        r#"{{"job_id":"{job}","tokens":10000000,"company_id":"{company}","article_id":"{article}","usage_type":"image \"small\"","occurred_at":"2026-11-21T10:00:00+01:00","metadata":{metadata}}}"#
    );
    assert_eq!(content(message), plain(expected));
}

#[tokio::test]
async fn a_broken_traceparent_costs_no_charge_unless_it_was_typed() {
    let site = declared().await;
    let variables = [
        ("JOB_ID", &*id()),
        ("TOKEN_AMOUNT", "1"),
        ("TRACEPARENT", "00-nonsense"),
    ];
    let ran = site.run_in(&variables, &["publish"]).await;
    ran.done();
    assert!(ran.notes().starts_with("warning: TRACEPARENT "), "{ran:#?}");
    let message = site.broker.take(&site.broker.work_queue()).await;
    assert_eq!(message.expect("published").header("traceparent"), None);

    let args = ["publish", "--traceparent", "00-nonsense"];
    let ran = site.run_in(&variables, &args).await;
    assert!(
        ran.refused(2).starts_with("error: --traceparent: "),
        "{ran:#?}"
    );
    assert_eq!(published(&site).await, []);
}

#[tokio::test]
async fn the_lines_of_a_file_are_published_byte_for_byte() {
    let site = declared().await;
    let first = format!(
        r#"{{ "tokens": 1,  "job_id":"{}", "later": [null] }}"#,
        id()
    );
    let cloud_event = format!(
        r#"{{"specversion":"1.0","type":"article.generation.completed","id":"1","source":"/writer","data":{{"job_id":"{}","tokens":2,"metadata":{{"é":"\u00e9"}}}}}}"#,
        id()
    );
    let last = event(Uuid::new_v4(), Uuid::new_v4(), 3).to_string();
    let file = file(format!("{first}\n\n \t{cloud_event} \r\n\r\n{last}"));
    let args = [
        "publish",
        "--file",
        path(&file),
        "--traceparent",
        TRACEPARENT,
    ];
    let ran = site.run(&args).await;
    assert!(ran.done().starts_with("published 3 events in "), "{ran:#?}");

    let messages = site.broker.take_all(&site.broker.work_queue()).await;
    let traceparents = messages.iter().map(|message| message.header("traceparent"));
    let traceparents: Vec<_> = traceparents.collect();
    assert_eq!(traceparents, vec![Some(TRACEPARENT.to_owned()); 3]);
    let contents: Vec<_> = messages.into_iter().map(content).collect();
    assert_eq!(
        contents,
        [
            plain(first),
            (CLOUD_EVENT.to_owned(), cloud_event),
            plain(last)
        ]
    );
}

#[tokio::test]
async fn standard_input_is_a_file_too_whatever_the_environment_says() {
    let site = declared().await;
    // More than are on their way at once.
    let events: Vec<String> = (1..=1100)
        .map(|tokens| event(Uuid::new_v4(), Uuid::nil(), tokens).to_string())
        .collect();
    let ran = site
        .run_with_input(&["publish", "--file", "-"], events.join("\n"))
        .await;
    assert!(
        ran.done().starts_with("published 1,100 events in "),
        "{ran:#?}"
    );
    let bodies: Vec<String> = published(&site)
        .await
        .into_iter()
        .map(|(_, body)| body)
        .collect();
    assert_eq!(bodies, events, "all of them, in order");

    let variables = [("JOB_ID", "42"), ("TOKEN_AMOUNT", "many")];
    let file = file(&events[0]);
    let args = ["publish", "--file", path(&file)];
    site.run_in(&variables, &args).await.done();
    assert_eq!(published(&site).await, [plain(events[0].as_str())]);
}

#[tokio::test]
async fn a_file_without_events_is_published_in_full() {
    let site = declared().await;
    let args = ["publish", "--file", "-", "--output", "json"];
    for nothing in ["", "\n \r\n"] {
        let report = site.run_with_input(&args, nothing).await.document();
        assert_eq!(
            (&report["published"], &report["events"]),
            (&json!(0), &json!(0))
        );
    }
}

#[tokio::test]
async fn programs_get_one_document_whose_keys_are_stable() {
    let site = declared().await;
    let variables = [("JOB_ID", &*id()), ("TOKEN_AMOUNT", "1")];
    let args = ["--output", "json", "publish"];
    let one = site.run_in(&variables, &args).await.document();
    let lines = [
        event(Uuid::new_v4(), Uuid::nil(), 1).to_string(),
        String::new(),
    ]
    .join("\n");
    let args = ["publish", "--file", "-", "--output", "json"];
    let many = site.run_with_input(&args, lines.repeat(7)).await.document();
    for (report, events) in [(&one, 1), (&many, 7)] {
        assert_eq!(
            keys(report),
            [
                "error",
                "events",
                "events_per_second",
                "published",
                "seconds",
                "unconfirmed_lines"
            ]
        );
        assert_eq!(report["published"], json!(events));
        assert_eq!(report["events"], json!(events));
        assert_eq!(report["unconfirmed_lines"], json!([]));
        assert_eq!(report["error"], json!(null));
        assert!(report["seconds"].is_f64() && report["events_per_second"].is_f64());
    }
}

#[tokio::test]
async fn a_serving_worker_charges_what_was_published() {
    let site = Site::new().await;
    let company = site.company(300, 1000).await;
    let mut serving = Process::start(&["serve"], &site.environment());
    let last_declared = site.broker.delay_queue(DELAYS[2]);
    eventually(
        "the service has declared its queues",
        PATIENCE,
        async || site.broker.ready_count(&last_declared).await,
        Option::is_some,
    )
    .await;

    let (company, job) = (company.to_string(), id());
    let variables = [
        ("JOB_ID", &*job),
        ("TOKEN_AMOUNT", "400"),
        ("COMPANY_ID", &company),
    ];
    site.run_in(&variables, &["publish"]).await.done();
    // A CI job that is run again.
    site.run_in(&variables, &["publish"]).await.done();
    let of_the_job = site.job(company.parse().expect("a UUID")).await;
    let args = [
        "publish",
        "--job-id",
        &of_the_job.to_string(),
        "--tokens",
        "100",
    ];
    site.run(&args).await.done();

    let args = ["balance", &company, "--output", "json"];
    let balance = eventually(
        "both are charged",
        PATIENCE,
        async || site.run(&args).await.document(),
        |balance| balance["total"] == json!(800),
    )
    .await;
    assert_eq!(
        (&balance["monthly"], &balance["purchased"]),
        (&json!(0), &json!(800))
    );
    assert_eq!(site.until(of_the_job, "completed").await.amount, 100);
    serving.terminate().await;
    assert_eq!(serving.wait(PATIENCE).await, Some(0));
    assert_eq!(
        site.number("select count(*) from token_usage_logs").await,
        2
    );
}
