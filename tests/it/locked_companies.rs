//! A company whose row somebody else holds: its own events wait, and nobody else's.

use std::time::Duration;

use uuid::Uuid;

use crate::support::{
    charging::{FOUND_LOCKED, RETRYING, only_charged},
    crowd::Crowd,
    eventually::{PATIENCE, eventually},
    process::Process,
    site::Site,
};

/// How long a test's locks last at most: whoever waits for one of them is seen waiting.
const LOCK_TIMEOUT: &str = "25s";
/// Far less than that, and far more than it takes.
const PROMPTLY: Duration = Duration::from_secs(10);

/// Waits until the event is delayed, which is said a moment before.
async fn until_delayed(process: &mut Process, job: Uuid) {
    let looks = async || process.said_of(RETRYING, job);
    eventually("it is delayed", PATIENCE, looks, |&said| said > 0).await;
}

/// 40 companies are charged while these many others are locked, which then are charged at their first try.
async fn locked_companies_stall_nobody(locked: usize) {
    let mut site = Site::new().await;
    site.set("WORKER__LANES", "2");
    // Fewer connections than companies to wait for.
    site.set("DATABASE__MAX_CONNECTIONS", "6");
    site.set("DATABASE__LOCK_TIMEOUT", LOCK_TIMEOUT);
    site.declare().await;
    let mut locked = Crowd::open(&site, locked).await;
    let mut others = Crowd::open(&site, 40).await;
    let mut process = site.charge().await;
    let held = site.hold_companies(&locked.companies).await;
    for _ in 0..5 {
        locked.publish(&site, 3).await;
        others.publish(&site, 3).await;
        // Also when the locked ones are known already.
        others.all_charged(&site, PROMPTLY).await;
    }
    assert_eq!(locked.charged(&site).await, 0);
    held.release().await;
    locked.all_charged(&site, PROMPTLY).await;

    let all = others.published() + locked.published();
    assert_eq!(process.drain().await, only_charged(all));
    assert_eq!(process.said(RETRYING), 0);
    for company in &locked.companies {
        assert_eq!(process.said_of(FOUND_LOCKED, *company), 1);
    }
    assert_eq!(process.said(FOUND_LOCKED), locked.companies.len());
    others.adds_up(&site).await;
    locked.adds_up(&site).await;
}

#[tokio::test]
async fn one_locked_company_stalls_nobody() {
    locked_companies_stall_nobody(1).await;
}

#[tokio::test]
async fn ten_locked_companies_stall_nobody() {
    locked_companies_stall_nobody(10).await;
}

#[tokio::test]
async fn a_company_that_stays_locked_is_retried_by_the_schedule_and_then_pending() {
    let mut site = Site::new().await;
    site.set("WORKER__LANES", "2");
    site.set("DATABASE__LOCK_TIMEOUT", "300ms");
    // Three times a second.
    site.set("RETRY__FACTOR", "1");
    site.declare().await;
    let mut locked = Crowd::open(&site, 1).await;
    let mut others = Crowd::open(&site, 40).await;
    let mut process = site.charge().await;
    let held = site.hold_companies(&locked.companies).await;
    let jobs = locked.publish(&site, 3).await;
    for attempt in 1..=3 {
        process
            .wait_for_log(&format!("retry.attempt={attempt} "), PATIENCE)
            .await;
        others.publish(&site, 1).await;
    }
    for job in &jobs {
        let record = site.until(*job, "pending").await;
        assert_eq!(record.error_code.as_deref(), Some("retries_exhausted"));
        assert_eq!(process.said_of(RETRYING, *job), 3);
        let dead_letter = site.dead_letter().await;
        let header = |name| dead_letter.header(name);
        assert_eq!(header("reason").as_deref(), Some("retries_exhausted"));
        assert_eq!(header("attempt").as_deref(), Some("3"));
        let error = header("error").unwrap_or_default();
        let says_why = error.contains("company_subscriptions") || error.contains("55P03");
        assert!(says_why, "{error}");
    }
    others.all_charged(&site, PATIENCE).await;
    // It was found locked again at each attempt.
    assert_eq!(process.said_of(FOUND_LOCKED, locked.companies[0]), 1);
    let counts = process.drain().await;
    held.release().await;
    assert_eq!((counts.charged, counts.dead_lettered), (120, 3));
    assert_eq!(counts.delayed, 9, "the locked company's, and nobody else's");
    assert_eq!(locked.charged(&site).await, 0);
    others.adds_up(&site).await;
}

#[tokio::test]
async fn a_lock_that_ends_while_its_events_are_delayed_leaves_them_charged() {
    let mut site = Site::new().await;
    site.set("DATABASE__LOCK_TIMEOUT", "300ms");
    site.declare().await;
    let mut locked = Crowd::open(&site, 1).await;
    let mut process = site.charge().await;
    let held = site.hold_companies(&locked.companies).await;
    let jobs = locked.publish(&site, 3).await;
    for job in jobs {
        until_delayed(&mut process, job).await;
    }
    held.release().await;
    locked.all_charged(&site, PATIENCE).await;
    let counts = process.drain().await;
    assert_eq!((counts.charged, counts.delayed), (3, 3));
    locked.adds_up(&site).await;
}

#[tokio::test]
async fn nobody_uses_up_an_attempt_without_having_been_asked() {
    let mut site = Site::new().await;
    site.set("WORKER__LANES", "1");
    site.set("DATABASE__LOCK_TIMEOUT", "300ms");
    site.declare().await;
    let mut locked = Crowd::open(&site, 20).await;
    let mut other = Crowd::open(&site, 1).await;
    let held = site.hold_companies(&locked.companies).await;
    // All before there is a worker, so that it takes them as one batch.
    locked.publish(&site, 1).await;
    let job = other.publish(&site, 1).await[0];
    let mut process = site.charge().await;
    other.all_charged(&site, PROMPTLY).await;
    held.release().await;
    locked.all_charged(&site, PATIENCE).await;
    assert_eq!(process.said_of(RETRYING, job), 0, "{:#?}", process.log());
    let counts = process.drain().await;
    assert_eq!((counts.charged, counts.dead_lettered), (21, 0));
}

#[tokio::test]
async fn more_events_of_a_locked_company_than_may_be_in_flight_stall_nobody_for_ever() {
    let mut site = Site::new().await;
    site.set("WORKER__LANES", "2");
    site.set("WORKER__BATCH_MAX", "32");
    site.set("WORKER__PREFETCH", "64");
    site.set("DATABASE__LOCK_TIMEOUT", "300ms");
    site.declare().await;
    let mut locked = Crowd::open(&site, 1).await;
    let mut others = Crowd::open(&site, 40).await;
    let mut process = site.charge().await;
    let held = site.hold_companies(&locked.companies).await;
    locked.publish(&site, 300).await;
    let theirs = others.publish(&site, 1).await;
    others.all_charged(&site, PROMPTLY).await;
    held.release().await;
    locked.all_charged(&site, PATIENCE).await;
    for job in theirs {
        assert_eq!(process.said_of(RETRYING, job), 0, "{job}");
    }
    let counts = process.drain().await;
    assert_eq!((counts.charged, counts.dead_lettered), (340, 0));
    others.adds_up(&site).await;
    locked.adds_up(&site).await;
}
