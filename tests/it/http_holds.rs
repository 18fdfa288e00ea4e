//! The 402 before work starts: preflight and holds, as an application asks for them.

use reqwest::{Method, StatusCode};
use serde_json::json;
use uuid::Uuid;

use crate::support::{
    api::{Answer, Caller, Server},
    site::Site,
};

/// A server whose worker charges, and a key of the application's.
async fn serving(site: &mut Site) -> (Server, Caller) {
    let token = site.key(&["read", "publish"], None).await;
    let server = site.serve_http(&["http", "worker"]).await;
    let application = server.with(&token);
    (server, application)
}

async fn delete(caller: &Caller, job: Uuid) -> Answer {
    Answer::of(caller.request(Method::DELETE, &format!("/v1/holds/{job}"))).await
}

async fn state(caller: &Caller, job: Uuid) -> String {
    let answer = caller.get(&format!("/v1/jobs/{job}")).await;
    answer.ok()["state"].as_str().expect("a word").to_owned()
}

#[tokio::test]
async fn a_job_is_refused_before_it_begins_or_held_for_and_charged() {
    let mut site = Site::new().await;
    site.declare().await;
    let company = site.company(5_000, 10_000).await;
    let (mut server, application) = serving(&mut site).await;
    let preflight = |tokens: i64| format!("/v1/companies/{company}/preflight?tokens={tokens}");
    let refused = application.get(&preflight(15_001)).await;
    assert_eq!(refused.refusal(), (402, "insufficient_balance"));
    assert_eq!(refused.body["required"], 15_001);
    assert_eq!(refused.body["available"], 15_000);
    assert_eq!(refused.body["upgrade_url"], "/billing/upgrade");
    application.get(&preflight(15_000)).await.ok();

    let job = Uuid::new_v4();
    assert_eq!(state(&application, job).await, "unknown");
    let ask = json!({"job_id": job, "company_id": company, "tokens": 12_000, "expires_in": 60});
    let held = application.post("/v1/holds", &ask).await;
    assert_eq!(held.status, StatusCode::CREATED);
    assert_eq!(
        (&held.body["amount"], &held.body["status"]),
        (&json!(12_000), &json!("open"))
    );
    let again = application.post("/v1/holds", &ask).await;
    assert_eq!(again.ok(), &held.body);
    assert_eq!(state(&application, job).await, "held");
    let balance = application
        .get(&format!("/v1/companies/{company}/balance"))
        .await;
    let figures = ["total", "held", "available"].map(|name| balance.ok()[name].as_i64());
    assert_eq!(figures, [Some(15_000), Some(12_000), Some(3_000)]);

    // Another job finds less.
    let other = json!({"job_id": Uuid::new_v4(), "company_id": company, "tokens": 3_001});
    let refused = application.post("/v1/holds", &other).await;
    assert_eq!(refused.refusal(), (402, "insufficient_balance"));
    assert_eq!(refused.body["available"], 3_000);
    assert_eq!(application.get(&preflight(3_001)).await.refusal().0, 402);

    let event = json!({"job_id": job, "company_id": company, "tokens": 11_000});
    let accepted = application.post("/v1/events", &event).await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED);
    site.until(job, "completed").await;
    assert_eq!(state(&application, job).await, "charged");
    // Read after the charge, it shows the charge.
    let balance = application
        .get(&format!("/v1/companies/{company}/balance"))
        .await;
    let figures = ["total", "held", "available"].map(|name| balance.ok()[name].as_i64());
    assert_eq!(figures, [Some(4_000), Some(0), Some(4_000)]);
    let taken = application.post("/v1/holds", &ask).await;
    assert_eq!(taken.refusal(), (409, "already_charged"));
    server.process.terminate().await;
}

#[tokio::test]
async fn a_hold_is_released_once_and_twice() {
    let mut site = Site::new().await;
    let company = site.company(0, 100).await;
    let (mut server, application) = serving(&mut site).await;
    let job = Uuid::new_v4();
    let ask = json!({"job_id": job, "company_id": company, "tokens": 100});
    application.post("/v1/holds", &ask).await;
    let differs = json!({"job_id": job, "company_id": company, "tokens": 99});
    let refused = application.post("/v1/holds", &differs).await;
    assert_eq!(refused.refusal(), (409, "hold_differs"));
    for job in [job, job, Uuid::new_v4()] {
        assert_eq!(
            delete(&application, job).await.status,
            StatusCode::NO_CONTENT
        );
    }
    let held = application.post("/v1/holds", &differs).await;
    assert_eq!(held.status, StatusCode::CREATED);
    server.process.terminate().await;
}

#[tokio::test]
async fn a_hold_that_makes_no_sense_is_refused_by_the_name_of_its_field() {
    let mut site = Site::new().await;
    let company = site.company(0, 100_000).await;
    let (mut server, application) = serving(&mut site).await;
    let whole = json!({"job_id": Uuid::new_v4(), "company_id": company});
    for (field, value) in [
        ("job_id", json!("seven")),
        ("company_id", json!(7)),
        ("tokens", json!(0)),
        ("tokens", json!(1.5)),
        ("tokens", json!(u64::MAX)),
        ("expires_in", json!(0)),
        ("expires_in", json!(8 * 24 * 3600)),
        ("expires_in", json!("1h")),
    ] {
        let mut ask = whole.clone();
        ask[field] = value;
        let refused = application.post("/v1/holds", &ask).await;
        assert_eq!(refused.refusal(), (422, "invalid_request"), "{ask}");
        assert_eq!(refused.body["field"], field, "{ask}");
    }
    let unknown = json!({"job_id": Uuid::new_v4(), "company_id": company, "token": 5});
    assert_eq!(application.post("/v1/holds", &unknown).await.status, 422);
    let nobody = json!({"job_id": Uuid::new_v4(), "company_id": Uuid::new_v4()});
    let refused = application.post("/v1/holds", &nobody).await;
    assert_eq!(refused.refusal(), (404, "not_found"));
    // What is left out is the estimate, for a day.
    let held = application.post("/v1/holds", &whole).await;
    assert_eq!(held.status, StatusCode::CREATED);
    assert_eq!(held.body["amount"], 15_000);
    server.process.terminate().await;
}

#[tokio::test]
async fn a_key_of_one_company_holds_and_releases_nothing_of_anothers() {
    let mut site = Site::new().await;
    let (own, other) = (site.company(0, 100).await, site.company(0, 100).await);
    let (mut server, application) = serving(&mut site).await;
    let narrow = server.with(&site.key(&["publish"], Some(own)).await);
    let ask =
        |job: Uuid, company: Uuid| json!({"job_id": job, "company_id": company, "tokens": 10});
    let (theirs, mine) = (Uuid::new_v4(), Uuid::new_v4());
    let held = application.post("/v1/holds", &ask(theirs, other)).await;
    assert_eq!(held.status, StatusCode::CREATED);

    let foreign = narrow.post("/v1/holds", &ask(mine, other)).await;
    let nobodys = Uuid::new_v4();
    let missing = narrow.post("/v1/holds", &ask(mine, nobodys)).await;
    assert_eq!(foreign.refusal(), missing.refusal());
    let detail = |answer: &Answer, id: Uuid| {
        answer.body["detail"]
            .to_string()
            .replace(&id.to_string(), "…")
    };
    assert_eq!(detail(&foreign, other), detail(&missing, nobodys));
    assert_eq!(delete(&narrow, theirs).await.status, StatusCode::NO_CONTENT);
    assert_eq!(state(&application, theirs).await, "held", "it still is");
    let held = narrow.post("/v1/holds", &ask(mine, own)).await;
    assert_eq!(held.status, StatusCode::CREATED);

    let reader = server.with(&site.key(&["read"], None).await);
    let refused = reader.post("/v1/holds", &ask(mine, own)).await;
    assert_eq!(refused.refusal(), (403, "insufficient_scope"));
    server.process.terminate().await;
}

#[tokio::test]
async fn a_company_that_somebody_has_locked_is_busy_and_nothing_is_held_twice() {
    let mut site = Site::new().await;
    site.set("DATABASE__LOCK_TIMEOUT", "100ms");
    let company = site.company(0, 100).await;
    let (mut server, application) = serving(&mut site).await;
    let ask = json!({"job_id": Uuid::new_v4(), "company_id": company, "tokens": 10});
    let locked = site.hold_companies(&[company]).await;
    let busy = application.post("/v1/holds", &ask).await;
    assert_eq!(busy.refusal(), (503, "busy"));
    assert_eq!(busy.header("retry-after"), "1");
    // Who only looks waits for nobody.
    application
        .get(&format!("/v1/companies/{company}/balance"))
        .await
        .ok();
    locked.release().await;
    let held = application.post("/v1/holds", &ask).await;
    assert_eq!(held.status, StatusCode::CREATED);
    server.process.terminate().await;
}
