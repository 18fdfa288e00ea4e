//! The database role that `migrate --print-grants NAME --for http` makes: enough for every call, and no more.

use serde_json::json;
use sqlx::Connection as _;
use uuid::Uuid;

use crate::support::{
    dead_letters::refused,
    eventually::{PATIENCE, eventually},
    role::TestRole,
    site::Site,
};

#[tokio::test]
async fn the_role_that_was_printed_for_http_answers_every_call_and_does_nothing_else() {
    let mut site = Site::new().await;
    site.declare().await;
    let token = site.key(&["read", "publish", "operate"], None).await;
    let (company, job) = (site.company(0, 100).await, Uuid::new_v4());
    assert!(site.db.deduct(job, company, 40).await.success);
    let id = site.archive(&[refused(Uuid::new_v4(), company, 70)]).await[0];
    let role = TestRole::granted(&site, "http").await;
    site.set("DATABASE__URL", role.url());
    let server = site.serve_http(&["http"]).await;
    let caller = server.with(&token);
    for path in [
        format!("/v1/companies/{company}/balance"),
        format!("/v1/companies/{company}/preflight?tokens=1"),
        format!("/v1/jobs/{job}"),
        "/v1/dead-letters".to_owned(),
        "/v1/dead-letters/groups".to_owned(),
        "/v1/dead-letters/stats".to_owned(),
        format!("/v1/dead-letters/{id}"),
        "/v1/audit".to_owned(),
    ] {
        caller.get(&path).await.ok();
    }
    let why = json!({ "reason": "why" });
    for (path, body) in [
        (
            format!("/v1/companies/{company}/credits"),
            json!({ "key": "k", "purchased": 100 }),
        ),
        (format!("/v1/jobs/{job}/refund"), why.clone()),
        (
            format!("/v1/dead-letters/{id}/edit"),
            json!({ "set": { "tokens": 60 } }),
        ),
        (format!("/v1/dead-letters/{id}/discard"), why.clone()),
        (format!("/v1/dead-letters/{id}/restore"), why),
    ] {
        caller.post(&path, &body).await.ok();
    }
    let plan = caller
        .post("/v1/dead-letters/replay", &json!({ "all": true }))
        .await;
    let run = json!({ "plan_id": plan.ok()["plan_id"] });
    assert_eq!(
        caller.post("/v1/dead-letters/replay", &run).await.status,
        202
    );
    server.without_key().get("/readyz").await.ok();
    let used = "select count(*) from api_keys where last_used_at is not null";
    let count = async || site.number(used).await;
    eventually("its use is noted", PATIENCE, count, |used| *used == 1).await;
    let log = server.process.log().join("\n");
    assert!(!log.contains("denied"), "{log}");

    may_not_write_by_itself(&role).await;
}

async fn may_not_write_by_itself(role: &TestRole) {
    let mut connection = sqlx::PgConnection::connect(role.url())
        .await
        .expect("connected");
    for sql in [
        "update company_subscriptions set purchased_token_balance = 0",
        "update api_keys set revoked_at = null",
        "insert into api_keys select * from api_keys",
        "delete from api_keys",
        "select add_api_key(gen_random_uuid(), 'x', sha256(''), '{read}', null, 'me')",
        "select revoke_api_key(gen_random_uuid(), 'me')",
        "select * from archive_dead_letters('{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}')",
        "select * from mark_events_pending('{}', '{}', '{}', '{}', '{}', '{}', '{}')",
        "select * from write_off_pending_deductions('{}')",
        "select * from claim_stale_deductions('1h', null, null, 1, '1m')",
    ] {
        let refused = sqlx::raw_sql(sql)
            .execute(&mut connection)
            .await
            .expect_err(sql);
        let code = refused
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code);
        assert_eq!(code.as_deref(), Some("42501"), "{sql}: {refused}");
    }
}
