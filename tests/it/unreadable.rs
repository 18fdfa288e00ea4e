//! Messages that no client library can read: a header name that isn't UTF-8 breaks its connection at each delivery.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use serde_json::json;
use uuid::Uuid;

use crate::support::{
    broker::ROUTING_KEY,
    eventually::{PATIENCE, eventually},
    is_long,
    process::Process,
    raw::{RawClient, RawMessage, header},
    site::{Site, event},
};

const NAME: &[u8] = b"caf\xe9";
const VALUE: &[u8] = b"S\0\0\0\x05value";

/// As an event, straight into a queue where one is named; its body.
async fn poison(site: &Site, queue: Option<&str>, job: Uuid, company: Uuid) -> Vec<u8> {
    let mut body = event(job, company, 1).to_string().into_bytes();
    body.extend(b"\xff");
    let message = RawMessage::with_headers(&header(NAME, VALUE), &body);
    let mut client = RawClient::connect(site.broker.url()).await;
    let way = match queue {
        Some(queue) => ("", queue),
        None => (site.broker.prefix(), ROUTING_KEY),
    };
    assert!(client.publish(way.0, way.1, &message).await);
    body
}

async fn moved_on(site: &Site, count: u32, within: Duration) {
    let queue = site.broker.unreadable();
    eventually(
        "they are in the last queue",
        within,
        async || site.broker.ready_count(&queue).await,
        |moved| *moved == Some(count),
    )
    .await;
}

/// The bodies of what lies in the last queue, each with the name that broke the client, byte for byte.
async fn taken_away(site: &Site) -> Vec<Vec<u8>> {
    let mut client = RawClient::connect(site.broker.url()).await;
    let mut bodies = Vec::new();
    while let Some(message) = client.take(&site.broker.unreadable()).await {
        let field = header(NAME, VALUE);
        let mut fields = message.properties.windows(field.len());
        assert!(fields.any(|bytes| bytes == field), "{message:?}");
        bodies.push(message.body);
    }
    bodies
}

async fn serving(site: &Site) -> Process {
    let mut process = Process::start(&["serve"], &site.environment());
    process.wait_for_log("readiness: ready", PATIENCE).await;
    process
}

async fn all_are_charged(site: &Site, jobs: &[Uuid], within: Duration) {
    let count = i64::try_from(jobs.len()).expect("some");
    eventually(
        "all are charged",
        within,
        async || {
            let charged = "select count(*) from token_deduction_records where status = 'completed'";
            site.number(charged).await
        },
        |charged| *charged == count,
    )
    .await;
}

/// Three processes with default settings, events that can be paid and events that can't, and among them `poisons`.
async fn three_processes(poisons: u32) {
    let mut site = Site::new().await;
    site.set("ARCHIVIST__BACKLOG_INTERVAL", "200ms");
    let company = site.company(0, 1_000_000).await;
    let mut processes = Vec::new();
    for _ in 0..3 {
        processes.push(serving(&site).await);
    }
    let (mut paid, mut unpaid, mut kept) = (Vec::new(), HashSet::new(), HashSet::new());
    for n in 0..200_u32 {
        paid.push(Uuid::new_v4());
        site.publish(paid[paid.len() - 1], company, 10).await;
        if n % 10 == 0 {
            let job = Uuid::new_v4();
            unpaid.insert(job);
            site.publish(job, company, 2_000_000).await;
        }
        if n >= 100 && n - 100 < poisons {
            kept.insert(poison(&site, None, Uuid::new_v4(), company).await);
        }
    }
    let met = Instant::now();
    all_are_charged(&site, &paid, Duration::from_secs(10) * poisons).await;
    eprintln!(
        "charged {:?} after {poisons} that can't be read",
        met.elapsed()
    );
    moved_on(&site, poisons, Duration::from_secs(60) * poisons).await;
    eprintln!("moved on after {:?}", met.elapsed());
    let dead_letters = site.archived(20).await;

    // Nobody else came to a limit, and what came late is as quick as ever.
    let archived: HashSet<Uuid> = dead_letters.iter().filter_map(|one| one.job_id).collect();
    assert_eq!(archived, unpaid);
    assert!(
        dead_letters
            .iter()
            .all(|dead_letter| dead_letter.reason == "insufficient_balance")
    );
    assert_eq!(site.balance(company).await, (0, 1_000_000 - 200 * 10));
    let last = Uuid::new_v4();
    site.publish(last, company, 3).await;
    site.until(last, "completed").await;

    it_is_counted(&site, poisons, &mut processes[0]).await;
    assert_eq!(
        taken_away(&site).await.into_iter().collect::<HashSet<_>>(),
        kept
    );
    let ready = async || processes[0].log().last().cloned().unwrap_or_default();
    eventually("it is ready again", PATIENCE, ready, |line| {
        line.ends_with("readiness: ready")
    })
    .await;
    for process in &mut processes {
        process.terminate().await;
        assert_eq!(process.wait(PATIENCE).await, Some(0));
        let log = process.log();
        let idle = |line: &String| {
            line.contains("no events are being taken") || line.contains("no dead letters are")
        };
        assert!(!log.iter().any(idle), "{log:#?}");
        assert!(
            log.len() < 60 + 30 * poisons as usize,
            "{} lines",
            log.len()
        );
    }
}

/// By readiness, by `doctor` and by `dlq stats`.
async fn it_is_counted(site: &Site, poisons: u32, process: &mut Process) {
    let not_ready = format!("no client can read {poisons} in the queue");
    process.wait_for_log(&not_ready, PATIENCE).await;
    let stats = ["dlq", "stats", "--output", "json", "--max-open", "20"];
    let ran = site.run(&stats).await;
    assert_eq!(ran.json()["unreadable"], json!(poisons));
    let why = format!("20 open and {poisons} unreadable, {poisons} over --max-open 20");
    assert!(ran.failed(3).contains(&why), "{ran:#?}");
    let diagnosis = site.doctor().await;
    let (finding, fix) = diagnosis.failure_of(&site.broker.unreadable());
    assert!(
        finding.contains(&format!("{poisons} that no client can read")),
        "{finding}"
    );
    assert!(fix.contains("amqp-get"), "{fix}");
}

#[tokio::test]
async fn one_costs_three_processes_seconds_and_is_kept_and_counted() {
    three_processes(1).await;
}

#[tokio::test]
async fn ten_cost_ten_times_as_much_and_no_more() {
    if is_long() {
        three_processes(10).await;
    }
}

#[tokio::test]
async fn those_beside_it_do_not_come_to_their_own_delivery_limit() {
    let mut site = Site::new().await;
    // So few that the events would come to it too if they were in flight at each death.
    site.set("BROKER__DELIVERY_LIMIT", "12");
    site.declare().await;
    let company = site.company(0, 1_000_000).await;
    let mut jobs = Vec::new();
    let mut kept = HashSet::new();
    for n in 0..300 {
        jobs.push(Uuid::new_v4());
        site.publish(jobs[n], company, 10).await;
        if n == 150 {
            kept.insert(poison(&site, None, Uuid::new_v4(), company).await);
        }
    }
    let running = site.start_unready();
    all_are_charged(&site, &jobs, PATIENCE).await;
    let queue = site.broker.dead_letters();
    let moved = async || site.broker.ready_count(&queue).await;
    eventually("it is a dead letter", PATIENCE, moved, |count| {
        *count == Some(1)
    })
    .await;
    running.stop().await;
    assert_eq!(site.balance(company).await, (0, 1_000_000 - 300 * 10));

    // And in the dead-letter queue: what is beside it is archived.
    for n in 0..100 {
        site.broker
            .publish_to_queue(&queue, format!("no event {n}"))
            .await;
    }
    let archiving = site.archive_running().await;
    moved_on(&site, 1, Duration::from_secs(60)).await;
    let dead_letters = site.archived(100).await;
    archiving.stop().await;
    assert!(
        dead_letters
            .iter()
            .all(|dead_letter| dead_letter.reason == "unknown")
    );
    assert_eq!(
        taken_away(&site).await.into_iter().collect::<HashSet<_>>(),
        kept
    );
    assert_eq!(site.broker.ready_count(&queue).await, Some(0));
}
