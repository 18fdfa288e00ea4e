//! Callers that mean harm, or only are many: the others, and the worker in the same process, go on.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{interval, timeout},
};
use uuid::Uuid;

use crate::support::{
    api::Server,
    eventually::{PATIENCE, eventually},
    site::{Site, event},
};

async fn serving(site: &mut Site) -> (Server, String) {
    site.declare().await;
    let token = site.key(&["read", "publish"], None).await;
    (site.serve_http(&["worker", "http"]).await, token)
}

/// An event through the broker, past the API.
async fn is_charged(site: &Site, company: Uuid) {
    let job = Uuid::new_v4();
    site.publish(job, company, 1).await;
    site.until(job, "completed").await;
}

#[tokio::test]
async fn a_thousand_idle_connections_keep_neither_the_worker_nor_other_callers_from_their_work() {
    let mut site = Site::new().await;
    site.set("HTTP__HEADER_TIMEOUT", "2s");
    let (server, token) = serving(&mut site).await;
    let company = site.company(0, 1000).await;
    let idle = (0..1000).map(|_| TcpStream::connect(server.address));
    let idle: Vec<TcpStream> = join_all(idle).await.into_iter().flatten().collect();
    assert!(idle.len() >= 900, "{}", idle.len());
    is_charged(&site, company).await;
    // Once they have been idle for too long, there is room.
    let path = format!("/v1/companies/{company}/balance");
    assert_eq!(server.with(&token).get(&path).await.ok()["total"], 999);
    for (place, mut connection) in idle.into_iter().enumerate() {
        let mut rest = Vec::new();
        let ended = timeout(PATIENCE, connection.read_to_end(&mut rest)).await;
        ended
            .unwrap_or_else(|_| panic!("{place} was not closed"))
            .ok();
    }
}

#[tokio::test]
async fn whoever_sends_a_byte_a_while_is_cut_off() {
    let mut site = Site::new().await;
    site.set("HTTP__HEADER_TIMEOUT", "1s");
    site.set("HTTP__BODY_TIMEOUT", "1s");
    let (server, token) = serving(&mut site).await;
    let company = site.company(0, 1000).await;
    let headers = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: 1000\r\n\r\n"
    );
    let (slow_headers, slow_body, charged) = tokio::join!(
        drip(&server, "", &headers),
        drip(
            &server,
            &headers,
            "{                                              "
        ),
        is_charged(&site, company)
    );
    let () = charged;
    assert_eq!(slow_headers, "", "no answer to what was no request");
    assert!(slow_body.starts_with("HTTP/1.1 408 "), "{slow_body}");
    assert!(slow_body.contains("request_timeout"), "{slow_body}");
}

/// Sends `first` at once and `rest` slowly; what is answered until the server hangs up.
async fn drip(server: &Server, first: &str, rest: &str) -> String {
    let connection = TcpStream::connect(server.address).await.expect("connected");
    let (mut from, mut to) = connection.into_split();
    to.write_all(first.as_bytes()).await.expect("sent");
    let rest = rest.as_bytes().to_vec();
    let dripping = tokio::spawn(async move {
        let mut tick = interval(Duration::from_millis(100));
        for byte in rest {
            tick.tick().await;
            if to.write_all(&[byte]).await.is_err() {
                return;
            }
        }
        std::future::pending::<()>().await;
    });
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, from.read_to_end(&mut answer)).await;
    dripping.abort();
    // A reset is an end as well.
    read.expect("it hangs up").ok();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Sends the head of a request with a large body; returns when it is told to send the body.
async fn large_body(server: &Server, token: &str) -> TcpStream {
    let mut connection = TcpStream::connect(server.address).await.expect("connected");
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: 100000\r\nexpect: 100-continue\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await.expect("sent");
    let mut told = [0; 25];
    connection.read_exact(&mut told).await.expect("told");
    assert_eq!(&told[..], b"HTTP/1.1 100 Continue\r\n\r\n");
    connection
}

#[tokio::test]
async fn so_many_large_bodies_are_read_at_once_and_small_ones_pass_them() {
    const LARGE_BODIES: usize = 16;
    let mut site = Site::new().await;
    let (server, token) = serving(&mut site).await;
    let company = site.company(0, 1000).await;
    let begun = (0..LARGE_BODIES).map(|_| large_body(&server, &token));
    let mut begun = join_all(begun).await;
    let mut next = pin!(large_body(&server, &token));
    for _ in 0..5 {
        let event = event(Uuid::new_v4(), company, 1);
        let caller = server.with(&token);
        let small = tokio::select! {
            biased;
            _ = &mut next => panic!("one more than {LARGE_BODIES} is read"),
            small = caller.post("/v1/events", &event) => small,
        };
        assert_eq!(small.status, 202, "{small:#?}");
    }
    drop(begun.pop());
    let _next = timeout(PATIENCE, next).await.expect("there is room again");
}

#[tokio::test]
async fn ten_thousand_bad_keys_cost_hardly_a_query_and_the_worker_keeps_its_pace() {
    const ASKING: usize = 20;
    const EACH: usize = 500;
    let mut site = Site::new().await;
    let (server, token) = serving(&mut site).await;
    let company = site.company(0, 1000).await;
    let path = format!("/v1/companies/{company}/balance");
    server.with(&token).get(&path).await.ok();
    let queries = "select coalesce(sum(xact_commit), 0)::bigint from pg_stat_database where datname = current_database()";
    let before = site.number(queries).await;
    let began = Instant::now();
    let asking = (0..ASKING).map(|_| async {
        for _ in 0..EACH {
            let wrong = format!("tb_{}_{}", Uuid::new_v4().simple(), "0".repeat(64));
            let answer = server.with(&wrong).get(&path).await;
            assert_eq!(answer.refusal(), (401, "unauthorized"));
        }
    });
    tokio::join!(join_all(asking), is_charged(&site, company));
    let seconds = began.elapsed().as_secs_f64();
    server.with(&token).get(&path).await.ok();
    // The server tells what it has counted a second later at the latest.
    let more = async || site.number(queries).await - before;
    let more = eventually("it is counted", PATIENCE, more, |more| *more > 0).await;
    assert!(
        (more as f64) < 200.0 + 60.0 * seconds,
        "{more} transactions in {seconds} s"
    );
}

#[tokio::test]
async fn a_key_that_calls_too_often_is_told_when_to_come_back_and_others_are_not() {
    let mut site = Site::new().await;
    site.set("HTTP__REQUESTS_PER_SECOND", "1");
    site.set("HTTP__BURST", "3");
    let (server, token) = serving(&mut site).await;
    let company = site.company(0, 1000).await;
    let path = format!("/v1/companies/{company}/balance");
    let caller = server.with(&token);
    let first = caller.get(&path).await;
    first.ok();
    assert_eq!(first.header("ratelimit-policy"), "\"key\";q=3;w=3");
    assert_eq!(first.header("ratelimit"), "\"key\";r=2;t=1");
    let limited = eventually(
        "too many",
        PATIENCE,
        async || caller.get(&path).await,
        |answer| answer.status == 429,
    )
    .await;
    assert_eq!(limited.refusal(), (429, "rate_limited"));
    assert_eq!(limited.header("retry-after"), "1");
    assert_eq!(limited.header("ratelimit"), "\"key\";r=0;t=3");
    let other = site.key(&["read"], None).await;
    server.with(&other).get(&path).await.ok();
    eventually(
        "again after a while",
        PATIENCE,
        async || caller.get(&path).await.status.as_u16(),
        |status| *status == 200,
    )
    .await;
}

#[tokio::test]
async fn told_to_stop_it_answers_what_it_was_asked_and_leaves_nobody_waiting() {
    let mut site = Site::new().await;
    let (mut server, token) = serving(&mut site).await;
    let company = site.company(0, 1000).await;
    // One lies idle, and one has sent half of its headers.
    let idle = TcpStream::connect(server.address).await.expect("connected");
    let mut half = TcpStream::connect(server.address).await.expect("connected");
    half.write_all(b"GET /healthz HT").await.expect("sent");
    // One waits for a company that is locked meanwhile.
    let held = site.hold_table("company_subscriptions").await;
    let caller = server.with(&token);
    let path = format!("/v1/companies/{company}/balance");
    let asking = tokio::spawn(async move { caller.get(&path).await });
    // The call itself, and not a look at the database.
    let count = async || site.waiting_for_a_lock("monthly_token_quota").await;
    eventually("it waits", PATIENCE, count, |count| *count > 0).await;
    server.process.terminate().await;
    server.process.wait_for_log("stopping", PATIENCE).await;
    held.release().await;
    let answer = asking.await.expect("no panic");
    assert_eq!(answer.ok()["total"], 1000);
    assert_eq!(server.process.wait(PATIENCE).await, Some(0));
    drop((idle, half));
    let published = server
        .with(&token)
        .request(reqwest::Method::POST, "/v1/events");
    assert!(
        published
            .json(&event(company, company, 1))
            .send()
            .await
            .is_err()
    );
}
