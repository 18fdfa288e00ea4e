//! Rows of the ledger and of its audit trail stay: nobody removes them by accident, or rewrites what is finished.

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::support::{ledger::Ledger, role::TestRole, site::Site};

const TABLES: [&str; 9] = [
    "token_deduction_records",
    "token_usage_logs",
    "token_credits",
    "token_holds",
    "token_deduction_attempts",
    "operator_actions",
    "dead_letters",
    "dead_letter_actions",
    "token_billing_locks",
];

async fn run(connection: &mut PgConnection, sql: &str) -> Result<(), String> {
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await;
    done.map(drop).map_err(|error| error.to_string())
}

#[tokio::test]
async fn not_even_their_owner_removes_rows_without_taking_the_guard_away() {
    let site = Site::new().await;
    let company = site.company(0, 10).await;
    assert!(site.db.deduct("charged", company, 10).await.success);
    site.db.deduct("refused", company, 10).await;
    let mut owner = PgConnection::connect(site.db.url())
        .await
        .expect("connected");
    for table in TABLES {
        for sql in [
            format!("delete from {table}"),
            format!("truncate {table} cascade"),
        ] {
            let refused = run(&mut owner, &sql).await.expect_err(&sql);
            assert!(refused.contains("is refused"), "{sql}: {refused}");
        }
    }
    // A deletion at the beginning of a company's chain is one that no later row gives away.
    let first = "delete from token_deduction_records where idempotency_key = 'charged'";
    run(&mut owner, first).await.expect_err("refused");
    run(
        &mut owner,
        &format!("alter table token_deduction_records disable trigger no_delete; {first}"),
    )
    .await
    .expect("on purpose");
}

#[tokio::test]
async fn a_claim_within_a_batch_needs_no_exception_from_the_guard() {
    use crate::support::ledger::Item;
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 10).await;
    // The second makes the function claim the key and remove the claim.
    let answers = ledger
        .deduct_batch(&[Item::new("job", company, 20), Item::new("job", company, 10)])
        .await;
    assert_eq!(answers[1].error(), "", "{answers:#?}");
    let kept: Vec<(String, i64)> =
        sqlx::query_as("select status, amount from token_deduction_attempts order by id")
            .fetch_all(ledger.pool())
            .await
            .expect("read");
    assert_eq!(kept, [("failed".to_owned(), 20)], "a claim is no attempt");
}

#[tokio::test]
async fn an_operator_can_neither_invent_nor_rewrite_who_did_what() {
    let site = Site::new().await;
    let (one, other) = (
        TestRole::granted(&site, "operator").await,
        TestRole::granted(&site, "operator").await,
    );
    let mut connection = PgConnection::connect(one.url()).await.expect("connected");
    for sql in [
        "insert into operator_actions (actor, action, subject) values ('somebody else', 'credit', 'x')",
        "update operator_actions set details = '{}'",
        "update operator_actions set actor = 'somebody else', at = '2020-01-01'",
        "insert into dead_letter_actions (action_id, dead_letter_id) values (1, 1)",
        "delete from operator_actions",
    ] {
        let refused = run(&mut connection, sql).await.expect_err(sql);
        assert!(refused.contains("permission denied"), "{sql}: {refused}");
    }
    let begun = "select begin_replay('Mallory', 'all', null, '{\"dead_letters\": 3}')";
    let action: i64 = sqlx::query_scalar(begun)
        .fetch_one(&mut connection)
        .await
        .expect("begun");
    let finish = async |connection: &mut PgConnection, details: &'static str| -> bool {
        sqlx::query_scalar("select finish_replay($1, $2::jsonb)")
            .bind(action)
            .bind(details)
            .fetch_one(connection)
            .await
            .expect("asked")
    };
    let mut another = PgConnection::connect(other.url()).await.expect("connected");
    assert!(
        !finish(&mut another, "{\"sent\": 9}").await,
        "another role's run"
    );
    for sql in [
        format!("select * from claim_dead_letters({action}, '{{}}', '1m')"),
        format!("select mark_dead_letters_replayed({action}, '{{}}', now())"),
        format!("select release_dead_letters({action}, '{{}}')"),
        format!("select change_dead_letters('discard', '{{}}', {action}, 'Mallory', 'all', 'why')"),
    ] {
        let refused = run(&mut another, &sql).await.expect_err(&sql);
        assert!(refused.contains(" of role "), "{sql}: {refused}");
    }
    // What was said at the beginning stays; the rest can be said once.
    assert!(finish(&mut connection, "{\"sent\": 2, \"dead_letters\": 7}").await);
    assert!(!finish(&mut connection, "{\"sent\": 3}").await, "finished");
    let (role, details): (String, serde_json::Value) =
        sqlx::query_as("select database_role, details from operator_actions where id = $1")
            .bind(action)
            .fetch_one(site.db.pool())
            .await
            .expect("read");
    assert_eq!(
        role,
        one.quoted()[1..one.quoted().len() - 1].replace("\"\"", "\"")
    );
    assert_eq!(details, serde_json::json!({"dead_letters": 3, "sent": 2}));
}

#[tokio::test]
async fn a_finished_action_never_changes_and_a_running_one_only_ends() {
    let site = Site::new().await;
    let mut owner = PgConnection::connect(site.db.url())
        .await
        .expect("connected");
    run(
        &mut owner,
        "select record_operator_action('me', 'discard', 'one', 'why', '{}');
         select record_operator_action('me', 'replay', 'two', null, '{\"a\": 1}')",
    )
    .await
    .expect("recorded");
    for sql in [
        "update operator_actions set reason = 'another' where subject = 'one'",
        "update operator_actions set finished_at = null where subject = 'one'",
        "update operator_actions set finished_at = now(), details = '{}' where subject = 'two'",
        "update operator_actions set finished_at = now(), actor = 'you' where subject = 'two'",
        "update operator_actions set details = details || '{\"b\": 2}' where subject = 'two'",
    ] {
        let refused = run(&mut owner, sql).await.expect_err(sql);
        assert!(refused.contains("is refused"), "{sql}: {refused}");
    }
}

#[tokio::test]
async fn credits_and_refunds_note_who_was_connected_beside_the_name_that_was_given() {
    let site = Site::new().await;
    let company = site.company(0, 10).await;
    site.db.deduct("job", company, 5).await;
    let role = TestRole::granted(&site, "operator").await;
    let mut connection = PgConnection::connect(role.url()).await.expect("connected");
    run(
        &mut connection,
        &format!("select credit_tokens('k', '{company}', 5, null, null, 'the boss')"),
    )
    .await
    .expect("credited");
    run(
        &mut connection,
        "select refund_tokens('job', 'forfeit', 'the boss', 'why')",
    )
    .await
    .expect("refunded");
    let name = role.quoted()[1..role.quoted().len() - 1].replace("\"\"", "\"");
    let noted: Vec<(String, String)> =
        sqlx::query_as("select actor, database_role from operator_actions order by id")
            .fetch_all(site.db.pool())
            .await
            .expect("read");
    let entry = ("the boss".to_owned(), name);
    assert_eq!(noted, [entry.clone(), entry]);
}
