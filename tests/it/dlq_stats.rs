//! `dlq stats`: a person's overview, and a probe's exit code.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    command::keys,
    dead_letters::{malformed, refused},
    site::Site,
};

const STATS: [&str; 4] = ["dlq", "stats", "--output", "json"];

/// Three open dead letters, of which the oldest was archived half an hour ago, and a discarded one.
async fn site_with_dead_letters() -> Site {
    let site = Site::new().await;
    let company = site.company(0, 0).await;
    let ids = site
        .archive(&[
            refused(Uuid::new_v4(), company, 100),
            refused(Uuid::new_v4(), company, 20),
            malformed(b"{", "line 1"),
            malformed(b"}", "line 1"),
        ])
        .await;
    site.db
        .execute(format!(
            "update dead_letters set archived_at = archived_at - interval '30 minutes',
                                     last_arrived_at = last_arrived_at - interval '10 minutes' where id = {};
             update dead_letters set state = 'discarded', archived_at = archived_at - interval '1 day'
             where id = {}",
            ids[0], ids[3]
        ))
        .await;
    site
}

#[tokio::test]
async fn it_counts_what_is_open_what_arrived_and_what_still_waits() {
    let site = site_with_dead_letters().await;
    site.declare().await;
    let queue = site.broker.dead_letters();
    for body in [b"1", b"2"] {
        site.broker.publish_to_queue(&queue, body).await;
    }
    let stats = site.run(&STATS).await.document();
    assert_eq!(
        keys(&stats),
        [
            "arrivals_per_minute",
            "arrived_last_minute",
            "by_reason",
            "exceeded",
            "oldest_age_seconds",
            "open",
            "tokens",
            "unreadable",
            "waiting_in_queue"
        ]
    );
    assert_eq!((&stats["open"], &stats["tokens"]), (&json!(3), &json!(120)));
    assert_eq!(
        (&stats["waiting_in_queue"], &stats["exceeded"]),
        (&json!(2), &json!([]))
    );
    assert_eq!(stats["arrived_last_minute"], json!(3));
    assert_eq!(stats["arrivals_per_minute"], json!(4.0 / 15.0));
    let age = stats["oldest_age_seconds"].as_i64().expect("a number");
    assert!((1_800..1_900).contains(&age), "{age}");
    let reasons = stats["by_reason"].as_array().expect("a list");
    let figures = |one: &Value| ["reason", "open", "tokens"].map(|key| one[key].clone());
    assert_eq!(
        reasons.iter().map(figures).collect::<Vec<_>>(),
        [
            [json!("insufficient_balance"), json!(2), json!(120)],
            [json!("malformed"), json!(1), json!(0)]
        ]
    );
    let ran = site.run(&["dlq", "stats"]).await;
    assert!(
        ran.done().contains("not archived yet: 2 dead letters"),
        "{ran:#?}"
    );
    assert!(ran.done().contains("30m"), "{ran:#?}");
}

#[tokio::test]
async fn a_threshold_that_is_exceeded_is_exit_code_3_and_one_line_that_says_by_how_much() {
    let site = site_with_dead_letters().await;
    site.declare().await;
    for (thresholds, exceeded) in [
        (&["--max-open", "3"][..], &[][..]),
        (&["--max-age", "1h"], &[]),
        (&["--max-open", "2"], &["max_open"]),
        (&["--max-age", "10m"], &["max_age"]),
        (
            &["--max-open", "0", "--max-age", "29m"],
            &["max_open", "max_age"],
        ),
    ] {
        let ran = site.run(&[&STATS[..], thresholds].concat()).await;
        assert_eq!(ran.json()["exceeded"], json!(exceeded), "{ran:#?}");
        if exceeded.is_empty() {
            ran.done();
            assert_eq!(ran.notes(), "");
            continue;
        }
        let why = ran.failed(3);
        assert_eq!(why.lines().count(), 1, "{why}");
        for flag in exceeded {
            let flag = format!("over --{}", flag.replace('_', "-"));
            assert!(why.contains(&flag), "{why}");
        }
    }
    let why = site.run(&["dlq", "stats", "--max-open", "1"]).await;
    assert_eq!(why.failed(3), "too much: 3 open, 2 over --max-open 1\n");
    let why = site.run(&["dlq", "stats", "--max-age", "10m"]).await;
    assert_eq!(
        why.failed(3),
        "too much: the oldest is open for 30m, 20m over --max-age 10m\n"
    );
}

#[tokio::test]
async fn without_the_broker_the_queue_is_unknown_and_without_the_database_it_fails() {
    let site = site_with_dead_letters().await;
    // Nobody listens there, and nobody has declared the queue here.
    for broker in ["amqp://127.0.0.1:1/%2f", site.broker.url()] {
        let ran = site
            .run_in(&[("TOKEN_BILLING__BROKER__URL", broker)], &STATS)
            .await;
        assert_eq!(ran.document()["waiting_in_queue"], Value::Null);
        assert!(
            ran.notes()
                .starts_with("note: what waits in the queue is unknown"),
            "{ran:#?}"
        );
        assert_eq!(ran.notes().lines().count(), 1);
        let broker = ("TOKEN_BILLING__BROKER__URL", broker);
        let ran = site
            .run_in(&[broker], &["dlq", "stats", "--max-open", "1"])
            .await;
        ran.failed(3);
    }
    let nowhere = (
        "TOKEN_BILLING__DATABASE__URL",
        "postgres://127.0.0.1:1/none",
    );
    let ran = site
        .run_in(&[nowhere], &["dlq", "stats", "--max-open", "1"])
        .await;
    ran.refused(1);
}

#[tokio::test]
async fn an_empty_archive_is_good_news() {
    let site = Site::new().await;
    site.declare().await;
    let probe = ["dlq", "stats", "--max-open", "0", "--max-age", "0s"];
    let ran = site.run(&probe).await;
    assert!(ran.done().starts_with("no open dead letters\n"), "{ran:#?}");
    let stats = site.run(&STATS).await.document();
    assert_eq!(stats["oldest_age_seconds"], Value::Null);
}
