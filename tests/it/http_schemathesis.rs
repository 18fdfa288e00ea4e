//! The document of the HTTP API, held against the API by schemathesis: requests made from the document, good ones and
//! bad ones, and whether each answer is as it says.

use std::{path::Path, process::Stdio, time::Duration};

use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;
use uuid::Uuid;

use crate::support::{
    api::{Answer, Server},
    site::{Site, event},
};

/// Of each operation, besides the coverage phase, which makes some 1,500 requests by itself.
const EXAMPLES: &str = "3";
const LONGEST: Duration = Duration::from_mins(5);

fn program() -> String {
    let output =
        std::process::Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/local.sh"))
            .arg("schemathesis")
            .output()
            .expect("deploy/local.sh can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "local.sh schemathesis: {said}");
    let path = String::from_utf8(output.stdout).expect("UTF-8");
    path.trim().to_owned()
}

/// Runs it with this key; `ids` are the ones that it uses where a path wants one.
async fn check(server: &Server, key: &str, ids: &[(&str, &str, String)]) {
    let folder = TempDir::new().expect("a temporary directory");
    let known: String = ids
        .iter()
        .map(|(path, name, id)| {
            let under = format!("include-path-regex = \"^/v1/{path}/.*\"");
            format!("[[operations]]\n{under}\nparameters = {{ {name} = {id} }}\n")
        })
        .collect();
    std::fs::write(folder.path().join("schemathesis.toml"), known).expect("it can be written");
    let mut command = Command::new(program());
    command
        .arg("run")
        .arg(format!("http://{}/openapi.json", server.address))
        .args(["--header", &format!("Authorization: Bearer {key}")])
        .args(["--seed", "1", "--max-examples", EXAMPLES])
        // It does not end.
        .args(["--exclude-path", "/v1/stream"])
        // Whether a company can pay is in no schema.
        .args([
            "--checks",
            "all",
            "--exclude-checks",
            "positive_data_acceptance",
        ])
        .args(["--continue-on-failure", "--output-truncate", "false"])
        // What it remembers of earlier runs would make each run another one.
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(LONGEST, command.output());
    let output = output.await.expect("it ends").expect("it can be run");
    let (said, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{said}\n{error}");
    assert!(said.contains("Tested: 19"), "of all calls: {said}");
}

#[tokio::test]
async fn every_answer_is_as_the_document_says_whatever_is_asked() {
    let mut site = Site::new().await;
    site.declare().await;
    for limit in ["HTTP__REQUESTS_PER_SECOND", "HTTP__BURST"] {
        site.set(limit, "10000");
    }
    let (company, poor) = (
        site.company(100_000, 500_000).await,
        site.company(0, 0).await,
    );
    let scopes = ["read", "publish", "operate"];
    let (of_all, of_one) = (
        site.key(&scopes, None).await,
        site.key(&scopes, Some(company)).await,
    );
    let server = site.serve_http(&["worker", "archivist", "http"]).await;
    let caller = server.with(&of_all);

    // So that there is something of each kind to be told.
    let (charged, refused) = (Uuid::new_v4(), Uuid::new_v4());
    for (job, company) in [(charged, company), (refused, poor)] {
        let published = caller.post("/v1/events", &event(job, company, 50)).await;
        assert_eq!(published.status, 202, "{published:#?}");
    }
    site.broker.publish(b"\xff is not UTF-8").await;
    site.until(charged, "completed").await;
    let dead_letters = site.archived(2).await;
    let plan = json!({ "where": { "job_id": refused } });
    let plan = caller.post("/v1/dead-letters/replay", &plan).await;
    let run = json!({ "plan_id": plan.ok()["plan_id"] });
    let replay = caller.post("/v1/dead-letters/replay", &run).await;
    assert_eq!(replay.status, 202, "{replay:#?}");

    let dead_letter = dead_letters.iter().find(|one| one.job_id.is_none());
    let ids = [
        ("companies", "company_id", format!("\"{company}\"")),
        ("jobs", "job_id", format!("\"{charged}\"")),
        (
            "dead-letters",
            "id",
            dead_letter.expect("it is archived").id.to_string(),
        ),
        ("replays", "id", replay.body["action_id"].to_string()),
    ];
    tokio::join!(check(&server, &of_all, &ids), check(&server, &of_one, &[]),);

    let log = server.process.log();
    let bad = |line: &&String| line.contains("ERROR") || line.contains("panicked");
    let bad: Vec<_> = log.iter().filter(bad).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    let document = Answer::of(server.without_key().request(Method::GET, "/openapi.json")).await;
    for secret in [&of_all, &of_one, site.db.url(), site.broker.url()] {
        assert!(!document.body.to_string().contains(secret));
    }
    drop(server);
    site.run(&["audit"]).await.done();
}

#[tokio::test]
async fn what_the_database_can_not_hold_is_refused_by_its_field() {
    let mut site = Site::new().await;
    let company = site.company(0, 1).await;
    let key = site.key(&["read", "operate"], None).await;
    let server = site.serve_http(&["http"]).await;
    let caller = server.with(&key);
    // A time of which only another offset has a date: sqlx panics at it.
    let late = "9999-12-31T23:59:59-23:59";
    for (query, status, field) in [
        ("text=a%00b".to_owned(), 422, "text"),
        ("reason=%00".to_owned(), 422, "reason"),
        ("company_id=a%00b".to_owned(), 400, "company_id"),
        (format!("since={late}"), 400, "since"),
        ("until=0000-12-31T00:00:00Z".to_owned(), 400, "until"),
    ] {
        let answer = caller.get(&format!("/v1/dead-letters?{query}")).await;
        assert_eq!(answer.refusal(), (status, "invalid_request"), "{query}");
        assert_eq!(answer.body["field"], field, "{query}: {answer:#?}");
    }
    let credits = format!("/v1/companies/{company}/credits");
    let refund = format!("/v1/jobs/{company}/refund");
    let renewal = json!({ "key": "k", "monthly": 1, "period_end": late });
    for (path, body, field) in [
        (&*credits, json!({ "key": "a\0b", "purchased": 1 }), "key"),
        (&*credits, renewal, "period_end"),
        (&*refund, json!({ "reason": "a\0b" }), "reason"),
        (
            "/v1/dead-letters/replay",
            json!({ "where": { "text": "\0" } }),
            "where",
        ),
        (
            "/v1/dead-letters/replay",
            json!({ "where": { "limit": 1 } }),
            "limit",
        ),
    ] {
        let answer = caller.post(path, &body).await;
        assert_eq!(answer.refusal(), (422, "invalid_request"), "{body}");
        assert_eq!(answer.body["field"], field, "{body}: {answer:#?}");
    }
    let answer = caller.get("/v1/dead-letters/first").await;
    assert_eq!(answer.refusal(), (400, "invalid_request"));
    assert_eq!(answer.body["field"], "id");
    assert_eq!(site.number("select count(*) from token_credits").await, 0);
}
