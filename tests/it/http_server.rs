//! What holds for every call, and what a process tells of itself.

use reqwest::Method;
use serde_json::Value;
use uuid::Uuid;

use crate::support::{
    api::{Answer, Server, address},
    eventually::PATIENCE,
    process::Process,
    site::Site,
};

#[tokio::test]
async fn every_call_of_the_document_is_there_and_asks_for_a_key() {
    let mut site = Site::new().await;
    site.set("HTTP__BASE_PATH", "/billing");
    let server = site.serve_http(&["http"]).await;
    let nobody = server.without_key();
    let document = nobody.get("/billing/openapi.json").await;
    let document = document.ok();
    assert_eq!(document["servers"][0]["url"], "/billing");
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.len() >= 5, "{document:#}");
    for (path, methods) in paths {
        let path = format!("/billing{path}").replace("{company_id}", &Uuid::new_v4().to_string());
        let path = path.replace("{job_id}", &Uuid::new_v4().to_string());
        let path = path.replace("{id}", "1");
        for method in methods.as_object().expect("methods").keys() {
            let method: Method = method.to_uppercase().parse().expect("a method");
            let answer = Answer::of(nobody.request(method.clone(), &path)).await;
            assert_eq!(answer.refusal(), (401, "unauthorized"), "{method} {path}");
        }
        let patch = Answer::of(nobody.request(Method::PATCH, &path)).await;
        assert_eq!(patch.refusal(), (405, "method_not_allowed"), "{path}");
        assert!(!patch.header("allow").is_empty(), "{path}");
    }
    for path in ["/", "/v1/companies", "/billing/v1/nothing", "/v1/events"] {
        assert_eq!(
            nobody.get(path).await.refusal(),
            (404, "not_found"),
            "{path}"
        );
    }
    let printed = site.run(&["schema", "openapi"]).await;
    let printed: Value = serde_json::from_str(printed.done()).expect("JSON");
    assert_eq!(printed["paths"], document["paths"]);
}

#[tokio::test]
async fn a_request_keeps_its_id_or_is_given_one() {
    let mut site = Site::new().await;
    let server = site.serve_http(&["http"]).await;
    let named = server.without_key().request(Method::GET, "/healthz");
    let answer = Answer::of(named.header("x-request-id", "mine")).await;
    assert_eq!(answer.ok()["status"], "ok");
    assert_eq!(answer.header("x-request-id"), "mine");
    let (one, other) = (
        server.without_key().get("/healthz").await,
        server.without_key().get("/healthz").await,
    );
    assert_ne!(one.header("x-request-id"), other.header("x-request-id"));
}

#[tokio::test]
async fn a_parameter_that_makes_no_sense_is_named() {
    let mut site = Site::new().await;
    let company = site.company(0, 1).await;
    let server = site.serve_http(&["http"]).await;
    let caller = server.with(&site.key(&["read", "operate", "publish"], None).await);
    for (path, status, field) in [
        ("/v1/companies/acme/balance".to_owned(), 400, "company_id"),
        ("/v1/jobs/7".to_owned(), 400, "job_id"),
        (
            format!("/v1/companies/{company}/preflight?tokens=many"),
            400,
            "tokens",
        ),
        (
            format!("/v1/companies/{company}/preflight?token=1"),
            400,
            "token",
        ),
        (
            format!("/v1/companies/{company}/preflight?tokens=0"),
            422,
            "tokens",
        ),
        (
            format!("/v1/companies/{company}/preflight?tokens=99999999999999999999"),
            400,
            "tokens",
        ),
    ] {
        let answer = caller.get(&path).await;
        assert_eq!(answer.refusal(), (status, "invalid_request"), "{path}");
        assert_eq!(answer.body["field"], field, "{path}: {answer:#?}");
    }
    for (body, status, field) in [
        ("{", 400, "body"),
        ("", 400, "body"),
        ("{} {}", 422, "body"),
        ("{}", 422, "body"),
        ("[]", 422, "body"),
        (r#"{"company_id": 7}"#, 422, "company_id"),
        (r#"{"company_id": "acme"}"#, 422, "company_id"),
        (
            &format!(r#"{{"company_id": "{company}", "expires_in": "1h"}}"#),
            422,
            "expires_in",
        ),
        (
            &format!(r#"{{"company_id": "{company}", "expires_in": 86401}}"#),
            422,
            "expires_in",
        ),
        (
            &format!(r#"{{"company_id": "{company}", "expires": 1}}"#),
            422,
            "expires",
        ),
    ] {
        let answer = caller
            .post_as("/v1/portal-tokens", "application/json", body)
            .await;
        assert_eq!(answer.refusal(), (status, "invalid_request"), "{body}");
        assert_eq!(answer.body["field"], field, "{body}: {answer:#?}");
    }
    let answer = caller
        .post_as("/v1/portal-tokens", "text/plain", "{}")
        .await;
    assert_eq!(answer.refusal(), (415, "unsupported_media_type"));
}

#[tokio::test]
async fn any_process_tells_how_it_is_without_a_key() {
    let mut site = Site::new().await;
    site.set("OPS__LISTEN", "127.0.0.1:0");
    let mut serve = Process::start(&["serve", "--role", "worker"], &site.environment());
    let address = address(&mut serve, "ops").await;
    serve.wait_for_log(" ready", PATIENCE).await;
    let get = async |path: &str| {
        let client = reqwest::Client::new();
        Answer::of(client.get(format!("http://{address}{path}"))).await
    };
    assert_eq!(get("/healthz").await.ok()["status"], "ok");
    assert_eq!(get("/readyz").await.ok()["status"], "ready");
    let metrics = get("/metrics").await;
    assert!(
        metrics
            .ok()
            .to_string()
            .contains("token_billing_build_info")
    );
    assert_eq!(get("/v1/events").await.refusal(), (404, "not_found"));
    serve.terminate().await;
    assert_eq!(serve.wait(PATIENCE).await, Some(0));
}

#[tokio::test]
async fn readiness_and_metrics_are_on_the_address_of_the_calls_only_without_one_of_their_own() {
    let mut site = Site::new().await;
    let server = site.serve_http(&["http"]).await;
    server.without_key().get("/readyz").await.ok();
    site.set("OPS__LISTEN", "127.0.0.1:0");
    let server = site.serve_http(&["http"]).await;
    server.without_key().get("/healthz").await.ok();
    for path in ["/readyz", "/metrics"] {
        assert_eq!(
            server.without_key().get(path).await.refusal(),
            (404, "not_found")
        );
    }
}

#[tokio::test]
async fn an_address_that_is_taken_ends_the_process_and_is_named() {
    let mut site = Site::new().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    site.set("OPS__LISTEN", &address);
    let mut serve = Process::start(&["serve", "--role", "worker"], &site.environment());
    assert_eq!(serve.wait(PATIENCE).await, Some(1));
    let log = serve.log().join("\n");
    assert!(
        log.contains(&format!("error: ops.listen: {address}: ")),
        "{log}"
    );
}

#[tokio::test]
async fn pages_of_other_origins_may_call_only_where_the_settings_name_them() {
    let mut site = Site::new().await;
    let company = site.company(0, 1).await;
    let path = format!("/v1/companies/{company}/balance");
    let token = site.key(&["read"], None).await;
    let allowed = async |server: &Server, origin: &str| {
        let page = server.with(&token);
        let asked = page.request(Method::GET, &path).header("origin", origin);
        let before = server.without_key().request(Method::OPTIONS, &path);
        let before = before
            .header("origin", origin)
            .header("access-control-request-method", "GET")
            .header("access-control-request-headers", "authorization");
        let (asked, before) = (asked.send().await, before.send().await);
        [asked, before].map(|answer| {
            let answer = answer.expect("an answer");
            let allowed = answer.headers().get("access-control-allow-origin");
            allowed.map(|origin| origin.to_str().expect("text").to_owned())
        })
    };
    let server = site.serve_http(&["http"]).await;
    let app = "https://app.example.com";
    assert_eq!(allowed(&server, app).await, [None, None]);
    site.set(
        "HTTP__CORS_ORIGINS",
        "https://app.example.com, http://localhost:3000",
    );
    let server = site.serve_http(&["http"]).await;
    assert_eq!(
        allowed(&server, app).await,
        [Some(app.to_owned()), Some(app.to_owned())]
    );
    assert_eq!(
        allowed(&server, "https://evil.example.com").await,
        [None, None]
    );
}
