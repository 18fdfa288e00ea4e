//! All or nothing: whichever single write fails, none of the others is left behind.

use uuid::Uuid;

use crate::support::ledger::{Item, Ledger, deduct_batch, deduct_item, mark_pending};

/// A trigger that fails every `event` on `table`, with an error that nobody has a special case for.
async fn break_table(ledger: &Ledger, table: &str, event: &str) {
    ledger
        .execute(format!(
            "create or replace function broken() returns trigger language plpgsql as
                 $$ begin raise exception 'the disk is on fire'; end $$;
             create trigger broken after {event} on {table}
                 for each row execute function broken()"
        ))
        .await;
}

async fn fix_table(ledger: &Ledger, table: &str) {
    ledger
        .execute(format!("drop trigger broken on {table}"))
        .await;
}

/// Two companies; a job that failed before and one that is new.
async fn prepare(ledger: &Ledger) -> Vec<Item> {
    let (a, b) = (
        ledger.company(300, 1000).await,
        ledger.company(0, 1000).await,
    );
    let (new, failed) = (ledger.job(a).await, ledger.job(b).await);
    ledger.deduct(failed, b, 5000).await;
    vec![
        Item::new(new, a, 500),
        Item::new(failed, b, 400),
        Item::new("unaffordable", a, 5000),
        Item::new("unknown company", Uuid::new_v4(), 10),
    ]
}

#[tokio::test]
async fn whichever_write_of_a_charge_fails_nothing_at_all_has_changed() {
    let ledger = Ledger::open().await;
    let items = prepare(&ledger).await;
    let before = ledger.everything().await;
    for (table, event) in [
        ("token_deduction_records", "insert"),
        ("token_deduction_records", "update"),
        ("token_usage_logs", "insert"),
        ("company_subscriptions", "update"),
    ] {
        break_table(&ledger, table, event).await;
        let batch = deduct_batch(ledger.pool(), &items).await;
        assert!(batch.is_err(), "{event} on {table}");
        for item in &items[..2] {
            let writes_the_table = table != "token_deduction_records"
                || (event == "update") == (item.amount == Some(400));
            if writes_the_table {
                let single = deduct_item(ledger.pool(), item).await;
                assert!(single.is_err(), "{event} on {table}");
            }
        }
        assert_eq!(ledger.everything().await, before, "{event} on {table}");
        fix_table(&ledger, table).await;
    }

    let answers = ledger.deduct_batch(&items).await;
    assert!(answers[0].success && answers[1].success, "{answers:#?}");
}

#[tokio::test]
async fn a_constraint_of_the_application_on_balances_rolls_the_charge_back() {
    let ledger = Ledger::open().await;
    let items = prepare(&ledger).await;
    ledger
        .execute(
            "alter table company_subscriptions add constraint reserve
                 check (purchased_token_balance >= 900)",
        )
        .await;
    let before = ledger.everything().await;
    assert!(deduct_batch(ledger.pool(), &items).await.is_err());
    assert_eq!(ledger.everything().await, before);
}

#[tokio::test]
async fn a_connection_that_ends_before_the_commit_leaves_nothing() {
    let ledger = Ledger::open().await;
    let items = prepare(&ledger).await;
    let before = ledger.everything().await;
    let mut transaction = ledger.pool().begin().await.expect("begun");
    let answers = deduct_batch(&mut *transaction, &items)
        .await
        .expect("charged");
    assert!(answers[0].success);
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(&mut *transaction)
        .await
        .expect("a process");
    sqlx::query("select pg_terminate_backend($1, 10000)")
        .bind(pid)
        .execute(ledger.pool())
        .await
        .expect("ended");
    assert!(transaction.commit().await.is_err());
    assert_eq!(ledger.everything().await, before);
}

#[tokio::test]
async fn whichever_write_of_a_credit_fails_nothing_at_all_has_changed() {
    let ledger = Ledger::open().await;
    let company = ledger.company(300, 1000).await;
    let before = ledger.everything().await;
    for (table, event) in [
        ("token_credits", "insert"),
        ("company_subscriptions", "update"),
        ("operator_actions", "insert"),
    ] {
        break_table(&ledger, table, event).await;
        for (purchased, monthly, end) in
            [(Some(5), None, None), (None, Some(5), Some("2100-01-01"))]
        {
            sqlx::query("select credit_tokens('k', $1, $2, $3, $4::text::timestamptz, 'me')")
                .bind(company)
                .bind(purchased)
                .bind(monthly)
                .bind(end)
                .execute(ledger.pool())
                .await
                .expect_err(table);
        }
        assert_eq!(ledger.everything().await, before, "{event} on {table}");
        fix_table(&ledger, table).await;
    }
}

#[tokio::test]
async fn marking_pending_is_all_or_nothing() {
    let ledger = Ledger::open().await;
    let items = prepare(&ledger).await;
    let before = ledger.everything().await;
    for event in ["insert", "update"] {
        break_table(&ledger, "token_deduction_records", event).await;
        assert!(mark_pending(ledger.pool(), &items, "busy").await.is_err());
        assert_eq!(ledger.everything().await, before, "{event}");
        fix_table(&ledger, "token_deduction_records").await;
    }
}
