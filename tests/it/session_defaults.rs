//! The database is somebody else's: what it sets by default must not change what the ledger promise.

use std::time::Duration;

use time::OffsetDateTime;
use token_billing::storage::StaleDeduction;
use uuid::Uuid;

use crate::support::{
    accounts::Accounts,
    eventually::{PATIENCE, eventually},
    process::Process,
    servers::PrivateServers,
    site::Site,
};

async fn default(site: &Site, setting: &str) {
    site.db
        .execute(format!(
            "do $$ begin execute format('alter database %I set {}', current_database()); end $$",
            setting.replace('\'', "''")
        ))
        .await;
}

/// Whether in a session of the product's own this is true.
async fn in_a_session(site: &Site, condition: &str) -> Option<bool> {
    let storage = site.storage();
    let query = storage
        .article_query(&format!("select {condition}"))
        .await
        .expect("asked")
        .expect("a query");
    let nobody = StaleDeduction {
        idempotency_key: "none".into(),
        company_id: Uuid::nil(),
        article_id: None,
        job_id: None,
        amount: 1,
        pending_since: OffsetDateTime::UNIX_EPOCH,
        article_exists: None,
    };
    let answers = storage.articles_exist(&query, &[nobody]).await;
    storage.close().await;
    answers.expect("asked")[0]
}

#[tokio::test]
async fn a_session_sets_all_that_the_ledger_rests_on_whatever_the_database_says() {
    let site = Site::new().await;
    for (setting, bad, good) in [
        ("synchronous_commit", "off", "on"),
        ("synchronous_commit", "local", "on"),
        ("synchronous_commit", "remote_apply", "remote_apply"),
        (
            "default_transaction_isolation",
            "'repeatable read'",
            "read committed",
        ),
        (
            "default_transaction_isolation",
            "'serializable'",
            "read committed",
        ),
        ("row_security", "off", "on"),
        ("transform_null_equals", "on", "off"),
        ("standard_conforming_strings", "off", "on"),
        ("idle_session_timeout", "'1h'", "0"),
        ("plpgsql.extra_errors", "'all'", "none"),
    ] {
        default(&site, &format!("{setting} = {bad}")).await;
        let is = format!("current_setting('{setting}') = '{good}'");
        assert_eq!(in_a_session(&site, &is).await, Some(true), "{setting}");
    }
}

#[tokio::test]
async fn another_default_isolation_makes_no_retry_and_no_dead_letter() {
    let mut site = Site::new().await;
    site.set("WORKER__BATCH_MAX", "20");
    site.set("WORKER__PREFETCH", "20");
    default(&site, "default_transaction_isolation = 'repeatable read'").await;
    let mut accounts = Accounts::open(&site, 3, 1_000_000).await;
    // Two, so that charges of one company meet.
    let (running, other) = (site.start().await, site.start().await);
    accounts.publish(&site, 1000).await;
    accounts.all_decided(&site, Duration::from_secs(60)).await;
    for running in [running, other] {
        let tally = running.counts();
        running.stop().await;
        assert_eq!((tally.delayed, tally.dead_lettered), (0, 0), "{tally}");
    }
    accounts.add_up(&site).await;
}

#[tokio::test]
async fn what_was_acked_survives_a_crash_of_a_database_that_commits_asynchronously() {
    let servers = PrivateServers::start("commit").await;
    let site = Site::on(servers.servers()).await;
    site.declare().await;
    default(&site, "synchronous_commit = off").await;
    // Else what is not flushed by the commits themselves would be by this, sooner than a crash can come.
    site.db
        .execute("alter system set wal_writer_delay = '10s'")
        .await;
    site.db.execute("select pg_reload_conf()").await;
    let mut accounts = Accounts::open(&site, 5, 1_000_000).await;
    site.db.execute("checkpoint").await;
    for _ in 0..3 {
        let mut process = Process::start(&["serve", "--role", "worker"], &site.environment());
        accounts.publish(&site, 200).await;
        accounts.all_decided(&site, Duration::from_secs(60)).await;
        // Drained: everything is acked, and nothing will come again.
        process.terminate().await;
        assert_eq!(process.wait(PATIENCE).await, Some(0));
        servers.restart_postgres().await;
        let completed = eventually(
            "the database is back",
            PATIENCE,
            async || {
                let count =
                    "select count(*) from token_deduction_records where status = 'completed'";
                sqlx::query_scalar::<_, i64>(count)
                    .fetch_one(site.db.pool())
                    .await
                    .ok()
            },
            Option::is_some,
        )
        .await;
        assert_eq!(completed, Some(accounts.published()));
    }
    accounts.add_up(&site).await;
}
