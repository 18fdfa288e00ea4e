//! `publish --wait`: what became of the event, by exit code and in words.

use uuid::Uuid;

use crate::support::{command::Ran, process::Process, site::Site};

async fn publish(site: &Site, job: Uuid, company: Uuid, tokens: i64, wait: &str) -> Ran {
    let [job, company] = [job, company].map(|id| id.to_string());
    let tokens = tokens.to_string();
    let event = [
        "--job-id",
        &job,
        "--company-id",
        &company,
        "--tokens",
        &tokens,
    ];
    let args = [&["publish", "--wait", wait, "--output", "json"], &event[..]].concat();
    site.run(&args).await
}

fn told(ran: &Ran) -> (String, Option<String>) {
    let document = ran.json();
    let text = |name: &str| document[name].as_str().map(str::to_owned);
    (text("outcome").expect("an outcome"), text("reason"))
}

fn refused(reason: &str) -> (String, Option<String>) {
    ("refused".to_owned(), Some(reason.to_owned()))
}

#[tokio::test]
async fn it_ends_when_its_own_event_was_charged_or_refused() {
    let site = Site::new().await;
    site.declare().await;
    let (company, job) = (site.company(0, 100).await, Uuid::new_v4());
    let mut process = Process::start(&["serve"], &site.environment());
    let ran = publish(&site, job, company, 101, "30s").await;
    let said = ran.failed(1);
    assert!(
        said.contains("insufficient_balance: Not enough tokens"),
        "{said}"
    );
    assert_eq!(told(&ran), refused("insufficient_balance"));
    // The old refusal is no answer to the new event, whose tokens are there now.
    let id = company.to_string();
    let credit = ["credit", &id, "--purchased", "1", "--key", "one more"];
    site.run(&credit).await.done();
    let ran = publish(&site, job, company, 101, "30s").await;
    ran.done();
    assert_eq!(told(&ran), ("charged".to_owned(), None));
    // Once more is the same charge, and another amount is another one.
    publish(&site, job, company, 101, "30s").await.done();
    let ran = publish(&site, job, company, 7, "30s").await;
    ran.failed(1);
    assert_eq!(told(&ran), refused("idempotency_key_reused"));
    let ran = publish(&site, Uuid::new_v4(), Uuid::new_v4(), 1, "30s").await;
    ran.failed(1);
    assert_eq!(told(&ran), refused("company_not_found"));
    process.terminate().await;
}

#[tokio::test]
async fn what_stays_pending_or_in_the_queue_needs_somebody() {
    let mut site = Site::new().await;
    site.set("RETRY__ATTEMPTS", "0");
    site.declare().await;
    let (company, failing) = (site.company(0, 100).await, site.company(0, 100).await);
    let ran = publish(&site, Uuid::new_v4(), company, 1, "300ms").await;
    let said = ran.failed(3);
    assert!(said.contains("is token-billing serve running?"), "{said}");
    assert_eq!(told(&ran), ("queued".to_owned(), None));

    crate::whose_fault::fails_for(&site, failing, "raise exception 'not this one'").await;
    let mut process = Process::start(&["serve"], &site.environment());
    let ran = publish(&site, Uuid::new_v4(), failing, 1, "30s").await;
    let said = ran.failed(3);
    assert!(said.contains("is pending"), "{said}");
    assert_eq!(told(&ran).0, "pending");
    process.terminate().await;
}

#[tokio::test]
async fn people_read_it_and_mistakes_are_named() {
    let site = Site::new().await;
    site.declare().await;
    let company = site.company(0, 10_000).await.to_string();
    let job = Uuid::new_v4().to_string();
    let event = [
        "--job-id",
        &job,
        "--company-id",
        &company,
        "--tokens",
        "1500",
    ];
    let mut process = Process::start(&["serve"], &site.environment());
    // Without a time it is half a minute.
    let ran = site
        .run(&[&["publish", "--wait"], &event[..]].concat())
        .await;
    assert_eq!(
        ran.printed().trim(),
        format!("charged: 1,500 tokens, job {job}")
    );
    process.terminate().await;
    site.run(&[&["publish", "--wait", "soon"], &event[..]].concat())
        .await
        .refused(2);
    site.run(&["publish", "--wait", "1s", "--file", "-"])
        .await
        .refused(2);
}
