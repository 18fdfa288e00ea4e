//! One process works in lanes, each with companies of its own, and several processes share one queue.

use std::time::Duration;

use token_billing::config::Settings;
use uuid::Uuid;

use crate::support::{
    charging::{FOUND_LOCKED, RETRYING, only_charged},
    crowd::Crowd,
    eventually::{PATIENCE, eventually},
    process::Process,
    site::Site,
};

#[tokio::test]
async fn lanes_take_companies_of_their_own_and_all_at_once() {
    let mut site = Site::new().await;
    site.set("WORKER__LANES", "4");
    site.declare().await;
    let mut crowd = Crowd::open(&site, 200).await;
    let mut process = site.charge().await;
    // Each lane comes to stand with a batch: a lane without work would not.
    let held = site.hold_table("company_subscriptions").await;
    crowd.publish(&site, 1).await;
    let looks = async || site.waiting_for_a_lock("").await;
    eventually("four lanes wait", PATIENCE, looks, |&n| n == 4).await;
    held.release().await;
    for _ in 0..3 {
        crowd.publish(&site, 3).await;
    }
    crowd.all_charged(&site, PATIENCE).await;
    assert_eq!(process.drain().await, only_charged(2000));
    assert_eq!(process.said(FOUND_LOCKED), 0);
    crowd.adds_up(&site).await;
}

#[tokio::test]
async fn a_company_in_many_small_batches_never_meets_itself_and_keeps_its_order() {
    let mut site = Site::new().await;
    site.set("WORKER__LANES", "4");
    site.set("WORKER__BATCH_MAX", "8");
    site.declare().await;
    let mut crowd = Crowd::open(&site, 3).await;
    let jobs = crowd.publish(&site, 500).await;
    let mut process = site.charge().await;
    crowd.all_charged(&site, PATIENCE).await;
    assert_eq!(process.drain().await, only_charged(1500));
    assert_eq!(process.said(FOUND_LOCKED), 0);
    // Of two lanes with one company, one would now and then be ahead of the other.
    for (nth, company) in crowd.companies.iter().enumerate() {
        let charged: Vec<String> = sqlx::query_scalar(
            "select idempotency_key from token_deduction_records where company_id = $1 order by ledger_seq",
        )
        .bind(company)
        .fetch_all(site.db.pool())
        .await
        .expect("read");
        let arrived = jobs.iter().skip(nth).step_by(3).map(Uuid::to_string);
        assert_eq!(charged, arrived.collect::<Vec<_>>(), "in order");
    }
    crowd.adds_up(&site).await;
}

#[test]
fn the_number_of_lanes_is_checked() {
    let load = |key: &str, value: &str| {
        let variable = (format!("TOKEN_BILLING__{key}"), value.to_owned());
        Settings::load_from(None, [variable].into()).map_err(|error| error.to_string())
    };
    for lanes in ["0", "65", "many"] {
        let said = load("WORKER__LANES", lanes).expect_err("refused");
        let names = said.starts_with("worker.lanes: ") && !said.contains("no such setting");
        assert!(names, "{said}");
    }
    for lanes in ["1", "64"] {
        load("WORKER__LANES", lanes).expect("good");
    }
    let said = load("WORKER__CONCURRENCY", "4").expect_err("it is worker.lanes now");
    assert!(said.contains("lanes"), "{said}");
}

/// One company has as many events as 40 others together.
struct Two {
    site: Site,
    hot: Crowd,
    others: Crowd,
    processes: [Process; 2],
}

impl Two {
    async fn start() -> Self {
        let mut site = Site::new().await;
        site.set("WORKER__LANES", "2");
        site.set("WORKER__BATCH_MAX", "32");
        site.set("WORKER__PREFETCH", "128");
        site.declare().await;
        Self {
            hot: Crowd::open(&site, 1).await,
            others: Crowd::open(&site, 40).await,
            processes: [site.charge().await, site.charge().await],
            site,
        }
    }

    async fn publish(&mut self, rounds: i64) {
        for _ in 0..rounds {
            self.hot.publish(&self.site, 120).await;
            self.others.publish(&self.site, 3).await;
        }
    }

    /// Each was charged once, at the first try, by either process.
    async fn end(mut self) {
        self.hot.all_charged(&self.site, PATIENCE).await;
        self.others.all_charged(&self.site, PATIENCE).await;
        let mut charged = 0;
        for process in &mut self.processes {
            let counts = process.drain().await;
            assert_eq!(counts, only_charged(counts.charged));
            assert!(counts.charged > 0, "one did nothing");
            assert_eq!(process.said(RETRYING), 0);
            for company in self.hot.companies.iter().chain(&self.others.companies) {
                let said = process.said_of(FOUND_LOCKED, *company);
                assert!(said <= 1, "{said} times of {company} within a minute");
            }
            charged += counts.charged;
        }
        assert_eq!(charged, self.hot.published() + self.others.published());
        self.hot.adds_up(&self.site).await;
        self.others.adds_up(&self.site).await;
    }
}

#[tokio::test]
async fn two_processes_on_one_queue_charge_each_event_once_at_the_first_try() {
    let mut two = Two::start().await;
    two.publish(10).await;
    two.end().await;
}

#[tokio::test]
async fn rows_that_a_third_session_locks_briefly_again_and_again_cost_no_attempt() {
    let mut two = Two::start().await;
    // The hot one every second time.
    let hot = two.hot.companies[0];
    let turns = two.others.companies.iter().flat_map(|&one| [hot, one]);
    let session = two
        .site
        .hold_by_turns(turns.collect(), Duration::from_millis(10));
    // However fast the machine is, they meet often enough to mean something.
    while session.locked() <= 20 {
        two.publish(10).await;
        two.hot.all_charged(&two.site, PATIENCE).await;
        two.others.all_charged(&two.site, PATIENCE).await;
    }
    session.stop().await;
    two.end().await;
}

#[tokio::test]
async fn a_company_that_fails_again_and_again_costs_its_neighbours_nothing() {
    let mut site = Site::new().await;
    site.set("WORKER__LANES", "2");
    site.set("RETRY__FACTOR", "1");
    site.declare().await;
    let mut failing = Crowd::open(&site, 1).await;
    let mut others = Crowd::open(&site, 40).await;
    let how = "raise exception 'not this one'";
    crate::whose_fault::fails_for(&site, failing.companies[0], how).await;
    let mut process = site.charge().await;
    let mut poisonous = Vec::<Uuid>::new();
    for _ in 0..20 {
        poisonous.extend(failing.publish(&site, 1).await);
        others.publish(&site, 1).await;
        others.all_charged(&site, PATIENCE).await;
    }
    for job in &poisonous {
        site.until(*job, "pending").await;
    }
    let counts = process.drain().await;
    assert_eq!((counts.charged, counts.duplicates), (800, 0));
    assert_eq!((counts.delayed, counts.dead_lettered), (60, 20));
    for job in &poisonous {
        assert_eq!(process.said_of(RETRYING, *job), 3);
    }
    others.adds_up(&site).await;
}
