//! The worker process dies: at random moments, at each step, and again and again over one message.

use std::{collections::HashMap, time::Duration};

use token_billing::config::Settings;
use uuid::Uuid;

use crate::support::{
    accounts::Accounts,
    eventually::{PATIENCE, eventually},
    is_long,
    process::Process,
    site::Site,
};

const SERVE: [&str; 3] = ["serve", "--role", "worker"];

#[tokio::test]
async fn kill_9_at_random_moments_under_load_loses_and_doubles_nothing() {
    let site = Site::new().await;
    site.declare().await;
    let mut accounts = Accounts::open(&site, 20, 1_000_000).await;
    let kills = if is_long() { 200 } else { 10 };
    for kill in 0..kills {
        accounts.publish(&site, 300).await;
        let mut process = Process::start(&SERVE, &site.environment());
        // Somewhere within the work: each time after another number of charges.
        let enough = accounts.completed(&site).await + 17 * (kill % 13) + 1;
        eventually(
            "some of it is charged",
            PATIENCE,
            async || accounts.completed(&site).await,
            |&completed| completed >= enough || completed == accounts.published(),
        )
        .await;
        process.kill9().await;
    }
    let mut process = Process::start(&SERVE, &site.environment());
    accounts.all_decided(&site, Duration::from_secs(120)).await;
    process.terminate().await;
    assert_eq!(
        process.wait(PATIENCE).await,
        Some(0),
        "it drains: {:#?}",
        process.log()
    );
    accounts.add_up(&site).await;
}

#[tokio::test]
async fn a_crash_at_any_step_charges_once() {
    for step in [
        "before_charge",
        "after_charge",
        "after_pending",
        "after_publish",
    ] {
        let site = Site::new().await;
        site.declare().await;
        let company = site.company(0, 100).await;
        let (job, unpayable) = (Uuid::new_v4(), Uuid::new_v4());
        site.publish(job, company, 30).await;
        site.publish(unpayable, company, 500).await;
        let failpoint = format!("{step}:{unpayable}");
        let mut environment = site.environment();
        environment.push(("TOKEN_BILLING_FAILPOINT", &failpoint));
        let mut process = Process::start(&SERVE, &environment);
        assert_eq!(
            process.wait(PATIENCE).await,
            None,
            "{step}: it was to abort: {:#?}",
            process.log()
        );

        let mut process = Process::start(&SERVE, &site.environment());
        site.until(job, "completed").await;
        site.until(unpayable, "failed").await;
        assert_eq!(
            site.dead_letter().await.header("reason").as_deref(),
            Some("insufficient_balance")
        );
        process.terminate().await;
        assert_eq!(process.wait(PATIENCE).await, Some(0), "{step}");
        assert_eq!(site.balance(company).await, (0, 70), "{step}");
        assert_eq!(
            site.number("select count(*) from token_usage_logs").await,
            1,
            "{step}"
        );
    }
}

#[tokio::test]
async fn a_message_that_kills_its_worker_each_time_is_dead_and_its_neighbours_are_charged() {
    let mut site = Site::new().await;
    // A death at full speed may count up to four: what one channel of the dead connection gives back, the
    // broker may still offer to the next. In single file it counts one.
    site.set("BROKER__DELIVERY_LIMIT", "8");
    site.declare().await;
    let company = site.company(0, 1_000_000).await;
    let deadly = Uuid::new_v4();
    let mut neighbours = Vec::new();
    for n in 0..300 {
        if n == 150 {
            site.publish(deadly, company, 1).await;
        }
        neighbours.push(Uuid::new_v4());
        site.publish(neighbours[n], company, 1).await;
    }
    let failpoint = format!("before_charge:{deadly}");
    let mut environment = site.environment();
    environment.push(("TOKEN_BILLING_FAILPOINT", &failpoint));

    // As a service manager would: started again whenever it dies, until one lives.
    let mut deaths = 0;
    let mut process = loop {
        let mut process = Process::start(&SERVE, &environment);
        let lives = tokio::select! {
            died = process.wait(Duration::from_secs(60)) => { assert_eq!(died, None); false }
            () = all_decided(&site, 300) => true,
        };
        if lives {
            break process;
        }
        deaths += 1;
        assert!(deaths < 20, "it dies for ever");
    };

    assert!(
        (6..=10).contains(&deaths),
        "{deaths} deaths with a limit of 8; {:?}",
        process.log()
    );
    let dead_letter = site.dead_letter().await;
    assert!(String::from_utf8_lossy(&dead_letter.body).contains(&deadly.to_string()));
    assert_eq!(
        dead_letter.header("x-first-death-reason").as_deref(),
        Some("delivery_limit")
    );
    assert!(
        site.broker
            .take(&site.broker.dead_letters())
            .await
            .is_none(),
        "a neighbour was dragged along"
    );
    process.terminate().await;
    assert_eq!(process.wait(PATIENCE).await, Some(0));
    assert_eq!(site.balance(company).await, (0, 1_000_000 - 300));
}

/// So many are charged and one is dead.
async fn all_decided(site: &Site, count: i64) {
    let dead_letters = site.broker.dead_letters();
    let completed = "select count(*) from token_deduction_records where status = 'completed'";
    eventually(
        "every neighbour is charged and the deadly one dead",
        Duration::from_secs(90),
        async || {
            (
                site.number(completed).await,
                site.broker.ready_count(&dead_letters).await,
            )
        },
        |&seen| seen == (count, Some(1)),
    )
    .await;
}

#[tokio::test]
async fn sigterm_finishes_acks_and_leaves_the_rest_for_the_next() {
    let site = Site::new().await;
    site.declare().await;
    let mut accounts = Accounts::open(&site, 5, 1_000_000).await;
    accounts.publish(&site, 3000).await;
    let mut process = Process::start(&SERVE, &site.environment());
    eventually(
        "it works",
        PATIENCE,
        async || accounts.completed(&site).await,
        // The first is taken alone; by now they are taken as they come.
        |&done| done > 1,
    )
    .await;
    process.terminate().await;
    let asked = std::time::Instant::now();
    assert_eq!(
        process.wait(PATIENCE).await,
        Some(0),
        "{:#?}",
        process.log()
    );
    let drain_timeout = Settings::load_from(None, HashMap::new())
        .expect("defaults")
        .worker
        .drain_timeout;
    assert!(asked.elapsed() < drain_timeout);
    let drained = process.wait_for_log("drained", PATIENCE).await;
    let first = accounts.completed(&site).await;

    let mut process = Process::start(&SERVE, &site.environment());
    accounts.all_decided(&site, PATIENCE).await;
    process.terminate().await;
    process.wait(PATIENCE).await;
    // What the first had charged was acked: the second met only the publisher's own duplicates.
    let second = process.wait_for_log("drained", PATIENCE).await;
    let [first_charged, first_duplicates] = counts(&drained);
    let [second_charged, second_duplicates] = counts(&second);
    assert_eq!(first_charged, first, "{drained}");
    assert_eq!(first_charged + second_charged, accounts.published());
    assert_eq!(first_duplicates + second_duplicates, accounts.duplicates());
    accounts.add_up(&site).await;
}

/// `… 12 charged, 3 duplicates, …`
fn counts(line: &str) -> [i64; 2] {
    ["charged", "duplicates"].map(|what| {
        let words: Vec<&str> = line
            .split([' ', ','])
            .filter(|word| !word.is_empty())
            .collect();
        let at = words
            .iter()
            .position(|word| *word == what)
            .expect("counted");
        words[at - 1].parse().expect("a number")
    })
}
