//! `<token-balance>` on a page of another origin, with the real API behind it.

use axum::{Router, response::Html, routing::get};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::support::{
    browser::{Browser, Reader},
    site::Site,
};

const SHOWN: &str = "const part = (name) =>
    document.querySelector('token-balance').shadowRoot.querySelector(`[part=${name}]`);";

async fn until(browser: &Browser, script: &str, wanted: impl Into<Value>) {
    browser
        .until(&format!("{SHOWN} return {script}"), wanted.into())
        .await;
}

#[tokio::test]
async fn a_page_of_another_origin_follows_its_companys_balance_with_a_portal_token() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let origin = format!("http://{}", listener.local_addr().expect("an address"));
    let mut site = Site::new().await;
    site.set("HTTP__CORS_ORIGINS", &origin);
    site.set("HTTP__BASE_PATH", "/billing");
    site.set("HTTP__KEYS_TTL", "0s");
    site.declare().await;
    let company = site.company(5_000, 10_500).await;
    let token = site.key(&["read", "publish", "operate"], None).await;
    let mut server = site.serve_http(&["http", "worker"]).await;
    let application = server.with(&token);
    let ask = json!({"company_id": company});
    let portal = application.post("/billing/v1/portal-tokens", &ask).await;
    let api = format!("http://{}/billing", server.address);
    let page = format!(
        "<!doctype html><title>An application</title>
         <script src='{api}/widget/token-balance.js' defer></script>
         <token-balance company={company} token='{}' refresh=1></token-balance>",
        portal.body["token"].as_str().expect("a token")
    );
    let pages = Router::new().route("/", get(async move || Html(page)));
    let serving = tokio::spawn(async move { axum::serve(listener, pages).await });
    let browser = Browser::open().await;
    browser.show(&origin, Reader::DESKTOP).await;
    let available = "part('available').textContent";
    until(&browser, available, "15,500").await;
    until(
        &browser,
        "part('monthly').textContent.includes('5,000')",
        true,
    )
    .await;

    let job = Uuid::new_v4();
    let hold = json!({"job_id": job, "company_id": company, "tokens": 15_000});
    application.post("/billing/v1/holds", &hold).await;
    until(&browser, available, "500").await;
    until(
        &browser,
        "part('held').textContent.includes('15,000')",
        true,
    )
    .await;
    let event = json!({"job_id": job, "company_id": company, "tokens": 12_000});
    application.post("/billing/v1/events", &event).await;
    site.until(job, "completed").await;
    until(&browser, available, "3,500").await;

    // The token ends with the key that it was made from.
    let keys = site.run(&["keys", "list", "--output", "json"]).await;
    let id = keys.document()["keys"][0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    site.run(&["keys", "revoke", &id]).await.done();
    until(
        &browser,
        "part('note').textContent.includes('No access')",
        true,
    )
    .await;
    browser.close().await;
    serving.abort();
    server.process.terminate().await;
}
