//! What `doctor` says of tables that an application has made, or changed, in its own way.

use crate::support::{
    diagnosis::Diagnosis,
    role::{TestRole, healthy},
};

/// The first failing check's line of that subject, and its fix.
fn found<'a>(diagnosis: &'a Diagnosis, check: &str, subject: &str) -> (&'a str, &'a str) {
    let line = diagnosis.of_subject(check, subject);
    assert_eq!(line["verdict"], "failed", "{line}");
    let text = |key: &str| line[key].as_str().expect("a text");
    (text("finding"), text("fix"))
}

#[tokio::test]
async fn what_the_functions_need_of_the_applications_tables_is_told_with_sql_that_fixes_it() {
    let (site, _role) = healthy().await;
    for (broken, subject, said) in [
        (
            "alter table company_subscriptions drop column updated_at",
            "company_subscriptions.updated_at",
            "there is no such column",
        ),
        (
            "alter table company_subscriptions drop column purchased_token_balance",
            "company_subscriptions.purchased_token_balance",
            "there is no such column",
        ),
        (
            "alter table article_jobs drop column error_message",
            "article_jobs.error_message",
            "there is no such column",
        ),
        (
            "alter table company_subscriptions drop constraint company_subscriptions_pkey",
            "company_subscriptions.company_id",
            "has no unique index",
        ),
        (
            "alter table article_jobs drop constraint article_jobs_pkey",
            "article_jobs.id",
            "has no unique index",
        ),
        (
            "alter table company_subscriptions alter monthly_quota_balance type int",
            "company_subscriptions.monthly_quota_balance",
            "is integer, not bigint",
        ),
        (
            "alter table company_subscriptions alter current_period_end type timestamp",
            "company_subscriptions.current_period_end",
            "session's time zone",
        ),
        (
            "alter table article_jobs alter status type varchar(10)",
            "article_jobs.status",
            "10 characters are too few",
        ),
        (
            "create type job_state as enum ('running', 'completed', 'failed');
             alter table article_jobs alter status type job_state using status::job_state",
            "article_jobs.status",
            "can't become pending_token_deduction",
        ),
    ] {
        site.db.execute(broken).await;
        let diagnosis = site.doctor().await;
        let (finding, fix) = diagnosis.only_failure("application_tables");
        assert!(finding.contains(said), "{broken}: {finding}");
        let (of_subject, _) = found(&diagnosis, "application_tables", subject);
        assert_eq!(of_subject, finding);
        site.db.execute(fix).await;
        let diagnosis = site.doctor().await;
        assert_eq!(diagnosis.with("failed"), [""; 0], "{fix}: {diagnosis:#?}");
    }
}

#[tokio::test]
async fn what_only_a_person_can_decide_is_told_all_the_same() {
    let (mut site, _role) = healthy().await;
    site.db
        .execute(
            "alter table articles drop column id; alter table articles add id bigint primary key",
        )
        .await;
    let diagnosis = site.doctor().await;
    let (finding, fix) = diagnosis.only_failure("application_tables");
    assert!(finding.starts_with("is bigint, not uuid"), "{finding}");
    assert!(fix.contains("sweeper.article_exists_query"), "{fix}");
    site.set(
        "SWEEPER__ARTICLE_EXISTS_QUERY",
        "select $1::uuid is not null",
    );
    assert_eq!(site.doctor().await.with("failed"), [""; 0]);

    site.db
        .execute("alter table article_jobs add check (status in ('running', 'failed'))")
        .await;
    let diagnosis = site.doctor().await;
    let (finding, _) = diagnosis.only_failure("application_tables");
    assert!(
        finding.contains("completed, pending_token_deduction"),
        "{finding}"
    );
    site.db
        .execute(
            "alter table article_jobs drop constraint article_jobs_status_check;
             alter table company_subscriptions alter company_id type text",
        )
        .await;
    let diagnosis = site.doctor().await;
    let (finding, _) = diagnosis.only_failure("application_tables");
    assert!(finding.starts_with("is text, not uuid"), "{finding}");
}

#[tokio::test]
async fn balances_that_are_null_and_companies_with_two_rows_are_counted() {
    let (mut site, _role) = healthy().await;
    let company = site.company(5, 5).await;
    site.db
        .execute(format!(
            "alter table company_subscriptions drop constraint company_subscriptions_pkey,
                 alter monthly_quota_balance drop not null, alter company_id set not null;
             insert into company_subscriptions (company_id, monthly_quota_balance)
             values (gen_random_uuid(), null), (gen_random_uuid(), null), ('{company}', 5)"
        ))
        .await;
    // As one who may read them.
    let url = site.db.url().to_owned();
    site.set("DATABASE__URL", &url);
    let diagnosis = site.doctor().await;
    let lines = diagnosis.all("application_tables");
    let all: Vec<&str> = lines
        .iter()
        .filter_map(|line| line["finding"].as_str())
        .collect();
    assert!(
        all.iter()
            .any(|one| one.starts_with("2 companies with a balance that is NULL")),
        "{all:#?}"
    );
    assert!(
        all.iter()
            .any(|one| one.starts_with("1 companies with more than one row")),
        "{all:#?}"
    );
    let fix = lines
        .iter()
        .filter_map(|line| line["fix"].as_str())
        .find(|fix| fix.starts_with("update"));
    site.db.execute(fix.expect("SQL")).await;
    let diagnosis = site.doctor().await;
    let lines = diagnosis.all("application_tables");
    assert!(
        !lines
            .iter()
            .any(|line| line["finding"].to_string().contains("NULL")),
        "{lines:#?}"
    );
}

#[tokio::test]
async fn row_level_security_that_may_hide_rows_is_told_for_whoever_is_concerned() {
    let (site, _role) = healthy().await;
    site.db
        .execute("alter table token_usage_logs enable row level security")
        .await;
    let diagnosis = site.doctor().await;
    let (finding, fix) = diagnosis.only_failure("row_security");
    assert!(finding.contains("which is connected"), "{finding}");
    site.db
        .execute(fix.split(", or,").next().expect("SQL"))
        .await;
    assert_eq!(site.doctor().await.with("failed"), [""; 0]);
    // A policy of the application's that lets nobody past it.
    site.db
        .execute("create policy tenant on token_usage_logs as restrictive using (false)")
        .await;
    let diagnosis = site.doctor().await;
    diagnosis.only_failure("row_security");
    site.db
        .execute("alter table token_usage_logs disable row level security")
        .await;

    // The functions run as their owner, who may be another than the tables'.
    let owner = TestRole::create(&site).await;
    let name = owner.quoted();
    site.db
        .execute(format!(
            "alter function deduct_tokens_batch(text[],uuid[],uuid[],bigint[],jsonb[],text[],uuid[]) owner to {name};
             alter table company_subscriptions enable row level security"
        ))
        .await;
    let diagnosis = site.doctor().await;
    let (finding, _) = found(&diagnosis, "application_tables", "company_subscriptions");
    assert!(
        finding.contains("as whom the functions run, lacks select, update"),
        "{finding}"
    );
    let (finding, _) = found(&diagnosis, "row_security", "company_subscriptions");
    assert!(finding.contains("as whom the functions run"), "{finding}");
    site.db
        .execute("alter function deduct_tokens_batch(text[],uuid[],uuid[],bigint[],jsonb[],text[],uuid[]) owner to current_user")
        .await;
}

#[tokio::test]
async fn functions_that_a_call_may_reach_in_place_of_ours_are_told() {
    let (site, role) = healthy().await;
    site.db
        .execute(
            "create function deduct_tokens_atomic(text, uuid, uuid, integer, jsonb default '{}') returns jsonb
             language sql as $$ select '{}'::jsonb $$;
             revoke execute on function deduct_tokens_atomic(text, uuid, uuid, integer, jsonb) from public",
        )
        .await;
    let diagnosis = site.doctor().await;
    let (finding, fix) = diagnosis.only_failure("functions");
    assert!(
        finding.contains("is not ours but has its name"),
        "{finding}"
    );
    site.db.execute(fix).await;
    assert_eq!(site.doctor().await.with("failed"), [""; 0]);

    let name = role.quoted();
    site.db
        .execute(format!(
            "create schema before; grant usage on schema before to {name};
             alter role {name} set search_path = before, public;
             create function before.deduct_tokens_atomic(text, uuid, uuid, bigint, jsonb default '{{}}') returns jsonb
             language sql as $$ select '{{}}'::jsonb $$"
        ))
        .await;
    let diagnosis = site.doctor().await;
    let subject = "before.deduct_tokens_atomic(text, uuid, uuid, bigint, jsonb)";
    let (finding, _) = found(&diagnosis, "functions", subject);
    assert!(
        finding.contains("before ours on the search_path"),
        "{finding}"
    );
}

#[tokio::test]
async fn triggers_that_a_charge_sets_off_are_told_and_nothing_is_held_against_them() {
    let (site, _role) = healthy().await;
    site.db
        .execute(
            "create function touched() returns trigger language plpgsql as $$ begin return new; end $$;
             create trigger touched before update on company_subscriptions for each row execute function touched();
             create constraint trigger checked after update on article_jobs deferrable initially deferred
                 for each row execute function touched();
             create trigger unconcerned before insert on company_subscriptions for each row execute function touched()",
        )
        .await;
    let diagnosis = site.doctor().await;
    assert_eq!(diagnosis.with("failed"), [""; 0], "{diagnosis:#?}");
    let lines = diagnosis.all("triggers");
    assert_eq!(lines.len(), 2, "{lines:#?}");
    let text = format!("{lines:?}");
    assert!(
        text.contains("trigger touched (function touched) runs within each charge"),
        "{text}"
    );
    assert!(
        text.contains("trigger checked (function touched) runs at the commit"),
        "{text}"
    );
}

#[tokio::test]
async fn a_ledger_that_a_crash_would_empty_is_told() {
    let (site, _role) = healthy().await;
    site.db
        .execute("alter table token_usage_logs set unlogged")
        .await;
    let diagnosis = site.doctor().await;
    let (finding, fix) = diagnosis.only_failure("durability");
    assert!(finding.ends_with("token_usage_logs"), "{finding}");
    site.db.execute(fix).await;
    assert_eq!(site.doctor().await.with("failed"), [""; 0]);
}
