//! What `deduct_tokens_batch` adds to the single charge: many at once, in order, none hurt by another.

use serde_json::json;
use uuid::Uuid;

use crate::support::ledger::{Answer, Item, Ledger};

fn errors(answers: &[Answer]) -> Vec<&str> {
    answers.iter().map(Answer::error).collect()
}

fn running_balances(answers: &[Answer]) -> Vec<(Option<i64>, Option<i64>)> {
    answers
        .iter()
        .map(|answer| (answer.balance_before, answer.balance_after))
        .collect()
}

#[tokio::test]
async fn what_cannot_be_paid_is_skipped_and_a_later_smaller_one_is_charged() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 1000).await;
    let items: Vec<Item> = [400, 900, 300, 250]
        .iter()
        .map(|&amount| Item::new(amount, company, amount))
        .collect();
    let answers = ledger.deduct_batch(&items).await;

    assert_eq!(errors(&answers), ["", "insufficient_balance", "", ""]);
    assert_eq!(
        running_balances(&answers),
        [
            (Some(1000), Some(600)),
            (Some(600), Some(600)),
            (Some(600), Some(300)),
            (Some(300), Some(50)),
        ]
    );
    assert_eq!(answers[1].available, Some(600));
    assert_eq!(ledger.balances(company).await, (0, 50));
    let logged: Vec<i64> = ledger
        .usage_logs(company)
        .await
        .iter()
        .map(|log| log.token_amount)
        .collect();
    assert_eq!(logged, [400, 300, 250], "the ledger is in input order");
}

#[tokio::test]
async fn each_charge_stores_its_own_share_of_the_monthly_quota() {
    let ledger = Ledger::open().await;
    let company = ledger.company(500, 1000).await;
    let items: Vec<Item> = (0..4).map(|n| Item::new(n, company, 200)).collect();
    let shares: Vec<(i64, i64)> = ledger
        .deduct_batch(&items)
        .await
        .iter()
        .map(|answer| (answer.monthly_deducted, answer.purchased_deducted))
        .collect();
    assert_eq!(shares, [(200, 0), (200, 0), (100, 100), (0, 200)]);
    assert_eq!(ledger.balances(company).await, (0, 700));
    for n in 0..4 {
        let record = ledger.record(n).await.expect("a record");
        assert_eq!(record.monthly_period_end.is_some(), n < 3);
    }
}

#[tokio::test]
async fn companies_in_one_batch_do_not_mix() {
    let ledger = Ledger::open().await;
    let (a, b) = (ledger.company(0, 100).await, ledger.company(50, 0).await);
    let unknown = Uuid::new_v4();
    let answers = ledger
        .deduct_batch(&[
            Item::new("a1", a, 60),
            Item::new("b1", b, 30),
            Item::new("u1", unknown, 1),
            Item::new("a2", a, 60),
            Item::new("b2", b, 20),
            Item::new("a3", a, 40),
        ])
        .await;
    assert_eq!(
        errors(&answers),
        ["", "", "company_not_found", "insufficient_balance", "", ""]
    );
    assert_eq!(ledger.balances(a).await, (0, 0));
    assert_eq!(ledger.balances(b).await, (0, 0));
}

#[tokio::test]
async fn a_key_twice_in_one_batch_is_charged_once() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 1000).await;
    let item = Item::new("job", company, 400);
    let answers = ledger
        .deduct_batch(&[
            item.clone(),
            Item::new("other", company, 1),
            item.clone(),
            Item::new("the rest", company, 599),
        ])
        .await;
    assert_eq!(
        answers[2],
        Answer {
            idempotent: true,
            ..answers[0].clone()
        }
    );
    assert_eq!(answers[3].balance_before, Some(599));
    assert_eq!(ledger.balances(company).await, (0, 0));
    assert_eq!(ledger.usage_logs(company).await.len(), 3);
}

#[tokio::test]
async fn a_key_with_another_amount_in_one_batch_loses_to_the_first_that_is_charged() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 1000).await;
    let answers = ledger
        .deduct_batch(&[
            Item::new("job", company, 5000),
            Item::new("job", company, 400),
            Item::new("job", company, 300),
            Item::new("job", company, 400),
        ])
        .await;
    assert_eq!(
        errors(&answers),
        ["insufficient_balance", "", "idempotency_key_reused", ""]
    );
    assert_eq!(answers[1].retry_count, Some(1));
    assert!(answers[3].idempotent);
    assert_eq!(ledger.balances(company).await, (0, 600));
}

#[tokio::test]
async fn a_key_may_fail_again_and_again_within_one_batch() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 100).await;
    ledger.deduct("job", company, 900).await;
    let answers = ledger
        .deduct_batch(&[
            Item::new("job", company, 500),
            Item::new("small", company, 60),
            Item::new("job", company, 500),
            Item::new("job", company, 41),
        ])
        .await;
    let job = "insufficient_balance";
    assert_eq!(errors(&answers), [job, "", job, job]);
    let seen: Vec<_> = answers
        .iter()
        .map(|answer| (answer.retry_count, answer.available))
        .collect();
    assert_eq!(
        seen,
        [
            (Some(1), Some(100)),
            (Some(0), None),
            (Some(2), Some(40)),
            (Some(3), Some(40)),
        ]
    );
    for answer in [&answers[0], &answers[2], &answers[3]] {
        let message = answer.error_message.as_deref().unwrap_or_default();
        let figures = format!(
            "needs {} and the company has {}.",
            answer.required.expect("required"),
            answer.available.expect("available")
        );
        assert!(message.contains(&figures), "{message} tells {figures}");
    }
    let record = ledger.record("job").await.expect("a record");
    assert_eq!((record.amount, record.retry_count), (41, 3));
}

#[tokio::test]
async fn an_unknown_company_is_corrected_within_one_batch() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 100).await;
    let typo = Uuid::new_v4();
    let answers = ledger
        .deduct_batch(&[
            Item::new("job", typo, 40),
            Item::new("job", company, 40),
            Item::new("job", typo, 40),
        ])
        .await;
    assert_eq!(
        errors(&answers),
        ["company_not_found", "", "idempotency_key_reused"]
    );
    assert_eq!(ledger.balances(company).await, (0, 60));
}

#[tokio::test]
async fn one_key_of_two_companies_in_one_batch_is_charged_to_the_first() {
    let ledger = Ledger::open().await;
    let (a, b) = (ledger.company(0, 100).await, ledger.company(0, 100).await);
    let answers = ledger
        .deduct_batch(&[Item::new("job", a, 40), Item::new("job", b, 40)])
        .await;
    assert_eq!(errors(&answers), ["", "idempotency_key_reused"]);
    assert_eq!(ledger.balances(b).await, (0, 100));
}

#[tokio::test]
async fn null_elements_refuse_only_themselves() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 100).await;
    let good = |key: &str| Item {
        metadata: None,
        job_id: None,
        ..Item::new(key, company, 10)
    };
    let answers = ledger
        .deduct_batch(&[
            good("a"),
            Item {
                key: None,
                ..good("")
            },
            Item {
                amount: None,
                ..good("b")
            },
            Item {
                key: None,
                company_id: None,
                amount: None,
                ..good("")
            },
            Item {
                company_id: None,
                ..good("c")
            },
            good("b"),
            good("c"),
        ])
        .await;
    let invalid = "invalid_request";
    assert_eq!(
        errors(&answers),
        ["", invalid, invalid, invalid, invalid, "", ""]
    );
    assert_eq!(ledger.balances(company).await, (0, 70));
}

#[tokio::test]
async fn the_largest_amounts_overflow_nothing() {
    let ledger = Ledger::open().await;
    let company = ledger.company(1, i64::MAX - 1).await;
    let answers = ledger
        .deduct_batch(&[
            Item::new("a", company, i64::MAX - 10),
            Item::new("b", company, i64::MAX),
            Item::new("c", company, i64::MAX),
            Item::new("d", company, 10),
        ])
        .await;
    let refused = "insufficient_balance";
    assert_eq!(errors(&answers), ["", refused, refused, ""]);
    assert_eq!(ledger.balances(company).await, (0, 0));
}

#[tokio::test]
async fn usage_type_and_metadata_are_each_items_own() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 100).await;
    let items = [("a", "translation"), ("b", "summary")].map(|(key, usage_type)| Item {
        usage_type: Some(usage_type.into()),
        metadata: Some(json!({"for": key})),
        ..Item::new(key, company, 10)
    });
    ledger.deduct_batch(&items).await;
    let logs = ledger.usage_logs(company).await;
    for (log, item) in logs.iter().zip(&items) {
        assert_eq!(Some(&log.usage_type), item.usage_type.as_ref());
        assert_eq!(Some(&log.metadata), item.metadata.as_ref());
    }
    assert_eq!(logs.len(), 2);
}

#[tokio::test]
async fn empty_arrays_are_fine() {
    let ledger = Ledger::open().await;
    assert_eq!(ledger.deduct_batch(&[]).await, []);
}

#[tokio::test]
async fn arrays_of_unequal_length_raise() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 100).await;
    let columns = [
        "array['a','b']".to_owned(),
        format!("array['{company}','{company}']::uuid[]"),
        "array[null,null]::uuid[]".to_owned(),
        "array[1,1]::bigint[]".to_owned(),
        "array['{}','{}']::jsonb[]".to_owned(),
        "array[null,null]::text[]".to_owned(),
        "array[null,null]::uuid[]".to_owned(),
        "array['e','e']".to_owned(),
    ];
    for (function, arity) in [("deduct_tokens_batch", 7), ("mark_deductions_pending", 8)] {
        for at in 0..arity {
            for wrong in ["[1:1]", "[1:0]"] {
                let mut arguments = columns[..arity].to_vec();
                arguments[at] = format!("({}){wrong}", arguments[at]);
                let sql = format!("select * from {function}({})", arguments.join(","));
                let error = sqlx::query(sqlx::AssertSqlSafe(sql.as_str()))
                    .execute(ledger.pool())
                    .await
                    .expect_err(&sql);
                assert!(error.to_string().contains("differ in length"), "{error}");
            }
        }
    }
    assert_eq!(ledger.balances(company).await, (0, 100));
}
