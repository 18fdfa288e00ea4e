//! A replay dies, hangs, is interrupted, or is not alone: every dead letter is sent, and charged once.

use std::{collections::HashSet, sync::Arc, time::Duration};

use serde_json::json;
use token_billing::{
    operations::{
        Actor, Operations,
        replay::{ReplayOrder, ReplaySelection},
    },
    storage::{DeadLetterState, Selection},
};
use uuid::Uuid;

use crate::support::{
    adds_up::assert_ledger_adds_up,
    eventually::{PATIENCE, eventually},
    process::Process,
    site::Site,
};

const ALL: [&str; 4] = ["dlq", "replay", "--all", "--yes"];

/// The dead letters whose replays wait in the work queue.
async fn sent(site: &Site) -> Vec<String> {
    let queue = site.broker.work_queue();
    let messages = site.broker.take_all(&queue).await;
    let dead_letter = |message: &crate::support::broker::Message| message.header("replay-of");
    messages.iter().filter_map(dead_letter).collect()
}

#[tokio::test]
async fn kill_9_at_any_step_and_a_second_run_completes() {
    for step in ["after_claim", "after_replay_publish", "after_mark"] {
        let mut site = Site::new().await;
        site.set("REPLAY__CLAIM", "3s");
        let company = site.company(0, 1_000).await;
        let (mut jobs, _) = site.park(company, 10, 20).await;
        let (unpayable, _) = site.park(company, 5_000, 1).await;
        jobs.extend(site.park(company, 10, 9).await.0);
        let (running, archivist) = (site.start().await, site.archive_running().await);

        // Five at a time: the dead letter that cannot be paid for is of a page in the middle.
        let failpoint = format!("{step}:{}", unpayable[0]);
        let mut environment = site.environment();
        environment.push(("TOKEN_BILLING_FAILPOINT", &failpoint));
        let mut process = Process::start(&[&ALL[..], &["--rate", "50"]].concat(), &environment);
        assert_eq!(
            process.wait(PATIENCE).await,
            None,
            "{step}: it was to abort"
        );

        let ran = site.run(&[&ALL[..], &["--output", "json"]].concat()).await;
        let document = ran.document();
        assert_eq!(document["replay"]["ended"], json!("done"), "{step}");
        if step == "after_claim" {
            assert!(
                ran.notes()
                    .contains("5 dead letters in the hands of another replay"),
                "{ran:#?}"
            );
        }
        all_decided(&site, 29, unpayable[0]).await;
        running.stop().await;
        archivist.stop().await;
        assert_eq!(site.balance(company).await, (0, 1_000 - 290), "{step}");
        assert_eq!(
            site.number("select count(*) from token_usage_logs").await,
            29
        );
        assert_ledger_adds_up(site.db.pool(), company, 1_000).await;
        for job in &jobs {
            assert_eq!(
                site.record(*job).await.expect("charged").status,
                "completed"
            );
        }
        let dead_letters = site.dead_letters().await;
        let original = dead_letters.iter().find(|l| l.job_id == Some(unpayable[0]));
        assert_eq!(
            original.expect("there").state,
            DeadLetterState::Replayed,
            "{step}"
        );
    }
}

/// So many jobs are charged; the one that can't be is back, as one open dead letter, and nothing else is open.
async fn all_decided(site: &Site, charged: i64, unpayable: Uuid) {
    eventually(
        "every payable job is charged",
        PATIENCE,
        async || {
            site.number("select count(*) from token_deduction_records where status = 'completed'")
                .await
        },
        |&n| n == charged,
    )
    .await;
    eventually(
        "the one that fails is back, as one open dead letter, and nothing else is open",
        PATIENCE,
        async || {
            site.storage()
                .resolve_dead_letters()
                .await
                .expect("resolved");
            let dead_letters = site.dead_letters().await;
            let open = dead_letters
                .iter()
                .filter(|l| l.state == DeadLetterState::Open);
            open.map(|l| l.job_id).collect::<Vec<_>>()
        },
        |open| *open == [Some(unpayable)],
    )
    .await;
}

#[tokio::test]
async fn two_replays_of_the_same_dead_letters_at_once_send_each_once() {
    let site = Site::new().await;
    site.declare().await;
    let company = site.company(0, 10_000).await;
    let (_, ids) = site.park(company, 1, 1_500).await;
    let settings = site.settings();
    let one = Arc::new(Operations::open(&settings).await.expect("reached"));
    let other = Arc::new(Operations::open(&settings).await.expect("reached"));
    let all = Selection {
        states: vec![DeadLetterState::Open],
        ..Selection::default()
    };
    let all = ReplaySelection::new(all, true).expect("all that is open");
    let plan = one.plan_replay(all).await.expect("a plan");

    // Neither gets its first page before both have asked for it.
    let mut held = site.db.pool().begin().await.expect("a transaction");
    let lock = "select from dead_letters for update";
    sqlx::query(lock).execute(&mut *held).await.expect(lock);
    let mut running = Vec::new();
    for operations in [&one, &other] {
        let order = ReplayOrder {
            actor: Actor::new("ann").expect("a name"),
            note: None,
            rate: None,
            canary: None,
            wait: false,
        };
        running.push(operations.replay(plan.clone(), order).await.expect("begun"));
    }
    let waits = "select count(*) from pg_stat_activity
                 where datname = current_database() and wait_event_type = 'Lock'";
    let waiting = async || site.number(waits).await;
    eventually("both wait", PATIENCE, waiting, |waiting| *waiting == 2).await;
    held.rollback().await.expect("let go");

    // While one of them sends the first page, the other one finds the second.
    let mut counts = Vec::new();
    for running in running {
        counts.push(running.report().await.expect("a report").outcomes.sent);
    }
    assert!(
        counts.iter().sum::<i64>() == 1_500 && !counts.contains(&0),
        "both took part: {counts:?}"
    );
    one.close().await;
    other.close().await;
    let sent = sent(&site).await;
    assert_eq!(sent.len(), 1_500);
    assert_eq!(sent.iter().collect::<HashSet<_>>().len(), ids.len());
    assert_eq!(site.in_state(DeadLetterState::Replayed).await, 1_500);
    assert_eq!(
        site.number("select count(*) from dead_letter_actions")
            .await,
        1_500
    );
}

#[tokio::test]
async fn a_mark_after_the_claim_has_run_out_leaves_the_dead_letter_to_whoever_has_it_now() {
    let site = Site::new().await;
    let company = site.company(0, 10_000).await;
    let (_, ids) = site.park(company, 1, 3).await;
    let storage = site.storage();
    let details = json!({});
    let slow = storage
        .begin_replay("slow", "all", None, &details)
        .await
        .expect("begun");
    let quick = storage
        .begin_replay("quick", "all", None, &details)
        .await
        .expect("begun");
    let all = Selection::default();

    let moment = Duration::from_millis(300);
    let minute = Duration::from_secs(60);
    let claimed = storage
        .claim(slow, &ids[..2], moment)
        .await
        .expect("claimed");
    assert_eq!(claimed.dead_letters.len(), 2);
    let rest = storage.rest(&all, quick).await.expect("counted");
    assert_eq!((rest.dead_letters, rest.held), (3, 2));
    assert!((1..=300).contains(&rest.last_free_ms), "{rest:?}");
    let meanwhile = storage.claim(quick, &ids, minute).await.expect("claimed");
    assert_eq!(
        meanwhile.dead_letters.len(),
        1,
        "the others are in other hands"
    );
    eventually(
        "the claims have run out",
        PATIENCE,
        async || storage.rest(&all, quick).await.expect("counted").held,
        |&held| held == 0,
    )
    .await;
    let late = storage.mark_replayed(slow, &ids[..1], claimed.dead_letters[0].claimed_at);
    assert_eq!(late.await.expect("asked"), 0);
    assert!(
        storage
            .claimable(&all, slow, 0, 9)
            .await
            .expect("read")
            .is_empty(),
        "never twice by one"
    );
    let taken = storage.claim(quick, &ids, minute).await.expect("claimed");
    assert_eq!(taken.dead_letters.len(), 2);
    let late = storage.mark_replayed(slow, &ids, claimed.dead_letters[0].claimed_at);
    assert_eq!(late.await.expect("asked"), 0);
    assert_eq!(site.in_state(DeadLetterState::Open).await, 3);
    let marked = storage.mark_replayed(quick, &ids, taken.dead_letters[0].claimed_at);
    assert_eq!(marked.await.expect("marked"), 3);
    assert_eq!(site.in_state(DeadLetterState::Replayed).await, 3);
}

#[tokio::test]
async fn ctrl_c_finishes_the_page_in_hand_and_a_second_run_the_rest() {
    let site = Site::new().await;
    site.declare().await;
    let company = site.company(0, 10_000).await;
    site.park(company, 1, 300).await;
    let args = [&ALL[..], &["--no-wait", "--rate", "100"]].concat();
    let mut process = Process::start(&args, &site.environment());
    eventually(
        "some are marked",
        PATIENCE,
        async || site.in_state(DeadLetterState::Replayed).await,
        |&n| n >= 20,
    )
    .await;
    process.signal("INT").await;
    assert_eq!(process.wait(PATIENCE).await, Some(3));
    process.wait_for_log("run the same again", PATIENCE).await;
    let marked = site.in_state(DeadLetterState::Replayed).await;
    assert!((20..300).contains(&marked), "{marked}");
    assert_eq!(site.in_state(DeadLetterState::Open).await, 300 - marked);
    let held = "select count(*) from dead_letters where claimed_until is not null";
    assert_eq!(site.number(held).await, 0);
    let ended = "select count(*) from operator_actions where details ->> 'ended' = 'interrupted'";
    assert_eq!(site.number(ended).await, 1);
    let mut sent_dead_letters = sent(&site).await;
    assert_eq!(sent_dead_letters.len(), marked);

    site.run(&[&ALL[..], &["--no-wait"]].concat()).await.done();
    sent_dead_letters.extend(sent(&site).await);
    assert_eq!(sent_dead_letters.len(), 300);
    assert_eq!(sent_dead_letters.iter().collect::<HashSet<_>>().len(), 300);
}

#[tokio::test]
async fn a_broker_that_is_away_costs_nothing_but_a_second_try() {
    let site = Site::new().await;
    let company = site.company(0, 10_000).await;
    site.park(company, 1, 5).await;
    let nowhere = [(
        "TOKEN_BILLING__BROKER__URL",
        "amqp://guest:secret@127.0.0.1:1/%2f",
    )];
    let ran = site.run_in(&nowhere, &ALL).await;
    let error = ran.failed(1);
    assert!(
        error.contains("run the same again") && error.contains("127.0.0.1:1"),
        "{error}"
    );
    assert!(!error.contains("secret"), "{error}");
    // No queue is there yet: nothing takes the message, and nothing is marked.
    let ran = site.run(&ALL).await;
    ran.failed(1);
    assert_eq!(site.in_state(DeadLetterState::Open).await, 5);
    site.declare().await;
    site.run(&[&ALL[..], &["--no-wait"]].concat()).await.done();
    assert_eq!(sent(&site).await.len(), 5);
}
