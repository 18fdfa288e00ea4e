//! The roles that `migrate --print-grants` makes: enough for their work, and no more.

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use uuid::Uuid;

use crate::support::{
    dead_letters::{malformed, refused},
    diagnosis::Diagnosis,
    eventually::{PATIENCE, eventually},
    pending::{pending, pending_for_nothing},
    process::Process,
    role::TestRole,
    site::Site,
};

async fn sqlstate(connection: &mut PgConnection, sql: &str) -> String {
    let refused = sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await;
    let refused = refused.expect_err(sql);
    let code = refused
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    code.unwrap_or_else(|| panic!("{sql}: {refused}"))
        .into_owned()
}

async fn three_dead_letters(site: &Site) {
    let dead_letters = "select count(*) from dead_letters";
    let count = async || site.number(dead_letters).await;
    eventually("all are archived", PATIENCE, count, |&count| count == 3).await;
}

#[tokio::test]
async fn serve_does_all_of_its_work_as_the_role_that_was_printed_for_it() {
    let mut site = Site::new().await;
    let role = TestRole::granted(&site, "serve").await;
    site.set("DATABASE__URL", role.url());
    site.set("RETRY__ATTEMPTS", "0");
    site.set("DATABASE__LOCK_TIMEOUT", "100ms");
    site.set("SWEEPER__INTERVAL", "1s");
    site.set("SWEEPER__STALE_AFTER", "1s");
    let mut serve = Process::start(&["serve"], &site.environment());
    serve.wait_for_log("started", PATIENCE).await;
    site.declare().await;

    let (rich, poor, busy) = (
        site.company(0, 1000).await,
        site.company(0, 5).await,
        site.company(500, 0).await,
    );
    // Charged, its company being that of the job; and refused.
    let (charged, refused) = (site.job(rich).await, site.job(poor).await);
    site.broker
        .publish(format!(r#"{{"job_id": "{charged}", "tokens": 100}}"#))
        .await;
    site.publish(refused, poor, 100).await;
    site.until(charged, "completed").await;
    site.until(refused, "failed").await;

    // Pending while somebody holds the company, charged by the sweeper after that.
    let article = Uuid::new_v4();
    site.db
        .execute(format!(
            "insert into articles (id, company_id) values ('{article}', '{busy}')"
        ))
        .await;
    let job = site.job(busy).await;
    site.db
        .execute(format!(
            "update article_jobs set article_id = '{article}' where id = '{job}'"
        ))
        .await;
    let mut holder = site.db.pool().begin().await.expect("begun");
    sqlx::query("select from company_subscriptions where company_id = $1 for update")
        .bind(busy)
        .execute(&mut *holder)
        .await
        .expect("held");
    site.publish(job, busy, 100).await;
    site.until(job, "pending").await;
    holder.rollback().await.expect("let go");
    site.until(job, "completed").await;

    // Written off: there is no such article.
    let nothing = pending_for_nothing(&site, busy, 90).await;
    site.until(nothing, "failed").await;

    // Its dead letters: the refusal, the two that were pending, and a body that is none.
    site.broker.publish("{").await;
    three_dead_letters(&site).await;
    serve.terminate().await;
    assert_eq!(serve.wait(PATIENCE).await, Some(0));
    let denied = serve.log().into_iter().find(|line| line.contains("denied"));
    assert_eq!(denied, None);
    assert_eq!(site.balance(rich).await, (0, 900));
    assert_eq!(site.balance(busy).await, (400, 0));
}

#[tokio::test]
async fn what_the_printed_role_must_not_do_is_refused() {
    let site = Site::new().await;
    let company = site.company(0, 1000).await;
    site.db.deduct("job", company, 10).await;
    let before = site.db.everything().await;
    let role = TestRole::granted(&site, "serve").await;
    let mut connection = PgConnection::connect(role.url())
        .await
        .expect("a role that may log in");
    for sql in [
        "update company_subscriptions set purchased_token_balance = 0",
        "select purchased_token_balance from company_subscriptions for update",
        "insert into company_subscriptions (company_id) values (gen_random_uuid())",
        "delete from token_deduction_records",
        "update token_deduction_records set status = 'failed'",
        "select metadata from token_deduction_records",
        "truncate token_deduction_records",
        "truncate token_usage_logs, token_credits",
        "insert into token_usage_logs select * from token_usage_logs",
        "delete from token_credits",
        "update article_jobs set status = 'completed'",
        "delete from dead_letters",
        "update dead_letters set state = 'discarded'",
        "select body from dead_letters",
        "insert into operator_actions (actor, action, subject) values ('me', 'x', 'y')",
        "select nextval('token_ledger_seq')",
        "select setval('token_ledger_seq', 1)",
        "select credit_tokens('k', gen_random_uuid(), 1, null, null, 'me')",
        "select refund_tokens('job', 'forfeit', 'me', 'why')",
        "select deduct_tokens_atomic('k', gen_random_uuid(), null, 1)",
        "select lock_dead_letters()",
        "select * from stale_deductions('1h', null, null, 1)",
        "create table public.mine ()",
        "create function public.nextval(regclass) returns bigint language sql as 'select 1::bigint'",
        "create trigger mine before update on company_subscriptions execute function suppress_redundant_updates_trigger()",
        "update _sqlx_migrations set success = false",
        "drop table token_credits",
    ] {
        assert_eq!(sqlstate(&mut connection, sql).await, "42501", "{sql}");
    }
    connection.close().await.expect("closed");
    assert_eq!(site.db.everything().await, before);
}

#[tokio::test]
async fn people_do_all_of_their_work_as_the_role_that_was_printed_for_them() {
    let mut site = Site::new().await;
    site.declare().await;
    let role = TestRole::granted(&site, "operator").await;
    let company = site.company(0, 1000).await;
    let job = site.job(company).await;
    site.db.deduct(job, company, 10).await;
    pending(&site, company, 10, 90).await;
    let dead_letter = site
        .archive(&[refused(site.job(company).await, company, 70)])
        .await[0]
        .to_string();
    let broken = site.archive(&[malformed(b"{}", "job_id: missing")]).await[0].to_string();
    site.set("DATABASE__URL", role.url());
    let (job, company) = (job.to_string(), company.to_string());
    let new_job = format!("job_id={}", Uuid::new_v4());
    let of = format!("company_id={company}");
    for args in [
        &["balance", &company][..],
        &[
            "credit",
            &company,
            "--purchased",
            "5",
            "--key",
            "k",
            "--as",
            "me",
        ],
        &["refund", &job, "--reason", "why"],
        &["show", &job],
        &["dlq", "list"],
        &["dlq", "groups"],
        &["dlq", "stats"],
        &["dlq", "show", &dead_letter],
        &[
            "dlq", "edit", &broken, "--set", &new_job, "--set", &of, "--set", "tokens=1",
            "--reason", "why",
        ],
        &["dlq", "discard", &dead_letter, "--reason", "why", "--yes"],
        &["dlq", "restore", &dead_letter, "--reason", "why", "--yes"],
        &["dlq", "replay", "--all", "--dry-run"],
        &["dlq", "replay", "--all", "--yes", "--no-wait"],
        &["dlq", "history"],
        &[
            "credit",
            &company,
            "--purchased",
            "9",
            "--key",
            "k2",
            "--replay-parked",
        ],
        &["reconcile", "--dry-run"],
        &["reconcile"],
        &["audit"],
    ] {
        let ran = site.run(args).await;
        let notes = ran.notes().to_owned();
        assert!(
            !notes.contains("denied") && !notes.contains("error:"),
            "{args:?}: {ran:#?}"
        );
    }
}

#[tokio::test]
async fn the_role_for_people_is_fit_for_that_and_neither_for_more_nor_for_the_service() {
    let mut site = Site::new().await;
    site.declare().await;
    let role = TestRole::granted(&site, "operator").await;
    site.set("DATABASE__URL", role.url());
    let args = ["doctor", "--for", "operator", "--output", "json"];
    let diagnosis = Diagnosis::of(site.run(&args).await);
    assert_eq!(diagnosis.with("failed"), [""; 0], "{diagnosis:#?}");

    let mut connection = PgConnection::connect(role.url()).await.expect("connected");
    for sql in [
        "update company_subscriptions set purchased_token_balance = 0",
        "update token_deduction_records set status = 'failed'",
        "delete from dead_letters",
        "update dead_letters set body = ''",
        "update dead_letters set state = 'discarded'",
        "select lock_dead_letters()",
        "select record_operator_action('me', 'discard', 'y', null, '{}')",
        "select record_dead_letter_actions(1, '{}', now())",
        "delete from operator_actions",
        "update operator_actions set actor = 'somebody else'",
        "select * from mark_deductions_pending('{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}')",
        "select * from mark_events_pending('{}', '{}', '{}', '{}', '{}', '{}', '{}')",
    ] {
        assert_eq!(sqlstate(&mut connection, sql).await, "42501", "{sql}");
    }
    let diagnosis = site.doctor().await;
    let (finding, fix) = diagnosis.failure("rights_enough");
    assert!(
        finding.contains("execute on function mark_events_pending("),
        "{finding}"
    );
    assert!(fix.contains("migrate --print-grants"), "{fix}");
    let (finding, _) = diagnosis.failure("rights_no_more");
    assert!(
        finding.contains("execute on function credit_tokens("),
        "{finding}"
    );
}

#[tokio::test]
async fn a_name_that_no_role_can_have_is_refused() {
    let site = Site::new().await;
    for name in ["", "two\nlines", "\u{1b}[2J", &"x".repeat(64)] {
        let ran = site.run(&["migrate", "--print-grants", name]).await;
        assert!(ran.refused(2).contains("--print-grants"), "{name:?}");
    }
}
