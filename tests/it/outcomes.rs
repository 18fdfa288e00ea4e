//! What `deduct_tokens_atomic` does with a key, a company and an amount: every outcome there is.

use serde_json::Value;
use uuid::Uuid;

use crate::support::ledger::{Answer, Item, Ledger, deduct_item};

#[tokio::test]
async fn a_new_key_is_charged_when_the_balance_suffices() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 1000).await;
    let answer = ledger.deduct("job", company, 400).await;

    assert!(answer.success && !answer.idempotent);
    assert_eq!(answer.status.as_deref(), Some("completed"));
    assert_eq!(answer.error, None);
    assert_eq!(answer.amount, Some(400));
    assert_eq!(answer.retry_count, Some(0));
    assert_eq!(answer.figures(), (0, 400, Some(1000), Some(600)));
    assert_eq!(ledger.balances(company).await, (0, 600));

    let record = ledger.record("job").await.expect("a record");
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
    let ledger = Ledger::open().await;
    let company = ledger.company(60, 40).await;
    let answer = ledger.deduct("job", company, 100).await;
    assert_eq!(answer.figures(), (60, 40, Some(100), Some(0)));
    assert_eq!(ledger.balances(company).await, (0, 0));
}

#[tokio::test]
async fn a_key_that_was_charged_answers_with_the_original_balances_for_ever() {
    let ledger = Ledger::open().await;
    let company = ledger.company(100, 1000).await;
    let first = ledger.deduct("job", company, 400).await;
    ledger.deduct("other", company, 50).await;
    ledger.expire(company).await;
    let before = ledger.everything().await;

    let again = ledger.deduct("job", company, 400).await;
    let expected = Answer {
        idempotent: true,
        ..first
    };
    assert_eq!(again, expected);
    assert_eq!(ledger.everything().await, before);
}

#[tokio::test]
async fn a_charged_key_still_answers_when_its_company_is_gone() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 10).await;
    ledger.deduct("job", company, 10).await;
    ledger.execute("delete from company_subscriptions").await;
    let again = ledger.deduct("job", company, 10).await;
    assert!(again.success && again.idempotent);
}

#[tokio::test]
async fn a_charged_key_with_another_amount_or_company_is_refused_as_reused() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 1000).await;
    let other = ledger.company(0, 1000).await;
    ledger.deduct("job", company, 400).await;
    let before = ledger.everything().await;

    for (company, amount) in [
        (company, 401),
        (company, i64::MAX),
        (other, 400),
        (Uuid::new_v4(), 400),
    ] {
        let answer = ledger.deduct("job", company, amount).await;
        assert!(!answer.success && !answer.idempotent);
        assert_eq!(answer.error(), "idempotency_key_reused");
        assert_eq!((answer.monthly_deducted, answer.purchased_deducted), (0, 0));
        assert_eq!(ledger.everything().await, before);
    }
}

#[tokio::test]
async fn a_failed_charge_is_tried_again_and_succeeds_after_a_top_up() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 100).await;
    let refused = ledger.deduct("job", company, 500).await;
    ledger
        .execute("update company_subscriptions set purchased_token_balance = 500")
        .await;

    let charged = ledger.deduct("job", company, 500).await;
    assert!(charged.success && !charged.idempotent);
    assert_eq!(charged.retry_count, Some(1));
    assert_eq!(charged.figures(), (0, 500, Some(500), Some(0)));
    assert_eq!(charged.deduction_record_id, refused.deduction_record_id);
    let record = ledger.record("job").await.expect("a record");
    assert_eq!((record.error_code, record.error_message), (None, None));
    assert_eq!(record.retry_count, 1);
}

#[tokio::test]
async fn another_amount_replaces_the_one_that_failed() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 100).await;
    ledger.deduct("job", company, 500).await;
    let refused = ledger.deduct("job", company, 300).await;
    assert_eq!(
        (refused.error(), refused.retry_count),
        ("insufficient_balance", Some(1))
    );
    assert_eq!(ledger.record("job").await.expect("a record").amount, 300);
    let charged = ledger.deduct("job", company, 30).await;
    assert_eq!((charged.success, charged.retry_count), (true, Some(2)));
    assert_eq!(charged.figures(), (0, 30, Some(100), Some(70)));
}

#[tokio::test]
async fn a_failed_key_belongs_to_its_company() {
    let ledger = Ledger::open().await;
    let poor = ledger.company(0, 100).await;
    let rich = ledger.company(0, 1000).await;
    ledger.deduct("job", poor, 500).await;
    let before = ledger.everything().await;
    for company in [rich, Uuid::new_v4()] {
        let answer = ledger.deduct("job", company, 500).await;
        assert_eq!(answer.error(), "idempotency_key_reused");
        assert_eq!(ledger.everything().await, before);
    }
}

#[tokio::test]
async fn a_company_that_was_not_found_may_be_corrected() {
    let ledger = Ledger::open().await;
    let (typo, second_typo) = (Uuid::new_v4(), Uuid::new_v4());
    let company = ledger.company(0, 1000).await;
    for (n, unknown) in [(0, typo), (1, second_typo)] {
        let answer = ledger.deduct("job", unknown, 500).await;
        assert_eq!(answer.error(), "company_not_found");
        assert_eq!(answer.retry_count, Some(n));
        let record = ledger.record("job").await.expect("a record");
        assert_eq!(
            (record.company_id, record.status.as_str()),
            (unknown, "failed")
        );
    }
    let charged = ledger.deduct("job", company, 400).await;
    assert_eq!((charged.success, charged.retry_count), (true, Some(2)));
    assert_eq!(ledger.balances(company).await, (0, 600));
    let reused = ledger.deduct("job", typo, 500).await;
    assert_eq!(reused.error(), "idempotency_key_reused");
}

#[tokio::test]
async fn a_corrected_company_that_cannot_pay_owns_the_key() {
    let ledger = Ledger::open().await;
    let poor = ledger.company(0, 1).await;
    let rich = ledger.company(0, 1000).await;
    ledger.deduct("job", Uuid::new_v4(), 500).await;
    let refused = ledger.deduct("job", poor, 500).await;
    assert_eq!(refused.error(), "insufficient_balance");
    let reused = ledger.deduct("job", rich, 500).await;
    assert_eq!(reused.error(), "idempotency_key_reused");
}

#[tokio::test]
async fn a_compensated_key_is_never_charged_again() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 1000).await;
    ledger.deduct("job", company, 400).await;
    ledger
        .execute("update token_deduction_records set status = 'compensated'")
        .await;
    let before = ledger.everything().await;
    for amount in [400, 1] {
        let answer = ledger.deduct("job", company, amount).await;
        assert!(!answer.success && !answer.idempotent);
        assert_eq!(answer.error(), "already_compensated");
        assert_eq!(answer.status.as_deref(), Some("compensated"));
    }
    assert_eq!(ledger.everything().await, before);
}

#[tokio::test]
async fn a_balance_that_is_too_small_is_left_alone_and_the_record_says_failed() {
    let ledger = Ledger::open().await;
    let company = ledger.company(60, 40).await;
    let answer = ledger.deduct("job", company, 500).await;

    assert!(!answer.success && !answer.idempotent);
    assert_eq!(answer.error(), "insufficient_balance");
    assert_eq!(answer.status.as_deref(), Some("failed"));
    assert_eq!((answer.required, answer.available), (Some(500), Some(100)));
    assert_eq!(answer.figures(), (0, 0, Some(100), Some(100)));
    assert_eq!(ledger.balances(company).await, (60, 40));
    assert_eq!(ledger.usage_logs(company).await, []);
    let record = ledger.record("job").await.expect("a record");
    assert_eq!(record.status, "failed");
    assert_eq!(record.error_code.as_deref(), Some("insufficient_balance"));
    assert_eq!((record.balance_before, record.completed_at), (None, None));
}

#[tokio::test]
async fn an_unknown_company_is_a_failed_record() {
    let ledger = Ledger::open().await;
    let answer = ledger.deduct("job", Uuid::new_v4(), 500).await;
    assert_eq!(answer.error(), "company_not_found");
    assert_eq!(answer.status.as_deref(), Some("failed"));
    assert_eq!(answer.figures(), (0, 0, None, None));
    let record = ledger.record("job").await.expect("a record");
    assert_eq!(record.error_code.as_deref(), Some("company_not_found"));
}

#[tokio::test]
async fn a_request_that_makes_no_sense_leaves_no_record() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 1000).await;
    let good = Item::new("job", company, 1);
    let before = ledger.everything().await;
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
        let answer = deduct_item(ledger.pool(), item).await.expect("an answer");
        assert!(!answer.success && !answer.idempotent, "{item:?}");
        assert_eq!(answer.error(), "invalid_request", "{item:?}");
        assert_eq!((answer.status, answer.deduction_record_id), (None, None));
    }
    let answers = ledger.deduct_batch(&bad).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.error() == "invalid_request")
    );
    assert_eq!(ledger.everything().await, before);
}

#[tokio::test]
async fn every_answer_of_the_single_function_has_the_promised_fields() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 100).await;
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
            .fetch_one(ledger.pool())
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
