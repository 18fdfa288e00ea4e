//! Confirms and returns: a message that reached no queue is never taken for one that did.

use lapin::{options::QueueDeleteOptions, types::FieldTable};
use token_billing::{
    broker::{Outgoing, Publisher, Topology},
    domain::RetrySchedule,
};
use uuid::Uuid;

use crate::support::{
    broker::ROUTING_KEY,
    eventually::{PATIENCE, eventually},
    site::{DELAYS, Site},
};

#[tokio::test]
async fn a_deleted_delay_queue_among_good_ones_loses_no_message() {
    let site = Site::new().await;
    site.declare().await;
    let company = site.company(0, 1_000_000).await;
    let mut jobs = Vec::new();
    // The pool's publisher is connected before its queue goes away, so it doesn't declare it again first.
    let running = site.start_unready();
    site.publish(Uuid::new_v4(), company, 9_000_000).await;
    eventually(
        "one is dead",
        PATIENCE,
        async || running.counts().dead_lettered,
        |&n| n == 1,
    )
    .await;
    let gone = site.broker.delay_queue(DELAYS[0]);
    let options = QueueDeleteOptions::default();
    site.broker
        .channel()
        .queue_delete(gone.as_str().into(), options)
        .await
        .expect("deleted");
    // Half of what comes now is dead at once, half waits for its job's row in a queue that isn't there.
    for _ in 0..50 {
        let job = Uuid::new_v4();
        jobs.push(job);
        site.publish(Uuid::new_v4(), company, 9_000_000).await;
        let early = serde_json::json!({ "job_id": job, "tokens": 1 });
        site.broker.publish(early.to_string()).await;
    }
    eventually(
        "all wait or are dead",
        PATIENCE,
        async || running.counts(),
        |tally| tally.dead_lettered >= 51 && tally.delayed >= 50,
    )
    .await;
    for job in &jobs {
        sqlx::query(
            "insert into article_jobs (id, company_id, status) values ($1, $2, 'generated')",
        )
        .bind(job)
        .bind(company)
        .execute(site.db.pool())
        .await
        .expect("the job comes late");
    }
    for job in jobs {
        site.until(job, "completed").await;
    }
    running.stop().await;
    assert_eq!(site.balance(company).await, (0, 1_000_000 - 50));
}

#[tokio::test]
async fn a_return_is_never_taken_for_another_messages() {
    let (bound, unbound) = (Site::new().await, Site::new().await);
    let topology = |site: &Site| {
        let settings = site.settings();
        Topology::new(&settings.broker, &RetrySchedule::new(&settings.retry))
    };
    for site in [&bound, &unbound] {
        site.declare().await;
    }
    let exchange = unbound.broker.prefix();
    unbound
        .broker
        .channel()
        .queue_unbind(
            unbound.broker.work_queue().as_str().into(),
            exchange.into(),
            ROUTING_KEY.into(),
            FieldTable::default(),
        )
        .await
        .expect("unbound");
    let publisher = Publisher::plain(&bound.settings().broker, &topology(&bound));
    let ways = [topology(&bound), topology(&unbound)];
    for _ in 0..20 {
        let messages: Vec<Outgoing> = (0..200)
            .map(|n| Outgoing::event(&ways[n % 2], b"{}".to_vec(), "application/json", None))
            .collect();
        for (n, result) in publisher.publish(&messages).await.into_iter().enumerate() {
            assert_eq!(result.is_ok(), n % 2 == 0, "message {n}: {result:?}");
        }
    }
}
