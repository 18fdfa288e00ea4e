//! How things stand: right figures, and never by reading a big table.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use token_billing::storage::{InstallationStatus, STATUS};

use crate::support::{dead_letters::malformed, ledger::Ledger, pending::pending, site::Site};

/// 200 000 records and logs of ten days, in the order of time, and 50 000 dead letters.
async fn many(ledger: &Ledger) {
    for page in 0..4 {
        ledger
            .execute(format!(
                "with record as materialized (
                     select n, gen_random_uuid() as id, now() - (200000 - n) * interval '4.32 s' as at,
                            case when n % 50 = 0 then 'failed' when n % 2001 = 0 then 'pending' else 'completed' end
                                as status
                     from generate_series({page} * 50000 + 1, ({page} + 1) * 50000) n
                 ), recorded as (
                     insert into token_deduction_records (idempotency_key, id, company_id, amount, status,
                         purchased_deducted, balance_before, balance_after, ledger_seq, error_code, created_at,
                         completed_at, pending_since)
                     select lpad(n::text, 12, '0'), id, '00000000-0000-4000-8000-000000000001', 1, status,
                            case status when 'completed' then 1 else 0 end,
                            case status when 'completed' then 9 end, case status when 'completed' then 8 end,
                            case status when 'completed' then n end,
                            case status when 'completed' then null else 'insufficient_balance' end, at,
                            case status when 'completed' then at end, case status when 'pending' then at end
                     from record
                 )
                 insert into token_usage_logs (id, company_id, token_amount, deduction_record_id, usage_type, created_at)
                 select n, '00000000-0000-4000-8000-000000000001', 1, id, 'x', at from record where status = 'completed'"
            ))
            .await;
    }
    ledger
        .execute(
            "insert into dead_letters (state, reason, error, error_signature, body, attempts, first_failed_at,
                 last_failed_at, last_arrival, resolved_at, archived_at)
             select case when n % 20 = 0 then 'open' else 'resolved' end, 'malformed', 'x', 'x', '{}', 1, now(), now(), n,
                    case when n % 20 = 0 then null else now() end, now() - (50000 - n) * interval '10 s'
             from generate_series(1, 50000) n",
        )
        .await;
    ledger
        .execute(
            "insert into token_holds (job_id, company_id, amount, status, expires_at, closed_at)
             select gen_random_uuid(), gen_random_uuid(), 1, case when n % 1000 < 2 then 'open' else 'charged' end,
                    now() + case when n % 1000 = 0 then interval '-1 h' else '1 h' end,
                    case when n % 1000 < 2 then null else now() end
             from generate_series(1, 50000) n",
        )
        .await;
    ledger.execute("vacuum analyze").await;
}

/// Every node of a plan that reads a whole table.
fn sequential(plan: &Value) -> Vec<String> {
    match plan {
        Value::Array(nodes) => nodes.iter().flat_map(sequential).collect(),
        Value::Object(node) => {
            let mut found: Vec<String> = node.values().flat_map(sequential).collect();
            if node.get("Node Type") == Some(&json!("Seq Scan")) {
                found.push(node["Relation Name"].to_string());
            }
            found
        }
        _ => Vec::new(),
    }
}

async fn plan(ledger: &Ledger) -> Vec<String> {
    let sql = STATUS.replace("$1", "900");
    let explain = format!("explain (format json) {sql}");
    let plan: Value = sqlx::query_scalar(AssertSqlSafe(explain))
        .fetch_one(ledger.pool())
        .await
        .expect("a plan");
    sequential(&plan)
}

async fn status(site: &Site, seconds: u64) -> InstallationStatus {
    let mut inspection = site.storage().inspect().await.expect("connected");
    let status = inspection.status(Duration::from_secs(seconds)).await;
    status.expect("a status")
}

#[tokio::test]
async fn no_big_table_is_read_for_it() {
    let site = Site::new().await;
    many(&site.db).await;
    assert_eq!(plan(&site.db).await, [""; 0]);

    let state = status(&site, 900).await;
    // 900 s are 208 records of 4.32 s each, 4 of them failed; some have gone by since they were made.
    let lately = state.charged + state.refused["insufficient_balance"];
    assert!((180..=209).contains(&lately), "{state:?}");
    assert!(
        (2..=5).contains(&state.refused["insufficient_balance"]),
        "{state:?}"
    );
    // 200 000 / 2001, without those that are multiples of 50 as well.
    assert_eq!(state.pending, 98);
    // Those that have expired are none.
    assert_eq!(state.open_holds, 50);
    assert_eq!(state.open_dead_letters, 2_500);
    let oldest = state.oldest_dead_letter_age_seconds.expect("an age");
    assert!((499_800..499_900).contains(&oldest), "{state:?}");

    // The plan would tell.
    site.db.execute("drop index idx_token_usage_created").await;
    assert_eq!(plan(&site.db).await, ["\"token_usage_logs\""]);
}

#[tokio::test]
async fn what_happened_is_counted_by_outcome() {
    let site = Site::new().await;
    let (rich, poor) = (site.company(0, 1000).await, site.company(0, 1).await);
    let nothing = status(&site, 60).await;
    assert_eq!(
        serde_json::to_value(nothing).expect("JSON"),
        json!({
            "window_seconds": 60, "pending": 0, "oldest_pending_age_seconds": null, "open_holds": 0, "charged": 0,
            "refunded": 0, "refused": {}, "open_dead_letters": 0, "oldest_dead_letter_age_seconds": null
        })
    );
    for (key, company) in [
        ("a", rich),
        ("b", rich),
        ("c", poor),
        ("d", uuid::Uuid::new_v4()),
    ] {
        site.db.deduct(key, company, 10).await;
    }
    site.db
        .execute("select refund_tokens('b', 'forfeit', 'me', 'why')")
        .await;
    pending(&site, rich, 5, 10).await;
    pending(&site, rich, 5, 90).await;
    site.archive(&[malformed(b"{", "no JSON"), malformed(b"[", "no JSON")])
        .await;
    let state = status(&site, 60).await;
    let state = serde_json::to_value(state).expect("JSON");
    assert_eq!(
        (&state["charged"], &state["refunded"]),
        (&json!(2), &json!(1))
    );
    let refused = json!({ "insufficient_balance": 1, "company_not_found": 1 });
    assert_eq!(state["refused"], refused);
    assert_eq!(
        (&state["pending"], &state["open_dead_letters"]),
        (&json!(2), &json!(2))
    );
    let oldest = state["oldest_pending_age_seconds"]
        .as_i64()
        .expect("an age");
    assert!((5400..5460).contains(&oldest), "{state}");
}
