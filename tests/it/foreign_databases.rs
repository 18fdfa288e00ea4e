//! The functions in databases that an application has shaped: rows that are there twice, balances that are NULL,
//! strangers with locks, clients with settings and arrays of their own.

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use uuid::Uuid;

use crate::support::{
    dead_letters::refused,
    eventually::{PATIENCE, eventually},
    ledger::{Item, Ledger, deduct},
    role::TestRole,
    site::Site,
};

/// The application's table without a unique key, and the company in it twice.
async fn add_again(ledger: &Ledger, company: Uuid) {
    ledger
        .execute(format!(
            "alter table company_subscriptions drop constraint company_subscriptions_pkey;
             insert into company_subscriptions select * from company_subscriptions where company_id = '{company}'"
        ))
        .await;
}

async fn answer(ledger: &Ledger, sql: String) -> Result<Value, String> {
    let asked = sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_one(ledger.pool())
        .await;
    asked.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_company_with_two_rows_is_neither_charged_nor_credited_nor_refunded() {
    let ledger = Ledger::open().await;
    let whole = ledger.company(0, 100).await;
    let company = ledger.company(0, 50_000).await;
    assert!(ledger.deduct("before", company, 10).await.success);
    add_again(&ledger, company).await;
    let before = ledger.everything().await;
    for call in [
        format!("credit_tokens('k', '{company}', 5, null, null, 'me')"),
        format!("credit_tokens('k', '{company}', null, 5, now() + interval '1 day', 'me')"),
        "refund_tokens('before', 'forfeit', 'me', 'why')".to_owned(),
        format!("deduct_tokens_atomic('new', '{company}', null, 5)"),
        format!(
            "to_jsonb(deduct_tokens_batch('{{a,b}}', '{{{whole},{company}}}', '{{null,null}}', '{{1,1}}', '{{null,null}}',
             '{{null,null}}', '{{null,null}}'))"
        ),
    ] {
        let refused = answer(&ledger, format!("select {call}")).await.expect_err(&call);
        assert!(refused.contains("more than one row for company"), "{call}: {refused}");
        assert!(refused.contains(&company.to_string()), "{call}: {refused}");
    }
    assert_eq!(ledger.everything().await, before);
    assert!(ledger.deduct("new", whole, 5).await.success);
}

#[tokio::test]
async fn events_of_a_company_with_two_rows_end_pending_and_stop_no_other() {
    let mut site = Site::new().await;
    site.set("RETRY__ATTEMPTS", "0");
    let company = site.company(0, 50_000).await;
    add_again(&site.db, company).await;
    let other = site.company(0, 100).await;
    let running = site.start().await;
    let (stuck, job) = (Uuid::new_v4(), Uuid::new_v4());
    site.publish(stuck, company, 10).await;
    site.publish(job, other, 10).await;
    site.until(job, "completed").await;
    site.until(stuck, "pending").await;
    running.stop().await;
    assert_eq!(site.balance(other).await, (0, 90));
}

#[tokio::test]
async fn a_balance_that_is_null_is_no_tokens() {
    let site = Site::new().await;
    let company = site.company(0, 0).await;
    site.db
        .execute(
            "alter table company_subscriptions alter monthly_quota_balance drop not null,
                 alter purchased_token_balance drop not null, alter monthly_token_quota drop not null;
             update company_subscriptions
             set monthly_quota_balance = null, purchased_token_balance = null, monthly_token_quota = null",
        )
        .await;
    let id = company.to_string();
    let shown = site
        .run(&["balance", &id, "--output", "json"])
        .await
        .document();
    assert_eq!(
        (&shown["monthly"], &shown["purchased"], &shown["total"]),
        (&0.into(), &0.into(), &0.into())
    );
    let refused = site.db.deduct("job", company, 10).await;
    assert_eq!(
        (refused.error(), refused.available),
        ("insufficient_balance", Some(0))
    );
    site.run(&["credit", &id, "--purchased", "30", "--key", "k"])
        .await
        .done();
    assert_eq!(
        site.db.deduct("job", company, 10).await.figures(),
        (0, 10, Some(30), Some(20))
    );
    let refund = answer(
        &site.db,
        "select refund_tokens('job', 'forfeit', 'me', 'why')".to_owned(),
    )
    .await;
    assert_eq!(refund.expect("refunded")["success"], true);
    site.run(&[
        "credit",
        &id,
        "--monthly",
        "5",
        "--period-end",
        "2100-01-01T00:00:00Z",
        "--key",
        "m",
    ])
    .await
    .done();
    assert_eq!(site.balance(company).await, (5, 30));
    site.run(&["audit"]).await.done();
}

#[tokio::test]
async fn advisory_locks_of_a_stranger_stop_neither_the_archive_nor_the_sweeper_nor_a_charge() {
    let mut site = Site::new().await;
    site.set("DATABASE__LOCK_TIMEOUT", "2s");
    let company = site.company(0, 100).await;
    let role = TestRole::create(&site).await;
    let mut stranger = PgConnection::connect(role.url())
        .await
        .expect("any role that may log in");
    sqlx::raw_sql(
        "select pg_advisory_lock(hashtextextended(name, 0))
         from unnest(array['token-billing dead_letters', 'token-billing sweeper', 'token-billing job']) name",
    )
    .execute(&mut stranger)
    .await
    .expect("locked");
    assert_eq!(
        site.archive(&[refused(Uuid::new_v4(), company, 10)])
            .await
            .len(),
        1
    );
    site.run(&["reconcile"]).await.done();
    assert!(site.db.deduct("job", company, 10).await.success);
    for sql in [
        "select lock_dead_letters()",
        "select from token_billing_locks for update",
        "begin; lock table token_billing_locks",
    ] {
        let refused = sqlx::raw_sql(sql)
            .execute(&mut stranger)
            .await
            .expect_err(sql);
        assert!(
            refused.to_string().contains("permission denied"),
            "{sql}: {refused}"
        );
    }
}

#[tokio::test]
async fn single_calls_in_one_transaction_take_no_place_in_the_servers_memory_for_locks() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 1000).await;
    let mut transaction = ledger.pool().begin().await.expect("begun");
    let mut locks = Vec::new();
    for calls in [0..1, 1..300] {
        for call in calls {
            let charged = deduct(&mut *transaction, format!("job {call}"), company, 1).await;
            assert!(charged.expect("charged").success);
        }
        // That memory is the whole server's, and bounded: 60,000 calls once used it up.
        let held: i64 =
            sqlx::query_scalar("select count(*) from pg_locks where pid = pg_backend_pid()")
                .fetch_one(&mut *transaction)
                .await
                .expect("read");
        locks.push(held);
    }
    assert_eq!(locks[0], locks[1]);
}

#[tokio::test]
async fn a_charge_is_on_disk_at_its_commit_whatever_the_caller_has_set() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 100).await;
    for (set, at_commit) in [
        ("off", "on"),
        ("local", "on"),
        ("remote_write", "on"),
        ("on", "on"),
        ("remote_apply", "remote_apply"),
    ] {
        for call in [
            format!("select deduct_tokens_atomic('{set}', '{company}', null, 1)"),
            format!("select credit_tokens('{set}', '{company}', 1, null, null, 'me')"),
            format!("select refund_tokens('{set}', 'forfeit', 'me', 'why')"),
        ] {
            let mut transaction = ledger.pool().begin().await.expect("begun");
            let set = format!("set local synchronous_commit = {set}");
            sqlx::raw_sql(AssertSqlSafe(set.as_str()))
                .execute(&mut *transaction)
                .await
                .expect("set");
            sqlx::raw_sql(AssertSqlSafe(call.as_str()))
                .execute(&mut *transaction)
                .await
                .expect("called");
            let now: String = sqlx::query_scalar("show synchronous_commit")
                .fetch_one(&mut *transaction)
                .await
                .expect("shown");
            assert_eq!(now, at_commit, "{set}: {call}");
            transaction.commit().await.expect("committed");
        }
    }
    assert_eq!(ledger.balances(company).await, (0, 105));
}

#[tokio::test]
async fn arrays_of_two_dimensions_are_refused_and_not_paired_wrongly() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 100).await;
    let before = ledger.everything().await;
    let ids = format!("'{{{company},{company}}}'");
    for call in [
        format!(
            "deduct_tokens_batch('{{{{a,b}}}}', {ids}, '{{null,null}}', '{{1,2}}', '{{null,null}}', '{{null,null}}', '{{null,null}}')"
        ),
        format!(
            "deduct_tokens_batch('{{a,b}}', {ids}, '{{null,null}}', '{{{{1}},{{2}}}}', '{{null,null}}', '{{null,null}}', '{{null,null}}')"
        ),
        format!(
            "mark_deductions_pending('{{a,b}}', {ids}, '{{null,null}}', '{{{{1}},{{2}}}}', '{{null,null}}', '{{null,null}}', '{{null,null}}', '{{e,e}}')"
        ),
    ] {
        let refused = answer(&ledger, format!("select count(*)::text::jsonb from {call}"))
            .await
            .expect_err(&call);
        assert!(
            refused.contains("more than one dimension"),
            "{call}: {refused}"
        );
    }
    assert_eq!(ledger.everything().await, before);
    assert!(ledger.deduct_batch(&[Item::new("a", company, 1)]).await[0].success);
}

#[tokio::test]
async fn a_charged_job_published_again_without_its_company_is_a_duplicate() {
    let site = Site::new().await;
    let company = site.company(0, 100).await;
    let job = Uuid::new_v4();
    let running = site.start().await;
    site.publish(job, company, 10).await;
    site.until(job, "completed").await;
    let again = serde_json::json!({"job_id": job, "tokens": 10}).to_string();
    site.broker.publish(again.as_bytes()).await;
    let metrics = running.metrics.clone();
    eventually(
        "it is known",
        PATIENCE,
        async || metrics.worker_counts(),
        |counts| counts.duplicates + counts.delayed + counts.dead_lettered > 0,
    )
    .await;
    running.stop().await;
    let counts = metrics.worker_counts();
    assert_eq!(
        (counts.duplicates, counts.delayed, counts.dead_lettered),
        (1, 0, 0),
        "{counts:?}"
    );
    assert_eq!(site.balance(company).await, (0, 90));
}

#[tokio::test]
async fn articles_with_ids_of_another_type_fail_no_sweep_and_no_show() {
    let mut site = Site::new().await;
    let company = site.company(0, 100).await;
    let (job, article) = (Uuid::new_v4(), Uuid::new_v4());
    for articles in [
        "drop table articles",
        "create table articles (id bigint primary key); insert into articles values (1)",
    ] {
        site.db
            .execute(format!(
                "{articles};
                 select mark_deductions_pending(array['{job}'], array['{company}'::uuid], array['{article}'::uuid], array[10],
                     array['{{}}'::jsonb], array['x'], array['{job}'::uuid], array['busy']);
                 update token_deduction_records set pending_since = now() - interval '2 hours', claimed_until = null"
            ))
            .await;
        // Whether the article exists can't be told: a person must.
        let ran = site.run(&["reconcile"]).await;
        ran.failed(3);
        assert!(
            ran.printed().contains("undecidable"),
            "{articles}: {ran:#?}"
        );
        site.run(&["show", &job.to_string()]).await.done();
    }
    site.set("SWEEPER__ARTICLE_EXISTS_QUERY", "select true");
    site.db
        .execute("update token_deduction_records set claimed_until = null")
        .await;
    site.run(&["reconcile"]).await.done();
    assert_eq!(site.balance(company).await, (0, 90));
}
