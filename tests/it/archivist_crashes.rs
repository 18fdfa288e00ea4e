//! The archivist dies, its database goes away, or refuses a dead letter: none is lost, and none stops the others.

use lapin::types::{AMQPValue, FieldTable};
use token_billing::{
    storage::{ChargeState, DeadLetter},
    telemetry::metrics::Metrics,
};
use uuid::Uuid;

use crate::support::{
    accounts::Accounts,
    broker::event_properties,
    eventually::{PATIENCE, eventually},
    is_long,
    process::Process,
    proxy::{ChaosProxy, Moment},
    site::{Site, event},
};

const ARCHIVE: [&str; 3] = ["serve", "--role", "archivist"];

/// Dead letters of so many jobs, where the worker would have put them.
async fn put_dead_letters(site: &Site, count: usize) -> Vec<Uuid> {
    let jobs: Vec<Uuid> = (0..count).map(|_| Uuid::new_v4()).collect();
    for job in &jobs {
        put_dead_letter(site, *job, &FieldTable::default()).await;
    }
    jobs
}

async fn put_dead_letter(site: &Site, job: Uuid, more: &FieldTable) {
    let mut headers = more.clone();
    headers.insert(
        "reason".into(),
        AMQPValue::LongString("company_not_found".into()),
    );
    let body = event(job, Uuid::nil(), 5).to_string();
    let properties = event_properties().with_headers(headers);
    let queue = site.broker.dead_letters();
    site.broker
        .publish_to_queue_with(&queue, body, properties)
        .await;
}

/// One open dead letter for each of the jobs, no other, and nothing left in the queue.
async fn assert_all_archived(site: &Site, jobs: &[Uuid]) -> Vec<DeadLetter> {
    let dead_letters = assert_each_archived(site, jobs).await;
    let left = site.broker.take_all(&site.broker.dead_letters()).await;
    assert!(left.is_empty(), "{left:#?}");
    dead_letters
}

/// One open dead letter for each of the jobs, and no other.
async fn assert_each_archived(site: &Site, jobs: &[Uuid]) -> Vec<DeadLetter> {
    let dead_letters = site.dead_letters().await;
    let mut archived: Vec<Uuid> = dead_letters
        .iter()
        .filter_map(|dead_letter| dead_letter.job_id)
        .collect();
    let mut expected = jobs.to_vec();
    archived.sort();
    expected.sort();
    assert_eq!(archived, expected);
    assert_eq!(dead_letters.len(), jobs.len());
    dead_letters
}

async fn drained(mut process: Process) {
    process.terminate().await;
    assert_eq!(process.wait(PATIENCE).await, Some(0));
}

#[tokio::test]
async fn a_crash_at_any_step_loses_no_dead_letter() {
    for (step, counted_again) in [
        ("before_archive", false),
        ("after_archive", true),
        ("after_copy", true),
    ] {
        let site = Site::new().await;
        site.declare().await;
        let jobs = put_dead_letters(&site, 5).await;
        let failpoint = format!("{step}:{}", jobs[3]);
        let mut environment = site.environment();
        environment.push(("TOKEN_BILLING_FAILPOINT", &failpoint));
        let mut process = Process::start(&ARCHIVE, &environment);
        let died = process.wait(PATIENCE).await;
        assert_eq!(died, None, "{step}: it was to abort: {:#?}", process.log());

        // What a process has not begun when it is told to stop waits for the next.
        let queue = site.broker.dead_letters();
        loop {
            let process = Process::start(&ARCHIVE, &site.environment());
            let again = i32::from(counted_again);
            eventually(
                "all are archived, and the deadly one again",
                PATIENCE,
                async || {
                    (
                        site.dead_letters().await,
                        site.broker.ready_count(&queue).await,
                    )
                },
                |(dead_letters, ready)| {
                    let mut deadly = dead_letters
                        .iter()
                        .filter(|dead_letter| dead_letter.job_id == Some(jobs[3]));
                    let came_again = deadly.any(|dead_letter| dead_letter.occurrences == 1 + again);
                    dead_letters.len() == 5 && came_again && *ready == Some(0)
                },
            )
            .await;
            drained(process).await;
            if site.broker.ready_count(&queue).await == Some(0) {
                break;
            }
        }
        let dead_letters = assert_all_archived(&site, &jobs).await;
        for dead_letter in dead_letters {
            let deadly = dead_letter.job_id == Some(jobs[3]);
            let expected = if counted_again && deadly {
                2..=2
            } else {
                1..=2
            };
            assert!(
                expected.contains(&dead_letter.occurrences),
                "{step}: {dead_letter:#?}"
            );
        }
    }
}

#[tokio::test]
async fn kill_9_at_random_moments_with_charging_going_on_loses_and_charges_nothing_twice() {
    let site = Site::new().await;
    site.declare().await;
    let mut accounts = Accounts::open(&site, 5, 1_000_000).await;
    let poor = site.company(0, 0).await;
    let mut unpaid = Vec::new();
    for kill in 0..if is_long() { 100 } else { 5 } {
        accounts.publish(&site, 100).await;
        for _ in 0..100 {
            unpaid.push(Uuid::new_v4());
            site.publish(*unpaid.last().expect("pushed"), poor, 3).await;
        }
        let mut process = Process::start(&["serve"], &site.environment());
        let dead_letters = "select count(*) from dead_letters";
        let enough = site.number(dead_letters).await + 13 * (kill % 7) + 1;
        let most = i64::try_from(unpaid.len()).expect("small");
        eventually(
            "some are archived",
            PATIENCE,
            async || site.number(dead_letters).await,
            |&archived| archived >= enough.min(most),
        )
        .await;
        process.kill9().await;
    }
    let process = Process::start(&["serve"], &site.environment());
    let charged = "select count(*) from token_deduction_records where status = 'completed'";
    eventually(
        "every job is charged",
        PATIENCE,
        async || site.number(charged).await,
        |&completed| completed == accounts.published(),
    )
    .await;
    site.archived(i64::try_from(unpaid.len()).expect("small"))
        .await;
    drained(process).await;
    let dead_letters = assert_each_archived(&site, &unpaid).await;
    assert!(
        dead_letters
            .iter()
            .all(|dead_letter| dead_letter.charge_state == ChargeState::NeverCharged)
    );
    // A worker that died between publish and ack has left a copy, which may still be on its way.
    for copy in site.broker.take_all(&site.broker.dead_letters()).await {
        let copy = serde_json::from_slice::<serde_json::Value>(&copy.body).expect("an event");
        let job = copy["job_id"].as_str().expect("a job");
        assert!(unpaid.contains(&job.parse().expect("a UUID")), "{job}");
    }
    // Records of the refusals are in the ledger as well.
    site.db
        .execute(
            "alter table token_deduction_records disable trigger no_delete;
             delete from token_deduction_records where status = 'failed'",
        )
        .await;
    accounts.add_up(&site).await;
    assert_eq!(site.balance(poor).await, (0, 0));
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_counted_twice_and_is_one_dead_letter() {
    let mut site = Site::new().await;
    let proxy = ChaosProxy::start(site.db.url()).await;
    site.set("DATABASE__URL", &proxy.url());
    let archiving = site.archive_running().await;
    let job = Uuid::new_v4();
    proxy.cut_when_client_sends(job.to_string(), Moment::WhenTheServerAnswers, 1);
    put_dead_letter(&site, job, &FieldTable::default()).await;
    let second = "select coalesce(sum(occurrences), 0) from dead_letters";
    eventually(
        "it came again",
        PATIENCE,
        async || site.number(second).await,
        |&occurrences| occurrences == 2,
    )
    .await;
    archiving.stop().await;
    assert_eq!(proxy.cuts(), 1);
    assert_all_archived(&site, &[job]).await;
}

#[tokio::test]
async fn the_same_message_again_raises_occurrences() {
    let site = Site::new().await;
    let archiving = site.archive_running().await;
    let running = site.start_unready();
    let company = site.company(0, 0).await;
    let job = Uuid::new_v4();
    for _ in 0..3 {
        site.publish(job, company, 9).await;
    }
    eventually(
        "all three are archived",
        PATIENCE,
        async || archiving.counts().archived,
        |&archived| archived == 3,
    )
    .await;
    running.stop().await;
    archiving.stop().await;
    let dead_letters = assert_all_archived(&site, &[job]).await;
    assert_eq!(dead_letters[0].occurrences, 3);
}

#[tokio::test]
async fn two_archivists_share_the_work_and_each_dead_letter_is_archived_once() {
    let site = Site::new().await;
    let (one, two) = (site.archive_running().await, site.archive_running().await);
    let jobs = put_dead_letters(&site, 400).await;
    let dead_letters = site.archived(400).await;
    let (first, second) = (one.metrics.clone(), two.metrics.clone());
    one.stop().await;
    two.stop().await;
    assert!(
        dead_letters
            .iter()
            .all(|dead_letter| dead_letter.occurrences == 1)
    );
    let archived = |metrics: &Metrics| metrics.archivist_counts().archived;
    let (first, second) = (archived(&first), archived(&second));
    assert_eq!(first + second, 400);
    assert!(first > 0 && second > 0, "{first} and {second}");
    assert_all_archived(&site, &jobs).await;
}

#[tokio::test]
async fn a_dead_letter_that_the_database_refuses_is_archived_bare_and_stops_no_other() {
    // Refused for good, and refused with an error that might pass, by a trigger of somebody's.
    for refusal in [
        "alter table dead_letters add check (not headers ? 'poison')",
        "create function refuse() returns trigger language plpgsql as $$ begin
             if new.headers ? 'poison' then raise exception 'not this one'; end if;
             return new;
         end $$;
         create trigger refuse before insert on dead_letters for each row execute function refuse()",
    ] {
        let mut site = Site::new().await;
        site.set("RECONNECT__INITIAL", "10ms");
        site.db.execute(refusal).await;
        site.declare().await;
        let mut jobs = put_dead_letters(&site, 10).await;
        let mut poison = FieldTable::default();
        poison.insert("poison".into(), AMQPValue::Boolean(true));
        let refused = Uuid::new_v4();
        put_dead_letter(&site, refused, &poison).await;
        jobs.push(refused);
        jobs.extend(put_dead_letters(&site, 10).await);

        let archiving = site.archive_running().await;
        site.archived(21).await;
        let metrics = archiving.metrics.clone();
        archiving.stop().await;

        let counts = metrics.archivist_counts();
        assert_eq!((counts.archived, counts.bare), (21, 1));
        for dead_letter in assert_all_archived(&site, &jobs).await {
            let is_bare = dead_letter.error.starts_with("Archived without its headers");
            assert_eq!(is_bare, dead_letter.job_id == Some(refused), "{dead_letter:#?}");
            assert_eq!(dead_letter.reason, "company_not_found");
            assert_eq!(dead_letter.occurrences, 1);
        }
    }
}

#[tokio::test]
async fn behind_a_held_lock_dead_letters_wait_and_are_then_archived_whole() {
    let mut site = Site::new().await;
    site.set("DATABASE__LOCK_TIMEOUT", "50ms");
    site.set("RECONNECT__INITIAL", "10ms");
    site.set("RECONNECT__MAX", "50ms");
    let mut locker = site.db.pool().begin().await.expect("begun");
    sqlx::query("select lock_dead_letters()")
        .execute(&mut *locker)
        .await
        .expect("locked");
    site.declare().await;
    let jobs = put_dead_letters(&site, 10).await;
    let mut process = Process::start(&ARCHIVE, &site.environment());
    // Each time after several tries, with the dead letters in flight.
    for _ in 0..2 {
        process
            .wait_for_log("not archived: trying again", PATIENCE)
            .await;
    }
    locker.rollback().await.expect("released");
    site.archived(10).await;
    drained(process).await;
    let dead_letters = assert_all_archived(&site, &jobs).await;
    for dead_letter in dead_letters {
        assert_eq!(dead_letter.occurrences, 1);
        assert!(
            !dead_letter.error.starts_with("Archived without"),
            "{dead_letter:#?}"
        );
    }
}
