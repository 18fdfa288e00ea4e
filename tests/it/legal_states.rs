//! Rows that contradict themselves can't exist, whatever code runs.

use sqlx::AssertSqlSafe;

use crate::support::ledger::Ledger;

/// Runs `sql`, which must fail at a CHECK or unique constraint of this name.
async fn refused_by(ledger: &Ledger, constraint: &str, sql: &str) {
    let error = sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(ledger.pool())
        .await
        .expect_err(sql);
    let name = error
        .as_database_error()
        .and_then(|error| error.constraint())
        .unwrap_or_default();
    assert_eq!(name, constraint, "{sql}: {error}");
}

/// One completed and one failed record of a company that had 1000, 300 of them monthly.
async fn some_history() -> Ledger {
    let ledger = Ledger::open().await;
    let company = ledger.company(300, 700).await;
    ledger.deduct("completed", company, 400).await;
    ledger.deduct("failed", company, 4000).await;
    ledger
        .execute(format!(
            "select credit_tokens('top up', '{company}', 50, null, null, 'me');
             select credit_tokens('renewal', '{company}', null, 50, '2100-01-01', 'me')"
        ))
        .await;
    ledger
}

#[tokio::test]
async fn a_completed_record_is_whole() {
    let ledger = some_history().await;
    for set in [
        "balance_before = null",
        "balance_after = null",
        "completed_at = null",
        "ledger_seq = null",
        "balance_after = balance_after + 1",
        "amount = amount + 1",
        "monthly_deducted = monthly_deducted + 1",
        "purchased_deducted = null, monthly_deducted = amount",
        "monthly_deducted = -1, purchased_deducted = 401",
        "balance_before = 399, balance_after = -1",
        "error_code = 'insufficient_balance'",
        "status = 'compensated', completed_at = null",
    ] {
        let sql =
            format!("update token_deduction_records set {set} where idempotency_key = 'completed'");
        if set.starts_with("purchased_deducted = null") {
            let error = sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(ledger.pool())
                .await;
            assert!(error.is_err(), "NOT NULL");
        } else {
            refused_by(&ledger, "deduction_charged_is_whole", &sql).await;
        }
    }
}

#[tokio::test]
async fn a_record_that_is_not_charged_moved_nothing() {
    let ledger = some_history().await;
    for set in [
        "monthly_deducted = 1",
        "purchased_deducted = 1",
        "monthly_period_end = now()",
        "balance_before = 1",
        "balance_after = 1",
        "completed_at = now()",
        "ledger_seq = 99",
        "error_code = null",
        "status = 'pending', error_code = null",
    ] {
        let sql =
            format!("update token_deduction_records set {set} where idempotency_key = 'failed'");
        refused_by(&ledger, "deduction_uncharged_moved_nothing", &sql).await;
    }
    let sql =
        "update token_deduction_records set status = 'completed' where idempotency_key = 'failed'";
    refused_by(&ledger, "deduction_charged_is_whole", sql).await;
}

#[tokio::test]
async fn records_have_known_states_positive_amounts_and_one_key_each() {
    let ledger = some_history().await;
    for (constraint, set) in [
        ("deduction_status_known", "status = 'charged'"),
        ("deduction_amount_positive", "amount = 0"),
        ("deduction_amount_positive", "amount = -1"),
        ("deduction_amount_positive", "retry_count = -1"),
        (
            "idx_token_deduction_idempotency",
            "idempotency_key = 'completed'",
        ),
    ] {
        let sql =
            format!("update token_deduction_records set {set} where idempotency_key = 'failed'");
        refused_by(&ledger, constraint, &sql).await;
    }
}

#[tokio::test]
async fn balances_never_go_below_zero() {
    let ledger = some_history().await;
    for (constraint, column) in [
        (
            "company_subscriptions_monthly_quota_balance_check",
            "monthly_quota_balance",
        ),
        (
            "company_subscriptions_purchased_token_balance_check",
            "purchased_token_balance",
        ),
        (
            "company_subscriptions_monthly_token_quota_check",
            "monthly_token_quota",
        ),
    ] {
        let sql = format!("update company_subscriptions set {column} = -1");
        refused_by(&ledger, constraint, &sql).await;
    }
}

#[tokio::test]
async fn a_movement_has_one_usage_log_and_it_is_not_zero() {
    let ledger = some_history().await;
    refused_by(
        &ledger,
        "token_usage_logs_pkey",
        "insert into token_usage_logs select * from token_usage_logs",
    )
    .await;
    refused_by(
        &ledger,
        "token_usage_logs_token_amount_check",
        "update token_usage_logs set token_amount = 0",
    )
    .await;
}

#[tokio::test]
async fn credits_add_up() {
    let ledger = some_history().await;
    for (constraint, set, key) in [
        (
            "credit_purchased_adds_up",
            "purchased_after = purchased_after + 1",
            "top up",
        ),
        (
            "credit_monthly_adds_up",
            "monthly_after = monthly_after + 1",
            "top up",
        ),
        (
            "credit_monthly_adds_up",
            "monthly_after = monthly_after + 1",
            "renewal",
        ),
        (
            "credit_monthly_adds_up",
            "forfeited_amount = monthly_before + 1",
            "renewal",
        ),
        ("token_credits_kind_check", "kind = 'gift'", "top up"),
        (
            "idx_token_credits_key",
            "idempotency_key = 'renewal'",
            "top up",
        ),
    ] {
        let sql = format!("update token_credits set {set} where idempotency_key = '{key}'");
        refused_by(&ledger, constraint, &sql).await;
    }
}
