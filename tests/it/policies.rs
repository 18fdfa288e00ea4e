//! Policies of somebody else's on our queues, on a broker of the test's own.

use std::collections::HashSet;

use uuid::Uuid;

use crate::support::{
    eventually::{PATIENCE, eventually},
    process::Process,
    raw::{RawClient, RawMessage},
    role::TestRole,
    servers::PrivateServers,
    site::Site,
};

async fn policy(servers: &PrivateServers, pattern: &str, definition: &str) {
    let set = [
        "set_policy",
        "--apply-to",
        "queues",
        "theirs",
        pattern,
        definition,
    ];
    servers.rabbitmqctl(&set).await;
}

#[tokio::test]
async fn no_policy_makes_a_queue_drop_what_nobody_has_seen() {
    let private = PrivateServers::start("policies").await;
    let mut site = Site::on(private.servers()).await;
    site.set("RECONNECT__MAX", "500ms");
    site.declare().await;
    let pattern = format!("^{}[.]dead-letters$", site.broker.prefix());
    policy(&private, &pattern, r#"{"max-length": 5}"#).await;
    // Full before anybody comes: what is on its way when a queue finds itself full is taken all the same.
    let mut raw = RawClient::connect(site.broker.url()).await;
    let mut filled = 0;
    while raw
        .publish(
            "",
            &site.broker.dead_letters(),
            &RawMessage::with_headers(b"", b"filler"),
        )
        .await
    {
        filled += 1;
        assert!(filled < 20, "nothing is refused");
    }
    let company = site.company(0, 1_000).await;
    let mut worker = Process::start(&["serve", "--role", "worker"], &site.environment());
    let mut unpaid = HashSet::new();
    for _ in 0..60 {
        let job = Uuid::new_v4();
        unpaid.insert(job);
        site.publish(job, company, 5_000).await;
    }
    let paid = Uuid::new_v4();
    site.publish(paid, company, 10).await;
    // The worker keeps what is refused, and says why.
    let said = worker
        .wait_for_log("not confirmed: publishing again", PATIENCE)
        .await;
    assert!(said.contains("is full (by a max-length policy"), "{said}");

    // Once somebody makes room, it goes on by itself.
    let mut archivist = Process::start(&["serve", "--role", "archivist"], &site.environment());
    let archived = async || {
        let dead_letters = site.dead_letters().await;
        dead_letters
            .iter()
            .filter_map(|dead_letter| dead_letter.job_id)
            .collect::<HashSet<_>>()
    };
    eventually("all are archived", PATIENCE, archived, |jobs| {
        *jobs == unpaid
    })
    .await;
    site.until(paid, "completed").await;
    for process in [&mut worker, &mut archivist] {
        process.terminate().await;
        assert_eq!(process.wait(PATIENCE).await, Some(0));
    }
    assert_eq!(site.balance(company).await, (0, 990));
    let dead_letters = site.dead_letters().await;
    let fillers = dead_letters.iter().filter(|one| one.job_id.is_none());
    let arrived: i32 = fillers.map(|dead_letter| dead_letter.occurrences).sum();
    assert_eq!(arrived, filled);
    for queue in [
        site.broker.work_queue(),
        site.broker.dead_letters(),
        site.broker.unreadable(),
    ] {
        assert_eq!(site.broker.ready_count(&queue).await, Some(0), "{queue}");
    }
    the_doctor_sees_them_at_work(&private, &mut site).await;
}

async fn the_doctor_sees_them_at_work(private: &PrivateServers, site: &mut Site) {
    let role = TestRole::granted(site, "serve").await;
    let owner = site.db.url().to_owned();
    site.set("DATABASE__URL", role.url());
    let everything = format!("^{}", site.broker.prefix());
    policy(private, &everything, r#"{"max-length": 50}"#).await;
    let diagnosis = site.doctor().await;
    let (finding, fix) = diagnosis.only_failure("probe");
    assert!(
        finding.contains(".dead-letters, ") && finding.contains("were refused"),
        "{finding}"
    );
    assert!(fix.contains("list_policies"), "{fix}");
    policy(private, &everything, r#"{"message-ttl": 100}"#).await;
    let diagnosis = site.doctor().await;
    let (finding, fix) = diagnosis.failure("probe");
    assert!(
        finding.contains("time to live") || finding.contains("before its time"),
        "{finding}"
    );
    assert!(!fix.is_empty());
    policy(private, &everything, r#"{"message-ttl": 400}"#).await;
    let diagnosis = site.doctor().await;
    let (finding, fix) = diagnosis.only_failure("probe");
    assert!(finding.contains("were gone after 500 ms"), "{finding}");
    assert!(fix.contains("message-ttl"), "{fix}");
    private.rabbitmqctl(&["clear_policy", "theirs"]).await;
    assert!(site.doctor().await.with("ok").contains(&"probe"));
    site.set("DATABASE__URL", &owner);
}
