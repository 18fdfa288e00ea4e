//! A broker short of memory or disk: it takes no messages, and still delivers.

use std::collections::HashSet;

use uuid::Uuid;

use crate::support::{
    eventually::{PATIENCE, eventually},
    process::Process,
    servers::PrivateServers,
    site::Site,
};

/// How to set one off, what the broker calls it, and how to end it.
const ALARMS: [([&str; 2], &str, [&str; 2]); 2] = [
    (
        ["set_vm_memory_high_watermark", "0.000001"],
        "low on memory",
        ["set_vm_memory_high_watermark", "0.6"],
    ),
    (
        ["set_disk_free_limit", "10000GB"],
        "low on disk",
        ["set_disk_free_limit", "1MB"],
    ),
];

#[tokio::test]
async fn under_an_alarm_charging_goes_on_publishing_says_why_it_waits_and_nothing_is_lost() {
    let private = PrivateServers::start("alarms").await;
    let mut site = Site::on(private.servers()).await;
    site.set("RECONNECT__MAX", "500ms");
    site.set("BROKER__CONFIRM_TIMEOUT", "2s");
    site.declare().await;
    let company = site.company(0, 1_000_000).await;
    let mut unpaid = HashSet::new();
    let mut paid = Vec::new();
    for (set_off, reason, end) in ALARMS {
        for _ in 0..50 {
            paid.push(Uuid::new_v4());
            site.publish(paid[paid.len() - 1], company, 10).await;
        }
        let job = Uuid::new_v4();
        unpaid.insert(job);
        site.publish(job, company, 5_000_000).await;
        private.rabbitmqctl(&set_off).await;
        let mut serve = Process::start(&["serve"], &site.environment());
        let said = serve.wait_for_log("has an alarm", PATIENCE).await;
        assert!(said.contains(reason), "{said}");
        let said = serve
            .wait_for_log("not confirmed: publishing again", PATIENCE)
            .await;
        assert!(said.contains(reason), "{said}");
        let said = serve.wait_for_log("not ready: ", PATIENCE).await;
        assert!(said.contains(reason), "{said}");
        // What needs no publishing is charged: it is in the ledger, even where its ack waits for its neighbour.
        for job in &paid {
            site.until(*job, "completed").await;
        }
        publishing_says_why(&site, reason, company).await;
        site.run(&["dlq", "stats"]).await.done();
        private.rabbitmqctl(&end).await;
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
        serve.terminate().await;
        assert_eq!(serve.wait(PATIENCE).await, Some(0));
    }
    // What was stopped between a confirm that came late and its ack has given its batch back; it is acked now.
    let mut serve = Process::start(&["serve"], &site.environment());
    serve.wait_for_log("readiness: ready", PATIENCE).await;
    let work = site.broker.work_queue();
    let left = async || site.broker.ready_count(&work).await;
    eventually("nothing is left", PATIENCE, left, |left| *left == Some(0)).await;
    serve.terminate().await;
    assert_eq!(serve.wait(PATIENCE).await, Some(0));
    let completed = "select count(*) from token_deduction_records where status = 'completed'";
    let completed = usize::try_from(site.number(completed).await).expect("some");
    // Those that were not confirmed may have been charged, or not: their publisher was told so.
    assert!(
        (paid.len()..=paid.len() + ALARMS.len()).contains(&completed),
        "{completed}"
    );
    for queue in [site.broker.work_queue(), site.broker.dead_letters()] {
        assert_eq!(site.broker.ready_count(&queue).await, Some(0), "{queue}");
    }
}

/// At once, and again when it gives up.
async fn publishing_says_why(site: &Site, reason: &str, company: Uuid) {
    let (job, company) = (Uuid::new_v4().to_string(), company.to_string());
    let args = [
        "publish",
        "--job-id",
        &job,
        "--tokens",
        "1",
        "--company-id",
        &company,
    ];
    let ran = site.run(&args).await;
    let said = ran.refused(1);
    let note = format!(
        "note: the broker has an alarm ({reason}) and takes no messages: waiting for up to 12s"
    );
    assert!(said.starts_with(&note), "{said}");
    assert_eq!(said.matches(reason).count(), 2, "{said}");
    assert!(
        said.contains("not confirmed") && said.contains("run it again"),
        "{said}"
    );
}
