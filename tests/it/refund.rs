//! `refund_tokens`: a charge given back, once, to the buckets it came from.

use serde_json::{Value, json};
use sqlx::PgExecutor;
use token_billing::domain::Reason;
use uuid::Uuid;

use crate::support::{
    adds_up::assert_ledger_adds_up,
    ledger::{Item, Ledger},
};

pub(crate) async fn refund_by(
    executor: impl PgExecutor<'_>,
    key: &str,
    expired: &str,
) -> sqlx::Result<Value> {
    sqlx::query_scalar("select refund_tokens($1, $2, 'somebody', 'a reason')")
        .bind(key)
        .bind(expired)
        .fetch_one(executor)
        .await
}

pub(crate) async fn refund(ledger: &Ledger, key: &str) -> Value {
    let answer = refund_by(ledger.pool(), key, "forfeit").await;
    answer.expect("a refund never raises")
}

pub(crate) fn refusal(error: &str) -> Value {
    json!({"success": false, "error": error})
}

pub(crate) fn figures(answer: &Value) -> [i64; 3] {
    assert_eq!(answer["success"], true, "{answer:#}");
    let keys = ["monthly_amount", "purchased_amount", "forfeited_amount"];
    keys.map(|key| answer[key].as_i64().expect("a number"))
}

/// Of a company, the sum of its usage logs.
pub(crate) async fn used(ledger: &Ledger, company: Uuid) -> i64 {
    let logs = ledger.usage_logs(company).await;
    logs.iter().map(|log| log.token_amount).sum()
}

#[tokio::test]
async fn tokens_go_back_to_the_buckets_they_came_from() {
    let ledger = Ledger::open().await;
    let company = ledger.company(300, 1000).await;
    let job = ledger.job(company).await;
    let key = job.to_string();
    let item = Item {
        article_id: Some(Uuid::new_v4()),
        metadata: Some(json!({"model": "x", "usage_type": "translation"})),
        usage_type: Some("translation".to_owned()),
        ..Item::new(job, company, 400)
    };
    ledger.deduct_batch(&[item]).await;
    let charged = ledger.record(job).await.expect("charged");
    let answer = refund(&ledger, &key.to_uppercase()).await;

    assert_eq!(figures(&answer), [300, 100, 0]);
    assert_eq!(answer["idempotent"], false);
    assert_eq!(answer["idempotency_key"], json!(key));
    assert_eq!(answer["deduction_record_id"], json!(charged.id));
    let balances = [
        "monthly_before",
        "monthly_after",
        "purchased_before",
        "purchased_after",
    ];
    let balances = balances.map(|key| answer[key].as_i64().expect("a number"));
    assert_eq!(balances, [0, 300, 900, 1000]);
    assert_eq!(ledger.balances(company).await, (300, 1000));

    let mut record = ledger.record(job).await.expect("still there");
    assert_eq!(record.status, "compensated");
    record.status = "completed".to_owned();
    assert_eq!(record, charged, "the record keeps its original figures");
    let logs = ledger.usage_logs(company).await;
    assert_eq!(logs.len(), 2);
    assert_eq!(Some(logs[1].id), answer["ledger_seq"].as_i64());
    assert_eq!((logs[0].token_amount, logs[1].token_amount), (400, -400));
    let mut opposite = logs[1].clone();
    (opposite.id, opposite.token_amount) = (logs[0].id, 400);
    assert_eq!(opposite, logs[0], "they sum to zero by whatever one groups");
    assert_eq!(
        ledger.job_status(job).await.0,
        "completed",
        "the job's row is left alone"
    );
    let trail: (String, String, String, Option<String>) =
        sqlx::query_as("select actor, action, subject, reason from operator_actions")
            .fetch_one(ledger.pool())
            .await
            .expect("one action");
    assert_eq!(
        trail,
        (
            "somebody".into(),
            "refund".into(),
            key,
            Some("a reason".into())
        )
    );
    assert_ledger_adds_up(ledger.pool(), company, 1300).await;
}

#[tokio::test]
async fn a_second_refund_changes_nothing_and_shows_the_first() {
    let ledger = Ledger::open().await;
    let company = ledger.company(300, 1000).await;
    ledger.deduct("job", company, 400).await;
    let first = refund(&ledger, "job").await;
    // The world goes on, and the setting is another one.
    ledger.deduct("another", company, 350).await;
    ledger.expire(company).await;
    let before = ledger.everything().await;
    let mut again = refund_by(ledger.pool(), "job", "purchased")
        .await
        .expect("answered");
    assert_eq!(again["idempotent"], true);
    again["idempotent"] = json!(false);
    assert_eq!(again, first);
    assert_eq!(ledger.everything().await, before);
}

#[tokio::test]
async fn a_refunded_job_is_never_charged_again() {
    let ledger = Ledger::open().await;
    let (company, other) = (ledger.company(0, 1000).await, ledger.company(0, 1000).await);
    ledger.deduct("job", company, 400).await;
    refund(&ledger, "job").await;
    let before = ledger.everything().await;
    for (company, amount) in [(company, 400), (company, 1), (other, 400)] {
        let answer = ledger.deduct("job", company, amount).await;
        assert_eq!(answer.error(), Reason::AlreadyCompensated.as_str());
    }
    assert_eq!(ledger.everything().await, before);
}

/// Charges 400 of a company of 300 and 1000, does `between`, refunds; what went where, and the balances.
async fn after(between: &str, expired: &str) -> ([i64; 3], (i64, i64)) {
    let ledger = Ledger::open().await;
    let company = ledger.company(300, 1000).await;
    if between.contains("never expires") {
        ledger
            .execute("update company_subscriptions set current_period_end = null")
            .await;
    }
    ledger.deduct("job", company, 400).await;
    ledger
        .execute(between.replace("COMPANY", &company.to_string()))
        .await;
    let answer = refund_by(ledger.pool(), "job", expired)
        .await
        .expect("answered");
    let unchanged =
        "select period_end_before is not distinct from period_end_after from token_credits
                     where kind = 'refund'";
    let unchanged: bool = sqlx::query_scalar(unchanged)
        .fetch_one(ledger.pool())
        .await
        .expect("one refund");
    assert!(unchanged);
    assert_eq!(used(&ledger, company).await, 0);
    (figures(&answer), ledger.balances(company).await)
}

#[tokio::test]
async fn the_monthly_share_goes_back_only_into_the_period_it_came_from() {
    let renewed = "select credit_tokens('next', 'COMPANY', null, 250, '2100-01-01', 'me')";
    let expired = "update company_subscriptions set current_period_end = clock_timestamp()";
    let moved = "update company_subscriptions set current_period_end = '2100-01-01'";
    let unlimited = "update company_subscriptions set current_period_end = null";
    // What has no end is the current period for as long as it has none.
    let endless = "select 'never expires'";
    let endless_before =
        "update company_subscriptions set current_period_end = '2100-01-01' -- never expires";
    for (between, setting, given, balances) in [
        ("select 1", "forfeit", [300, 100, 0], (300, 1000)),
        ("select 1", "purchased", [300, 100, 0], (300, 1000)),
        (renewed, "forfeit", [0, 100, 300], (250, 1000)),
        (renewed, "purchased", [0, 400, 0], (250, 1300)),
        (expired, "forfeit", [0, 100, 300], (0, 1000)),
        (expired, "purchased", [0, 400, 0], (0, 1300)),
        (moved, "forfeit", [0, 100, 300], (0, 1000)),
        (unlimited, "forfeit", [0, 100, 300], (0, 1000)),
        (endless, "forfeit", [300, 100, 0], (300, 1000)),
        (endless_before, "forfeit", [0, 100, 300], (0, 1000)),
    ] {
        assert_eq!(
            after(between, setting).await,
            (given, balances),
            "{between}: {setting}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_refunded_is_refused_and_changes_nothing() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, i64::MAX - 10).await;
    ledger.deduct("failed", Uuid::new_v4(), 5).await;
    ledger.deduct("by hand", company, 20).await;
    ledger.deduct("too much", company, 30).await;
    let gone = ledger.company(0, 100).await;
    ledger.deduct("gone", gone, 5).await;
    ledger
        .execute(format!(
            "update token_deduction_records set status = 'compensated' where idempotency_key = 'by hand';
             update company_subscriptions set purchased_token_balance = 9223372036854775807 - 29
             where company_id = '{company}';
             delete from company_subscriptions where company_id = '{gone}'"
        ))
        .await;
    let before = ledger.everything().await;
    let not_charged = json!({"success": false, "error": "not_charged", "status": "failed"});
    for (key, answer) in [
        ("unknown", refusal("not_found")),
        ("failed", not_charged),
        ("by hand", refusal("compensated_elsewhere")),
        ("too much", refusal("balance_too_large")),
        ("gone", refusal("company_not_found")),
    ] {
        assert_eq!(refund(&ledger, key).await, answer, "{key}");
    }
    for arguments in [
        "null, 'forfeit', 'me', 'why'",
        "'too much', 'keep', 'me', 'why'",
        "'too much', null, 'me', 'why'",
        "'too much', 'forfeit', null, 'why'",
        "'too much', 'forfeit', 'me', null",
        "'too much', 'forfeit', 'me', '  '",
    ] {
        let sql = format!("select refund_tokens({arguments})");
        let answer: Value = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .fetch_one(ledger.pool())
            .await
            .expect("answered");
        assert_eq!(answer, refusal("invalid_request"), "{arguments}");
    }
    assert_eq!(ledger.everything().await, before);

    // To the brim.
    ledger
        .execute(
            "update company_subscriptions set purchased_token_balance = 9223372036854775807 - 30",
        )
        .await;
    assert_eq!(figures(&refund(&ledger, "too much").await), [0, 30, 0]);
    assert_eq!(ledger.balances(company).await, (0, i64::MAX));
}

#[tokio::test]
async fn a_top_up_whose_key_is_a_jobs_id_blocks_no_refund_of_that_job() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 100).await;
    let top_up = async |key: &str| -> Value {
        sqlx::query_scalar("select credit_tokens($1, $2, 7, null, null, 'me')")
            .bind(key)
            .bind(company)
            .fetch_one(ledger.pool())
            .await
            .expect("answered")
    };
    for (key, first) in [("credited first", true), ("refunded first", false)] {
        ledger.deduct(key, company, 60).await;
        if first {
            assert_eq!(top_up(key).await["success"], true);
        }
        assert_eq!(refund(&ledger, key).await["success"], true, "{key}");
        assert_eq!(top_up(key).await["idempotent"], first, "{key}");
        assert_eq!(refund(&ledger, key).await["idempotent"], true, "{key}");
    }
    assert_eq!(ledger.balances(company).await, (0, 114));
    assert_ledger_adds_up(ledger.pool(), company, 100).await;
}

#[tokio::test]
async fn a_refund_that_was_rolled_back_was_never_made() {
    let ledger = Ledger::open().await;
    let company = ledger.company(300, 100).await;
    ledger.deduct("job", company, 350).await;
    let before = ledger.everything().await;
    let mut transaction = ledger.pool().begin().await.expect("begun");
    refund_by(&mut *transaction, "job", "forfeit")
        .await
        .expect("refunded");
    transaction.rollback().await.expect("rolled back");
    assert_eq!(ledger.everything().await, before);
    assert_eq!(figures(&refund(&ledger, "job").await), [300, 50, 0]);
}
