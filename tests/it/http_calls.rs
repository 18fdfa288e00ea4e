//! What the calls answer: balance, preflight, events, jobs, portal tokens.

use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use crate::support::{
    api::{Answer, Server},
    eventually::{PATIENCE, eventually},
    site::{Site, event},
};

/// With a key that may do everything.
async fn serving(site: &mut Site, roles: &[&str]) -> (Server, String) {
    site.declare().await;
    let token = site.key(&["read", "publish", "operate"], None).await;
    (site.serve_http(roles).await, token)
}

#[tokio::test]
async fn an_event_is_accepted_charged_and_seen_in_the_balance_and_the_job() {
    let mut site = Site::new().await;
    let (server, token) = serving(&mut site, &["worker", "http"]).await;
    let caller = server.with(&token);
    let (company, job) = (site.company(1000, 500).await, Uuid::new_v4());
    let path = format!("/v1/jobs/{job}");
    assert_eq!(caller.get(&path).await.ok()["state"], "unknown");

    let published = caller.post("/v1/events", &event(job, company, 1200)).await;
    assert_eq!(published.status, 202, "{published:#?}");
    assert_eq!(published.body, json!({ "accepted": 1 }));
    site.until(job, "completed").await;
    let answer = caller.get(&path).await;
    assert_eq!(answer.ok()["state"], "charged");
    assert_eq!(answer.body["record"]["amount"], 1200);
    let shown = site
        .run(&["show", &job.to_string(), "--output", "json"])
        .await;
    for (name, value) in shown.document().as_object().expect("an object") {
        assert_eq!(answer.body[name], *value, "{name}");
    }
    let balance = caller
        .get(&format!("/v1/companies/{company}/balance"))
        .await;
    assert_eq!(
        (&balance.ok()["monthly"], &balance.body["purchased"]),
        (&json!(0), &json!(300))
    );

    // Refused for want of tokens, and given back.
    let poor = Uuid::new_v4();
    caller.post("/v1/events", &event(poor, company, 301)).await;
    site.until(poor, "failed").await;
    let answer = caller.get(&format!("/v1/jobs/{poor}")).await;
    assert_eq!(answer.ok()["state"], "refused");
    assert_eq!(answer.body["reason"], "insufficient_balance");
    assert!(answer.body["message"].is_string());
    site.run(&["refund", &job.to_string(), "--reason", "why"])
        .await
        .done();
    assert_eq!(caller.get(&path).await.ok()["state"], "compensated");
}

#[tokio::test]
async fn a_preflight_says_402_before_the_work_starts() {
    let mut site = Site::new().await;
    site.set("HTTP__UPGRADE_URL", "https://app.example.com/upgrade");
    site.set("HTTP__ESTIMATE_TOKENS", "1501");
    let company = site.company(1000, 500).await;
    let (server, token) = serving(&mut site, &["http"]).await;
    let caller = server.with(&token);
    let path = format!("/v1/companies/{company}/preflight");
    let answer = caller.get(&format!("{path}?tokens=1500")).await;
    let expected = json!({ "company_id": company, "required": 1500, "available": 1500 });
    assert_eq!(*answer.ok(), expected);
    for path in [format!("{path}?tokens=1501"), path] {
        let answer = caller.get(&path).await;
        assert_eq!(answer.refusal(), (402, "insufficient_balance"));
        assert_eq!(answer.body["required"], 1501);
        assert_eq!(answer.body["available"], 1500);
        assert_eq!(
            answer.body["upgrade_url"],
            "https://app.example.com/upgrade"
        );
    }
}

#[tokio::test]
async fn one_bad_line_keeps_all_events_from_being_sent() {
    let mut site = Site::new().await;
    let (server, token) = serving(&mut site, &["worker", "http"]).await;
    let caller = server.with(&token);
    let company = site.company(0, 1000).await;
    let line = |job: Uuid| event(job, company, 1).to_string();
    let (first, last) = (Uuid::new_v4(), Uuid::new_v4());
    let bad = format!(
        "{}\n\n{{\"job_id\": 7, \"tokens\": 1}}\n{}\n{{}}\n",
        line(first),
        line(last)
    );
    let answer = caller
        .post_as("/v1/events", "application/x-ndjson", &bad)
        .await;
    assert_eq!(answer.refusal(), (422, "invalid_events"));
    assert_eq!(answer.body["refused"], 2);
    assert_eq!(answer.body["errors"][0]["line"], 3);
    assert_eq!(answer.body["errors"][0]["field"], "job_id");
    let said = answer.body["errors"][0]["detail"].as_str().expect("a text");
    assert!(said.contains("expected") && said.contains('7'), "{said}");

    let good = format!("{}\n{}\n", line(first), line(last));
    let answer = caller
        .post_as("/v1/events", "application/x-ndjson", &good)
        .await;
    assert_eq!(
        (answer.status.as_u16(), &answer.body),
        (202, &json!({ "accepted": 2 }))
    );
    site.until(first, "completed").await;
    site.until(last, "completed").await;
    assert_eq!(
        site.number("select count(*) from token_deduction_records")
            .await,
        2
    );
    assert_eq!(site.number("select count(*) from dead_letters").await, 0);
}

#[tokio::test]
async fn an_event_that_is_none_is_refused_with_its_field() {
    let mut site = Site::new().await;
    site.set("HTTP__MAX_BODY_BYTES", "4096");
    let (server, token) = serving(&mut site, &["http"]).await;
    let caller = server.with(&token);
    let job = Uuid::new_v4();
    for (media_type, body, field) in [
        ("application/json", "{}".to_owned(), "job_id"),
        ("application/json", "nothing".to_owned(), "body"),
        ("application/json", String::new(), "body"),
        (
            "application/json",
            format!(r#"{{"job_id": "{job}", "tokens": 1.5}}"#),
            "tokens",
        ),
        (
            "application/json",
            format!(r#"{{"job_id": "{job}", "tokens": 0}}"#),
            "tokens",
        ),
        (
            "application/cloudevents+json",
            "{}".to_owned(),
            "specversion",
        ),
        ("application/x-ndjson", "\n \n".to_owned(), "body"),
    ] {
        let answer = caller.post_as("/v1/events", media_type, &body).await;
        assert_eq!(answer.refusal(), (422, "invalid_events"), "{body}");
        assert_eq!(
            answer.body["errors"][0]["field"], field,
            "{body}: {answer:#?}"
        );
    }
    let answer = caller.post_as("/v1/events", "text/plain", "x").await;
    assert_eq!(answer.refusal(), (415, "unsupported_media_type"));
    let answer = caller
        .post_as("/v1/events", "application/json", &" ".repeat(4097))
        .await;
    assert_eq!(answer.refusal(), (413, "payload_too_large"));
    let many: Vec<Result<Vec<u8>, std::io::Error>> = (0..8).map(|_| Ok(vec![b' '; 1024])).collect();
    let chunked = reqwest::Body::wrap_stream(futures_util::stream::iter(many));
    let request = caller.request(Method::POST, "/v1/events").body(chunked);
    let answer = Answer::of(request.header("content-type", "application/json")).await;
    assert_eq!(answer.refusal(), (413, "payload_too_large"));
}

#[tokio::test]
async fn an_idempotency_key_must_be_the_key_that_the_call_has_already() {
    let mut site = Site::new().await;
    let (server, token) = serving(&mut site, &["http"]).await;
    let caller = server.with(&token);
    let (company, job) = (site.company(0, 1).await, Uuid::new_v4());
    let post = async |key: String, media_type: &str| {
        let request = caller.request(Method::POST, "/v1/events");
        let request = request.header("idempotency-key", key);
        let request = request.header("content-type", media_type);
        Answer::of(request.body(event(job, company, 1).to_string())).await
    };
    for key in [
        job.to_string(),
        format!("\"{job}\""),
        job.to_string().to_uppercase(),
    ] {
        assert_eq!(post(key, "application/json").await.status, 202);
    }
    let other = post(Uuid::new_v4().to_string(), "application/json").await;
    assert_eq!(other.refusal(), (422, "invalid_request"));
    assert_eq!(other.body["field"], "Idempotency-Key");
    let many = post(job.to_string(), "application/x-ndjson").await;
    assert_eq!(many.refusal(), (422, "invalid_request"));
}

#[tokio::test]
async fn a_portal_token_reads_one_balance_and_ends_with_its_key() {
    let mut site = Site::new().await;
    site.set("HTTP__KEYS_TTL", "50ms");
    let (server, token) = serving(&mut site, &["http"]).await;
    let (own, other) = (site.company(0, 7).await, site.company(0, 8).await);
    let asked = json!({ "company_id": own, "expires_in": 600 });
    let issued = server.with(&token).post("/v1/portal-tokens", &asked).await;
    assert_eq!(issued.status, 201, "{issued:#?}");
    let portal = issued.body["token"].as_str().expect("a token");
    let page = server.with(portal);
    let balance = format!("/v1/companies/{own}/balance");
    assert_eq!(page.get(&balance).await.ok()["total"], 7);
    let foreign = page.get(&format!("/v1/companies/{other}/balance")).await;
    assert_eq!(foreign.refusal(), (404, "not_found"));
    let more = page.get(&format!("/v1/companies/{own}/preflight")).await;
    assert_eq!(more.refusal(), (403, "insufficient_scope"));
    assert_eq!(
        page.post("/v1/portal-tokens", &asked).await.refusal(),
        (403, "insufficient_scope")
    );
    let forged = portal.replace(&own.simple().to_string(), &other.simple().to_string());
    let forged = server
        .with(&forged)
        .get(&format!("/v1/companies/{other}/balance"))
        .await;
    assert_eq!(forged.refusal(), (401, "unauthorized"));

    let short = json!({ "company_id": own, "expires_in": 1 });
    let short = server.with(&token).post("/v1/portal-tokens", &short).await;
    let short = server.with(short.body["token"].as_str().expect("a token"));
    let status =
        async |page: &crate::support::api::Caller| page.get(&balance).await.status.as_u16();
    eventually(
        "it expires",
        PATIENCE,
        async || status(&short).await,
        |s| *s == 401,
    )
    .await;
    let key_id = Uuid::try_parse(token.split('_').nth(1).expect("an id")).expect("a UUID");
    assert_eq!(status(&page).await, 200);
    site.run(&["keys", "revoke", &key_id.to_string()])
        .await
        .done();
    eventually(
        "it ends with its key",
        PATIENCE,
        async || status(&page).await,
        |s| *s == 401,
    )
    .await;
}
