//! A process dies or leaves while a company is locked: what waits is not lost, and what is done is acked.

use std::time::Duration;

use uuid::Uuid;

use crate::support::{
    accounts::Accounts,
    charging::{RETRYING, only_charged},
    crowd::Crowd,
    eventually::{PATIENCE, eventually},
    is_long,
    process::Process,
    site::Site,
};

const LOCK_TIMEOUT: &str = "25s";
const PROMPTLY: Duration = Duration::from_secs(10);

async fn site_with_lanes(lanes: &str) -> Site {
    let mut site = Site::new().await;
    site.set("WORKER__LANES", lanes);
    site.set("DATABASE__LOCK_TIMEOUT", LOCK_TIMEOUT);
    site.declare().await;
    site
}

/// The broker sends no more than may be unacked: past that, charges show acks.
#[tokio::test]
async fn acks_go_on_while_a_company_is_locked() {
    let mut site = site_with_lanes("2").await;
    site.set("WORKER__BATCH_MAX", "32");
    site.set("WORKER__PREFETCH", "64");
    let mut locked = Crowd::open(&site, 1).await;
    let mut others = Crowd::open(&site, 40).await;
    let mut process = site.charge().await;
    let held = site.hold_companies(&locked.companies).await;
    locked.publish(&site, 3).await;
    others.publish(&site, 30).await;
    others.all_charged(&site, PROMPTLY).await;
    assert_eq!(locked.charged(&site).await, 0);
    held.release().await;
    locked.all_charged(&site, PROMPTLY).await;
    assert_eq!(process.drain().await, only_charged(1203));
}

#[tokio::test]
async fn a_process_killed_beside_a_locked_company_leaves_little_to_be_done_again() {
    let site = site_with_lanes("2").await;
    let mut locked = Crowd::open(&site, 1).await;
    let mut others = Crowd::open(&site, 40).await;
    let mut process = site.charge().await;
    let held = site.hold_companies(&locked.companies).await;
    locked.publish(&site, 3).await;
    // Whatever is processed is acked within 200 ms: of the last rounds some may not be.
    for _ in 0..20 {
        others.publish(&site, 2).await;
        others.all_charged(&site, PROMPTLY).await;
    }
    process.kill9().await;
    held.release().await;
    let mut process = site.charge().await;
    locked.all_charged(&site, PATIENCE).await;
    let counts = process.drain().await;
    // What waited in the lock's queue for the dead process may have been charged for it.
    assert!(counts.charged <= 3, "{counts:?}");
    assert!(counts.duplicates <= 160, "{counts:?} of 1600");
    assert_eq!((counts.delayed, counts.dead_lettered), (0, 0));
    others.adds_up(&site).await;
    locked.adds_up(&site).await;
}

#[tokio::test]
async fn sigterm_gives_back_what_waits_for_a_lock() {
    let mut site = site_with_lanes("2").await;
    site.set("WORKER__DRAIN_TIMEOUT", "8s");
    let mut locked = Crowd::open(&site, 2).await;
    let mut others = Crowd::open(&site, 10).await;
    let mut process = site.charge().await;
    let held = site.hold_companies(&locked.companies).await;
    locked.publish(&site, 5).await;
    others.publish(&site, 2).await;
    others.all_charged(&site, PROMPTLY).await;
    let counts = process.drain_within(Duration::from_secs(8)).await;
    assert_eq!(counts, only_charged(20));
    assert_eq!(process.said(RETRYING), 0);
    let queue = site.broker.work_queue();
    let ready = async || site.broker.ready_count(&queue).await;
    eventually("it is back", PATIENCE, ready, |&n| n == Some(10)).await;

    held.release().await;
    let mut process = site.charge().await;
    locked.all_charged(&site, PROMPTLY).await;
    assert_eq!(process.drain().await, only_charged(10));
    assert_eq!(process.said(RETRYING), 0);
    others.adds_up(&site).await;
    locked.adds_up(&site).await;
}

#[tokio::test]
async fn kill_9_at_random_moments_with_companies_locked_by_turns_loses_and_doubles_nothing() {
    let site = site_with_lanes("3").await;
    let mut accounts = Accounts::open(&site, 20, 1_000_000).await;
    let turns = accounts.companies().to_vec();
    let session = site.hold_by_turns(turns, Duration::from_millis(150));
    let kills = if is_long() { 100 } else { 5 };
    let mut other = site.charge_unready();
    for kill in 0..kills {
        accounts.publish(&site, 200).await;
        let mut process = site.charge_unready();
        // Each time after another number of charges.
        let enough = accounts.completed(&site).await + 17 * (kill % 13) + 1;
        let completed = async || accounts.completed(&site).await;
        let accepted = |&n: &i64| n >= enough || n == accounts.published();
        eventually("some of it is charged", PATIENCE, completed, accepted).await;
        // The older one, so that both have had their time.
        std::mem::swap(&mut other, &mut process);
        process.kill9().await;
    }
    accounts.all_decided(&site, Duration::from_secs(60)).await;
    let locked = session.locked();
    session.stop().await;
    assert!(locked > 10, "{locked} locks are too few to mean anything");
    let counts = other.drain().await;
    assert_eq!((counts.delayed, counts.dead_lettered), (0, 0));
    accounts.add_up(&site).await;
}

#[tokio::test]
async fn a_crash_at_any_step_beside_a_locked_company_charges_once() {
    for step in ["before_charge", "after_charge", "after_publish"] {
        let site = site_with_lanes("1").await;
        let mut locked = Crowd::open(&site, 1).await;
        let mut others = Crowd::open(&site, 5).await;
        let held = site.hold_companies(&locked.companies).await;
        locked.publish(&site, 2).await;
        let jobs = others.publish(&site, 2).await;
        let failpoint = format!("{step}:{}", jobs[7]);
        let mut environment = site.environment();
        environment.push(("TOKEN_BILLING_FAILPOINT", &failpoint));
        let mut process = Process::start(&["serve", "--role", "worker"], &environment);
        let died = process.wait(PROMPTLY).await;
        assert_eq!(died, None, "{step}: it was to abort");

        held.release().await;
        let mut process = site.charge().await;
        others.all_charged(&site, PROMPTLY).await;
        locked.all_charged(&site, PROMPTLY).await;
        let counts = process.drain().await;
        assert_eq!((counts.delayed, counts.dead_lettered), (0, 0), "{step}");
        others.adds_up(&site).await;
        locked.adds_up(&site).await;
    }
}

/// A locked company's message that was delivered before is taken one by one at the next start.
#[tokio::test]
async fn a_restart_is_not_held_up_by_what_waited_when_the_last_process_died() {
    let site = site_with_lanes("2").await;
    let mut locked = Crowd::open(&site, 1).await;
    let mut others = Crowd::open(&site, 10).await;
    let held = site.hold_companies(&locked.companies).await;
    let waiting: Vec<Uuid> = locked.publish(&site, 3).await;
    others.publish(&site, 1).await;
    let mut process = site.charge().await;
    others.all_charged(&site, PROMPTLY).await;
    process.kill9().await;
    let mut process = site.charge().await;
    others.publish(&site, 1).await;
    others.all_charged(&site, PROMPTLY).await;
    for job in waiting {
        assert_eq!(site.record(job).await, None);
    }
    held.release().await;
    locked.all_charged(&site, PROMPTLY).await;
    let counts = process.drain().await;
    assert_eq!((counts.delayed, counts.dead_lettered), (0, 0));
    others.adds_up(&site).await;
    locked.adds_up(&site).await;
}
