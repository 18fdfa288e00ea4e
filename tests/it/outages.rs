//! Something is away: the database, the broker, or the way to either.

use std::time::Duration;

use uuid::Uuid;

use crate::support::{
    accounts::Accounts,
    eventually::{PATIENCE, eventually},
    is_long,
    process::Process,
    proxy::{ChaosProxy, Moment},
    servers::{PrivateServers, Servers},
    site::Site,
};

#[tokio::test]
async fn crashes_of_both_servers_under_load_lose_and_double_nothing() {
    let servers = PrivateServers::start("chaos").await;
    let mut site = Site::on(servers.servers()).await;
    site.declare().await;
    servers.write_down_queues().await;
    let mut accounts = Accounts::open(&site, 20, 10_000_000).await;
    let mut process = Process::start(&["serve", "--role", "worker"], &site.environment());
    for round in 0..if is_long() { 60 } else { 3 } {
        // While it is published: however fast the machine is, work waits for the database, and
        // the broker's crash meets the beginning of it.
        tokio::join!(accounts.publish(&site, 2000), servers.restart_postgres());
        if round % 3 == 0 {
            servers.kill_rabbitmq().await;
            servers.start_rabbitmq().await;
            site.broker.reconnect().await;
        }
    }
    accounts.all_decided(&site, Duration::from_secs(120)).await;
    process.terminate().await;
    accounts.add_up(&site).await;
}

#[tokio::test]
async fn fifty_short_outages_of_the_database_use_up_no_attempt() {
    let mut site = Site::new().await;
    let proxy = ChaosProxy::start(site.db.url()).await;
    site.set("DATABASE__URL", &proxy.url());
    site.set("RECONNECT__INITIAL", "10ms");
    site.set("RECONNECT__MAX", "100ms");
    let running = site.start().await;
    let mut accounts = Accounts::open(&site, 5, 1_000_000).await;
    for _ in 0..50 {
        let before = accounts.published();
        proxy.refuse().await;
        accounts.publish(&site, 20).await;
        proxy.restore().await;
        eventually(
            "it goes on",
            PATIENCE,
            async || accounts.completed(&site).await,
            |&n| n > before,
        )
        .await;
    }
    accounts.all_decided(&site, PATIENCE).await;
    assert_eq!(running.counts().dead_lettered, 0);
    running.stop().await;
    accounts.add_up(&site).await;
}

#[tokio::test]
async fn fifty_cut_connections_to_the_broker_lose_nothing() {
    let mut site = Site::new().await;
    let proxy = ChaosProxy::start(site.broker.url()).await;
    site.set("BROKER__URL", &proxy.url());
    site.set("RECONNECT__INITIAL", "10ms");
    site.set("RECONNECT__MAX", "100ms");
    let running = site.start().await;
    let mut accounts = Accounts::open(&site, 5, 1_000_000).await;
    for _ in 0..50 {
        let before = accounts.published();
        accounts.publish(&site, 20).await;
        proxy.cut();
        eventually(
            "it goes on",
            PATIENCE,
            async || accounts.completed(&site).await,
            |&n| n > before,
        )
        .await;
    }
    accounts.all_decided(&site, PATIENCE).await;
    running.stop().await;
    accounts.add_up(&site).await;
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_not_charged_again() {
    let mut site = Site::new().await;
    let proxy = ChaosProxy::start(site.db.url()).await;
    site.set("DATABASE__URL", &proxy.url());
    let running = site.start().await;
    let company = site.company(0, 100).await;
    let job = Uuid::new_v4();
    proxy.cut_when_client_sends(*job.as_bytes(), Moment::WhenTheServerAnswers, 1);
    site.publish(job, company, 10).await;
    eventually(
        "it is charged",
        PATIENCE,
        async || running.counts(),
        |tally| tally.duplicates == 1,
    )
    .await;
    assert_eq!(proxy.cuts(), 1);
    running.stop().await;
    assert_eq!(site.balance(company).await, (0, 90));
    assert_eq!(
        site.number("select count(*) from token_usage_logs").await,
        1
    );
}

#[tokio::test]
async fn a_connection_cut_at_each_try_is_retried_by_the_schedule_and_then_owed() {
    let mut site = Site::new().await;
    let proxy = ChaosProxy::start(site.db.url()).await;
    site.set("DATABASE__URL", &proxy.url());
    let running = site.start().await;
    let company = site.company(0, 100).await;
    let job = Uuid::new_v4();
    // Each of the four tries asks twice: one cut alone may be bad luck.
    proxy.cut_when_client_sends(*job.as_bytes(), Moment::BeforeTheServerHasIt, 8);
    site.publish(job, company, 10).await;

    let dead_letter = site.dead_letter().await;

    assert_eq!(proxy.cuts(), 8);
    assert_eq!(
        dead_letter.header("reason").as_deref(),
        Some("retries_exhausted")
    );
    assert_eq!(dead_letter.header("attempt").as_deref(), Some("3"));
    assert_eq!(site.until(job, "pending").await.amount, 10);
    assert_eq!(running.counts().delayed, 3);
    running.stop().await;
    assert_eq!(site.balance(company).await, (0, 100));
}

#[tokio::test]
async fn messages_are_given_back_when_an_outage_lasts_and_charged_after_it() {
    let mut site = Site::new().await;
    let proxy = ChaosProxy::start(site.db.url()).await;
    site.set("DATABASE__URL", &proxy.url());
    site.set("WORKER__HOLD_MAX", "1s");
    let running = site.start().await;
    let company = site.company(0, 100).await;
    let job = Uuid::new_v4();
    site.publish(job, company, 1).await;
    site.until(job, "completed").await;
    proxy.refuse().await;
    let late = Uuid::new_v4();
    site.publish(late, company, 10).await;
    let queue = site.broker.work_queue();
    eventually(
        "it is back in the queue",
        PATIENCE,
        async || site.broker.ready_count(&queue).await,
        |ready| *ready == Some(1),
    )
    .await;
    proxy.restore().await;
    site.until(late, "completed").await;
    running.stop().await;
    assert_eq!(site.balance(company).await, (0, 89));
}

#[tokio::test]
async fn a_worker_may_start_before_its_database_and_its_broker() {
    let mut site = Site::new().await;
    let database = ChaosProxy::start(site.db.url()).await;
    let broker = ChaosProxy::start(&Servers::shared().broker_url).await;
    site.set("DATABASE__URL", &database.url());
    site.set("BROKER__URL", &broker.url());
    database.refuse().await;
    broker.refuse().await;
    site.declare().await;
    let company = site.company(0, 100).await;
    let job = Uuid::new_v4();
    site.publish(job, company, 10).await;
    let running = site.start_unready();
    broker.restore().await;
    database.restore().await;
    site.until(job, "completed").await;
    running.stop().await;
}
