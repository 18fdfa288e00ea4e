//! Metrics: all of them are in the reference, and what happens is counted.

use std::{fs, path::Path, sync::Arc, time::Duration};

use serde_json::json;
use token_billing::{
    operations::{
        Actor, Operations,
        replay::{ReplayOrder, ReplaySelection},
    },
    storage::Selection,
    sweeper::{self, Sweeper},
    telemetry::metrics::Metrics,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{
    dead_letters::refused,
    eventually::{PATIENCE, eventually},
    pending::{pending, pending_for_nothing},
    process::Process,
    samples::{samples, value},
    site::{Site, event},
};

/// As the reference has them: name, type, label names, meaning.
type Described = (String, String, Vec<String>, String);

fn exported(text: &str) -> Vec<Described> {
    let samples = samples(text);
    let labels = |name: &str| {
        let of_it = |series: &&String| {
            let series = series.split('{').next().expect("a name");
            let base = ["_bucket", "_sum", "_count"].iter();
            let mut base = base.filter_map(|end| series.strip_suffix(end));
            series == name || base.any(|base| base == name)
        };
        let series = samples.keys().find(of_it).expect("a sample");
        let inside = series.split_once('{').map_or("", |(_, inside)| inside);
        let pairs = inside.trim_end_matches('}').split("\",");
        let names = pairs.filter_map(|pair| pair.split_once("=\""));
        let mut names: Vec<String> = names.map(|(name, _)| name.to_owned()).collect();
        names.retain(|name| name != "le");
        names.sort();
        names
    };
    let mut described = Vec::new();
    let mut meaning = None;
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            meaning = help.split_once(' ').map(|(_, meaning)| meaning.to_owned());
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("name and type");
            let meaning = meaning
                .take()
                .unwrap_or_else(|| panic!("no HELP of {name}"));
            described.push((name.to_owned(), kind.to_owned(), labels(name), meaning));
        }
    }
    described.sort();
    described
}

fn in_the_reference() -> Vec<Described> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/REFERENCE.md");
    let text = fs::read_to_string(path).expect("the reference");
    let rows = text
        .lines()
        .filter(|line| line.starts_with("| `token_billing_"));
    let mut described: Vec<Described> = rows
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let [name, kind, labels, _unit, meaning] = cells[..] else {
                panic!("{row}")
            };
            let labels = labels.split(", ").filter(|label| !label.is_empty());
            let mut labels: Vec<String> = labels
                .map(|label| label.trim_matches('`').to_owned())
                .collect();
            labels.sort();
            let name = name.trim_matches('`').to_owned();
            let meaning = meaning.replace('`', "");
            (name, kind.to_owned(), labels, meaning)
        })
        .collect();
    described.sort();
    described
}

#[tokio::test]
async fn the_reference_has_every_metric_with_its_type_labels_and_meaning() {
    let metrics = Metrics::new(&Site::new().await.settings());
    metrics.ready("database", true);
    metrics.expect_http("/healthz", "GET", &[200]);
    assert_eq!(in_the_reference(), exported(&metrics.render()));
}

#[tokio::test]
async fn every_series_that_can_be_known_is_there_at_0_from_the_start() {
    let metrics = Metrics::new(&Site::new().await.settings());
    let text = metrics.render();
    let samples = samples(&text);
    for series in [
        "charges_total{outcome=\"charged\"}",
        "charges_total{outcome=\"insufficient_balance\"}",
        "charges_total{outcome=\"locked\"}",
        "retries_total{step=\"1000ms\"}",
        "retries_total{step=\"4000ms\"}",
        "dead_lettered_total{reason=\"retries_exhausted\"}",
        "dead_letters_open{reason=\"delivery_limit\"}",
        "queue_messages{queue=\"deductions\"}",
        "queue_messages{queue=\"deductions.retry.2000ms\"}",
        "queue_messages{queue=\"unreadable\"}",
        "sweeps_total{result=\"failed\"}",
        "replayed_total{result=\"failed_again\"}",
        "event_age_seconds_count",
        "charge_duration_seconds_bucket{le=\"0.001\"}",
        "batch_size_sum",
        "holds_open",
        "audit_violations",
    ] {
        assert_eq!(value(&text, series), 0.0, "{series}");
    }
    let not_0 = samples.iter().filter(|(_, value)| **value != 0.0);
    let not_0: Vec<&str> = not_0.map(|(series, _)| series.as_str()).collect();
    let version = env!("CARGO_PKG_VERSION");
    let build_info = format!("token_billing_build_info{{version=\"{version}\"}}");
    assert_eq!(not_0, [build_info]);
}

#[tokio::test]
async fn what_becomes_of_events_is_counted() {
    let site = Site::new().await;
    let (rich, poor) = (site.company(0, 1000).await, site.company(0, 1).await);
    let running = site.start().await;
    let job = Uuid::new_v4();
    let now = time::OffsetDateTime::now_utc() - Duration::from_secs(40);
    let now = now
        .format(&time::format_description::well_known::Rfc3339)
        .expect("a time");
    let mut timed = event(job, rich, 300);
    timed["occurred_at"] = json!(now);
    site.broker.publish(timed.to_string()).await;
    site.until(job, "completed").await;
    site.broker.publish(timed.to_string()).await;
    site.publish(Uuid::new_v4(), poor, 2).await;
    site.publish(Uuid::new_v4(), Uuid::new_v4(), 2).await;
    site.broker.publish("no JSON").await;
    // Its company is known to nobody: it is tried again.
    let unnamed = json!({"job_id": Uuid::new_v4(), "tokens": 1}).to_string();
    site.broker.publish(unnamed).await;
    eventually(
        "all are processed",
        PATIENCE,
        async || running.counts(),
        |counts| counts.duplicates == 1 && counts.dead_lettered == 3 && counts.delayed == 1,
    )
    .await;
    let text = running.metrics.render();
    for (series, expected) in [
        ("charges_total{outcome=\"charged\"}", 1.0),
        ("charges_total{outcome=\"duplicate\"}", 1.0),
        ("charges_total{outcome=\"insufficient_balance\"}", 1.0),
        ("charges_total{outcome=\"company_not_found\"}", 1.0),
        ("charges_total{outcome=\"malformed\"}", 1.0),
        ("charges_total{outcome=\"job_not_found\"}", 1.0),
        ("charged_tokens_total", 300.0),
        ("retries_total{step=\"1000ms\"}", 1.0),
        ("retries_total{step=\"2000ms\"}", 0.0),
        ("dead_lettered_total{reason=\"malformed\"}", 1.0),
        ("dead_lettered_total{reason=\"insufficient_balance\"}", 1.0),
        ("dead_lettered_total{reason=\"company_not_found\"}", 1.0),
        ("charge_fallbacks_total", 0.0),
        ("charge_duration_seconds_count", 1.0),
        ("event_age_seconds_bucket{le=\"30\"}", 0.0),
        ("event_age_seconds_bucket{le=\"60\"}", 1.0),
    ] {
        assert_eq!(value(&text, series), expected, "{series} in {text}");
    }
    assert!(value(&text, "batch_size_sum") >= 6.0, "{text}");
    for id in [rich, poor, job] {
        assert!(!text.contains(&id.to_string()), "{id} in {text}");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_trigger_that_breaks_the_fast_way_is_counted_and_told() {
    let site = Site::new().await;
    let company = site.company(0, 1000).await;
    let (first, second) = (site.job(company).await, site.job(company).await);
    site.db
        .execute(
            "create function refuse() returns trigger language plpgsql as
                 $$ begin raise exception 'not on a sunday'; end $$;
             create trigger refuse before update on article_jobs for each row execute function refuse()",
        )
        .await;
    let running = site.start().await;
    site.publish(first, company, 10).await;
    site.until(first, "completed").await;
    let counts = async || running.counts();
    eventually("it is counted", PATIENCE, counts, |counts| {
        (counts.charged, counts.job_status_errors) == (1, 1)
    })
    .await;
    let text = running.metrics.render();
    assert_eq!(value(&text, "charge_fallbacks_total"), 1.0);
    running.stop().await;

    let mut process = Process::start(&["serve", "--role", "worker"], &site.environment());
    site.publish(second, company, 10).await;
    let line = process.wait_for_log("the fast way", PATIENCE).await;
    assert!(line.contains("not on a sunday"), "{line}");
    site.until(second, "completed").await;
    process.terminate().await;
    assert_eq!(process.wait(PATIENCE).await, Some(0));
}

#[tokio::test]
async fn what_a_sweep_did_is_counted() {
    let mut site = Site::new().await;
    site.set("SWEEPER__INTERVAL", "1h");
    let company = site.company(0, 1000).await;
    pending(&site, company, 5, 90).await;
    pending_for_nothing(&site, company, 90).await;
    let (settings, stop) = (site.settings(), CancellationToken::new());
    let metrics = Arc::new(Metrics::new(&settings));
    let sweeper = Sweeper::new(&settings, Arc::new(site.storage()));
    let running = tokio::spawn(sweeper::run(sweeper, metrics.clone(), stop.clone()));
    let text = eventually(
        "a pass is counted",
        PATIENCE,
        async || metrics.render(),
        |text| value(text, "sweeps_total{result=\"done\"}") == 1.0,
    )
    .await;
    assert_eq!(value(&text, "swept_total{result=\"charged\"}"), 1.0);
    assert_eq!(value(&text, "swept_total{result=\"written_off\"}"), 1.0);
    assert_eq!(value(&text, "written_off_tokens_total"), 70.0);
    assert!(value(&text, "sweep_last_success_timestamp_seconds") > 1.7e9);
    stop.cancel();
    running.await.expect("no panic");
}

#[tokio::test]
async fn what_a_replay_did_is_counted() {
    let site = Site::new().await;
    let company = site.company(0, 1000).await;
    site.archive(&[
        refused(Uuid::new_v4(), company, 500),
        refused(Uuid::new_v4(), company, 5000),
    ])
    .await;
    let running = site.start().await;
    let archiving = site.archive_running().await;
    let metrics = Arc::new(Metrics::new(&site.settings()));
    let operations = Operations::open(&site.settings()).await.expect("reached");
    let operations = Arc::new(operations.counted(metrics.clone()));
    let selection = ReplaySelection::new(Selection::default(), true).expect("selected");
    let plan = operations.plan_replay(selection).await.expect("a plan");
    let order = ReplayOrder {
        actor: Actor::new("ann").expect("a name"),
        note: None,
        rate: None,
        canary: None,
        wait: true,
    };
    let replay = operations.replay(plan, order).await.expect("it begins");
    replay.report().await.expect("it ends");
    let text = metrics.render();
    assert_eq!(value(&text, "replayed_total{result=\"sent\"}"), 2.0);
    assert_eq!(value(&text, "replayed_total{result=\"failed_again\"}"), 1.0);
    let archived = archiving.metrics.render();
    assert_eq!(value(&archived, "dead_letters_archived_total"), 1.0);
    operations.close().await;
    archiving.stop().await;
    running.stop().await;
}

#[tokio::test]
async fn requests_are_counted_by_route_and_no_caller_can_invent_a_series() {
    let metrics = Metrics::new(&Site::new().await.settings());
    metrics.expect_http("/v1/jobs/{job_id}", "GET", &[200, 404]);
    let took = Duration::from_millis(30);
    metrics.http(Some("/v1/jobs/{job_id}"), "GET", 200, took);
    for n in 0..10 {
        metrics.http(None, &format!("INVENTED{n}"), 404, took);
    }
    let text = metrics.render();
    for (series, expected) in [
        (
            "http_requests_total{route=\"/v1/jobs/{job_id}\",method=\"GET\",status=\"200\"}",
            1.0,
        ),
        (
            "http_requests_total{route=\"/v1/jobs/{job_id}\",method=\"GET\",status=\"404\"}",
            0.0,
        ),
        (
            "http_requests_total{route=\"other\",method=\"other\",status=\"404\"}",
            10.0,
        ),
        (
            "http_request_duration_seconds_bucket{route=\"other\",le=\"0.05\"}",
            10.0,
        ),
    ] {
        assert_eq!(value(&text, series), expected, "{series} in {text}");
    }
}

#[tokio::test]
async fn histograms_need_no_scrape_to_stay_small() {
    let metrics = Metrics::new(&Site::new().await.settings());
    for _ in 0..200_000 {
        metrics.asked(3);
    }
    let text = metrics.render();
    assert_eq!(value(&text, "batch_size_count"), 200_000.0);
    assert_eq!(value(&text, "batch_size_sum"), 600_000.0);
}
