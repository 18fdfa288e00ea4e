//! Reads that wait for the database: balances for many who ask at the same time, and audits.

use futures_util::future::join_all;
use uuid::Uuid;

use crate::support::{
    eventually::{PATIENCE, eventually},
    site::Site,
};

/// In words of the query.
const READS: &str = "monthly_token_quota";

#[tokio::test]
async fn however_many_ask_they_share_a_query_and_each_gets_the_balance_of_its_own_company() {
    let mut site = Site::new().await;
    site.set("HTTP__REQUEST_TIMEOUT", "3s");
    site.set("HTTP__BODY_TIMEOUT", "1s");
    let mut server = site.serve_http(&["http"]).await;
    let token = site.key(&["read"], None).await;
    let caller = server.with(&token);
    let companies = [site.company(0, 100).await, site.company(20, 200).await];
    let path = |company: Uuid| format!("/v1/companies/{company}/balance");
    let absurd = site.company(0, 0).await;
    absurd_figures(&site, absurd).await;
    // Known from here on, so that nothing else is waited for.
    caller.get(&path(companies[0])).await.ok();

    let held = site.hold_table("company_subscriptions").await;
    let given_up = (0..30).map(async |number| caller.get(&path(companies[number % 2])).await);
    let given_up = join_all(given_up).await;
    for answer in &given_up {
        assert_eq!(answer.refusal(), (503, "timeout"));
    }
    // Whoever complains with the id of his request is found in the log.
    let id = given_up[0].header("x-request-id");
    let told = format!("http.request_id=\"{id}\"");
    server.process.wait_for_log(&told, PATIENCE).await;
    // None of those who have gone left a query of his own behind.
    assert_eq!(site.waiting_for_a_lock(READS).await, 1);
    let unknown = Uuid::new_v4();
    let asked = join_all((0..30).map(async |number| {
        let company = [companies[0], companies[1], absurd, unknown][number % 4];
        (number, caller.get(&path(company)).await)
    }));
    let (answers, ()) = tokio::join!(asked, async {
        held.release().await;
    });
    for (number, answer) in answers {
        match number % 4 {
            0 => assert_eq!(answer.ok()["total"], 100),
            1 => assert_eq!(answer.ok()["total"], 220),
            2 => assert_eq!(answer.ok()["total"], i64::MIN),
            _ => assert_eq!(answer.refusal(), (404, "not_found")),
        }
    }
}

/// As a table of the application's may have them, which has no constraints.
async fn absurd_figures(site: &Site, company: Uuid) {
    let constraints = "alter table company_subscriptions
        drop constraint company_subscriptions_monthly_quota_balance_check,
        drop constraint company_subscriptions_purchased_token_balance_check";
    let statements = format!(
        "{constraints};
         update company_subscriptions set current_period_end = null, monthly_quota_balance = -9223372036854775808,
                purchased_token_balance = -9223372036854775808 where company_id = '{company}'"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements))
        .execute(site.db.pool())
        .await
        .expect("changed");
}

#[tokio::test]
async fn one_audit_runs_at_a_time_and_its_query_ends_with_its_caller() {
    let mut site = Site::new().await;
    let server = site.serve_http(&["http"]).await;
    let token = site.key(&["read"], None).await;
    let caller = server.with(&token);
    let held = site.hold_table("token_deduction_records").await;
    let first = server.with(&token);
    let first = tokio::spawn(async move { first.get("/v1/audit").await });
    let count = async || site.waiting_for_a_lock("token_deduction_records").await;
    eventually("it waits", PATIENCE, count, |count| *count > 0).await;
    let second = caller.get("/v1/audit").await;
    assert_eq!(second.refusal(), (503, "busy"));
    first.abort();
    eventually("it has ended", PATIENCE, count, |count| *count == 0).await;
    held.release().await;
    caller.get("/v1/audit").await.ok();
}
