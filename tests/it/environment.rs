//! What the machines around do to a service: connections used up, a database that can only be read, a standby
//! and its promotion, a broker short of memory or disk, a clock that jumps.

use std::time::Duration;

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::support::{
    accounts::Accounts,
    eventually::{PATIENCE, eventually},
    is_long,
    process::Process,
    role::{TestRole, healthy},
    servers::PrivateServers,
    site::Site,
    standby::Standby,
};

/// The role that `serve` runs as, and its settings: it finds out soon that things are well again.
async fn served() -> (Site, TestRole) {
    let (mut site, role) = healthy().await;
    site.set("RECONNECT__INITIAL", "50ms");
    site.set("RECONNECT__MAX", "200ms");
    (site, role)
}

/// Ends the sessions of `serve`, so that it must connect anew.
async fn disconnect(site: &Site) {
    let sessions = "select count(pg_terminate_backend(pid)) from pg_stat_activity
        where datname = current_database() and application_name = 'token-billing'";
    site.number(sessions).await;
}

/// Stops it: nothing that was in its hands had used up an attempt.
async fn drain(mut process: Process) {
    process.terminate().await;
    assert_eq!(process.wait(PATIENCE).await, Some(0));
    let drained = process.wait_for_log("drained", PATIENCE).await;
    let untroubled = drained.contains(" 0 delayed, 0 dead-lettered; 0 archived");
    assert!(untroubled, "{drained}");
}

#[tokio::test]
async fn without_a_free_connection_work_waits_at_the_start_and_later() {
    let (site, role) = served().await;
    let name = role.quoted();
    let limit = |connections: i32| format!("alter role {name} connection limit {connections}");
    let mut accounts = Accounts::open(&site, 5, 1_000_000).await;
    site.db.execute(limit(0)).await;
    accounts.publish(&site, 200).await;
    let mut process = Process::start(&["serve"], &site.environment());
    process.wait_for_log("not ready", PATIENCE).await;
    process.wait_for_log("SQLSTATE 53300", PATIENCE).await;
    assert_eq!(accounts.completed(&site).await, 0);
    site.db.execute(limit(-1)).await;
    accounts.all_decided(&site, PATIENCE).await;

    // Others were faster while it had lost its connections.
    site.db.execute(limit(0)).await;
    disconnect(&site).await;
    accounts.publish(&site, 200).await;
    let told = async || {
        let log = process.log();
        log.iter().filter(|line| line.contains("not ready")).count()
    };
    eventually("it says so again", PATIENCE, told, |&times| times >= 2).await;
    site.db.execute(limit(-1)).await;
    accounts.all_decided(&site, PATIENCE).await;

    // Fewer than it would like: its own idle ones must not take the place of those that work. How fast it goes is then a
    // matter of luck; without letting them go nothing at all is charged for ten minutes.
    site.db.execute(limit(3)).await;
    disconnect(&site).await;
    accounts.publish(&site, 200).await;
    accounts.all_decided(&site, PATIENCE * 4).await;
    site.db.execute(limit(-1)).await;
    drain(process).await;
    accounts.add_up(&site).await;
}

#[tokio::test]
async fn a_database_that_turns_read_only_is_waited_for() {
    let (site, _role) = served().await;
    let mut accounts = Accounts::open(&site, 5, 1_000_000).await;
    let mut process = Process::start(&["serve"], &site.environment());
    accounts.publish(&site, 200).await;
    accounts.all_decided(&site, PATIENCE).await;

    let read_only = async |setting: &'static str| {
        let sql = format!(
            "do $$ begin execute format('alter database %I {setting}', current_database()); end $$"
        );
        // A session of its own, which may write whatever the database's default is.
        let mut session = site.db.pool().acquire().await.expect("a session");
        for sql in ["set default_transaction_read_only = off", &sql] {
            let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *session);
            done.await.expect("done");
        }
    };
    read_only("set default_transaction_read_only = on").await;
    disconnect(&site).await;
    accounts.publish(&site, 200).await;
    process.wait_for_log("not ready", PATIENCE).await;
    assert!(accounts.completed(&site).await < accounts.published());
    read_only("reset default_transaction_read_only").await;
    accounts.all_decided(&site, PATIENCE).await;
    drain(process).await;
    accounts.add_up(&site).await;
}

#[tokio::test]
async fn a_standby_behind_the_url_is_worked_with_as_soon_as_it_is_promoted() {
    if !is_long() {
        return;
    }
    let servers = PrivateServers::start("standby").await;
    let mut site = Site::on(servers.servers()).await;
    site.set("RECONNECT__MAX", "500ms");
    site.declare().await;
    let mut accounts = Accounts::open(&site, 5, 1_000_000).await;
    accounts.publish(&site, 500).await;
    let mut first = Process::start(&["serve"], &site.environment());
    accounts.all_decided(&site, PATIENCE).await;
    first.kill9().await;

    let standby = Standby::of(&site).await;
    site.set("DATABASE__URL", standby.url());
    accounts.publish(&site, 500).await;
    let mut process = Process::start(&["serve"], &site.environment());
    process.wait_for_log("not ready", PATIENCE).await;
    process.wait_for_log("read-only", PATIENCE).await;
    let company = accounts.companies()[0].to_string();
    let credit = ["credit", &company, "--purchased", "5", "--key", "1"];
    for command in [&credit[..], &["reconcile"]] {
        let ran = site.run(command).await;
        assert!(ran.failed(1).contains("read-only"), "{ran:#?}");
    }
    standby.promote().await;
    let charged = async || standby.charged().await;
    eventually("all is charged there", PATIENCE, charged, |&charged| {
        charged == accounts.published()
    })
    .await;
    drain(process).await;
    site.run(&["audit"]).await.done();
}

#[tokio::test]
async fn a_broker_short_of_memory_or_disk_loses_nothing() {
    if !is_long() {
        return;
    }
    let servers = PrivateServers::start("short").await;
    let mut site = Site::on(servers.servers()).await;
    site.set("WORKER__DRAIN_TIMEOUT", "3s");
    site.declare().await;
    let mut refused = 0;
    for (alarm, short, enough) in [
        ("set_vm_memory_high_watermark", "0.0000001", "0.4"),
        ("set_disk_free_limit", "900GB", "50MB"),
    ] {
        let mut accounts = Accounts::open(&site, 5, 1_000_000).await;
        let poor = site.company(0, 0).await;
        accounts.publish(&site, 1000).await;
        for _ in 0..100 {
            site.publish(Uuid::new_v4(), poor, 1).await;
        }
        refused += 100;
        servers.rabbitmqctl(&[alarm, short]).await;
        // What can be charged without a word to the broker is; the refusals can't be told to anybody.
        let mut process = Process::start(&["serve"], &site.environment());
        let failed = "select count(*) from token_deduction_records where status = 'failed'";
        eventually(
            "it works",
            PATIENCE,
            async || site.number(failed).await,
            |&n| n > refused - 100,
        )
        .await;
        // Told to stop meanwhile, it gives up after its time, and what it has in flight goes back.
        process.terminate().await;
        assert_eq!(process.wait(PATIENCE).await, Some(1));
        process.wait_for_log("not drained", PATIENCE).await;

        let mut process = Process::start(&["serve"], &site.environment());
        process.wait_for_log("started", PATIENCE).await;
        servers.rabbitmqctl(&[alarm, enough]).await;
        site.archived(refused).await;
        let completed = "select count(*) from token_deduction_records where status = 'completed'";
        let all = refused / 100 * 1000;
        let look = async || site.number(completed).await;
        eventually("the rest is charged", PATIENCE, look, |&n| n == all).await;
        process.terminate().await;
        assert_eq!(process.wait(PATIENCE).await, Some(0));
    }
    assert_eq!(site.run(&["audit"]).await.done().matches('✗').count(), 0);
}

/// Where Debian has it (package libfaketime).
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

#[tokio::test]
async fn a_clock_that_jumps_by_a_day_changes_nothing_for_a_process() {
    if !is_long() || !std::path::Path::new(FAKETIME).exists() {
        return;
    }
    let mut site = Site::new().await;
    site.set("WORKER__HOLD_MAX", "10m");
    site.declare().await;
    let folder = tempfile::tempdir().expect("a folder");
    let clock = folder.path().join("clock");
    let clock = clock.to_str().expect("UTF-8");
    let jump = |by: &str| std::fs::write(clock, by).expect("written");
    jump("+0d");
    let mut environment = site.environment();
    environment.extend([
        ("LD_PRELOAD", FAKETIME),
        ("FAKETIME_TIMESTAMP_FILE", clock),
        ("FAKETIME_NO_CACHE", "1"),
        // As with a real clock: only the time of day jumps.
        ("DONT_FAKE_MONOTONIC", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ]);
    let mut accounts = Accounts::open(&site, 5, 1_000_000).await;
    let process = Process::start(&["serve", "--role", "worker"], &environment);
    for by in ["+0d", "+1d", "-1d", "+0d"] {
        accounts.publish(&site, 300).await;
        jump(by);
        accounts.publish(&site, 300).await;
        accounts.all_decided(&site, Duration::from_secs(10)).await;
    }
    let mut process = process;
    process.terminate().await;
    assert_eq!(process.wait(Duration::from_secs(10)).await, Some(0));
    let log = process.log();
    let unready = log.iter().find(|line| line.contains("not ready"));
    assert_eq!(unready, None);
    accounts.add_up(&site).await;
}
