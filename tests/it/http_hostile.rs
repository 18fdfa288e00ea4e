//! Callers that take from others what they have no need of: places, memory, tokens, news.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use uuid::Uuid;

use crate::support::{
    eventually::{PATIENCE, eventually},
    proxy::ChaosProxy,
    site::{Site, event},
};

#[tokio::test]
async fn slow_bodies_take_no_place_at_the_database_from_others() {
    let mut site = Site::new().await;
    site.set("HTTP__BODY_TIMEOUT", "1m");
    site.set("HTTP__REQUEST_TIMEOUT", "1m");
    let company = site.company(0, 100).await;
    let token = site.key(&["read", "publish"], None).await;
    let server = site.serve_http(&["http"]).await;
    let head = format!(
        "POST /v1/holds HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: 1000\r\n\r\n{{"
    );
    let slow = (0..40).map(|_| async {
        let mut slow = TcpStream::connect(server.address).await.expect("connected");
        slow.write_all(head.as_bytes()).await.expect("sent");
        slow
    });
    let slow: Vec<TcpStream> = join_all(slow).await;
    let caller = server.with(&token);
    let path = format!("/v1/companies/{company}/balance");
    // Long before any of them is cut off.
    let balance = timeout(PATIENCE, caller.get(&path)).await;
    balance.expect("answered meanwhile").ok();
    for one in &slow {
        let mut byte = [0];
        let nothing = one.try_read(&mut byte).expect_err("it still waits");
        assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
    }
}

#[tokio::test]
async fn whoever_reads_no_answers_is_cut_off() {
    let mut site = Site::new().await;
    site.set("HTTP__HEADER_TIMEOUT", "1s");
    site.set("HTTP__MAX_CONNECTIONS", "4");
    let server = site.serve_http(&["http"]).await;
    let mut deaf = Vec::new();
    for _ in 0..4 {
        let mut one = TcpStream::connect(server.address).await.expect("connected");
        let many = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(200);
        one.write_all(many.as_bytes()).await.expect("sent");
        deaf.push(one);
    }
    let lives = timeout(PATIENCE, server.without_key().get("/healthz")).await;
    lives.expect("there is room again").ok();
    for mut one in deaf {
        let mut rest = Vec::new();
        let ended = timeout(PATIENCE, one.read_to_end(&mut rest)).await;
        ended.expect("it was hung up").ok();
    }
}

#[tokio::test]
async fn events_are_accepted_with_a_known_key_while_the_database_is_away() {
    let mut site = Site::new().await;
    site.declare().await;
    let token = site.key(&["publish", "read"], None).await;
    let proxy = ChaosProxy::start(site.db.url()).await;
    site.set("DATABASE__URL", &proxy.url());
    site.set("HTTP__KEYS_TTL", "0s");
    site.set("RECONNECT__INITIAL", "10ms");
    site.set("RECONNECT__MAX", "100ms");
    let company = site.company(0, 100).await;
    let server = site.serve_http(&["http"]).await;
    let caller = server.with(&token);
    let path = format!("/v1/companies/{company}/balance");
    caller.get(&path).await.ok();
    proxy.refuse().await;
    let away = async || caller.get(&path).await.status;
    let is_away = |status: &StatusCode| *status == StatusCode::SERVICE_UNAVAILABLE;
    eventually("the database is away", PATIENCE, away, is_away).await;
    let accepted = caller
        .post("/v1/events", &event(Uuid::new_v4(), company, 1))
        .await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED, "{accepted:#?}");
    // A key that nobody has seen is not guessed at.
    let stranger = format!("tb_{}_{}", Uuid::new_v4().simple(), "0".repeat(64));
    let unknown = server.with(&stranger);
    let refused = unknown
        .post("/v1/events", &event(Uuid::new_v4(), company, 1))
        .await;
    assert_eq!(refused.refusal(), (503, "database_unavailable"));
    proxy.restore().await;
}

#[tokio::test]
async fn a_stream_ends_with_its_key() {
    let mut site = Site::new().await;
    site.set("HTTP__KEYS_TTL", "0s");
    site.declare().await;
    let token = site.key(&["read"], None).await;
    let server = site.serve_http(&["http"]).await;
    let request = server.with(&token).request(Method::GET, "/v1/stream");
    let stream = request.send().await.expect("an answer");
    assert_eq!(stream.status(), StatusCode::OK);
    let keys = site.run(&["keys", "list", "--output", "json"]).await;
    let id = keys.document()["keys"][0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    site.run(&["keys", "revoke", &id]).await.done();
    let ended = timeout(PATIENCE, stream.bytes()).await;
    ended.expect("it ended").expect("in good order");
}

#[tokio::test]
async fn a_wrong_secret_is_no_use_of_a_key() {
    let mut site = Site::new().await;
    let token = site.key(&["read"], None).await;
    let company = site.company(0, 1).await;
    let server = site.serve_http(&["http"]).await;
    let path = format!("/v1/companies/{company}/balance");
    let used = async || {
        site.number("select count(*) from api_keys where last_used_at is not null")
            .await
    };
    let (id, _) = token.rsplit_once('_').expect("a secret");
    let wrong = server.with(&format!("{id}_{}", "0".repeat(64)));
    assert_eq!(wrong.get(&path).await.refusal().0, 401);
    assert_eq!(used().await, 0);
    server.with(&token).get(&path).await.ok();
    eventually("its use is noted", PATIENCE, used, |&n| n == 1).await;
}

#[tokio::test]
async fn what_a_replay_is_asked_is_done_or_refused_and_never_left_out() {
    let mut site = Site::new().await;
    site.declare().await;
    let token = site.key(&["operate"], None).await;
    let server = site.serve_http(&["http"]).await;
    let caller = server.with(&token);
    let plan = Uuid::new_v4();
    for (asked, field) in [
        (json!({"all": true, "rate": 5}), "rate"),
        (json!({"all": true, "canary": 3}), "canary"),
        (json!({"all": true, "note": "why"}), "note"),
        (json!({"plan_id": plan, "ids": [1]}), "ids"),
        (json!({"plan_id": plan, "all": true}), "all"),
        (
            json!({"plan_id": plan, "where": {"reason": "malformed"}}),
            "where",
        ),
        (json!({"plan_id": plan, "rate": 0}), "rate"),
    ] {
        let refused = caller.post("/v1/dead-letters/replay", &asked).await;
        assert_eq!(refused.refusal(), (422, "invalid_request"), "{asked}");
        assert_eq!(refused.body["field"], field, "{asked}");
    }
}

#[tokio::test]
async fn no_company_is_held_for_that_a_key_does_not_see_not_even_one_without_a_name() {
    let mut site = Site::new().await;
    let (own, other) = (site.company(0, 100).await, site.company(0, 100).await);
    site.db.add_company(Uuid::nil(), 0, 100).await;
    let token = site.key(&["publish"], Some(own)).await;
    let server = site.serve_http(&["http"]).await;
    for company in [other, Uuid::nil()] {
        let ask = json!({"job_id": Uuid::new_v4(), "company_id": company, "tokens": 1});
        let refused = server.with(&token).post("/v1/holds", &ask).await;
        assert_eq!(refused.refusal(), (404, "not_found"));
    }
    assert_eq!(site.number("select count(*) from token_holds").await, 0);
}

#[tokio::test]
async fn two_keys_of_one_job_have_its_hold_once() {
    let site = Site::new().await;
    let company = site.company(0, 100).await;
    let job = Uuid::new_v4();
    let hour = Duration::from_hours(1);
    let held = site.storage().hold_tokens(job, company, 100, hour).await;
    held.expect("held");
    let of_job = |key: &str| crate::support::ledger::Item {
        job_id: Some(job),
        ..crate::support::ledger::Item::new(key, company, 60)
    };
    let answers = site
        .db
        .deduct_batch(&[of_job("first"), of_job("second")])
        .await;
    assert_eq!(
        [answers[0].error(), answers[1].error()],
        ["", "insufficient_balance"]
    );
}
