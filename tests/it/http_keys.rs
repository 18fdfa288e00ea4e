//! Who may call: keys, their scopes and companies, and what others are told.

use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use crate::support::{
    api::{Answer, Caller, Server},
    eventually::{PATIENCE, eventually},
    process::Process,
    site::Site,
};

fn balance_of(company: Uuid) -> String {
    format!("/v1/companies/{company}/balance")
}

#[tokio::test]
async fn a_key_reads_a_balance_and_without_one_or_with_a_wrong_one_nobody_does() {
    let mut site = Site::new().await;
    let company = site.company(12_000, 5_000).await;
    let server = site.serve_http(&["http"]).await;
    let path = balance_of(company);

    let none = server.without_key().get(&path).await;
    assert_eq!(none.refusal(), (401, "unauthorized"));
    assert_eq!(
        none.header("www-authenticate"),
        "Bearer realm=\"token-billing\""
    );
    // Made while it runs.
    let token = site.key(&["read"], None).await;
    let balance = server.with(&token).get(&path).await;
    assert_eq!(balance.ok()["total"], 17_000);
    assert_eq!(
        balance.body,
        site.run(&["balance", &company.to_string(), "--output", "json"])
            .await
            .document()
    );

    let mut secrets = Vec::new();
    for wrong in [
        token.replace("tb_", "tb"),
        format!("{}0", &token[..token.len() - 1]),
        format!("{}1", &token[..token.len() - 1]),
        format!("tb_{}_{}", Uuid::new_v4().simple(), "0".repeat(64)),
        String::new(),
        "tb_ü".to_owned(),
        "tbp_1_2_3_4".to_owned(),
        "x".repeat(10_000),
    ] {
        if wrong == token {
            continue;
        }
        let answer = server.with(&wrong).get(&path).await;
        assert_eq!(answer.refusal(), (401, "unauthorized"), "{wrong}");
        assert!(answer.header("www-authenticate").contains("invalid_token"));
        secrets.push(answer.body);
    }
    assert!(
        secrets.windows(2).all(|two| two[0] == two[1]),
        "all are told the same"
    );
    let basic = server
        .without_key()
        .request(Method::GET, &path)
        .basic_auth("me", Some(&token));
    assert_eq!(Answer::of(basic).await.refusal(), (401, "unauthorized"));
    assert!(
        server
            .process
            .log()
            .iter()
            .all(|line| !line.contains(&token[40..]))
    );
}

#[tokio::test]
async fn a_revoked_key_is_refused_soon_and_its_successor_of_the_same_name_is_not() {
    let mut site = Site::new().await;
    site.set("HTTP__KEYS_TTL", "50ms");
    let company = site.company(0, 1).await;
    let (first, second) = (
        site.key(&["read"], None).await,
        site.key(&["read"], None).await,
    );
    let server = site.serve_http(&["http"]).await;
    let path = balance_of(company);
    server.with(&first).get(&path).await.ok();

    let keys = site
        .run(&["keys", "list", "--output", "json"])
        .await
        .document();
    let id = keys["keys"][0]["id"].as_str().expect("an id").to_owned();
    assert!(!keys.to_string().contains(&first[40..]), "{keys}");
    let last_used = async || {
        let keys = site
            .run(&["keys", "list", "--output", "json"])
            .await
            .document();
        keys["keys"][0]["last_used_at"].is_string()
    };
    eventually("its use is noted", PATIENCE, last_used, |used| *used).await;

    for _ in 0..2 {
        site.run(&["keys", "revoke", &id, "--as", "me"])
            .await
            .done();
    }
    let ask = async || server.with(&first).get(&path).await.status.as_u16();
    eventually("it is refused", PATIENCE, ask, |status| *status == 401).await;
    server.with(&second).get(&path).await.ok();
    let actions = "select count(*) from operator_actions where action in ('add_key', 'revoke_key')";
    assert_eq!(site.number(actions).await, 3, "revoked once");
    let ran = site
        .run(&["keys", "revoke", &Uuid::new_v4().to_string()])
        .await;
    assert!(ran.refused(1).contains("there is no key"), "{ran:#?}");
}

#[tokio::test]
async fn a_scope_that_a_key_lacks_is_named() {
    let mut site = Site::new().await;
    let company = site.company(0, 1).await;
    let server = site.serve_http(&["http"]).await;
    let reader = server.with(&site.key(&["read"], None).await);
    let publisher = server.with(&site.key(&["publish"], None).await);
    let token = json!({ "company_id": company });
    for answer in [
        reader.post("/v1/portal-tokens", &token).await,
        reader.post("/v1/events", &json!({})).await,
        publisher.get(&balance_of(company)).await,
        publisher.get(&format!("/v1/jobs/{}", Uuid::new_v4())).await,
    ] {
        assert_eq!(answer.refusal(), (403, "insufficient_scope"));
        assert!(answer.body["scope"].is_string());
    }
}

#[tokio::test]
async fn to_a_key_of_one_company_another_is_as_one_that_is_not_there() {
    let mut site = Site::new().await;
    let (own, foreign, nowhere) = (
        site.company(0, 20_000).await,
        site.company(0, 20_000).await,
        Uuid::new_v4(),
    );
    let foreign_job = site.job(foreign).await;
    site.db.deduct(foreign_job, foreign, 10).await;
    let own_job = site.job(own).await;
    site.db.deduct(own_job, own, 10).await;
    let server = site.serve_http(&["http"]).await;
    let caller = server.with(&site.key(&["read", "operate", "publish"], Some(own)).await);

    caller.get(&balance_of(own)).await.ok();
    for call in ["balance", "preflight", "preflight?tokens=1"] {
        let ask = async |id: Uuid| caller.get(&format!("/v1/companies/{id}/{call}")).await;
        let (one, other) = (ask(foreign).await, ask(nowhere).await);
        assert_eq!(one.refusal(), (404, "not_found"));
        same_but_for_ids(&one, foreign, &other, nowhere);
    }
    let ask = async |id: Uuid| {
        caller
            .post("/v1/portal-tokens", &json!({ "company_id": id }))
            .await
    };
    same_but_for_ids(&ask(foreign).await, foreign, &ask(nowhere).await, nowhere);
    let job = async |id: Uuid| caller.get(&format!("/v1/jobs/{id}")).await;
    let unknown = Uuid::new_v4();
    assert_eq!(job(own_job).await.ok()["state"], "charged");
    assert_eq!(job(foreign_job).await.ok()["state"], "unknown");
    same_but_for_ids(
        &job(foreign_job).await,
        foreign_job,
        &job(unknown).await,
        unknown,
    );
    let publish = async |id: Uuid| {
        let event = json!({ "job_id": own_job, "tokens": 1, "company_id": id });
        caller.post("/v1/events", &event).await
    };
    assert_eq!(publish(foreign).await.refusal(), (422, "invalid_events"));
    same_but_for_ids(
        &publish(foreign).await,
        foreign,
        &publish(nowhere).await,
        nowhere,
    );
}

/// What the database was asked for a call, in order.
async fn queries(server: &mut Server, caller: &Caller, path: &str) -> Vec<String> {
    let before = server.process.log().len();
    caller.get(path).await;
    let answered = format!("http.path={}", path.split('?').next().expect("a path"));
    server.process.wait_for_log(&answered, PATIENCE).await;
    let log = server.process.log();
    let lines = log[before..]
        .iter()
        .take_while(|line| !line.contains(&answered));
    let queries = lines.filter_map(|line| line.split_once("summary=\"")?.1.split('"').next());
    // Every few seconds the process looks for itself.
    let own = |query: &str| query.starts_with("set ") || query.contains("pg_postmaster_start_time");
    let asked = queries.filter(|query| !own(query));
    asked.map(str::to_owned).collect()
}

#[tokio::test]
async fn to_tell_that_a_company_is_not_there_takes_the_same_queries_as_that_it_is_another_ones() {
    let mut site = Site::new().await;
    site.set("LOG__FILTER", "info,sqlx::query=debug,token_billing=debug");
    site.set("HTTP__KEYS_TTL", "1m");
    let (own, foreign) = (site.company(0, 9).await, site.company(0, 9).await);
    let foreign_job = site.job(foreign).await;
    site.db.deduct(foreign_job, foreign, 1).await;
    let token = site.key(&["read"], Some(own)).await;
    let mut server = site.serve_http(&["http"]).await;
    let caller = server.with(&token);
    // Its key is read, and its use noted.
    caller.get(&balance_of(own)).await.ok();
    server
        .process
        .wait_for_log("note_api_key_use", PATIENCE)
        .await;
    let preflight = |id: Uuid| format!("/v1/companies/{id}/preflight?tokens=1");
    let job = |id: Uuid| format!("/v1/jobs/{id}");
    for (one, other) in [
        (balance_of(foreign), balance_of(Uuid::new_v4())),
        (preflight(foreign), preflight(Uuid::new_v4())),
        (job(foreign_job), job(Uuid::new_v4())),
    ] {
        // Until the process has done looking at the installation, its own queries are between them.
        let both = async || {
            let first = queries(&mut server, &caller, &one).await;
            (first, queries(&mut server, &caller, &other).await)
        };
        let same =
            |(first, other): &(Vec<String>, Vec<String>)| !first.is_empty() && first == other;
        eventually("the same queries", PATIENCE, both, same).await;
    }
}

fn same_but_for_ids(one: &Answer, id: Uuid, other: &Answer, other_id: Uuid) {
    assert_eq!(one.status, other.status);
    let (one, other) = (one.body.to_string(), other.body.to_string());
    assert_eq!(
        one.replace(&id.to_string(), "ID"),
        other.replace(&other_id.to_string(), "ID")
    );
}

#[tokio::test]
async fn beyond_loopback_nobody_listens_before_there_is_a_key() {
    let mut site = Site::new().await;
    site.set("HTTP__LISTEN", "0.0.0.0:0");
    let mut serve = Process::start(&["serve", "--role", "http"], &site.environment());
    assert_eq!(serve.wait(PATIENCE).await, Some(1));
    let log = serve.log().join("\n");
    assert!(
        log.contains("error: http.listen: 0.0.0.0:0 is beyond this machine"),
        "{log}"
    );
    assert!(log.contains("token-billing keys add"), "{log}");

    site.key(&["read"], None).await;
    let mut serve = Process::start(&["serve", "--role", "http"], &site.environment());
    serve
        .wait_for_log("http listens on http://0.0.0.0:", PATIENCE)
        .await;
    serve.terminate().await;
    assert_eq!(serve.wait(PATIENCE).await, Some(0));
}

#[tokio::test]
async fn a_name_that_says_nothing_or_no_scope_is_refused() {
    let site = Site::new().await;
    for name in ["", "  ", "two\nlines", &"x".repeat(101)] {
        let ran = site.run(&["keys", "add", name, "--scope", "read"]).await;
        assert!(ran.refused(2).contains("--name: "), "{ran:#?}");
    }
    site.run(&["keys", "add", "shop"]).await.refused(2);
    assert_eq!(site.number("select count(*) from api_keys").await, 0);
}
