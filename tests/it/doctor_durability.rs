//! What `doctor` says of a server that may forget, and of roles that it gives everything.

use crate::support::{
    eventually::{PATIENCE, eventually},
    role::{TestRole, healthy},
    servers::PrivateServers,
    site::Site,
};

async fn set(site: &Site, setting: &str) {
    site.db.execute(format!("alter system set {setting}")).await;
    site.db.execute("select pg_reload_conf()").await;
    let (name, value) = setting.split_once(" = ").expect("a setting");
    eventually(
        setting,
        PATIENCE,
        async || {
            sqlx::query_scalar::<_, String>("select current_setting($1)")
                .bind(name)
                .fetch_one(site.db.pool())
                .await
                .expect("asked")
        },
        |now| now == value.trim_matches('\''),
    )
    .await;
}

#[tokio::test]
async fn settings_with_which_a_crash_loses_commits_are_told() {
    let (site, role) = healthy().await;
    let name = role.quoted();
    for setting in ["fsync", "full_page_writes"] {
        // Tests share the server, so it only says so, and only to this role.
        site.db
            .execute(format!(
                "create schema if not exists saying; grant usage on schema saying to {name};
                 create or replace function saying.current_setting(text) returns text language sql as
                     $$ select case $1 when '{setting}' then 'off' else pg_catalog.current_setting($1) end $$;
                 alter role {name} set search_path = public, saying, pg_catalog"
            ))
            .await;
        let diagnosis = site.doctor().await;
        let (finding, fix) = diagnosis.only_failure("durability");
        assert!(
            finding.starts_with(&format!("off: {setting}:")),
            "{finding}"
        );
        assert!(
            fix.contains(&format!("alter system set {setting} = on")),
            "{fix}"
        );
    }
}

#[tokio::test]
async fn a_standby_that_may_lack_what_was_committed_and_a_role_that_may_write_all_are_told() {
    let servers = PrivateServers::start("standby").await;
    let mut site = Site::on(servers.servers()).await;
    site.declare().await;
    let role = TestRole::granted(&site, "serve").await;
    site.set("DATABASE__URL", role.url());
    assert_eq!(site.doctor().await.with("failed"), [""; 0]);
    // Whoever receives the log is a standby to the server.
    let receiving = std::env::temp_dir().join(format!("token-billing-wal-{}", std::process::id()));
    std::fs::create_dir_all(&receiving).expect("a directory");
    let mut standby = tokio::process::Command::new("pg_receivewal")
        .arg("--no-loop")
        .arg("-D")
        .arg(&receiving)
        .args(["-d", site.db.url()])
        .kill_on_drop(true)
        .spawn()
        .expect("PostgreSQL's client programs are installed");
    let standbys = "select count(*) from pg_stat_replication where state = 'streaming'";
    eventually(
        "it streams",
        PATIENCE,
        async || site.number(standbys).await,
        |&n| n == 1,
    )
    .await;
    let diagnosis = site.doctor().await;
    assert_eq!(diagnosis.with("failed"), [""; 0], "{diagnosis:#?}");
    let line = diagnosis.find("durability");
    assert_eq!(line["verdict"], "unchecked", "{line}");
    let finding = diagnosis.finding("durability");
    assert!(finding.contains("a failover to one loses"), "{finding}");
    set(&site, "synchronous_standby_names = 'pg_receivewal'").await;
    assert!(site.doctor().await.with("ok").contains(&"durability"));
    set(&site, "synchronous_standby_names = ''").await;
    standby.kill().await.expect("ended");
    std::fs::remove_dir_all(&receiving).expect("removed");

    let writer = TestRole::create(&site).await;
    let name = writer.quoted();
    site.db
        .execute(format!("grant pg_write_all_data to {name}"))
        .await;
    let diagnosis = site.doctor().await;
    let (finding, fix) = diagnosis.only_failure("rights_of_others");
    assert!(finding.contains("member of pg_write_all_data"), "{finding}");
    site.db.execute(fix).await;
    assert_eq!(site.doctor().await.with("failed"), [""; 0]);
}
