//! A job whose row somebody else holds, and a locked company that the event leaves out.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    charging::{RETRYING, only_charged},
    crowd::Crowd,
    eventually::{PATIENCE, eventually},
    site::{Site, event},
};

const LOCK_TIMEOUT: &str = "25s";
const PROMPTLY: Duration = Duration::from_secs(10);

/// An event that leaves the company to the job's row.
fn without_company(job: Uuid, tokens: i64) -> Value {
    json!({ "job_id": job, "tokens": tokens })
}

async fn jobs(site: &Site, company: Uuid, count: usize) -> Vec<Uuid> {
    let mut jobs = Vec::new();
    for _ in 0..count {
        jobs.push(site.job(company).await);
    }
    jobs
}

#[tokio::test]
async fn a_locked_job_waits_and_its_company_goes_on() {
    let mut site = Site::new().await;
    site.set("WORKER__LANES", "2");
    site.set("DATABASE__LOCK_TIMEOUT", LOCK_TIMEOUT);
    site.declare().await;
    let company = site.company(0, 1000).await;
    let mut others = Crowd::open(&site, 10).await;
    let jobs = jobs(&site, company, 20).await;
    let (locked, free) = jobs.split_first().expect("some");
    let mut process = site.charge().await;
    let held = site.hold_job(*locked).await;
    let mut published = 0;
    // At first beside the locked one, then while that one waits, which must not hold up its company.
    for some in jobs.chunks(5) {
        let events: Vec<Value> = some.iter().map(|job| event(*job, company, 1)).collect();
        site.publish_all(&events).await;
        others.publish(&site, 1).await;
        others.all_charged(&site, PROMPTLY).await;
        published += 5;
        let balance = async || site.balance(company).await;
        let paid = |&balance: &(i64, i64)| balance == (0, 1000 - published + 1);
        eventually("its other jobs are charged", PROMPTLY, balance, paid).await;
    }
    assert_eq!(site.record(*locked).await, None);
    held.release().await;
    site.until(*locked, "completed").await;

    assert_eq!(process.drain().await, only_charged(20 + others.published()));
    assert_eq!(site.balance(company).await, (0, 1000 - 20));
    for job in free.iter().chain([locked]) {
        assert_eq!(site.job_status(*job).await.0, "completed");
    }
    assert_eq!(process.said(RETRYING), 0);
}

#[tokio::test]
async fn a_job_that_stays_locked_goes_through_the_delay_queues() {
    let mut site = Site::new().await;
    site.set("DATABASE__LOCK_TIMEOUT", "300ms");
    site.declare().await;
    let company = site.company(0, 1000).await;
    let job = site.job(company).await;
    let mut process = site.charge().await;
    let held = site.hold_job(job).await;
    site.publish(job, company, 1).await;
    process.wait_for_log("retry.attempt=1 ", PATIENCE).await;
    held.release().await;
    site.until(job, "completed").await;
    let counts = process.drain().await;
    assert_eq!((counts.charged, counts.delayed), (1, 1));
    assert_eq!(site.job_status(job).await.0, "completed");
}

/// What can't be charged is recorded as pending, and that too asks for the job's row.
#[tokio::test]
async fn a_pending_mark_that_waits_for_a_locked_job_stalls_nobody() {
    let mut site = Site::new().await;
    site.set("WORKER__LANES", "1");
    site.set("RETRY__ATTEMPTS", "0");
    site.set("DATABASE__LOCK_TIMEOUT", "4s");
    site.declare().await;
    let company = site.company(0, 1000).await;
    let mut others = Crowd::open(&site, 10).await;
    let job = site.job(company).await;
    let mut process = site.charge().await;
    let held = site.hold_job(job).await;
    site.publish(job, company, 1).await;
    let marking = "_pending(";
    let looks = async || site.waiting_for_a_lock(marking).await;
    eventually("the mark waits", PATIENCE, looks, |&waiting| waiting == 1).await;
    others.publish(&site, 1).await;
    others.all_charged(&site, PATIENCE).await;
    assert_eq!(
        site.waiting_for_a_lock(marking).await,
        1,
        "they waited as long as the mark"
    );
    held.release().await;
    site.until(job, "pending").await;
    assert_eq!(process.drain().await.dead_lettered, 1);
}

#[tokio::test]
async fn a_locked_company_that_the_event_leaves_out_stalls_nobody() {
    let mut site = Site::new().await;
    site.set("WORKER__LANES", "2");
    site.set("DATABASE__LOCK_TIMEOUT", LOCK_TIMEOUT);
    site.declare().await;
    let company = site.company(0, 1000).await;
    let mut others = Crowd::open(&site, 40).await;
    let jobs = jobs(&site, company, 10).await;
    let mut process = site.charge().await;
    let held = site.hold_companies(&[company]).await;
    // Its jobs alone say which lane each comes to: one of them in every lane.
    let events: Vec<Value> = jobs.iter().map(|job| without_company(*job, 1)).collect();
    for _ in 0..3 {
        others.publish(&site, 2).await;
        site.publish_all(&events).await;
    }
    others.publish(&site, 2).await;
    others.all_charged(&site, PROMPTLY).await;
    assert_eq!(site.balance(company).await, (0, 1000));
    held.release().await;
    for job in &jobs {
        site.until(*job, "completed").await;
    }
    let counts = process.drain().await;
    assert_eq!(counts.charged, others.published() + 10);
    assert_eq!((counts.delayed, counts.dead_lettered), (0, 0));
    assert_eq!(process.said(RETRYING), 0);
    assert_eq!(site.balance(company).await, (0, 990));
    others.adds_up(&site).await;
}

/// The ones come to their company's lane and the others to any: their batches meet, and that is nobody's failure.
#[tokio::test]
async fn events_with_and_without_their_company_get_along() {
    let mut site = Site::new().await;
    site.set("WORKER__LANES", "4");
    site.set("WORKER__BATCH_MAX", "16");
    // Short: an attempt would soon be used up.
    site.set("DATABASE__LOCK_TIMEOUT", "2s");
    site.declare().await;
    let companies = [site.company(0, 1000).await, site.company(0, 1000).await];
    let mut events = Vec::new();
    for n in 0..400 {
        let company = companies[n % 2];
        let job = site.job(company).await;
        events.push(match n % 4 {
            0 | 1 => event(job, company, 1),
            _ => without_company(job, 1),
        });
    }
    site.publish_all(&events).await;
    let mut process = site.charge().await;
    for company in companies {
        let balance = async || site.balance(company).await;
        let paid = |&balance: &(i64, i64)| balance == (0, 800);
        eventually("all is charged", PATIENCE, balance, paid).await;
    }
    assert_eq!(process.drain().await, only_charged(400));
    assert_eq!(process.said(RETRYING), 0);
    let completed = "select count(*) from article_jobs where status = 'completed'";
    assert_eq!(site.number(completed).await, 400);
}
