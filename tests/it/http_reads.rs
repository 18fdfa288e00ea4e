//! Balances for many who ask at the same time.

use futures_util::future::join_all;
use uuid::Uuid;

use crate::support::site::Site;

/// In words of the query.
const READS: &str = "monthly_token_quota";

#[tokio::test]
async fn however_many_ask_they_share_a_query_and_each_gets_the_balance_of_its_own_company() {
    let mut site = Site::new().await;
    site.set("HTTP__REQUEST_TIMEOUT", "3s");
    site.set("HTTP__BODY_TIMEOUT", "1s");
    let server = site.serve_http(&["http"]).await;
    let token = site.key(&["read"], None).await;
    let caller = server.with(&token);
    let companies = [site.company(0, 100).await, site.company(20, 200).await];
    let path = |company: Uuid| format!("/v1/companies/{company}/balance");
    // Known from here on, so that nothing else is waited for.
    caller.get(&path(companies[0])).await.ok();

    let mut holder = site.db.pool().begin().await.expect("begun");
    sqlx::query("lock table company_subscriptions in access exclusive mode")
        .execute(&mut *holder)
        .await
        .expect("locked");
    let given_up = (0..30).map(async |number| caller.get(&path(companies[number % 2])).await);
    for answer in join_all(given_up).await {
        assert_eq!(answer.refusal(), (503, "timeout"));
    }
    // None of those who have gone left a query of his own behind.
    assert_eq!(site.waiting_for_a_lock(READS).await, 1);
    let (unknown, count) = (Uuid::new_v4(), async || {
        site.waiting_for_a_lock(READS).await
    });
    let asked = join_all((0..30).map(async |number| {
        let company = [companies[0], companies[1], unknown][number % 3];
        (number, caller.get(&path(company)).await)
    }));
    let (answers, ()) = tokio::join!(asked, async {
        holder.rollback().await.expect("let go");
    });
    for (number, answer) in answers {
        match number % 3 {
            0 => assert_eq!(answer.ok()["total"], 100),
            1 => assert_eq!(answer.ok()["total"], 220),
            _ => assert_eq!(answer.refusal(), (404, "not_found")),
        }
    }
}
