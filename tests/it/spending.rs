//! What a charge spends and what it writes: buckets, periods, large numbers, metadata.

use serde_json::json;
use uuid::Uuid;

use crate::support::ledger::{Item, Ledger, deduct_item};

#[tokio::test]
async fn the_monthly_quota_is_spent_before_purchased_tokens() {
    let ledger = Ledger::open().await;
    let company = ledger.company(300, 1000).await;
    let answer = ledger.deduct("job", company, 500).await;
    assert_eq!(answer.figures(), (300, 200, Some(1300), Some(800)));
    assert_eq!(ledger.balances(company).await, (0, 800));
    let whose_quota: bool = sqlx::query_scalar(
        "select r.monthly_period_end = c.current_period_end
         from token_deduction_records r join company_subscriptions c using (company_id)",
    )
    .fetch_one(ledger.pool())
    .await
    .expect("one row");
    assert!(
        whose_quota,
        "the record names the period whose quota it spent"
    );

    ledger.deduct("purchased only", company, 100).await;
    let record = ledger.record("purchased only").await.expect("a record");
    assert_eq!(record.monthly_period_end, None);
}

#[tokio::test]
async fn a_quota_without_an_end_never_expires() {
    let ledger = Ledger::open().await;
    let company = ledger.company(300, 0).await;
    ledger
        .execute("update company_subscriptions set current_period_end = null")
        .await;
    assert!(ledger.deduct("job", company, 300).await.success);
}

#[tokio::test]
async fn an_expired_quota_is_neither_spent_nor_zeroed() {
    let ledger = Ledger::open().await;
    let company = ledger.company(300, 1000).await;
    ledger.expire(company).await;
    let answer = ledger.deduct("job", company, 500).await;
    assert_eq!(answer.figures(), (0, 500, Some(1000), Some(500)));
    assert_eq!(ledger.balances(company).await, (300, 500));
    let refused = ledger.deduct("too much", company, 501).await;
    assert_eq!(refused.available, Some(500));
}

#[tokio::test]
async fn a_uuid_in_upper_case_is_the_same_job() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 1000).await;
    let job = ledger.job(company).await;
    let upper = job.to_string().to_uppercase();
    let first = ledger.deduct(&upper, company, 400).await;
    let again = ledger.deduct(job, company, 400).await;
    let batched = ledger.deduct_batch(&[Item::new(job, company, 400)]).await;
    assert!(first.success && !first.idempotent);
    assert!(again.success && again.idempotent);
    assert!(batched[0].success && batched[0].idempotent);
    assert_eq!(ledger.balances(company).await, (0, 600));
    assert_eq!(ledger.job_status(job).await.0, "completed");
    assert!(ledger.record(&upper).await.is_none());
}

#[tokio::test]
async fn metadata_and_usage_type_arrive_in_the_record_and_in_its_one_usage_log() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 1000).await;
    let metadata = json!({"usage_type": "translation", "model": "m-1", "nested": {"n": [1, null]}});
    let item = Item {
        article_id: Some(Uuid::new_v4()),
        metadata: Some(metadata.clone()),
        ..Item::new("job", company, 400)
    };
    for _ in 0..3 {
        deduct_item(ledger.pool(), &item).await.expect("an answer");
    }

    let record = ledger.record("job").await.expect("a record");
    assert_eq!(record.usage_type, "translation");
    assert_eq!(record.metadata, metadata);
    assert_eq!(record.article_id, item.article_id);
    let logs = ledger.usage_logs(company).await;
    assert_eq!(logs.len(), 1, "exactly one for each charge");
    assert_eq!(logs[0].usage_type, "translation");
    assert_eq!(logs[0].metadata, metadata);
    assert_eq!(logs[0].article_id, item.article_id);
    assert_eq!(logs[0].token_amount, 400);
    assert_eq!(logs[0].deduction_record_id, record.id);
    assert_eq!(Some(logs[0].id), record.ledger_seq);
}

#[tokio::test]
async fn metadata_may_be_absent_or_not_an_object() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 1000).await;
    for (key, metadata, stored) in [
        ("null", None, json!({})),
        ("array", Some(json!([1])), json!([1])),
        (
            "untyped",
            Some(json!({"usage_type": null})),
            json!({"usage_type": null}),
        ),
    ] {
        let item = Item {
            metadata,
            ..Item::new(key, company, 1)
        };
        assert!(
            deduct_item(ledger.pool(), &item)
                .await
                .expect("an answer")
                .success
        );
        let record = ledger.record(key).await.expect("a record");
        assert_eq!(record.metadata, stored);
        assert_eq!(record.usage_type, "article_generation");
    }
}

#[tokio::test]
async fn a_retry_that_names_no_article_keeps_the_one_that_is_known() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 0).await;
    let article_id = Some(Uuid::new_v4());
    let item = Item {
        article_id,
        ..Item::new("job", company, 10)
    };
    deduct_item(ledger.pool(), &item).await.expect("an answer");
    ledger
        .execute("update company_subscriptions set purchased_token_balance = 10")
        .await;
    assert!(ledger.deduct("job", company, 10).await.success);
    assert_eq!(
        ledger.record("job").await.expect("a record").article_id,
        article_id
    );
    assert_eq!(ledger.usage_logs(company).await[0].article_id, article_id);
}

#[tokio::test]
async fn the_largest_numbers_are_answered_not_raised() {
    let ledger = Ledger::open().await;
    let rich = ledger.company(0, i64::MAX).await;
    let poor = ledger.company(0, 5).await;
    let refused = ledger.deduct("refused", poor, i64::MAX).await;
    assert_eq!(refused.error(), "insufficient_balance");
    let answer = ledger.deduct("all", rich, i64::MAX).await;
    assert_eq!(answer.figures(), (0, i64::MAX, Some(i64::MAX), Some(0)));
}

#[tokio::test]
async fn two_balances_that_overflow_together_can_still_be_spent() {
    let ledger = Ledger::open().await;
    let company = ledger.company(i64::MAX, i64::MAX).await;
    let neighbour = ledger.company(0, 10).await;
    let answers = ledger
        .deduct_batch(&[
            Item::new("huge", company, i64::MAX),
            Item::new("small", neighbour, 10),
        ])
        .await;
    assert!(answers[1].success, "a neighbour is charged");
    assert_eq!(answers[0].figures(), (i64::MAX, 0, Some(i64::MAX), Some(0)));
    assert_eq!(ledger.balances(company).await, (0, i64::MAX));
}
