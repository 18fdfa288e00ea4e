//! URLs whose passwords may go over a network unencrypted.

use crate::support::{eventually::PATIENCE, process::Process, site::Site};

#[tokio::test]
async fn a_url_that_may_send_its_password_in_clear_is_said_once_at_the_start() {
    let mut site = Site::new().await;
    site.declare().await;
    let mut process = Process::start(&["serve"], &site.environment());
    process.wait_for_log("readiness: ready", PATIENCE).await;
    process.terminate().await;
    process.wait(PATIENCE).await;
    assert!(
        !process
            .log()
            .iter()
            .any(|line| line.contains("unencrypted"))
    );

    site.set(
        "DATABASE__URL",
        "postgres://billing:secret@db.invalid/billing",
    );
    site.set("BROKER__URL", "amqp://billing:secret@mq.invalid/%2f");
    let mut process = Process::start(&["serve"], &site.environment());
    process
        .wait_for_log("not ready: the database is away", PATIENCE)
        .await;
    process.terminate().await;
    process.wait(PATIENCE).await;
    let log = process.log();
    for (setting, forbid) in [
        ("database.url", "sslmode=verify-full"),
        ("broker.url", "amqps://"),
    ] {
        let said = log
            .iter()
            .filter(|line| line.contains(&format!("{setting} may send its password")));
        let said: Vec<&String> = said.collect();
        assert_eq!(said.len(), 1, "{log:#?}");
        assert!(said[0].contains(forbid), "{}", said[0]);
    }
    assert!(!log.iter().any(|line| line.contains("secret")));
}

#[tokio::test]
async fn doctor_says_it_too_and_holds_it_against_nobody() {
    let mut site = Site::new().await;
    site.declare().await;
    let diagnosis = site.doctor().await;
    assert_eq!(diagnosis.find("encryption")["verdict"], "ok");
    site.set("DATABASE__URL", "postgres://billing:secret@db.invalid/b");
    site.set("BROKER__URL", "amqps://billing:secret@mq.invalid/%2f");
    let diagnosis = site.doctor().await;
    let line = diagnosis.find("encryption");
    assert_eq!(line["verdict"], "unchecked", "{line}");
    assert_eq!(line["subject"], "database.url", "{line}");
    let fix = line["fix"].as_str().expect("a fix");
    assert!(fix.contains("sslmode=verify-full"), "{fix}");
}
