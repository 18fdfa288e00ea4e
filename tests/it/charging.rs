//! From an event on the queue to the ledger, and what happens to the message.

use std::time::Duration;

use lapin::BasicProperties;
use serde_json::json;
use uuid::Uuid;

use crate::support::{
    eventually::{PATIENCE, eventually},
    site::{Site, event},
};

#[tokio::test]
async fn an_event_is_charged_monthly_first_and_its_job_completed() {
    let site = Site::new().await;
    let running = site.start().await;
    let company = site.company(300, 1000).await;
    let job = site.job(company).await;

    site.publish(job, company, 500).await;

    let record = site.until(job, "completed").await;
    assert_eq!(
        (record.monthly_deducted, record.purchased_deducted),
        (300, 200)
    );
    assert_eq!(
        (record.balance_before, record.balance_after),
        (Some(1300), Some(800))
    );
    assert_eq!(site.balance(company).await, (0, 800));
    assert_eq!(site.job_status(job).await, ("completed".to_owned(), None));
    running.stop().await;
}

#[tokio::test]
async fn the_same_event_a_thousand_times_is_charged_once() {
    let site = Site::new().await;
    site.declare().await;
    let company = site.company(0, 1_000_000).await;
    let (once, twice, often) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    site.publish(once, company, 7).await;
    for _ in 0..2 {
        site.publish(twice, company, 70).await;
    }
    // Across the four workers, and many in one batch.
    for _ in 0..1000 {
        site.publish(often, company, 700).await;
    }
    let running = site.start().await;
    eventually(
        "every copy is acked",
        PATIENCE,
        async || running.counts(),
        |tally| tally.charged + tally.duplicates == 1003,
    )
    .await;
    assert_eq!(running.counts().charged, 3);
    running.stop().await;
    assert_eq!(site.balance(company).await, (0, 1_000_000 - 777));
    assert_eq!(
        site.number("select count(*) from token_deduction_records")
            .await,
        3
    );
    assert_eq!(
        site.number("select count(*) from token_usage_logs").await,
        3
    );
    assert_eq!(
        site.number("select sum(token_amount)::bigint from token_usage_logs")
            .await,
        777
    );
}

#[tokio::test]
async fn an_unaffordable_article_is_refused_whole_and_its_message_is_dead() {
    let site = Site::new().await;
    let running = site.start().await;
    let company = site.company(40, 60).await;
    let job = site.job(company).await;

    site.publish(job, company, 500).await;

    let dead_letter = site.dead_letter().await;
    assert_eq!(
        dead_letter.header("reason").as_deref(),
        Some("insufficient_balance")
    );
    assert_eq!(
        dead_letter.body,
        event(job, company, 500).to_string().into_bytes()
    );
    let record = site.record(job).await.expect("recorded");
    assert_eq!(
        (record.status.as_str(), record.error_code.as_deref()),
        ("failed", Some("insufficient_balance"))
    );
    assert_eq!(site.balance(company).await, (40, 60));
    assert_eq!(
        site.number("select count(*) from token_usage_logs").await,
        0
    );
    let (status, message) = site.job_status(job).await;
    assert_eq!(status, "failed");
    assert_eq!(
        message.as_deref(),
        Some("Not enough tokens: the article needs 500 and the company has 100.")
    );
    running.stop().await;
}

#[tokio::test]
async fn company_and_article_are_looked_up_by_the_job() {
    let site = Site::new().await;
    let running = site.start().await;
    let company = site.company(0, 100).await;
    let job = site.job(company).await;
    let article = Uuid::new_v4();
    sqlx::query("update article_jobs set article_id = $1 where id = $2")
        .bind(article)
        .bind(job)
        .execute(site.db.pool())
        .await
        .expect("updated");

    site.broker
        .publish(json!({ "job_id": job, "tokens": 30 }).to_string())
        .await;

    site.until(job, "completed").await;
    let recorded: Option<Uuid> = sqlx::query_scalar(
        "select article_id from token_deduction_records where idempotency_key = $1",
    )
    .bind(job.to_string())
    .fetch_one(site.db.pool())
    .await
    .expect("recorded");
    assert_eq!(recorded, Some(article));
    assert_eq!(site.balance(company).await, (0, 70));
    running.stop().await;
}

#[tokio::test]
async fn what_no_retry_can_help_is_dead_at_once_with_its_own_reason() {
    let site = Site::new().await;
    let running = site.start().await;
    let (company, other) = (site.company(0, 100).await, site.company(0, 100).await);
    let job = site.job(other).await;
    let charged = Uuid::new_v4();
    site.publish(charged, company, 10).await;
    site.until(charged, "completed").await;

    for (body, reason, error) in [
        ("{".to_owned(), "malformed", "body"),
        (
            json!({ "job_id": job, "tokens": "15000" }).to_string(),
            "malformed",
            "tokens",
        ),
        (
            json!({ "job_id": job, "tokens": 0 }).to_string(),
            "amount_out_of_range",
            "tokens",
        ),
        (
            format!("{{\"x\": \"{}\"}}", "y".repeat(300_000)),
            "payload_too_large",
            "body",
        ),
        (
            event(Uuid::new_v4(), Uuid::new_v4(), 1).to_string(),
            "company_not_found",
            "Company",
        ),
        (
            event(charged, company, 11).to_string(),
            "idempotency_key_reused",
            "10 tokens",
        ),
        (
            event(job, company, 1).to_string(),
            "company_mismatch",
            "company_id",
        ),
    ] {
        site.broker.publish(&body).await;
        let dead_letter = site.dead_letter().await;
        assert_eq!(
            dead_letter.header("reason").as_deref(),
            Some(reason),
            "{body:.80}"
        );
        let said = dead_letter.header("error").unwrap_or_default();
        assert!(said.contains(error), "{reason}: {said}");
        assert_eq!(dead_letter.body, body.into_bytes());
        assert_eq!(dead_letter.header("attempt").as_deref(), Some("0"));
    }
    assert_eq!(site.balance(company).await, (0, 90));
    assert_eq!(site.balance(other).await, (0, 100));
    running.stop().await;
}

#[tokio::test]
async fn a_job_that_appears_late_is_charged_on_a_retry() {
    let site = Site::new().await;
    let running = site.start().await;
    let company = site.company(0, 100).await;
    let job = Uuid::new_v4();
    site.broker
        .publish(json!({ "job_id": job, "tokens": 30 }).to_string())
        .await;
    eventually(
        "the first retry",
        PATIENCE,
        async || running.counts().delayed,
        |&n| n == 1,
    )
    .await;
    sqlx::query("insert into article_jobs (id, company_id, status) values ($1, $2, 'generated')")
        .bind(job)
        .bind(company)
        .execute(site.db.pool())
        .await
        .expect("the job comes late");
    site.until(job, "completed").await;
    assert_eq!(site.balance(company).await, (0, 70));
    running.stop().await;
}

#[tokio::test]
async fn a_held_lock_delays_1_2_4_seconds_and_then_the_charge_is_pending() {
    let mut site = Site::new().await;
    site.set("DATABASE__LOCK_TIMEOUT", "100ms");
    let running = site.start().await;
    let (locked, free) = (site.company(0, 100).await, site.company(0, 100).await);
    let mut holder = site.db.pool().begin().await.expect("begins");
    sqlx::query("select from company_subscriptions where company_id = $1 for update")
        .bind(locked)
        .execute(&mut *holder)
        .await
        .expect("locked");
    let (job, neighbour) = (site.job(locked).await, site.job(free).await);
    site.publish(job, locked, 10).await;
    site.publish(neighbour, free, 10).await;

    site.until(neighbour, "completed").await;
    let dead_letter = site.dead_letter().await;

    assert_eq!(
        dead_letter.header("reason").as_deref(),
        Some("retries_exhausted")
    );
    assert_eq!(dead_letter.header("attempt").as_deref(), Some("3"));
    assert!(
        dead_letter
            .header("error")
            .unwrap_or_default()
            .contains("lock")
    );
    let at = |name| {
        let text = dead_letter.header(name).unwrap_or_default();
        time::OffsetDateTime::parse(&text, &time::format_description::well_known::Rfc3339)
            .expect(name)
    };
    // Three delays of 7 s in all, and four times at most 5 lock timeouts and a little work.
    let waited = (at("failed-at") - at("first-failed-at")).as_seconds_f64();
    assert!((7.0..10.0).contains(&waited), "{waited} s");
    let record = site.record(job).await.expect("recorded");
    assert_eq!(
        (record.status.as_str(), record.error_code.as_deref()),
        ("pending", Some("retries_exhausted"))
    );
    assert_eq!(site.job_status(job).await.0, "pending_token_deduction");
    assert_eq!(site.balance(free).await, (0, 90));

    // It is pending, not lost: whoever asks next is charged.
    holder.rollback().await.expect("rolled back");
    site.publish(job, locked, 10).await;
    assert_eq!(site.until(job, "completed").await.retry_count, 1);
    assert_eq!(site.balance(locked).await, (0, 90));
    running.stop().await;
}

#[tokio::test]
async fn an_application_that_refuses_our_status_is_charged_all_the_same() {
    let site = Site::new().await;
    sqlx::query("alter table article_jobs add check (status in ('running', 'billed'))")
        .execute(site.db.pool())
        .await
        .expect("altered");
    let running = site.start().await;
    let company = site.company(0, 100).await;
    let job = site.job(company).await;
    site.publish(job, company, 10).await;
    site.until(job, "completed").await;
    eventually(
        "counted",
        PATIENCE,
        async || running.counts().job_status_errors,
        |&n| n == 1,
    )
    .await;
    assert_eq!(site.job_status(job).await, ("running".to_owned(), None));
    assert_eq!(site.balance(company).await, (0, 90));
    running.stop().await;
}

#[tokio::test]
async fn poison_among_ten_thousand_stops_none_of_them() {
    let site = Site::new().await;
    site.declare().await;
    let company = site.company(0, 1_000_000).await;
    let mut publishing = tokio::task::JoinSet::new();
    let poison: [Vec<u8>; 6] = [
        Vec::new(),
        vec![0; 100_000],
        vec![0xff; 131_000],
        vec![b'['; 120_000],
        b"\xef\xbb\xbf{}".to_vec(),
        (0..=255).cycle().take(1_000_000).collect(),
    ];
    let mut jobs = Vec::new();
    for _ in 0..10 {
        for poison in &poison {
            site.broker.publish(poison).await;
        }
        for _ in 0..1000 {
            jobs.push(Uuid::new_v4());
        }
    }
    let channel = site.broker.channel().clone();
    let exchange = site.broker.prefix().to_owned();
    for jobs in jobs.chunks(1000).map(<[Uuid]>::to_vec) {
        let (channel, exchange) = (channel.clone(), exchange.clone());
        publishing.spawn(async move {
            let mut confirms = Vec::new();
            for job in jobs {
                let body = event(job, company, 1).to_string();
                let sent = channel.basic_publish(
                    exchange.as_str().into(),
                    "article.completed".into(),
                    Default::default(),
                    body.as_bytes(),
                    BasicProperties::default().with_delivery_mode(2),
                );
                confirms.push(sent.await.expect("sent"));
            }
            for confirm in confirms {
                assert!(confirm.await.expect("confirmed").is_ack());
            }
        });
    }
    while let Some(published) = publishing.join_next().await {
        published.expect("published");
    }
    let running = site.start().await;
    eventually(
        "all are charged or dead",
        Duration::from_secs(120),
        async || running.counts(),
        |tally| (tally.charged, tally.dead_lettered) == (10_000, 60),
    )
    .await;
    running.stop().await;
    assert_eq!(site.balance(company).await, (0, 990_000));
    let dead_letters = site.broker.take_all(&site.broker.dead_letters()).await;
    assert_eq!(dead_letters.len(), 60);
    assert!(
        dead_letters
            .iter()
            .all(|dead_letter| dead_letter.header("reason").is_some())
    );
}
