//! The probe: what it made is gone, however it ended.

use crate::support::{
    diagnosis::Diagnosis,
    eventually::{PATIENCE, eventually},
    process::Process,
    role::TestRole,
    servers::PrivateServers,
    site::Site,
};

/// Queues and exchanges that a probe made and that are still there.
async fn scratch(servers: &PrivateServers) -> Vec<String> {
    let queues = servers.rabbitmqctl(&["-q", "list_queues", "name"]).await;
    let exchanges = servers.rabbitmqctl(&["-q", "list_exchanges", "name"]).await;
    let names = queues.lines().chain(exchanges.lines());
    let ours = names.filter(|name| name.contains(".doctor-"));
    ours.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_probe_that_fails_or_is_interrupted_leaves_nothing_behind() {
    let private = PrivateServers::start("probe").await;
    let mut site = Site::on(private.servers()).await;
    site.declare().await;
    let role = TestRole::granted(&site, "serve").await;
    site.set("DATABASE__URL", role.url());

    // Under a memory alarm the broker doesn't read what is published.
    let alarm = ["set_vm_memory_high_watermark", "0"];
    private.rabbitmqctl(&alarm).await;
    let mut doctor = Process::start(&["doctor"], &site.environment());
    let look = async || scratch(&private).await.len();
    eventually("a probe", PATIENCE, look, |made| *made == 5).await;
    doctor.signal("INT").await;
    assert_eq!(doctor.wait(PATIENCE).await, Some(1));
    assert_eq!(doctor.log(), ["error: interrupted"]);
    assert_eq!(scratch(&private).await, [""; 0]);

    // Left alone, it gives up by itself.
    site.set("BROKER__CONFIRM_TIMEOUT", "500ms");
    let diagnosis = site.doctor().await;
    let (finding, fix) = diagnosis.only_failure("probe");
    assert!(finding.contains("no answer within"), "{finding}");
    assert!(fix.contains("memory or disk alarm"), "{fix}");
    assert_eq!(scratch(&private).await, [""; 0]);
    private
        .rabbitmqctl(&["set_vm_memory_high_watermark", "0.4"])
        .await;

    // A user who may look at everything, declare only what is the product's, and publish nothing by name.
    let ours = format!("^{}.*", site.broker.prefix());
    private.rabbitmqctl(&["add_user", "meek", "hunter2"]).await;
    private
        .rabbitmqctl(&["set_permissions", "meek", &ours, &ours, &ours])
        .await;
    let mut url = url::Url::parse(site.broker.url()).expect("a URL");
    url.set_username("meek").expect("a user");
    url.set_password(Some("hunter2")).expect("a password");
    let as_meek = [("TOKEN_BILLING__BROKER__URL", url.as_str())];
    let diagnosis = site.doctor_in(&as_meek).await;
    let (finding, fix) = diagnosis.only_failure("probe");
    assert!(finding.contains("ACCESS_REFUSED"), "{finding}");
    assert!(fix.contains("amq.default"), "{fix}");
    assert_eq!(scratch(&private).await, [""; 0]);

    private
        .rabbitmqctl(&["set_permissions", "meek", "^nothing$", ".*", ".*"])
        .await;
    let args = ["doctor", "--output", "json"];
    let diagnosis = Diagnosis::of(site.run_in(&as_meek, &args).await);
    let (finding, fix) = diagnosis.failure("queue");
    assert!(
        finding.starts_with("can't be declared: ACCESS_REFUSED"),
        "{finding}"
    );
    assert!(fix.contains("set_permissions"), "{fix}");
    assert_eq!(scratch(&private).await, [""; 0]);
}
