//! The archive's database is away with dead letters arriving, and whether readiness tells.

use uuid::Uuid;

use crate::support::{
    broker::event_properties,
    eventually::{PATIENCE, eventually},
    process::Process,
    proxy::ChaosProxy,
    site::{Site, event},
};

/// Lines of readiness so far, without what comes before the text.
fn readiness(process: &Process) -> Vec<String> {
    let told = |line: &String| {
        let (_, text) = line.split_once("readiness: ")?;
        Some(text.to_owned())
    };
    process.log().iter().filter_map(told).collect()
}

async fn until_told(process: &Process, what: &str, is_told: impl Fn(&[String]) -> bool) {
    eventually(
        what,
        PATIENCE,
        async || readiness(process),
        |lines| is_told(lines),
    )
    .await;
}

fn last_is(text: &str) -> impl Fn(&[String]) -> bool {
    move |lines| lines.last().is_some_and(|line| line == text)
}

#[tokio::test]
async fn while_the_database_is_away_dead_letters_wait_and_readiness_says_no() {
    let mut site = Site::new().await;
    let proxy = ChaosProxy::start(site.db.url()).await;
    site.set("DATABASE__URL", &proxy.url());
    site.set("RECONNECT__INITIAL", "10ms");
    site.set("RECONNECT__MAX", "100ms");
    site.set("ARCHIVIST__BACKLOG_INTERVAL", "100ms");
    site.set("ARCHIVIST__BACKLOG_MAX", "30");
    // So long what is in flight is kept before it is requeued.
    site.set("DATABASE__ACQUIRE_TIMEOUT", "500ms");
    let mut process = Process::start(&["serve"], &site.environment());
    until_told(&process, "it is ready", last_is("ready")).await;
    let company = site.company(0, 1000).await;
    let (paid, unpaid) = (Uuid::new_v4(), Uuid::new_v4());
    site.publish(paid, company, 10).await;
    site.publish(unpaid, company, 5000).await;
    site.until(paid, "completed").await;
    site.archived(1).await;

    proxy.refuse().await;
    let mut late = Vec::new();
    for n in 0..40 {
        late.push(Uuid::new_v4());
        // Refused once the ledger is back, and dead at once, by other workers, while it is away.
        site.publish(late[n], company, 5000).await;
        let body = format!("no event {n}");
        let queue = site.broker.dead_letters();
        site.broker
            .publish_to_queue_with(&queue, body, event_properties())
            .await;
    }
    let charged_late = Uuid::new_v4();
    site.publish(charged_late, company, 20).await;
    until_told(&process, "the database is away", |lines| {
        lines
            .iter()
            .any(|line| line.contains("the database is away"))
    })
    .await;
    until_told(&process, "too many dead letters wait", |lines| {
        lines
            .iter()
            .any(|line| line.contains("archivist.backlog_max wait"))
    })
    .await;

    proxy.restore().await;
    site.until(charged_late, "completed").await;
    let dead_letters = site.archived(1 + 40 + 40).await;
    until_told(&process, "it is ready again", last_is("ready")).await;
    process.terminate().await;
    assert_eq!(process.wait(PATIENCE).await, Some(0));
    let drained = process.wait_for_log("drained", PATIENCE).await;
    assert!(
        drained.contains("charged") && drained.contains(" archived"),
        "{drained}"
    );

    let archived = |job: &Uuid| dead_letters.iter().any(|dead| dead.job_id == Some(*job));
    assert!(late.iter().all(archived) && archived(&unpaid));
    let of_no_event = dead_letters.iter().filter(|dead| dead.job_id.is_none());
    assert_eq!(of_no_event.count(), 40);
    let left = site.broker.take_all(&site.broker.dead_letters()).await;
    assert!(left.is_empty(), "{left:#?}");
    assert_eq!(site.balance(company).await, (0, 970));
    let usage = "select count(*) from token_usage_logs";
    assert_eq!(site.number(usage).await, 2);
    // Nobody heard of a start that takes its time.
    assert_eq!(readiness(&process)[0], "ready");
}

#[tokio::test]
async fn dead_letters_that_nobody_can_archive_turn_readiness_red_by_their_age() {
    let mut site = Site::new().await;
    site.set("ARCHIVIST__BACKLOG_INTERVAL", "100ms");
    site.set("ARCHIVIST__BACKLOG_MAX_AGE", "300ms");
    site.set("DATABASE__LOCK_TIMEOUT", "50ms");
    site.set("RECONNECT__INITIAL", "200ms");
    site.set("RECONNECT__MAX", "400ms");
    let mut process = Process::start(&["serve", "--role", "archivist"], &site.environment());
    until_told(&process, "it is ready", last_is("ready")).await;
    // The database is there, but whoever writes dead letters must wait.
    let mut locker = site.db.pool().begin().await.expect("begun");
    sqlx::query("select lock_dead_letters()")
        .execute(&mut *locker)
        .await
        .expect("locked");
    let job = Uuid::new_v4();
    let queue = site.broker.dead_letters();
    let body = event(job, Uuid::new_v4(), 1).to_string();
    site.broker.publish_to_queue(&queue, body).await;
    until_told(&process, "the dead letters are stuck", |lines| {
        lines
            .iter()
            .any(|line| line.contains("archivist.backlog_max_age"))
    })
    .await;
    locker.rollback().await.expect("released");
    until_told(&process, "it is ready again", last_is("ready")).await;
    process.terminate().await;
    assert_eq!(process.wait(PATIENCE).await, Some(0));
    assert_eq!(site.dead_letters().await[0].job_id, Some(job));
    // It was kept in flight, and has come no nearer to the limit of its queue: the broker counts what is requeued.
    let given_back = "select count(*) from dead_letters where headers ? 'x-delivery-count'";
    assert_eq!(site.number(given_back).await, 0);
}

#[tokio::test]
async fn an_archivist_alone_finds_out_that_its_database_is_away_and_back() {
    let mut site = Site::new().await;
    let proxy = ChaosProxy::start(site.db.url()).await;
    site.set("DATABASE__URL", &proxy.url());
    site.set("RECONNECT__INITIAL", "10ms");
    site.set("RECONNECT__MAX", "100ms");
    site.set("ARCHIVIST__RESOLVE_INTERVAL", "100ms");
    let process = Process::start(&["serve", "--role", "archivist"], &site.environment());
    until_told(&process, "it is ready", last_is("ready")).await;
    proxy.refuse().await;
    until_told(&process, "it is not", |lines| {
        lines
            .last()
            .is_some_and(|line| line.starts_with("not ready: the database is away"))
    })
    .await;
    proxy.restore().await;
    until_told(&process, "it is ready again", last_is("ready")).await;
}
