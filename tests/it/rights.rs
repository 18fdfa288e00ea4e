//! Who may call the functions, and that a caller can't make them write elsewhere.

use sqlx::{AssertSqlSafe, PgConnection};

use crate::support::ledger::{Ledger, deduct};

/// Everything of ours that can be called, with arguments of the right types.
const CALLS: [&str; 51] = [
    "select * from deduct_tokens_batch('{}', '{}', '{}', '{}', '{}', '{}', '{}')",
    "select * from charge_events('{}', '{}', '{}', '{}', '{}', '{}', null)",
    "select * from try_events('{}', '{}', '{}', '{}', '{}', '{}', null)",
    "select * from mark_events_pending('{}', '{}', '{}', '{}', '{}', '{}', '{}')",
    "select charge_ordinary_events('{}', '{}', '{}', '{}', '{}', '{}')",
    "select * from charge_other_events('{}', '{}', '{}', '{}', '{}', '{}', null)",
    "select * from resolve_events('{}', '{}', '{}')",
    "select deduct_tokens_atomic('job', gen_random_uuid(), null, 1)",
    "select * from mark_deductions_pending('{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}')",
    "select credit_tokens('key', gen_random_uuid(), 1, null, null, 'me')",
    "select refund_tokens('key', 'forfeit', 'me', 'why')",
    "select * from deduct_tokens_segment('{}', '{}', '{}', '{}', '{}', '{}', '{}', 1)",
    "select update_article_jobs('{}', '{}', '{}')",
    "select tokens_left_step(1, 1, 1)",
    "select tokens_left(1::bigint, 1::bigint)",
    "select tokens_left_beside_step(1, 1, 1, 1)",
    "select tokens_left_beside(1::bigint, 1::bigint, 1::bigint)",
    "select hold_tokens(gen_random_uuid(), gen_random_uuid(), 1, '1h')",
    "select release_hold(gen_random_uuid(), null)",
    "select close_holds('{}', '{}', '{}', now())",
    "select * from expired_holds(null, null, 1)",
    "select * from close_expired_holds('{}', '{}')",
    "select * from archive_dead_letters('{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}',
                                        '{}')",
    "select resolve_dead_letters(null)",
    "select lock_dead_letters()",
    "select * from stale_deductions('1h', null, null, 1)",
    "select * from claim_stale_deductions('1h', null, null, 1, '1m')",
    "select * from charge_pending_deductions('{}')",
    "select * from write_off_pending_deductions('{}')",
    "select job_of('')",
    "select find_article(null)",
    "select canonical_key('')",
    "select canonical_keys('{}')",
    "select is_key('')",
    "select commit_durably()",
    "select keep_attempt()",
    "select refuse_change()",
    "select refuse_unless_one_row(1, gen_random_uuid())",
    "select record_operator_action('me', 'x', 'y', null, '{}')",
    "select check_own_action(1, 'replay')",
    "select begin_replay('me', 'y', null, '{}')",
    "select * from claim_dead_letters(1, '{}', '1m')",
    "select mark_dead_letters_replayed(1, '{}', now())",
    "select release_dead_letters(1, '{}')",
    "select finish_replay(1, '{}')",
    "select * from change_dead_letters('discard', '{}', null, 'me', 'y', 'why')",
    "select * from edit_dead_letter(1, '', '', null, null, null, null, 'me', 'why')",
    "select record_dead_letter_actions(1, '{}', null)",
    "select add_api_key(gen_random_uuid(), 'x', sha256(''), '{read}', null, 'me')",
    "select revoke_api_key(gen_random_uuid(), 'me')",
    "select note_api_key_use(gen_random_uuid())",
];

async fn run(connection: &mut PgConnection, sql: &str) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(connection)
        .await
        .map(drop)
}

fn sqlstate(error: &sqlx::Error) -> String {
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .unwrap_or_default()
        .into_owned()
}

#[tokio::test]
async fn a_role_that_is_not_ours_may_execute_nothing() {
    let ledger = Ledger::open().await;
    let functions: i64 = sqlx::query_scalar(
        "select count(*) from pg_proc where pronamespace = current_schema()::regnamespace",
    )
    .fetch_one(ledger.pool())
    .await
    .expect("counted");
    assert_eq!(functions, 51, "a new function is called here too");

    for sql in CALLS {
        // The role goes with the transaction.
        let mut transaction = ledger.pool().begin().await.expect("begun");
        run(
            &mut transaction,
            "create role stranger; set local role stranger",
        )
        .await
        .expect("another role");
        let refused = run(&mut transaction, sql).await.expect_err(sql);
        assert_eq!(sqlstate(&refused), "42501", "{sql}: {refused}");
    }
}

#[tokio::test]
async fn what_runs_with_our_rights_has_a_pinned_search_path_that_ends_in_pg_temp() {
    let ledger = Ledger::open().await;
    let definers: Vec<(String, Option<Vec<String>>)> = sqlx::query_as(
        "select proname::text, proconfig from pg_proc
         where pronamespace = current_schema()::regnamespace and prosecdef order by proname",
    )
    .fetch_all(ledger.pool())
    .await
    .expect("functions");
    let names: Vec<&str> = definers.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "add_api_key",
        "archive_dead_letters",
        "begin_replay",
        "change_dead_letters",
        "charge_events",
        "charge_pending_deductions",
        "claim_dead_letters",
        "claim_stale_deductions",
        "close_expired_holds",
        "credit_tokens",
        "deduct_tokens_atomic",
        "deduct_tokens_batch",
        "edit_dead_letter",
        "expired_holds",
        "finish_replay",
        "hold_tokens",
        "lock_dead_letters",
        "mark_dead_letters_replayed",
        "mark_deductions_pending",
        "mark_events_pending",
        "note_api_key_use",
        "refund_tokens",
        "release_dead_letters",
        "release_hold",
        "resolve_dead_letters",
        "revoke_api_key",
        "stale_deductions",
        "try_events",
        "write_off_pending_deductions",
    ];
    assert_eq!(names, expected);
    for (name, settings) in &definers {
        let path = settings
            .iter()
            .flatten()
            .find_map(|setting| setting.strip_prefix("search_path="));
        assert_eq!(path, Some("public, pg_temp"), "{name}");
    }
}

#[tokio::test]
async fn a_caller_needs_no_right_but_execute_and_its_temporary_objects_shadow_nothing() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 1000).await;
    let job = ledger.job(company).await;
    let mut transaction = ledger.pool().begin().await.expect("begun");
    let id = company.to_string();
    run(
        &mut transaction,
        &format!(
            "create role attacker;
             grant execute on function deduct_tokens_atomic(text, uuid, uuid, bigint, jsonb),
                 credit_tokens(text, uuid, bigint, bigint, timestamptz, text),
                 refund_tokens(text, text, text, text) to attacker;
             set local role attacker;
             create temp table company_subscriptions as
                 select '{id}'::uuid as company_id, 0::bigint as monthly_token_quota,
                        0::bigint as monthly_quota_balance, 9000000::bigint as purchased_token_balance,
                        null::timestamptz as current_period_end, now() as updated_at;
             create temp table token_deduction_records (idempotency_key text, status text);
             create temp table token_usage_logs (id int);
             create temp table token_credits (idempotency_key text, kind text);
             create temp table operator_actions (id int);
             create temp table article_jobs (id uuid);
             create temp sequence token_ledger_seq;
             create type pg_temp.deduction_result as (item int);
             create function pg_temp.nextval(regclass) returns bigint language sql as 'select 1::bigint';
             create function pg_temp.clock_timestamp() returns timestamptz language sql as
                 $$ select '2000-01-01'::timestamptz $$;
             create function pg_temp.update_article_jobs(uuid[], uuid[], text[]) returns jsonb
                 language plpgsql as $$ begin raise exception 'shadowed'; end $$;
             create function pg_temp.deduct_tokens_segment(
                 text[], uuid[], uuid[], bigint[], jsonb[], text[], uuid[], int,
                 out results text, out job_ids uuid[], out job_company_ids uuid[], out job_messages text[])
                 language plpgsql as $$ begin raise exception 'shadowed'; end $$;
             set local search_path = pg_temp, public, pg_catalog"
        ),
    )
    .await
    .expect("the attacker prepares");
    let charged = deduct(&mut *transaction, job, company, 400)
        .await
        .expect("charged");
    assert!(charged.success, "{charged:#?}");
    assert_eq!(charged.balance_before, Some(1000));
    run(
        &mut transaction,
        &format!("select public.credit_tokens('k', '{id}', 50, null, null, 'attacker')"),
    )
    .await
    .expect("credited");
    let refund = format!("select public.refund_tokens('{job}', 'forfeit', 'attacker', 'why')");
    run(&mut transaction, &refund).await.expect("refunded");
    run(
        &mut transaction,
        "reset role; drop owned by attacker; drop role attacker",
    )
    .await
    .expect("the attacker leaves");
    transaction.commit().await.expect("committed");
    assert_eq!(ledger.balances(company).await, (0, 1050));
    assert_eq!(ledger.usage_logs(company).await.len(), 2);
    assert_eq!(ledger.job_status(job).await.0, "completed");
}

#[tokio::test]
async fn a_table_of_ours_is_closed_to_other_roles() {
    let ledger = Ledger::open().await;
    for table in [
        "company_subscriptions",
        "token_deduction_records",
        "token_usage_logs",
        "token_credits",
        "operator_actions",
        "dead_letters",
        "dead_letter_actions",
        "token_deduction_attempts",
        "token_billing_locks",
        "token_billing_version",
        "api_keys",
    ] {
        let mut transaction = ledger.pool().begin().await.expect("begun");
        run(
            &mut transaction,
            "create role stranger; set local role stranger",
        )
        .await
        .expect("another role");
        let refused = run(&mut transaction, &format!("delete from {table}"))
            .await
            .expect_err(table);
        assert_eq!(sqlstate(&refused), "42501", "{table}: {refused}");
    }
}

#[tokio::test]
async fn who_may_only_try_can_commit_no_charge() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 100).await;
    let call = |job: uuid::Uuid| {
        format!(
            "select * from try_events(array['{job}'::uuid], array['{company}'::uuid], array[null::uuid], array[10::bigint],
                                      array['{{}}'::jsonb], array['article_generation'], null)"
        )
    };
    for ends in [
        "commit",
        "savepoint a; release savepoint a; commit",
        "set constraints all immediate; commit",
    ] {
        let mut connection = ledger.pool().acquire().await.expect("a connection");
        let job = uuid::Uuid::new_v4();
        let script = format!(
            "begin; savepoint s; {}; release savepoint s; {ends}",
            call(job)
        );
        let refused = run(&mut connection, &script).await.expect_err("refused");
        assert_eq!(sqlstate(&refused), "23503", "{ends}: {refused}");
        run(&mut connection, "rollback").await.expect("rolled back");
        assert!(ledger.record(job).await.is_none());
    }
    let mut connection = ledger.pool().acquire().await.expect("a connection");
    let refused = run(&mut connection, &call(uuid::Uuid::new_v4())).await;
    assert_eq!(sqlstate(&refused.expect_err("alone too")), "23503");
    assert_eq!(ledger.balances(company).await, (0, 100));
}
