//! Confirms and returns: a message that reached no queue is never taken for one that did.

use lapin::options::QueueDeleteOptions;
use token_billing::broker::Publisher;
use uuid::Uuid;

use crate::support::{
    eventually::{PATIENCE, eventually},
    site::{DELAYS, Site},
};

#[tokio::test]
async fn a_deleted_delay_queue_among_good_ones_loses_no_message() {
    let site = Site::new().await;
    site.declare().await;
    let company = site.company(0, 1_000_000).await;
    let mut jobs = Vec::new();
    // Half of each batch is dead at once, half waits for its job's row in a queue that isn't there.
    let gone = site.broker.delay_queue(DELAYS[0]);
    let options = QueueDeleteOptions::default();
    site.broker
        .channel()
        .queue_delete(gone.as_str().into(), options)
        .await
        .expect("deleted");
    for _ in 0..50 {
        let job = Uuid::new_v4();
        jobs.push(job);
        site.publish(Uuid::new_v4(), company, 9_000_000).await;
        let early = serde_json::json!({ "job_id": job, "tokens": 1 });
        site.broker.publish(early.to_string()).await;
    }
    // The pool's own connection declares the missing queue; what is tested is that nothing was acked before.
    let running = site.start_unready();
    eventually(
        "all wait or are dead",
        PATIENCE,
        async || running.tally.read(),
        |tally| tally.dead_lettered >= 50 && tally.delayed >= 50,
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
async fn a_return_counts_for_every_message_that_went_the_same_way() {
    let site = Site::new().await;
    site.declare().await;
    let settings = site.settings();
    let schedule = token_billing::domain::RetrySchedule::new(&settings.retry);
    let good = token_billing::broker::Topology::new(&settings.broker, &schedule);
    // The same exchange, but nothing is bound to it any more.
    let exchange = site.broker.prefix().to_owned();
    site.broker
        .channel()
        .queue_unbind(
            site.broker.work_queue().as_str().into(),
            exchange.as_str().into(),
            "article.completed".into(),
            Default::default(),
        )
        .await
        .expect("unbound");
    let publisher = Publisher::plain(&settings.broker, &good);
    let messages: Vec<_> = (0..100)
        .map(|_| {
            token_billing::broker::Outgoing::event(&good, b"{}".to_vec(), "application/json", None)
        })
        .collect();
    let results = publisher.publish(&messages).await;
    assert_eq!(results.len(), 100);
    assert!(results.iter().all(Result::is_err), "{results:?}");
}
