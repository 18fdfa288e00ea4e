//! Broker or database away, or the server killed, while callers call.

use futures_util::future::join_all;
use serde_json::json;
use uuid::Uuid;

use crate::support::{
    api::Caller,
    eventually::{PATIENCE, eventually},
    proxy::ChaosProxy,
    site::{Site, event},
};

/// Publishes an event; whether it was accepted.
async fn accepted(caller: &Caller, job: Uuid, company: Uuid) -> bool {
    let answer = caller.post("/v1/events", &event(job, company, 1)).await;
    if answer.status == 202 {
        return true;
    }
    assert_eq!(answer.refusal(), (503, "broker_unavailable"), "{answer:#?}");
    assert!(!answer.header("retry-after").is_empty());
    false
}

#[tokio::test]
async fn while_the_broker_is_away_events_are_refused_and_what_was_accepted_is_charged_once() {
    let mut site = Site::new().await;
    site.declare().await;
    let proxy = ChaosProxy::start(site.broker.url()).await;
    site.set("BROKER__URL", &proxy.url());
    let company = site.company(0, 100_000).await;
    let token = site.key(&["publish", "read"], None).await;
    let server = site.serve_http(&["http"]).await;
    let caller = server.with(&token);
    let (mut taken, mut refused) = (Vec::new(), Vec::new());
    for round in 0..3 {
        for _ in 0..10 {
            let job = Uuid::new_v4();
            assert!(accepted(&caller, job, company).await, "round {round}");
            taken.push(job);
        }
        proxy.refuse().await;
        let jobs: Vec<Uuid> = (0..5).map(|_| Uuid::new_v4()).collect();
        for (job, was) in jobs
            .iter()
            .zip(join_all(jobs.iter().map(|job| accepted(&caller, *job, company))).await)
        {
            assert!(!was, "nobody is there who could have confirmed it");
            refused.push(*job);
        }
        // Whatever needs only the database goes on.
        caller
            .get(&format!("/v1/companies/{company}/balance"))
            .await
            .ok();
        proxy.restore().await;
        let back = Uuid::new_v4();
        eventually(
            "it takes events again",
            PATIENCE,
            async || accepted(&caller, back, company).await,
            |was| *was,
        )
        .await;
        taken.push(back);
    }
    let running = site.start().await;
    for job in &taken {
        site.until(*job, "completed").await;
    }
    for job in &refused {
        assert!(site.record(*job).await.is_none(), "{job} was refused");
    }
    running.stop().await;
    assert_eq!(
        site.balance(company).await,
        (0, 100_000 - taken.len() as i64)
    );
}

#[tokio::test]
async fn a_server_killed_under_load_loses_nothing_that_it_had_accepted() {
    let mut site = Site::new().await;
    site.declare().await;
    let company = site.company(0, 100_000).await;
    let token = site.key(&["publish"], None).await;
    let mut taken = Vec::new();
    for _ in 0..3 {
        let mut server = site.serve_http(&["http"]).await;
        let caller = server.with(&token);
        let publishing = (0..10).map(|_| {
            let caller = caller.clone();
            tokio::spawn(async move {
                let mut taken = Vec::new();
                loop {
                    let job = Uuid::new_v4();
                    let body = event(job, company, 1);
                    let request = caller
                        .request(reqwest::Method::POST, "/v1/events")
                        .json(&body);
                    match request.send().await {
                        Ok(answer) if answer.status() == 202 => taken.push(job),
                        Ok(answer) => panic!("{answer:?}"),
                        // Killed: nobody knows.
                        Err(_) => return taken,
                    }
                }
            })
        });
        let publishing: Vec<_> = publishing.collect();
        let queue = site.broker.work_queue();
        let enough = async || site.broker.ready_count(&queue).await.unwrap_or(0);
        let before = taken.len() as u32;
        eventually("under load", PATIENCE, enough, |&n| n > before + 50).await;
        server.process.kill9().await;
        for publisher in publishing {
            taken.extend(publisher.await.expect("no other answer"));
        }
    }
    assert!(taken.len() > 100, "{}", taken.len());
    let running = site.start().await;
    for job in &taken {
        site.until(*job, "completed").await;
    }
    running.stop().await;
    // What was sent and not answered is charged too, once.
    let charged = site
        .number("select count(*) from token_deduction_records")
        .await;
    assert!(charged >= taken.len() as i64);
    assert_eq!(site.balance(company).await, (0, 100_000 - charged));
}

#[tokio::test]
async fn while_the_database_is_away_calls_are_answered_at_once_and_work_again_after_it() {
    let mut site = Site::new().await;
    site.declare().await;
    let company = site.company(0, 1).await;
    let token = site.key(&["read", "operate"], None).await;
    let proxy = ChaosProxy::start(site.db.url()).await;
    site.set("DATABASE__URL", &proxy.url());
    site.set("RECONNECT__MAX", "200ms");
    let server = site.serve_http(&["http"]).await;
    let caller = server.with(&token);
    let path = format!("/v1/companies/{company}/balance");
    caller.get(&path).await.ok();
    proxy.refuse().await;
    let portal = json!({ "company_id": company });
    for answer in [
        caller.get(&path).await,
        caller.post("/v1/portal-tokens", &portal).await,
    ] {
        assert_eq!(answer.refusal(), (503, "database_unavailable"));
        assert!(!answer.header("retry-after").is_empty());
        assert!(
            !answer.body.to_string().contains("127.0.0.1"),
            "{answer:#?}"
        );
    }
    server.without_key().get("/healthz").await.ok();
    proxy.restore().await;
    let status = async || caller.get(&path).await.status.as_u16();
    eventually("it works again", PATIENCE, status, |status| *status == 200).await;
}
