//! What `deduct_tokens_atomic` does with a key, a company and an amount: every outcome there is.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::books::{Answer, Books, Item, deduct_item};

/// The figures of a completed charge: monthly and purchased share, before and after.
fn figures(answer: &Answer) -> (i64, i64, Option<i64>, Option<i64>) {
    (
        answer.monthly_deducted,
        answer.purchased_deducted,
        answer.balance_before,
        answer.balance_after,
    )
}

#[tokio::test]
async fn a_new_key_is_charged_when_the_balance_suffices() {
    let books = Books::open().await;
    let company = books.company(0, 1000).await;
    let answer = books.deduct("job", company, 400).await;

    assert!(answer.success && !answer.idempotent);
    assert_eq!(answer.status.as_deref(), Some("completed"));
    assert_eq!(answer.error, None);
    assert_eq!(answer.amount, Some(400));
    assert_eq!(answer.retry_count, Some(0));
    assert_eq!(figures(&answer), (0, 400, Some(1000), Some(600)));
    assert_eq!(books.balances(company).await, (0, 600));

    let record = books.record("job").await.expect("a record");
    assert_eq!(Some(record.id), answer.deduction_record_id);
    assert_eq!(record.status, "completed");
    assert_eq!((record.company_id, record.amount), (company, 400));
    assert_eq!(
        (record.balance_before, record.balance_after),
        (Some(1000), Some(600))
    );
    assert!(record.completed_at.is_some() && record.ledger_seq.is_some());
    assert_eq!(record.monthly_period_end, None);
}

#[tokio::test]
async fn the_last_token_can_be_spent() {
    let books = Books::open().await;
    let company = books.company(60, 40).await;
    let answer = books.deduct("job", company, 100).await;
    assert_eq!(figures(&answer), (60, 40, Some(100), Some(0)));
    assert_eq!(books.balances(company).await, (0, 0));
}

#[tokio::test]
async fn a_key_that_was_charged_answers_with_the_original_balances_for_ever() {
    let books = Books::open().await;
    let company = books.company(100, 1000).await;
    let first = books.deduct("job", company, 400).await;
    books.deduct("other", company, 50).await;
    books.expire(company).await;
    let before = books.everything().await;

    let again = books.deduct("job", company, 400).await;
    let expected = Answer {
        idempotent: true,
        ..first
    };
    assert_eq!(again, expected);
    assert_eq!(books.everything().await, before);
}

#[tokio::test]
async fn a_charged_key_still_answers_when_its_company_is_gone() {
    let books = Books::open().await;
    let company = books.company(0, 10).await;
    books.deduct("job", company, 10).await;
    books.execute("delete from company_subscriptions").await;
    let again = books.deduct("job", company, 10).await;
    assert!(again.success && again.idempotent);
}

#[tokio::test]
async fn a_charged_key_with_another_amount_or_company_is_refused_as_reused() {
    let books = Books::open().await;
    let company = books.company(0, 1000).await;
    let other = books.company(0, 1000).await;
    books.deduct("job", company, 400).await;
    let before = books.everything().await;

    for (company, amount) in [
        (company, 401),
        (company, i64::MAX),
        (other, 400),
        (Uuid::new_v4(), 400),
    ] {
        let answer = books.deduct("job", company, amount).await;
        assert!(!answer.success && !answer.idempotent);
        assert_eq!(answer.error(), "idempotency_key_reused");
        assert_eq!((answer.monthly_deducted, answer.purchased_deducted), (0, 0));
        assert_eq!(books.everything().await, before);
    }
}

#[tokio::test]
async fn a_failed_charge_is_tried_again_and_succeeds_after_a_top_up() {
    let books = Books::open().await;
    let company = books.company(0, 100).await;
    let refused = books.deduct("job", company, 500).await;
    books
        .execute("update company_subscriptions set purchased_token_balance = 500")
        .await;

    let charged = books.deduct("job", company, 500).await;
    assert!(charged.success && !charged.idempotent);
    assert_eq!(charged.retry_count, Some(1));
    assert_eq!(figures(&charged), (0, 500, Some(500), Some(0)));
    assert_eq!(charged.deduction_record_id, refused.deduction_record_id);
    let record = books.record("job").await.expect("a record");
    assert_eq!((record.error_code, record.error_message), (None, None));
    assert_eq!(record.retry_count, 1);
}

#[tokio::test]
async fn another_amount_replaces_the_one_that_failed() {
    let books = Books::open().await;
    let company = books.company(0, 100).await;
    books.deduct("job", company, 500).await;
    let refused = books.deduct("job", company, 300).await;
    assert_eq!(
        (refused.error(), refused.retry_count),
        ("insufficient_balance", Some(1))
    );
    assert_eq!(books.record("job").await.expect("a record").amount, 300);
    let charged = books.deduct("job", company, 30).await;
    assert_eq!((charged.success, charged.retry_count), (true, Some(2)));
    assert_eq!(figures(&charged), (0, 30, Some(100), Some(70)));
}

#[tokio::test]
async fn a_failed_key_belongs_to_its_company() {
    let books = Books::open().await;
    let poor = books.company(0, 100).await;
    let rich = books.company(0, 1000).await;
    books.deduct("job", poor, 500).await;
    let before = books.everything().await;
    for company in [rich, Uuid::new_v4()] {
        let answer = books.deduct("job", company, 500).await;
        assert_eq!(answer.error(), "idempotency_key_reused");
        assert_eq!(books.everything().await, before);
    }
}

#[tokio::test]
async fn a_company_that_was_not_found_may_be_corrected() {
    let books = Books::open().await;
    let (typo, second_typo) = (Uuid::new_v4(), Uuid::new_v4());
    let company = books.company(0, 1000).await;
    for (n, unknown) in [(0, typo), (1, second_typo)] {
        let answer = books.deduct("job", unknown, 500).await;
        assert_eq!(answer.error(), "company_not_found");
        assert_eq!(answer.retry_count, Some(n));
        let record = books.record("job").await.expect("a record");
        assert_eq!(
            (record.company_id, record.status.as_str()),
            (unknown, "failed")
        );
    }
    let charged = books.deduct("job", company, 400).await;
    assert_eq!((charged.success, charged.retry_count), (true, Some(2)));
    assert_eq!(books.balances(company).await, (0, 600));
    let reused = books.deduct("job", typo, 500).await;
    assert_eq!(reused.error(), "idempotency_key_reused");
}

#[tokio::test]
async fn a_corrected_company_that_cannot_pay_owns_the_key() {
    let books = Books::open().await;
    let poor = books.company(0, 1).await;
    let rich = books.company(0, 1000).await;
    books.deduct("job", Uuid::new_v4(), 500).await;
    let refused = books.deduct("job", poor, 500).await;
    assert_eq!(refused.error(), "insufficient_balance");
    let reused = books.deduct("job", rich, 500).await;
    assert_eq!(reused.error(), "idempotency_key_reused");
}

#[tokio::test]
async fn a_compensated_key_is_never_charged_again() {
    let books = Books::open().await;
    let company = books.company(0, 1000).await;
    books.deduct("job", company, 400).await;
    books
        .execute("update token_deduction_records set status = 'compensated'")
        .await;
    let before = books.everything().await;
    for amount in [400, 1] {
        let answer = books.deduct("job", company, amount).await;
        assert!(!answer.success && !answer.idempotent);
        assert_eq!(answer.error(), "already_compensated");
        assert_eq!(answer.status.as_deref(), Some("compensated"));
    }
    assert_eq!(books.everything().await, before);
}

#[tokio::test]
async fn a_balance_that_is_too_small_is_left_alone_and_the_record_says_failed() {
    let books = Books::open().await;
    let company = books.company(60, 40).await;
    let answer = books.deduct("job", company, 500).await;

    assert!(!answer.success && !answer.idempotent);
    assert_eq!(answer.error(), "insufficient_balance");
    assert_eq!(answer.status.as_deref(), Some("failed"));
    assert_eq!((answer.required, answer.available), (Some(500), Some(100)));
    assert_eq!(figures(&answer), (0, 0, Some(100), Some(100)));
    assert_eq!(books.balances(company).await, (60, 40));
    assert_eq!(books.usage_logs(company).await, []);
    let record = books.record("job").await.expect("a record");
    assert_eq!(record.status, "failed");
    assert_eq!(record.error_code.as_deref(), Some("insufficient_balance"));
    assert_eq!((record.balance_before, record.completed_at), (None, None));
}

#[tokio::test]
async fn an_unknown_company_is_a_failed_record() {
    let books = Books::open().await;
    let answer = books.deduct("job", Uuid::new_v4(), 500).await;
    assert_eq!(answer.error(), "company_not_found");
    assert_eq!(answer.status.as_deref(), Some("failed"));
    assert_eq!(figures(&answer), (0, 0, None, None));
    let record = books.record("job").await.expect("a record");
    assert_eq!(record.error_code.as_deref(), Some("company_not_found"));
}

#[tokio::test]
async fn a_request_that_makes_no_sense_leaves_no_record() {
    let books = Books::open().await;
    let company = books.company(0, 1000).await;
    let good = Item::new("job", company, 1);
    let before = books.everything().await;
    let bad = [
        Item {
            amount: Some(0),
            ..good.clone()
        },
        Item {
            amount: Some(-5),
            ..good.clone()
        },
        Item {
            amount: Some(i64::MIN),
            ..good.clone()
        },
        Item {
            amount: None,
            ..good.clone()
        },
        Item {
            key: None,
            ..good.clone()
        },
        Item {
            company_id: None,
            ..good.clone()
        },
    ];
    for item in &bad {
        let answer = deduct_item(books.pool(), item).await.expect("an answer");
        assert!(!answer.success && !answer.idempotent, "{item:?}");
        assert_eq!(answer.error(), "invalid_request", "{item:?}");
        assert_eq!((answer.status, answer.deduction_record_id), (None, None));
    }
    let answers = books.deduct_batch(&bad).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.error() == "invalid_request")
    );
    assert_eq!(books.everything().await, before);
}

#[tokio::test]
async fn every_answer_of_the_single_function_has_the_promised_fields() {
    let books = Books::open().await;
    let company = books.company(0, 100).await;
    for (key, amount, more) in [
        ("charged", 10, &[][..]),
        ("charged", 11, &[]),
        ("refused", 500, &["required", "available"]),
        ("invalid", 0, &[]),
    ] {
        let answer: Value = sqlx::query_scalar("select deduct_tokens_atomic($1, $2, null, $3)")
            .bind(key)
            .bind(company)
            .bind(amount)
            .fetch_one(books.pool())
            .await
            .expect("an answer");
        let promised = [
            "success",
            "idempotent",
            "status",
            "error",
            "deduction_record_id",
            "amount",
            "monthly_deducted",
            "purchased_deducted",
            "balance_before",
            "balance_after",
            "retry_count",
        ];
        for field in promised.iter().chain(more) {
            assert!(answer.get(field).is_some(), "{field} in {answer}");
        }
        assert_eq!(answer.get("required").is_some(), !more.is_empty());
    }
}

#[tokio::test]
async fn the_monthly_quota_is_spent_before_purchased_tokens() {
    let books = Books::open().await;
    let company = books.company(300, 1000).await;
    let answer = books.deduct("job", company, 500).await;
    assert_eq!(figures(&answer), (300, 200, Some(1300), Some(800)));
    assert_eq!(books.balances(company).await, (0, 800));
    let whose_quota: bool = sqlx::query_scalar(
        "select r.monthly_period_end = c.current_period_end
         from token_deduction_records r join company_subscriptions c using (company_id)",
    )
    .fetch_one(books.pool())
    .await
    .expect("one row");
    assert!(
        whose_quota,
        "the record names the period whose quota it spent"
    );

    books.deduct("purchased only", company, 100).await;
    let record = books.record("purchased only").await.expect("a record");
    assert_eq!(record.monthly_period_end, None);
}

#[tokio::test]
async fn a_quota_without_an_end_never_expires() {
    let books = Books::open().await;
    let company = books.company(300, 0).await;
    books
        .execute("update company_subscriptions set current_period_end = null")
        .await;
    assert!(books.deduct("job", company, 300).await.success);
}

#[tokio::test]
async fn an_expired_quota_is_neither_spent_nor_zeroed() {
    let books = Books::open().await;
    let company = books.company(300, 1000).await;
    books.expire(company).await;
    let answer = books.deduct("job", company, 500).await;
    assert_eq!(figures(&answer), (0, 500, Some(1000), Some(500)));
    assert_eq!(books.balances(company).await, (300, 500));
    let refused = books.deduct("too much", company, 501).await;
    assert_eq!(refused.available, Some(500));
}

#[tokio::test]
async fn a_uuid_in_upper_case_is_the_same_job() {
    let books = Books::open().await;
    let company = books.company(0, 1000).await;
    let job = books.job(company).await;
    let upper = job.to_string().to_uppercase();
    let first = books.deduct(&upper, company, 400).await;
    let again = books.deduct(job, company, 400).await;
    let batched = books.deduct_batch(&[Item::new(job, company, 400)]).await;
    assert!(first.success && !first.idempotent);
    assert!(again.success && again.idempotent);
    assert!(batched[0].success && batched[0].idempotent);
    assert_eq!(books.balances(company).await, (0, 600));
    assert_eq!(books.job_status(job).await.0, "completed");
    assert!(books.record(&upper).await.is_none());
}

#[tokio::test]
async fn metadata_and_usage_type_arrive_in_the_record_and_in_its_one_usage_log() {
    let books = Books::open().await;
    let company = books.company(0, 1000).await;
    let metadata = json!({"usage_type": "translation", "model": "m-1", "nested": {"n": [1, null]}});
    let item = Item {
        article_id: Some(Uuid::new_v4()),
        metadata: Some(metadata.clone()),
        ..Item::new("job", company, 400)
    };
    for _ in 0..3 {
        deduct_item(books.pool(), &item).await.expect("an answer");
    }

    let record = books.record("job").await.expect("a record");
    assert_eq!(record.usage_type, "translation");
    assert_eq!(record.metadata, metadata);
    assert_eq!(record.article_id, item.article_id);
    let logs = books.usage_logs(company).await;
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
    let books = Books::open().await;
    let company = books.company(0, 1000).await;
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
            deduct_item(books.pool(), &item)
                .await
                .expect("an answer")
                .success
        );
        let record = books.record(key).await.expect("a record");
        assert_eq!(record.metadata, stored);
        assert_eq!(record.usage_type, "article_generation");
    }
}

#[tokio::test]
async fn a_retry_that_names_no_article_keeps_the_one_that_is_known() {
    let books = Books::open().await;
    let company = books.company(0, 0).await;
    let article_id = Some(Uuid::new_v4());
    let item = Item {
        article_id,
        ..Item::new("job", company, 10)
    };
    deduct_item(books.pool(), &item).await.expect("an answer");
    books
        .execute("update company_subscriptions set purchased_token_balance = 10")
        .await;
    assert!(books.deduct("job", company, 10).await.success);
    assert_eq!(
        books.record("job").await.expect("a record").article_id,
        article_id
    );
    assert_eq!(books.usage_logs(company).await[0].article_id, article_id);
}

#[tokio::test]
async fn the_largest_numbers_are_answered_not_raised() {
    let books = Books::open().await;
    let rich = books.company(0, i64::MAX).await;
    let poor = books.company(0, 5).await;
    let refused = books.deduct("refused", poor, i64::MAX).await;
    assert_eq!(refused.error(), "insufficient_balance");
    let answer = books.deduct("all", rich, i64::MAX).await;
    assert_eq!(figures(&answer), (0, i64::MAX, Some(i64::MAX), Some(0)));
}

#[tokio::test]
async fn two_balances_that_overflow_together_can_still_be_spent() {
    let books = Books::open().await;
    let company = books.company(i64::MAX, i64::MAX).await;
    let neighbour = books.company(0, 10).await;
    let answers = books
        .deduct_batch(&[
            Item::new("huge", company, i64::MAX),
            Item::new("small", neighbour, 10),
        ])
        .await;
    assert!(answers[1].success, "a neighbour is charged");
    assert_eq!(figures(&answers[0]), (i64::MAX, 0, Some(i64::MAX), Some(0)));
    assert_eq!(books.balances(company).await, (0, i64::MAX));
}
