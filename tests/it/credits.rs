//! `credit_tokens`: top-ups and renewals, each once.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::ledger::Ledger;

const NEXT_PERIOD: &str = "2100-01-01T00:00:00+00:00";

async fn credit(
    ledger: &Ledger,
    key: &str,
    company: Uuid,
    purchased: Option<i64>,
    monthly: Option<i64>,
    period_end: Option<&str>,
) -> Value {
    sqlx::query_scalar("select credit_tokens($1, $2, $3, $4, $5::timestamptz, 'somebody')")
        .bind(key)
        .bind(company)
        .bind(purchased)
        .bind(monthly)
        .bind(period_end.map(str::to_owned))
        .fetch_one(ledger.pool())
        .await
        .expect("a credit never raises")
}

async fn top_up(ledger: &Ledger, key: &str, company: Uuid, amount: i64) -> Value {
    credit(ledger, key, company, Some(amount), None, None).await
}

async fn renew(ledger: &Ledger, key: &str, company: Uuid, quota: i64) -> Value {
    credit(ledger, key, company, None, Some(quota), Some(NEXT_PERIOD)).await
}

fn refusal(error: &str) -> Value {
    json!({"success": false, "error": error})
}

#[tokio::test]
async fn a_top_up_adds_purchased_tokens_once() {
    let ledger = Ledger::open().await;
    let company = ledger.company(300, 1000).await;
    let first = top_up(&ledger, "invoice 1", company, 500).await;
    assert_eq!(first["idempotent"], false);
    assert_eq!(first["kind"], "top_up");
    assert_eq!(
        (&first["purchased_before"], &first["purchased_after"]),
        (&json!(1000), &json!(1500))
    );
    assert_eq!(ledger.balances(company).await, (300, 1500));

    ledger.deduct("job", company, 1800).await;
    let before = ledger.everything().await;
    let mut again = top_up(&ledger, "invoice 1", company, 500).await;
    assert_eq!(again["idempotent"], true);
    again["idempotent"] = json!(false);
    assert_eq!(again, first, "the original figures");
    assert_eq!(ledger.everything().await, before);
}

#[tokio::test]
async fn a_renewal_sets_the_quota_and_records_what_is_forfeited() {
    let ledger = Ledger::open().await;
    let company = ledger.company(300, 1000).await;
    ledger.deduct("job", company, 100).await;
    let renewal = renew(&ledger, "january", company, 250).await;
    assert_eq!(renewal["kind"], "renewal");
    assert_eq!(renewal["forfeited_amount"], 200);
    assert_eq!(
        (&renewal["monthly_before"], &renewal["monthly_after"]),
        (&json!(200), &json!(250))
    );
    assert_eq!(ledger.balances(company).await, (250, 1000));
    let (quota, period_is_set): (i64, bool) = sqlx::query_as(
        "select monthly_token_quota, current_period_end = '2100-01-01' from company_subscriptions",
    )
    .fetch_one(ledger.pool())
    .await
    .expect("one company");
    assert_eq!((quota, period_is_set), (250, true));

    let again = renew(&ledger, "january", company, 250).await;
    assert_eq!(again["idempotent"], true);
    assert_eq!(ledger.balances(company).await, (250, 1000));
}

#[tokio::test]
async fn an_expired_quota_is_forfeited_by_the_renewal_and_can_be_spent_again() {
    let ledger = Ledger::open().await;
    let company = ledger.company(300, 0).await;
    ledger.expire(company).await;
    assert_eq!(ledger.deduct("job", company, 100).await.available, Some(0));
    assert_eq!(
        renew(&ledger, "january", company, 100).await["forfeited_amount"],
        300
    );
    assert!(ledger.deduct("job", company, 100).await.success);
}

#[tokio::test]
async fn credits_and_charges_share_one_order() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 10).await;
    ledger.deduct("a", company, 10).await;
    let credit = top_up(&ledger, "invoice", company, 20).await["ledger_seq"].as_i64();
    ledger.deduct("b", company, 20).await;
    let a = ledger
        .record("a")
        .await
        .and_then(|record| record.ledger_seq);
    let b = ledger
        .record("b")
        .await
        .and_then(|record| record.ledger_seq);
    assert!(a < credit && credit < b, "{a:?} < {credit:?} < {b:?}");
}

#[tokio::test]
async fn each_credit_is_in_the_audit_trail() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 0).await;
    for _ in 0..2 {
        top_up(&ledger, "invoice", company, 20).await;
    }
    let trail: Vec<(String, String, String)> =
        sqlx::query_as("select actor, action, subject from operator_actions")
            .fetch_all(ledger.pool())
            .await
            .expect("the trail");
    assert_eq!(
        trail,
        [("somebody".into(), "credit".into(), company.to_string())]
    );
}

#[tokio::test]
async fn a_key_of_another_credit_is_refused_as_reused() {
    let ledger = Ledger::open().await;
    let company = ledger.company(300, 1000).await;
    let other = ledger.company(0, 0).await;
    top_up(&ledger, "invoice", company, 500).await;
    renew(&ledger, "january", company, 250).await;
    let before = ledger.everything().await;
    let reused = refusal("idempotency_key_reused");
    assert_eq!(top_up(&ledger, "invoice", company, 501).await, reused);
    assert_eq!(top_up(&ledger, "invoice", other, 500).await, reused);
    assert_eq!(
        top_up(&ledger, "invoice", Uuid::new_v4(), 500).await,
        reused
    );
    assert_eq!(renew(&ledger, "invoice", company, 500).await, reused);
    assert_eq!(renew(&ledger, "january", company, 251).await, reused);
    let another_end = Some("2101-01-01T00:00:00Z");
    let answer = credit(&ledger, "january", company, None, Some(250), another_end).await;
    assert_eq!(answer, reused);
    assert_eq!(ledger.everything().await, before);
}

#[tokio::test]
async fn what_cannot_be_credited_is_refused_and_changes_nothing() {
    let ledger = Ledger::open().await;
    let company = ledger.company(5, i64::MAX - 10).await;
    let before = ledger.everything().await;
    let unknown = top_up(&ledger, "k", Uuid::new_v4(), 1).await;
    assert_eq!(unknown, refusal("company_not_found"));
    let past = credit(
        &ledger,
        "k",
        company,
        None,
        Some(1),
        Some("2020-01-01T00:00:00Z"),
    )
    .await;
    assert_eq!(past, refusal("period_end_passed"));
    let too_large = refusal("balance_too_large");
    assert_eq!(top_up(&ledger, "k", company, 6).await, too_large);
    assert_eq!(top_up(&ledger, "k", company, i64::MAX).await, too_large);
    assert_eq!(renew(&ledger, "k", company, 11).await, too_large);
    for (purchased, monthly, period_end) in [
        (None, None, None),
        (Some(0), None, None),
        (Some(-1), None, None),
        (None, Some(-1), Some(NEXT_PERIOD)),
        (Some(1), Some(1), Some(NEXT_PERIOD)),
        (Some(1), None, Some(NEXT_PERIOD)),
        (None, Some(1), None),
    ] {
        let answer = credit(&ledger, "k", company, purchased, monthly, period_end).await;
        assert_eq!(answer, refusal("invalid_request"));
    }
    assert_eq!(ledger.everything().await, before);

    assert_eq!(
        top_up(&ledger, "to the brim", company, 5).await["success"],
        true
    );
    assert_eq!(ledger.balances(company).await, (5, i64::MAX - 5));
}

#[tokio::test]
async fn a_renewal_counts_what_it_sets_not_what_it_replaces() {
    let ledger = Ledger::open().await;
    let company = ledger.company(i64::MAX - 10, 5).await;
    assert_eq!(renew(&ledger, "k", company, 100).await["success"], true);
    assert_eq!(ledger.balances(company).await, (100, 5));
}

#[tokio::test]
async fn one_key_credited_to_two_companies_at_once_is_credited_to_one() {
    let ledger = Ledger::open().await;
    let companies = [ledger.company(0, 0).await, ledger.company(0, 0).await];
    let answers = tokio::join!(
        top_up(&ledger, "k", companies[0], 7),
        top_up(&ledger, "k", companies[1], 7)
    );
    let reused = refusal("idempotency_key_reused");
    assert!(
        (answers.0 == reused) != (answers.1 == reused),
        "{answers:?}"
    );
    let sum = ledger.balances(companies[0]).await.1 + ledger.balances(companies[1]).await.1;
    assert_eq!(sum, 7);
}
