//! One job, one key, however it is spelled.

use serde_json::Value;
use uuid::Uuid;

use crate::support::ledger::{Item, Ledger, mark_pending};

/// Every spelling that `uuid` takes, and what may stand around it.
fn spellings(job: Uuid) -> Vec<String> {
    let plain = job.to_string();
    let simple = job.simple().to_string();
    let moved = simple
        .as_bytes()
        .chunks(4)
        .map(|four| std::str::from_utf8(four).expect("ASCII"));
    let moved = moved.collect::<Vec<_>>().join("-");
    vec![
        plain.clone(),
        plain.to_uppercase(),
        simple.clone(),
        moved,
        format!("{{{plain}}}"),
        format!("{{{}}}", simple.to_uppercase()),
        format!(" {plain}"),
        format!("{plain}\n"),
        format!("\t{{{simple}}}\r\n"),
        format!("\u{a0}{plain}\u{feff}"),
        format!("\u{2009}{plain}\u{200b}"),
        format!("urn:uuid:{plain}"),
    ]
}

#[tokio::test]
async fn however_a_job_is_spelled_it_is_charged_once() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 1000).await;
    let job = ledger.job(company).await;
    for (tries, spelling) in spellings(job).into_iter().enumerate() {
        let charged = ledger.deduct(&spelling, company, 10).await;
        assert!(charged.success, "{spelling:?}: {charged:?}");
        assert_eq!(charged.idempotent, tries > 0, "{spelling:?}");
    }
    let item = |key| Item::new(key, company, 10);
    let batch: Vec<Item> = spellings(job).into_iter().map(item).collect();
    for answer in ledger.deduct_batch(&batch).await {
        assert!(answer.idempotent, "{answer:?}");
    }
    assert_eq!(ledger.balances(company).await, (0, 990));
    assert_eq!(ledger.job_status(job).await.0, "completed");
}

#[tokio::test]
async fn a_batch_of_spellings_of_one_job_charges_it_once() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 1000).await;
    let job = Uuid::new_v4();
    let item = |key| Item::new(key, company, 10);
    let batch: Vec<Item> = spellings(job).into_iter().map(item).collect();
    let answers = ledger.deduct_batch(&batch).await;
    let new = answers.iter().filter(|answer| !answer.idempotent).count();
    assert_eq!(new, 1, "{answers:#?}");
    assert_eq!(ledger.balances(company).await, (0, 990));
    assert!(ledger.record(job).await.is_some());
}

#[tokio::test]
async fn pending_and_refunded_are_the_same_job_in_any_spelling() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 1000).await;
    let job = Uuid::new_v4();
    for spelling in spellings(job) {
        let marked =
            mark_pending(ledger.pool(), &[Item::new(&spelling, company, 10)], "busy").await;
        assert_eq!(marked.expect("marked")[0].1, "pending", "{spelling:?}");
    }
    assert!(ledger.deduct(job, company, 10).await.success);
    for (tries, spelling) in spellings(job).into_iter().enumerate() {
        let refund = sqlx::query_scalar("select refund_tokens($1, 'forfeit', 'me', 'why')");
        let answer: Value = refund
            .bind(&spelling)
            .fetch_one(ledger.pool())
            .await
            .expect("answered");
        assert_eq!(answer["idempotent"], tries > 0, "{spelling:?}: {answer}");
        let again = ledger.deduct(&spelling, company, 10).await;
        assert_eq!(
            again.error.as_deref(),
            Some("already_compensated"),
            "{spelling:?}"
        );
    }
    assert_eq!(ledger.balances(company).await, (0, 1000));
}

#[tokio::test]
async fn a_key_with_control_characters_is_refused_and_leaves_no_record() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 1000).await;
    let before = ledger.everything().await;
    for key in [
        "a\tb",
        "\n",
        "job\u{7f}",
        "8b0c1c1e\n-6f5e-4a43-9d0a-3f4c2f1d7a10",
    ] {
        let refused = ledger.deduct(key, company, 10).await;
        assert_eq!(refused.error.as_deref(), Some("invalid_request"), "{key:?}");
        let batch = ledger.deduct_batch(&[Item::new(key, company, 10)]).await;
        assert_eq!(
            batch[0].error.as_deref(),
            Some("invalid_request"),
            "{key:?}"
        );
        let credit = sqlx::query_scalar("select credit_tokens($1, $2, 5, null, null, 'me')");
        let answer: Value = credit
            .bind(key)
            .bind(company)
            .fetch_one(ledger.pool())
            .await
            .expect("answered");
        assert_eq!(answer["error"], "invalid_request", "{key:?}");
    }
    assert_eq!(ledger.everything().await, before);
    // Whatever else may be in a text is a key, and as it is.
    for key in [
        "é8b0c1c1e-6f5e-4a43-9d0a-3f4c2f1d7a10",
        "{8b0c1c1e",
        "Ärger über Ümläute",
        " invoice 7",
        "8b0c1c1e-6f5e-4a43-9d0a-3f4c2f1d7a1g",
    ] {
        assert!(ledger.deduct(key, company, 1).await.success, "{key:?}");
        assert!(ledger.record(key).await.is_some(), "{key:?}");
    }
}
