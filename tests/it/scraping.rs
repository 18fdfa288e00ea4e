//! Metrics of the whole installation: looked at once in a while, whatever is away.

use std::{sync::Arc, time::Duration};

use token_billing::{
    readiness::{Signs, watch_readiness},
    scrape::Scrape,
    telemetry::metrics::Metrics,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{
    dead_letters::{malformed, refused},
    eventually::{PATIENCE, eventually},
    pending::pending,
    proxy::ChaosProxy,
    samples::value,
    site::Site,
};

fn scrape(site: &Site) -> Arc<Scrape> {
    let settings = site.settings();
    let metrics = Arc::new(Metrics::new(&settings));
    Arc::new(Scrape::new(&settings, Arc::new(site.storage()), metrics))
}

#[tokio::test]
async fn gauges_tell_how_the_installation_stands() {
    let mut site = Site::new().await;
    site.set("OPS__REFRESH", "100ms");
    site.declare().await;
    let company = site.company(0, 1000).await;
    pending(&site, company, 5, 90).await;
    site.archive(&[
        malformed(b"{", "no JSON"),
        malformed(b"[", "no JSON"),
        refused(Uuid::new_v4(), company, 5000),
    ])
    .await;
    site.db
        .execute(
            "update dead_letters set archived_at = now() - interval '1 hour' where reason = 'insufficient_balance';
             update dead_letters set reason = 'Somebody''s \"own\"' where id = (select min(id) from dead_letters)",
        )
        .await;
    site.publish(Uuid::new_v4(), company, 1).await;
    let dead_letters = site.broker.dead_letters();
    site.broker.publish_to_queue(&dead_letters, "x").await;
    let scrape = scrape(&site);
    let seen = eventually(
        "both queues have one",
        PATIENCE,
        async || scrape.answer().await,
        |text| {
            value(text, "queue_messages{queue=\"deductions\"}") == 1.0
                && value(text, "dead_letters_unarchived") == 1.0
        },
    )
    .await;
    for (series, expected) in [
        ("pending_deductions", 1.0),
        ("dead_letters_open{reason=\"malformed\"}", 1.0),
        ("dead_letters_open{reason=\"insufficient_balance\"}", 1.0),
        ("dead_letters_open{reason=\"other\"}", 1.0),
        ("queue_messages{queue=\"dead-letters\"}", 1.0),
        ("queue_messages{queue=\"deductions.retry.1000ms\"}", 0.0),
        ("status_up{source=\"database\"}", 1.0),
        ("status_up{source=\"broker\"}", 1.0),
    ] {
        assert_eq!(value(&seen, series), expected, "{series} in {seen}");
    }
    let oldest = value(&seen, "pending_oldest_seconds");
    assert!((5400.0..5500.0).contains(&oldest), "{oldest}");
    // The parked one is older.
    assert!(value(&seen, "dead_letter_oldest_seconds") < 1000.0);
    assert!(value(&seen, "status_timestamp_seconds{source=\"broker\"}") > 1.7e9);
    scrape.close().await;
}

#[tokio::test]
async fn the_installation_is_looked_at_once_in_a_while_however_often_it_is_scraped() {
    let mut site = Site::new().await;
    site.set("OPS__REFRESH", "1h");
    let scrape = scrape(&site);
    let answers = futures_util::future::join_all((0..50).map(|_| scrape.answer())).await;
    for text in &answers {
        assert_eq!(value(text, "status_up{source=\"database\"}"), 1.0, "{text}");
    }
    site.archive(&[malformed(b"{", "no JSON")]).await;
    let text = scrape.answer().await;
    assert_eq!(value(&text, "dead_letters_open{reason=\"malformed\"}"), 0.0);
    let connections = site
        .number("select count(*) from pg_stat_activity where datname = current_database()")
        .await;
    assert!(connections <= 4, "{connections} for 51 scrapes");
    scrape.close().await;
}

#[tokio::test]
async fn while_the_database_hangs_or_is_away_a_scrape_answers_with_what_was_seen_before() {
    let mut site = Site::new().await;
    let proxy = ChaosProxy::start(site.db.url()).await;
    site.set("DATABASE__URL", &proxy.url());
    site.set("OPS__REFRESH", "100ms");
    site.archive(&[malformed(b"{", "no JSON")]).await;
    let scrape = scrape(&site);
    let seen = scrape.answer().await;
    assert_eq!(
        value(&seen, "status_up{source=\"database\"}"),
        1.0,
        "{seen}"
    );
    // A lock that nobody can look past.
    let mut hanging = site.db.pool().begin().await.expect("a transaction");
    sqlx::query("lock table dead_letters in access exclusive mode")
        .execute(&mut *hanging)
        .await
        .expect("locked");
    for away in [false, true] {
        if away {
            proxy.refuse().await;
        }
        eventually(
            "it says so, and what it saw",
            PATIENCE,
            async || {
                let answer = tokio::time::timeout(Duration::from_secs(3), scrape.answer());
                answer.await.expect("no scrape waits for the database")
            },
            |text| {
                value(text, "status_up{source=\"database\"}") == 0.0
                    && value(text, "dead_letters_open{reason=\"malformed\"}") == 1.0
                    && value(text, "status_up{source=\"broker\"}") == 1.0
            },
        )
        .await;
    }
    hanging.rollback().await.expect("unlocked");
    proxy.restore().await;
    eventually(
        "it is seen again",
        PATIENCE,
        async || scrape.answer().await,
        |text| value(text, "status_up{source=\"database\"}") == 1.0,
    )
    .await;
    scrape.close().await;
}

#[tokio::test]
async fn readiness_is_told_part_by_part_of_what_the_process_does() {
    let site = Site::new().await;
    let metrics = Arc::new(Metrics::new(&site.settings()));
    let (charges, charging) = watch::channel(false);
    let signs = Signs {
        database: site.storage().trouble(),
        charging: Some(charging),
        archiving: None,
        backlog: None,
        alarm: None,
        refused: Vec::new(),
    };
    let (told, stop) = (watch::Sender::default(), CancellationToken::new());
    let watching = watch_readiness(signs, &told, &metrics, &stop);
    let looking = async {
        for (is_charging, expected) in [(false, 0.0), (true, 1.0), (false, 0.0)] {
            charges.send_replace(is_charging);
            let text = eventually(
                "it is told",
                PATIENCE,
                async || metrics.render(),
                |text| {
                    text.contains("part=\"charging\"")
                        && value(text, "ready{part=\"charging\"}") == expected
                },
            )
            .await;
            assert_eq!(value(&text, "ready{part=\"database\"}"), 1.0);
            assert!(!text.contains("part=\"archiving\""), "{text}");
        }
        stop.cancel();
    };
    tokio::join!(watching, looking);
}
