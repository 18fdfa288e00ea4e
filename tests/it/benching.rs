//! `bench` with as little of everything as it takes: what it prints is there to be read, and nothing is left behind.

use serde_json::Value;

use crate::support::command::Ran;
use crate::support::eventually::{PATIENCE, eventually};
use crate::support::process::Process;
use crate::support::site::Site;

const LITTLE: [&str; 11] = [
    "bench",
    "--events=1000",
    "--companies=20",
    "--rounds=1",
    "--steady=1",
    "--flood=1000",
    "--records=1000",
    "--keys=v7",
    "--fsync-dir",
    env!("CARGO_TARGET_TMPDIR"),
    "--output=json",
];

/// Those that were not there `before`.
async fn scratch_databases(site: &Site, before: &[String]) -> Vec<String> {
    sqlx::query_scalar(
        "select datname::text from pg_database where datname like 'token_billing_bench_%' and datname <> all ($1)",
    )
    .bind(before)
    .fetch_all(site.db.pool())
    .await
    .expect("listed")
}

/// Every number in it.
fn figures(document: &Value) -> Vec<f64> {
    match document {
        Value::Array(values) => values.iter().flat_map(figures).collect(),
        Value::Object(fields) => fields.values().flat_map(figures).collect(),
        other => other.as_f64().into_iter().collect(),
    }
}

#[tokio::test]
async fn it_measures_and_leaves_nothing_behind() {
    let site = Site::new().await;
    let before = scratch_databases(&site, &[]).await;
    let left = async || scratch_databases(&site, &before).await;
    let picture = format!("{}/bench.svg", env!("CARGO_TARGET_TMPDIR"));
    let args = [&LITTLE[..], &["--svg", &picture]].concat();
    let document = Ran::to_its_end(&args, &site.environment(), b"")
        .await
        .document();
    for measured in [
        "floor",
        "floor_of_one_company",
        "function_1_connection",
        "function_2_connections",
        "backlog",
        "backlog_of_one_company",
        "backlog_with_one_locked",
        "one_by_one",
        "latency",
        "locked",
        "flood",
        "processes",
        "reads",
        "holds",
        "upkeep",
        "records",
        "batch_sizes",
    ] {
        let figures = figures(&document[measured]);
        assert!(!figures.is_empty(), "{measured} in {document:#}");
        assert!(
            figures.iter().all(|&figure| figure > 0.0),
            "{measured} in {document:#}"
        );
    }
    let picture = std::fs::read_to_string(picture).expect("drawn");
    assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"));
    assert_eq!(left().await, [""; 0]);

    let args = ["bench", "--events=1000000", "--only=backlog"];
    let mut interrupted = Process::start(&args, &site.environment());
    interrupted
        .wait_for_log("backlogs, end to end", PATIENCE)
        .await;
    eventually("a scratch database", PATIENCE, &left, |names| {
        !names.is_empty()
    })
    .await;
    interrupted.signal("INT").await;
    assert_eq!(interrupted.wait(PATIENCE).await, Some(1));
    assert_eq!(left().await, [""; 0]);
}
