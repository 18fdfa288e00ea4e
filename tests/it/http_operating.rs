//! What is done by hand over HTTP: credits, refunds, dead letters and their replay, the audit.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    api::{Answer, Caller, Server},
    dead_letters::{malformed, refused},
    eventually::{PATIENCE, eventually},
    site::Site,
};

async fn serving(site: &mut Site, company: Option<Uuid>) -> (Server, Caller) {
    site.declare().await;
    let token = site.key(&["read", "operate"], company).await;
    let server = site.serve_http(&["http"]).await;
    let caller = server.with(&token);
    (server, caller)
}

async fn actors(site: &Site, action: &str) -> Vec<String> {
    sqlx::query_scalar("select actor from operator_actions where action = $1")
        .bind(action)
        .fetch_all(site.db.pool())
        .await
        .expect("read")
}

#[tokio::test]
async fn a_credit_is_made_once_per_key_and_recorded_with_the_name_of_the_callers_key() {
    let mut site = Site::new().await;
    let (_server, caller) = serving(&mut site, None).await;
    let company = site.company(0, 10).await;
    let path = format!("/v1/companies/{company}/credits");
    let top_up = json!({ "key": "invoice 7", "purchased": 90 });
    let first = caller.post(&path, &top_up).await;
    assert_eq!(first.ok()["purchased_after"], 100);
    assert_eq!(first.body["idempotent"], false);
    let second = caller.post(&path, &top_up).await;
    assert_eq!(second.ok()["idempotent"], true);
    let header = caller
        .request(Method::POST, &path)
        .header("idempotency-key", "invoice 7");
    let by_header = Answer::of(header.json(&json!({ "purchased": 90 }))).await;
    assert_eq!(by_header.ok()["idempotent"], true);
    let renewal = json!({ "key": "r", "monthly": 50, "period_end": "2099-01-01T00:00:00Z" });
    assert_eq!(caller.post(&path, &renewal).await.ok()["monthly_after"], 50);
    assert_eq!(actors(&site, "credit").await, ["key:test", "key:test"]);
    assert_eq!(site.balance(company).await, (50, 100));
}

#[tokio::test]
async fn a_credit_that_makes_no_sense_is_refused_with_its_field_or_its_code() {
    let mut site = Site::new().await;
    let (_server, caller) = serving(&mut site, None).await;
    let company = site.company(50, 10).await;
    let path = format!("/v1/companies/{company}/credits");
    let top_up = json!({ "key": "invoice 7", "purchased": 90 });
    caller.post(&path, &top_up).await.ok();
    let nowhere = format!("/v1/companies/{}/credits", Uuid::new_v4());
    for (path, body, refusal, field) in [
        (
            &path,
            json!({ "key": "invoice 7", "purchased": 91 }),
            (422, "idempotency_key_reused"),
            Value::Null,
        ),
        (
            &path,
            json!({ "key": "k", "purchased": 0 }),
            (422, "invalid_request"),
            json!("purchased"),
        ),
        (
            &path,
            json!({ "key": "k", "monthly": 1 }),
            (422, "invalid_request"),
            json!("period_end"),
        ),
        (
            &path,
            json!({ "key": "k" }),
            (422, "invalid_request"),
            json!("purchased"),
        ),
        (
            &path,
            json!({ "purchased": 1 }),
            (422, "invalid_request"),
            json!("key"),
        ),
        (
            &path,
            json!({ "key": "k", "purchased": i64::MAX }),
            (409, "balance_too_large"),
            Value::Null,
        ),
        (
            &path,
            json!({ "key": "k", "monthly": 1, "period_end": "2001-01-01T00:00:00Z" }),
            (409, "period_end_passed"),
            Value::Null,
        ),
        (
            &nowhere,
            json!({ "key": "k", "purchased": 1 }),
            (404, "not_found"),
            Value::Null,
        ),
    ] {
        let answer = caller.post(path, &body).await;
        assert_eq!(answer.refusal(), refusal, "{body}: {answer:#?}");
        assert_eq!(answer.body["field"], field, "{body}");
    }
    let other = caller
        .request(Method::POST, &path)
        .header("idempotency-key", "another");
    let other = Answer::of(other.json(&top_up)).await;
    assert_eq!(other.body["field"], "Idempotency-Key");
    assert_eq!(site.balance(company).await, (50, 100));
}

#[tokio::test]
async fn a_refund_gives_back_once_and_an_audit_finds_nothing() {
    let mut site = Site::new().await;
    let (_server, caller) = serving(&mut site, None).await;
    let (company, job) = (site.company(0, 100).await, Uuid::new_v4());
    assert!(site.db.deduct(job, company, 40).await.success);
    let path = format!("/v1/jobs/{job}/refund");
    let dry = caller
        .post(&path, &json!({ "reason": "why", "dry_run": true }))
        .await;
    assert_eq!(dry.ok()["purchased_amount"], 40);
    assert_eq!(site.balance(company).await, (0, 60));
    for idempotent in [false, true] {
        let refund = caller.post(&path, &json!({ "reason": "why" })).await;
        assert_eq!(refund.ok()["idempotent"], idempotent);
    }
    assert_eq!(site.balance(company).await, (0, 100));
    assert_eq!(actors(&site, "refund").await, ["key:test"]);
    let empty = caller.post(&path, &json!({ "reason": " " })).await;
    assert_eq!(
        (empty.refusal(), &empty.body["field"]),
        ((422, "invalid_request"), &json!("reason"))
    );
    let nothing = format!("/v1/jobs/{}/refund", Uuid::new_v4());
    let nothing = caller.post(&nothing, &json!({ "reason": "why" })).await;
    assert_eq!(nothing.refusal(), (404, "not_found"));

    let audit = caller.get("/v1/audit").await;
    let checks = audit.ok()["checks"].as_array().expect("checks");
    assert!(
        checks.iter().all(|check| check["violations"] == 0),
        "{audit:#?}"
    );
    assert!(!checks.is_empty());
}

#[tokio::test]
async fn dead_letters_are_told_as_the_command_line_tells_them() {
    let mut site = Site::new().await;
    let (_server, caller) = serving(&mut site, None).await;
    let company = site.company(0, 5).await;
    let ids = site
        .archive(&[
            refused(Uuid::new_v4(), company, 70),
            malformed(b"{", "body: no"),
        ])
        .await;
    let id = ids[0].to_string();
    for (path, args) in [
        ("/v1/dead-letters".to_owned(), &["dlq", "list"][..]),
        ("/v1/dead-letters/groups".to_owned(), &["dlq", "groups"]),
        (format!("/v1/dead-letters/{id}"), &["dlq", "show", &id]),
    ] {
        let typed = site.run(&[args, &["--output", "json"]].concat()).await;
        assert_eq!(*caller.get(&path).await.ok(), typed.document(), "{path}");
    }
    let stats = caller.get("/v1/dead-letters/stats").await;
    assert_eq!(
        (&stats.ok()["open"], &stats.body["waiting_in_queue"]),
        (&json!(2), &json!(0))
    );
    let of_company = caller
        .get(&format!(
            "/v1/dead-letters?company_id={company}&state=open,resolved"
        ))
        .await;
    assert_eq!(
        of_company.ok()["dead_letters"]
            .as_array()
            .expect("some")
            .len(),
        1
    );
    let page = caller.get("/v1/dead-letters?limit=1").await;
    let before = page.ok()["next_before"].as_i64().expect("more");
    let next = caller
        .get(&format!("/v1/dead-letters?limit=1&before={before}"))
        .await;
    assert_eq!(next.ok()["dead_letters"][0]["id"], ids[0]);
    for (query, status, field) in [
        ("state=lost", 422, "state"),
        ("limit=0", 422, "limit"),
        ("since=yesterday", 400, "since"),
        ("states=open", 400, "states"),
    ] {
        let answer = caller.get(&format!("/v1/dead-letters?{query}")).await;
        assert_eq!(answer.refusal(), (status, "invalid_request"), "{query}");
        assert_eq!(answer.body["field"], field, "{query}: {answer:#?}");
    }
    assert_eq!(
        caller.get("/v1/dead-letters/99").await.refusal(),
        (404, "not_found")
    );
}

#[tokio::test]
async fn a_broken_dead_letter_is_edited_planned_and_replayed_once() {
    let mut site = Site::new().await;
    let (_server, caller) = serving(&mut site, None).await;
    let (company, job) = (site.company(0, 100).await, Uuid::new_v4());
    let id = site
        .archive(&[malformed(br#"{"tokens": "many"}"#, "tokens: no")])
        .await[0];
    let path = format!("/v1/dead-letters/{id}");
    let set =
        json!({ "set": { "job_id": job, "company_id": company, "tokens": 30 }, "reason": "why" });
    let edited = caller.post(&format!("{path}/edit"), &set).await;
    assert_eq!(
        (&edited.ok()["changed"], &edited.body["tokens"]),
        (&json!(true), &json!(30))
    );
    let worse = caller
        .post(&format!("{path}/edit"), &json!({ "set": { "tokens": 0 } }))
        .await;
    assert_eq!(worse.refusal(), (422, "invalid_request"));

    let plan = caller
        .post("/v1/dead-letters/replay", &json!({ "ids": [id] }))
        .await;
    assert_eq!(plan.ok()["plan"]["charged_tokens"], 30);
    let run = json!({ "plan_id": plan.body["plan_id"], "note": "they asked" });
    let running = caller.post("/v1/dead-letters/replay", &run).await;
    assert_eq!(running.status, 202, "{running:#?}");
    let place = running.header("location").to_owned();
    assert_eq!(place, format!("/v1/replays/{}", running.body["action_id"]));
    assert!(caller.get(&place).await.ok()["progress"].is_object());
    let worker = site.start().await;
    let ask = async || caller.get(&place).await.ok().clone();
    let ended = eventually("it ends", PATIENCE, ask, |answer| {
        answer["report"].is_object()
    })
    .await;
    assert_eq!(
        (&ended["report"]["ended"], &ended["report"]["charged"]),
        (&json!("done"), &json!(1))
    );
    worker.stop().await;
    assert_eq!(site.balance(company).await, (0, 70));
    let again = caller.post("/v1/dead-letters/replay", &run).await;
    assert_eq!(again.refusal(), (404, "plan_not_found"));
    assert_eq!(actors(&site, "replay").await, ["key:test"]);
    assert_eq!(
        caller.get("/v1/replays/9999").await.refusal(),
        (404, "not_found")
    );
    let nothing = caller.post("/v1/dead-letters/replay", &json!({})).await;
    assert_eq!(
        (nothing.refusal(), &nothing.body["field"]),
        ((422, "invalid_request"), &json!("all"))
    );
}

#[tokio::test]
async fn a_dead_letter_is_written_off_and_taken_back() {
    let mut site = Site::new().await;
    let (_server, caller) = serving(&mut site, None).await;
    let company = site.company(0, 5).await;
    let id = site.archive(&[refused(Uuid::new_v4(), company, 70)]).await[0];
    let path = format!("/v1/dead-letters/{id}");
    let why = json!({ "reason": "why" });
    for (act, state) in [("discard", "discarded"), ("restore", "open")] {
        let dry = caller
            .post(
                &format!("{path}/{act}"),
                &json!({ "reason": "why", "dry_run": true }),
            )
            .await;
        assert_eq!(dry.ok()["changed"], 0);
        let done = caller.post(&format!("{path}/{act}"), &why).await;
        assert_eq!(done.ok()["changed"], 1, "{act}");
        assert_eq!(caller.get(&path).await.ok()["state"], state);
        let again = caller.post(&format!("{path}/{act}"), &why).await;
        assert_eq!(again.refusal(), (409, "nothing_to_change"), "{act}");
    }
    let silent = caller
        .post(&format!("{path}/discard"), &json!({ "reason": "" }))
        .await;
    assert_eq!(silent.body["field"], "reason");
}

#[tokio::test]
async fn a_key_of_one_company_does_nothing_to_all_and_nothing_to_another() {
    let mut site = Site::new().await;
    let (own, foreign) = (site.company(0, 5).await, site.company(0, 5).await);
    let (_server, caller) = serving(&mut site, Some(own)).await;
    for path in [
        "/v1/dead-letters",
        "/v1/dead-letters/groups",
        "/v1/dead-letters/1",
        "/v1/audit",
        "/v1/replays/1",
    ] {
        assert_eq!(
            caller.get(path).await.refusal(),
            (403, "key_of_one_company"),
            "{path}"
        );
    }
    let refund = format!("/v1/jobs/{}/refund", Uuid::new_v4());
    for path in [
        "/v1/dead-letters/replay",
        "/v1/dead-letters/1/edit",
        &refund,
    ] {
        assert_eq!(
            caller.post(path, &json!({})).await.refusal(),
            (403, "key_of_one_company"),
            "{path}"
        );
    }
    let credit = json!({ "key": "k", "purchased": 1 });
    let give = async |id: Uuid| {
        caller
            .post(&format!("/v1/companies/{id}/credits"), &credit)
            .await
    };
    assert_eq!(give(foreign).await.refusal(), (404, "not_found"));
    give(own).await.ok();
    assert_eq!(
        (site.balance(own).await, site.balance(foreign).await),
        ((0, 6), (0, 5))
    );
}
