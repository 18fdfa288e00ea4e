//! What `doctor` says when servers are away, or queues are not what they should be.

use tokio::net::TcpListener;

use crate::support::{
    diagnosis::Diagnosis,
    role::{TestRole, healthy},
    site::Site,
};

#[tokio::test]
async fn what_is_away_is_told_once_and_the_rest_is_looked_at() {
    let (site, _role) = healthy().await;
    let (database, broker) = ("TOKEN_BILLING__DATABASE__URL", "TOKEN_BILLING__BROKER__URL");
    let nowhere = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = nowhere.local_addr().expect("an address").port();
    // It accepts, and never says a word.
    let silent = [
        ("TOKEN_BILLING__DATABASE__CONNECT_TIMEOUT", "300ms"),
        ("TOKEN_BILLING__BROKER__CONNECT_TIMEOUT", "300ms"),
    ];
    let database_url = format!("postgres://u:hunter2@127.0.0.1:{port}/d");
    let broker_url = format!("amqp://u:hunter2@127.0.0.1:{port}/%2f");
    let both = [
        &silent[..],
        &[(database, &database_url), (broker, &broker_url)],
    ]
    .concat();
    let diagnosis = site.doctor_in(&both).await;
    assert_eq!(diagnosis.with("failed"), ["database", "broker"]);
    assert!(
        diagnosis
            .failure("database")
            .0
            .contains("no answer in time")
    );
    assert!(
        diagnosis
            .failure("broker")
            .0
            .contains("no answer within 300ms")
    );

    drop(nowhere);
    let diagnosis = site.doctor_in(&[(database, &database_url)]).await;
    let (finding, fix) = diagnosis.only_failure("database");
    assert!(
        finding.contains("refused") && finding.contains(&port.to_string()),
        "{finding}"
    );
    assert!(fix.contains("database.url"), "{fix}");
    assert_eq!(
        diagnosis.finding("clock"),
        "not checked: the database is away"
    );
    assert!(diagnosis.with("ok").contains(&"probe"));

    let diagnosis = site.doctor_in(&[(broker, &broker_url)]).await;
    let (finding, fix) = diagnosis.only_failure("broker");
    assert!(finding.contains("refused"), "{finding}");
    assert!(fix.contains("broker.url"), "{fix}");
    for check in ["topology", "probe"] {
        assert_eq!(diagnosis.finding(check), "not checked: the broker is away");
    }
    assert!(diagnosis.with("ok").contains(&"rights_no_more"));
    assert_eq!(diagnosis.status()["pending"], 0);
}

#[tokio::test]
async fn a_virtual_host_or_a_password_that_is_wrong_is_told_from_a_broker_that_is_away() {
    let (site, _role) = healthy().await;
    let url = site.broker.url();
    let vhost = format!("{}/elsewhere", url.rsplit_once('/').expect("a path").0);
    let mut password = url::Url::parse(url).expect("a URL");
    password.set_password(Some("wrong")).expect("a password");
    for (url, said, fix) in [
        (vhost.as_str(), "elsewhere", "make the virtual host"),
        (password.as_str(), "ACCESS_REFUSED", "user and password"),
    ] {
        let diagnosis = site.doctor_in(&[("TOKEN_BILLING__BROKER__URL", url)]).await;
        let (finding, told) = diagnosis.only_failure("broker");
        assert!(finding.contains(said), "{finding}");
        assert!(told.contains(fix), "{told}");
    }
}

#[tokio::test]
async fn queues_that_are_missing_stay_missing_and_others_in_their_place_are_named() {
    let (mut site, _role) = healthy().await;
    let (work, dead_letters) = (site.broker.work_queue(), site.broker.dead_letters());
    site.set("BROKER__DELIVERY_LIMIT", "50");
    site.broker.delete(&dead_letters).await;
    let diagnosis = site.doctor().await;
    assert_eq!(
        diagnosis.with("failed"),
        ["queue", "queue"],
        "{diagnosis:#?}"
    );
    let (finding, fix) = diagnosis.failure_of(&dead_letters);
    assert_eq!(finding, "is not there");
    assert!(fix.contains("serve"), "{fix}");
    assert_eq!(site.broker.ready_count(&dead_letters).await, None);

    site.set("BROKER__DELIVERY_LIMIT", "100");
    site.declare().await;
    site.set("BROKER__DELIVERY_LIMIT", "50");
    let diagnosis = site.doctor().await;
    assert_eq!(diagnosis.with("failed"), ["queue"], "{diagnosis:#?}");
    let differs = Diagnosis::of(site.run(&["doctor", "--output", "json"]).await);
    let text = format!("{differs:?}");
    for part in [
        "PRECONDITION_FAILED",
        "x-delivery-limit",
        &format!("delete_queue --if-empty {work}"),
        "broker.delivery_limit",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test]
async fn a_broker_with_nothing_declared_is_left_with_nothing_declared() {
    let mut site = Site::new().await;
    let role = TestRole::granted(&site, "serve").await;
    site.set("DATABASE__URL", role.url());
    let diagnosis = site.doctor().await;
    let mut expected = vec!["queue", "queue", "exchange", "exchange", "exchange"];
    expected.extend(["queue"; 4]);
    assert_eq!(diagnosis.with("failed"), expected, "{diagnosis:#?}");
    assert!(diagnosis.with("ok").contains(&"probe"));
    let again = site.doctor().await;
    assert_eq!(again.with("failed"), expected);
}
