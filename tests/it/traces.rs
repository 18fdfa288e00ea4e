//! Traces: a batch is linked to the traces of its events, wherever these have been; and no collector is waited for.

use std::{sync::Arc, time::Duration};

use axum::{Router, middleware::from_fn_with_state, routing::get};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};
use token_billing::telemetry::{metrics::Metrics, requests};
use tokio::time::Instant;
use uuid::Uuid;

use crate::support::{
    broker::event_properties,
    collector::{Collector, hex, links, text},
    eventually::{PATIENCE, eventually},
    process::Process,
    samples::value,
    site::{Site, event},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn traced(trace: &str, span: &str) -> BasicProperties {
    let mut headers = FieldTable::default();
    let parent = format!("00-{trace}-{span}-01");
    headers.insert("traceparent".into(), AMQPValue::LongString(parent.into()));
    event_properties().with_headers(headers)
}

/// A process that sends its spans there, soon.
fn serve(site: &Site, url: &str, more: &[(&str, &str)]) -> Process {
    let mut environment = site.environment();
    environment.push(("OTEL_EXPORTER_OTLP_ENDPOINT", url));
    environment.push(("OTEL_BSP_SCHEDULE_DELAY", "50"));
    environment.extend(more);
    Process::start(&["serve"], &environment)
}

#[tokio::test]
async fn a_batch_is_linked_to_the_traces_of_its_events_and_its_database_call_is_part_of_it() {
    let (site, collector) = (Site::new().await, Collector::start().await);
    site.declare().await;
    let company = site.company(0, 10_000).await;
    // Together before there is a worker, and more than a span has links by default.
    let job = Uuid::new_v4();
    for n in 1..=300 {
        let trace = format!("{n:032x}");
        let event = event(Uuid::new_v4(), company, 1).to_string();
        site.broker.publish_with(event, traced(&trace, SPAN)).await;
    }
    let mut process = serve(&site, &collector.url(), &[]);
    process.wait_for_log("consuming", PATIENCE).await;
    let last = event(job, company, 1).to_string();
    site.broker.publish_with(last, traced(TRACE, SPAN)).await;
    let batch = collector.linked(TRACE, SPAN, 1).await.remove(0);
    assert_eq!(batch.name, "charge batch");
    assert!(batch.parent_span_id.is_empty(), "linked, not a child");
    assert_ne!(hex(&batch.trace_id), TRACE);
    let queue = site.broker.work_queue();
    let named = text(&batch.attributes, "messaging.destination.name");
    assert_eq!(named, Some(queue));
    let calls = eventually(
        "its call",
        PATIENCE,
        async || collector.spans(),
        |spans| spans.iter().any(|one| one.parent_span_id == batch.span_id),
    )
    .await;
    let call = calls.iter().find(|one| one.parent_span_id == batch.span_id);
    let call = call.expect("found");
    assert_eq!(
        (&*call.name, &call.trace_id),
        ("charge_events", &batch.trace_id)
    );
    let system = text(&call.attributes, "db.system.name");
    assert_eq!(system.as_deref(), Some("postgresql"));
    // Flushed at its end, if not before: none of the links is missing.
    process.terminate().await;
    assert_eq!(process.wait(PATIENCE).await, Some(0));
    let linked: Vec<_> = collector.spans().iter().flat_map(links).collect();
    for n in 1..=300 {
        let link = (format!("{n:032x}"), SPAN.to_owned());
        assert!(linked.contains(&link), "{n} of {linked:?}");
    }
    assert_eq!(linked.len(), 301, "each once");
    let services = collector.services();
    assert!(
        services.iter().all(|name| name == "token-billing"),
        "{services:?}"
    );
}

#[tokio::test]
async fn the_link_outlives_a_delay_and_a_replay() {
    let (site, collector) = (Site::new().await, Collector::start().await);
    site.declare().await;
    let mut process = serve(
        &site,
        &collector.url(),
        &[("OTEL_SERVICE_NAME", "billing-eu")],
    );
    process.wait_for_log("consuming", PATIENCE).await;
    // Nobody knows its company yet: delayed.
    let (job, company) = (Uuid::new_v4(), Uuid::new_v4());
    let unnamed = json!({ "job_id": job, "tokens": 10 }).to_string();
    site.broker.publish_with(unnamed, traced(TRACE, SPAN)).await;
    collector.linked(TRACE, SPAN, 1).await;
    // Now it names one that doesn't exist: dead when it comes back.
    site.db
        .execute(format!(
            "insert into article_jobs (id, company_id, status) values ('{job}', '{company}', 'running')"
        ))
        .await;
    collector.linked(TRACE, SPAN, 2).await;
    site.archived(1).await;
    site.db.add_company(company, 0, 100).await;
    let replay = ["dlq", "replay", "--all", "--yes"];
    site.run(&replay).await.done();
    site.until(job, "completed").await;
    let linked = collector.linked(TRACE, SPAN, 3).await;
    assert!(linked.iter().all(|span| span.name == "charge batch"));
    assert_eq!(
        collector.services().first().map(String::as_str),
        Some("billing-eu")
    );
    process.terminate().await;
    assert_eq!(process.wait(PATIENCE).await, Some(0));
}

#[tokio::test]
async fn log_lines_of_a_span_carry_its_ids_in_either_form() {
    for format in ["json", "text"] {
        let (mut site, collector) = (Site::new().await, Collector::start().await);
        site.set("LOG__FORMAT", format);
        site.declare().await;
        let mut process = serve(&site, &collector.url(), &[]);
        let nobody = event(Uuid::new_v4(), Uuid::new_v4(), 10).to_string();
        site.broker.publish_with(nobody, traced(TRACE, SPAN)).await;
        let line = process.wait_for_log("dead-lettered", PATIENCE).await;
        let span = collector.linked(TRACE, SPAN, 1).await.remove(0);
        let (trace_id, span_id) = (hex(&span.trace_id), hex(&span.span_id));
        if format == "json" {
            let line: Value = serde_json::from_str(&line).expect("one object");
            assert_eq!(line["trace_id"], trace_id, "{line}");
            assert_eq!(line["span_id"], span_id, "{line}");
            assert_eq!(line["message"], "dead-lettered", "{line}");
            // The publisher's, as ever.
            assert_eq!(line["trace.id"], TRACE, "{line}");
        } else {
            let ids = format!(" trace_id={trace_id} span_id={span_id}");
            assert!(line.ends_with(&ids), "{line}");
        }
        let started = process
            .log()
            .into_iter()
            .find(|line| line.contains("started"));
        let started = started.expect("it has started");
        assert!(!started.contains("span_id"), "in no span: {started}");
        process.terminate().await;
        assert_eq!(process.wait(PATIENCE).await, Some(0));
    }
}

#[tokio::test]
async fn a_collector_that_hangs_or_is_away_is_waited_for_by_nobody() {
    let hanging = Collector::that_hangs().await;
    // Nobody listens there.
    for url in [hanging.url(), "http://127.0.0.1:9".to_owned()] {
        let site = Site::new().await;
        let company = site.company(0, 10_000).await;
        site.declare().await;
        let mut process = serve(&site, &url, &[("OTEL_EXPORTER_OTLP_TIMEOUT", "20000")]);
        process.wait_for_log("consuming", PATIENCE).await;
        for _ in 0..20 {
            let job = Uuid::new_v4();
            let event = event(job, company, 1).to_string();
            site.broker.publish_with(event, traced(TRACE, SPAN)).await;
            site.until(job, "completed").await;
        }
        let began = Instant::now();
        process.terminate().await;
        assert_eq!(process.wait(PATIENCE).await, Some(0), "{url}");
        let took = began.elapsed();
        assert!(took < Duration::from_secs(8), "{url}: {took:?}");
        assert_eq!(site.balance(company).await, (0, 9_980));
    }
}

#[tokio::test]
async fn what_the_environment_says_wrong_is_refused_by_name() {
    let site = Site::new().await;
    for (name, value, problem) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318", "is no URL"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[", "OTLP_ENDPOINT"),
        (
            "OTEL_EXPORTER_OTLP_TIMEOUT",
            "10s",
            "\"10s\" is not a whole number of milliseconds",
        ),
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "grpc",
            "\"grpc\" is not http/protobuf",
        ),
    ] {
        let mut environment = site.environment();
        environment.push(("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"));
        environment.push((name, value));
        let mut process = Process::start(&["serve"], &environment);
        assert_eq!(process.wait(PATIENCE).await, Some(1), "{name}={value}");
        let log = process.log().join("\n");
        assert!(log.contains(name) && log.contains(problem), "{log}");
    }
}

#[tokio::test]
async fn a_request_is_counted_by_the_route_that_it_matched() {
    let metrics = Arc::new(Metrics::new(&Site::new().await.settings()));
    let router = Router::new()
        .route("/v1/jobs/{job_id}", get(async || "found"))
        .layer(from_fn_with_state(metrics.clone(), requests::observe));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port");
    let address = listener.local_addr().expect("an address");
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    for path in ["v1/jobs/1", "v1/jobs/2", "nowhere"] {
        let url = format!("http://{address}/{path}");
        reqwest::get(url).await.expect("an answer");
    }
    let text = metrics.render();
    let matched = "route=\"/v1/jobs/{job_id}\",method=\"GET\",status=\"200\"";
    let other = "route=\"other\",method=\"GET\",status=\"404\"";
    assert_eq!(
        value(&text, &format!("http_requests_total{{{matched}}}")),
        2.0
    );
    assert_eq!(
        value(&text, &format!("http_requests_total{{{other}}}")),
        1.0
    );
    serving.abort();
}
