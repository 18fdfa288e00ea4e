//! Charges that are pending: recorded by `mark_deductions_pending`, made later by a charge.

use uuid::Uuid;

use crate::support::ledger::{Item, Ledger, mark_pending};

async fn mark(ledger: &Ledger, items: &[Item]) -> Vec<(String, String, bool)> {
    mark_pending(ledger.pool(), items, "the database was busy")
        .await
        .expect("marked")
}

fn told(key: impl std::fmt::Display, status: &str, same_request: bool) -> (String, String, bool) {
    (key.to_string(), status.to_owned(), same_request)
}

#[tokio::test]
async fn a_new_key_becomes_pending_and_its_job_says_so() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 1000).await;
    let job = ledger.job(company).await;
    let stranger = ledger.job(Uuid::new_v4()).await;
    let items = [
        Item::new(job, company, 400),
        Item::new(stranger, company, 1),
    ];
    assert_eq!(
        mark(&ledger, &items).await,
        [told(job, "pending", true), told(stranger, "pending", true)]
    );
    let record = ledger.record(job).await.expect("a record");
    assert_eq!((record.status.as_str(), record.amount), ("pending", 400));
    assert_eq!(record.error_code.as_deref(), Some("retries_exhausted"));
    assert_eq!(
        record.error_message.as_deref(),
        Some("the database was busy")
    );
    assert_eq!(record.retry_count, 0);
    assert_eq!(ledger.balances(company).await, (0, 1000));
    assert_eq!(ledger.job_status(job).await.0, "pending_token_deduction");
    assert_eq!(ledger.job_status(stranger).await.0, "running");
}

#[tokio::test]
async fn a_failed_record_becomes_pending_with_the_new_amount() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 100).await;
    ledger.deduct("job", company, 500).await;
    let told_now = mark(&ledger, &[Item::new("job", company, 300)]).await;
    assert_eq!(told_now, [told("job", "pending", true)]);
    let record = ledger.record("job").await.expect("a record");
    assert_eq!((record.status.as_str(), record.amount), ("pending", 300));
}

#[tokio::test]
async fn what_is_decided_or_anothers_stays_untouched() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 1000).await;
    let other = ledger.company(0, 100).await;
    let completed = ledger.job(company).await;
    ledger.deduct(completed, company, 400).await;
    ledger.deduct("compensated", company, 10).await;
    ledger.deduct("others", other, 500).await;
    ledger
        .execute(
            "update token_deduction_records set status = 'compensated'
             where idempotency_key = 'compensated'",
        )
        .await;
    let before = ledger.everything().await;
    let items = [
        Item::new(completed, company, 400),
        Item::new("compensated", company, 10),
        Item::new("others", company, 500),
    ];
    assert_eq!(
        mark(&ledger, &items).await,
        [
            told(completed, "completed", true),
            told("compensated", "compensated", true),
            told("others", "failed", false),
        ]
    );
    let another_amount = mark(&ledger, &[Item::new(completed, company, 401)]).await;
    assert_eq!(another_amount, [told(completed, "completed", false)]);
    assert_eq!(ledger.everything().await, before);
}

#[tokio::test]
async fn a_pending_charge_is_made_later_by_either_function() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 1000).await;
    let items = [
        Item::new(Uuid::new_v4(), company, 400),
        Item::new(Uuid::new_v4(), company, 300),
        Item::new(Uuid::new_v4(), company, 5000),
    ];
    mark(&ledger, &items).await;
    let pending: Vec<Uuid> = sqlx::query_scalar(
        "select id from token_deduction_records order by array_position($1, idempotency_key)",
    )
    .bind(items.each_ref().map(|item| item.key.clone()).to_vec())
    .fetch_all(ledger.pool())
    .await
    .expect("records");

    let mut answers = ledger.deduct_batch(&items[1..]).await;
    answers.insert(
        0,
        ledger
            .deduct(items[0].key.as_deref().unwrap_or_default(), company, 400)
            .await,
    );
    for (answer, id) in answers.iter().zip(pending) {
        assert_eq!(answer.deduction_record_id, Some(id));
        assert_eq!((answer.idempotent, answer.retry_count), (false, Some(1)));
    }
    assert!(answers[0].success && answers[1].success);
    assert_eq!(answers[2].error(), "insufficient_balance");
    assert_eq!(ledger.balances(company).await, (0, 300));
    assert_eq!(ledger.usage_logs(company).await.len(), 2);
}

#[tokio::test]
async fn a_pending_key_belongs_to_its_company_even_if_that_is_unknown() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 1000).await;
    mark(&ledger, &[Item::new("job", Uuid::new_v4(), 400)]).await;
    let answer = ledger.deduct("job", company, 400).await;
    assert_eq!(answer.error(), "idempotency_key_reused");
    assert_eq!(answer.status.as_deref(), Some("pending"));
}

#[tokio::test]
async fn another_amount_may_be_charged_for_a_pending_key() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 1000).await;
    mark(&ledger, &[Item::new("job", company, 400)]).await;
    let answer = ledger.deduct("job", company, 401).await;
    assert_eq!((answer.success, answer.retry_count), (true, Some(1)));
}

#[tokio::test]
async fn a_job_that_refuses_the_status_is_still_owed() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 1000).await;
    let job = ledger.job(company).await;
    ledger
        .execute("alter table article_jobs add constraint theirs check (status = 'running')")
        .await;
    mark(&ledger, &[Item::new(job, company, 400)]).await;
    assert_eq!(
        ledger.record(job).await.expect("a record").status,
        "pending"
    );
    assert_eq!(ledger.job_status(job).await.0, "running");
}
