//! A changed `broker.delivery_limit` on queues that are declared already.

use uuid::Uuid;

use crate::support::{eventually::PATIENCE, process::Process, site::Site};

#[tokio::test]
async fn a_changed_delivery_limit_says_what_to_do_and_doing_it_is_enough() {
    let mut site = Site::new().await;
    site.set("RECONNECT__MAX", "500ms");
    site.declare().await;
    let company = site.company(0, 1_000).await;
    site.set("BROKER__DELIVERY_LIMIT", "50");
    let mut process = Process::start(&["serve"], &site.environment());
    let said = process.wait_for_log("readiness: not ready", PATIENCE).await;
    for part in [
        "put broker.delivery_limit (now 50) back",
        "received '50' but current is '100'",
        &format!(
            "rabbitmqctl delete_queue --if-empty {}",
            site.broker.work_queue()
        ),
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let diagnosis = site.doctor().await;
    let (finding, fix) = diagnosis.failure_of(&site.broker.work_queue());
    assert!(
        finding.contains("received '50' but current is '100'"),
        "{finding}"
    );
    assert!(
        fix.contains("put broker.delivery_limit (now 50) back"),
        "{fix}"
    );

    // As it says; the processes that wait for it need no restart.
    site.broker.delete(&site.broker.work_queue()).await;
    process.wait_for_log("readiness: ready", PATIENCE).await;
    let job = Uuid::new_v4();
    site.publish(job, company, 10).await;
    site.until(job, "completed").await;
    process.terminate().await;
    assert_eq!(process.wait(PATIENCE).await, Some(0));
    // Told at each change, and not at each of the many tries.
    let log = process.log();
    let told = log.iter().filter(|line| line.contains("received '50'"));
    assert!(told.count() <= 3, "{log:#?}");
}
