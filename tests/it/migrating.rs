//! `migrate` in databases that are not ours: their defaults, their tables, their long readers.

use std::time::Duration;

use serde_json::Value;
use sqlx::{Connection as _, PgConnection, Postgres, Transaction};
use token_billing::storage::{FUNCTIONS, MIGRATIONS, RELATIONS};
use tokio::time::Instant;
use uuid::Uuid;

use crate::support::{
    command::Ran, eventually::PATIENCE, ledger::deduct, process::Process, role::TestRole,
    site::Site,
};

/// An installation whose database has nothing of ours.
pub(crate) async fn bare() -> Site {
    let site = Site::new().await;
    site.db
        .execute("drop schema public cascade; create schema public")
        .await;
    site
}

/// One that lacks what can't be made while somebody writes.
async fn behind() -> Site {
    let site = Site::new().await;
    site.db
        .execute("drop trigger no_truncate on token_deduction_records")
        .await;
    site
}

/// What a hosted database does for its "anonymous" role.
async fn give_all_by_default(site: &Site, role: &TestRole) {
    let role = role.quoted();
    site.db
        .execute(format!(
            "alter default privileges in schema public grant all on functions to {role};
             alter default privileges in schema public grant all on tables to {role} with grant option;
             alter default privileges in schema public grant all on sequences to {role};
             alter default privileges grant all on tables to {role};
             grant usage on schema public to {role}"
        ))
        .await;
}

/// Every right that the role has on something of ours, as `privilege object`.
async fn rights(site: &Site, role: &TestRole) -> Vec<String> {
    let role = role.quoted();
    let role = role[1..role.len() - 1].replace("\"\"", "\"");
    sqlx::query_scalar(
        "select p.privilege || ' ' || c.relname from pg_class c
         cross join unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'trigger', 'references']) p (privilege)
         where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v') and has_table_privilege($1, c.oid, p.privilege)
         union all
         select p.privilege || ' ' || c.relname from pg_class c cross join unnest(array['usage', 'select', 'update']) p (privilege)
         where c.relnamespace = 'public'::regnamespace and c.relkind = 'S' and has_sequence_privilege($1, c.oid, p.privilege)
         union all
         select 'execute ' || p.proname from pg_proc p
         where p.pronamespace = 'public'::regnamespace and has_function_privilege($1, p.oid, 'execute')
         order by 1",
    )
    .bind(role)
    .fetch_all(site.db.pool())
    .await
    .expect("rights can be read")
}

/// A transaction that stays open, with locks on the ledger: an application that charges and then thinks.
async fn hold(site: &Site) -> Transaction<'static, Postgres> {
    let company = site.company(0, 10).await;
    let mut held = site.db.pool().begin().await.expect("begun");
    let charged = deduct(&mut *held, Uuid::new_v4(), company, 1).await;
    assert!(charged.expect("charged").success);
    sqlx::query("select count(*) from token_credits")
        .execute(&mut *held)
        .await
        .expect("read");
    held
}

/// As a REVOKE has them.
fn revoked_in(document: &Value) -> Vec<String> {
    let list = document["revoked"].as_array().expect("a list");
    let text = |one: &Value| {
        let part = |key: &str| one[key].as_str().expect("a text").to_owned();
        let (privileges, kind) = (part("privileges"), part("kind"));
        format!(
            "{privileges} on {kind} {} from {}",
            part("object"),
            part("role")
        )
    };
    list.iter().map(text).collect()
}

fn lines(document: &Value, key: &str) -> Vec<String> {
    let list = document[key].as_array().expect("a list");
    let text = |one: &Value| one.as_str().expect("a text").to_owned();
    list.iter().map(text).collect()
}

#[tokio::test]
async fn every_object_that_is_made_is_known_by_name() {
    let site = bare().await;
    site.run(&["migrate"]).await.done();
    let relations: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class
         where relnamespace = 'public'::regnamespace and relkind not in ('i', 'c')
           and relname not in ('article_jobs', 'articles', 'company_subscriptions') order by relname collate \"C\"",
    )
    .fetch_all(site.db.pool())
    .await
    .expect("read");
    assert_eq!(relations, RELATIONS);
    let signatures: Vec<&str> = FUNCTIONS.iter().map(|one| one.signature.as_str()).collect();
    let unknown: Vec<String> = sqlx::query_scalar(
        "select oid::regprocedure::text from pg_proc
         where pronamespace = 'public'::regnamespace
           and oid <> all (select to_regprocedure(signature) from unnest($1) s (signature))",
    )
    .bind(signatures)
    .fetch_all(site.db.pool())
    .await
    .expect("read");
    assert_eq!(unknown, [""; 0]);
}

#[tokio::test]
async fn what_the_servers_defaults_give_to_others_is_taken_away_and_a_grant_stays() {
    let site = bare().await;
    let anon = TestRole::create(&site).await;
    give_all_by_default(&site, &anon).await;
    // One of the application's tables is there before us, with a right that is none of our business.
    site.db
        .execute("create table articles (id uuid primary key, company_id uuid, created_at timestamptz default now())")
        .await;
    let document = site.run(&["migrate", "--output", "json"]).await.document();
    let all = "delete insert references select trigger truncate update";
    let mut articles: Vec<String> = all
        .split(' ')
        .map(|right| format!("{right} articles"))
        .collect();
    assert_eq!(rights(&site, &anon).await, articles);
    let revoked = revoked_in(&document);
    for named in [
        "on table company_subscriptions",
        "on sequence token_ledger_seq",
        "execute on function credit_tokens(",
    ] {
        assert!(
            revoked.iter().any(|line| line.contains(named)),
            "{named}: {revoked:#?}"
        );
    }

    // What a person grants later stays, through every migration.
    site.db
        .execute(format!(
            "grant select on token_deduction_records to {}",
            anon.quoted()
        ))
        .await;
    let again = site.run(&["migrate", "--output", "json"]).await.document();
    assert_eq!(revoked_in(&again), Vec::<String>::new());
    articles.push("select token_deduction_records".to_owned());
    articles.sort();
    assert_eq!(rights(&site, &anon).await, articles);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_long_transaction_migrate_waits_in_short_steps_and_charging_goes_on() {
    let site = behind().await;
    let company = site.company(0, 1_000_000).await;
    let holder = hold(&site).await;
    let settings = [("TOKEN_BILLING__DATABASE__MIGRATE_LOCK_TIMEOUT", "200ms")];
    let environment = [&site.environment(), &settings[..]].concat();
    let mut migrating = Process::start(&["migrate"], &environment);
    let said = migrating.wait_for_log("waiting for a lock", PATIENCE).await;
    assert!(said.contains("process "), "{said}");

    // Until it has given up a second time, which takes its pause and its lock timeout.
    let (mut charged, mut slowest) = (0, Duration::ZERO);
    while migrating.log().len() < 2 {
        let asked = Instant::now();
        assert!(site.db.deduct(Uuid::new_v4(), company, 1).await.success);
        slowest = slowest.max(asked.elapsed());
        charged += 1;
    }
    assert!(charged > 10, "{charged} charges while it waited");
    // Without end behind that transaction; here for one lock timeout and what a busy machine adds.
    assert!(slowest < PATIENCE / 2, "one charge waited {slowest:?}");

    holder.rollback().await.expect("done");
    assert_eq!(
        migrating.wait(PATIENCE).await,
        Some(0),
        "{:#?}",
        migrating.log()
    );
    assert!(site.db.deduct(Uuid::new_v4(), company, 1).await.success);
    assert_eq!(site.balance(company).await, (0, 1_000_000 - charged - 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_cannot_be_had_ends_migrate_with_nothing_changed() {
    let site = behind().await;
    let _holder = hold(&site).await;
    let settings = [
        ("TOKEN_BILLING__DATABASE__MIGRATE_LOCK_TIMEOUT", "50ms"),
        ("TOKEN_BILLING__DATABASE__MIGRATE_PATIENCE", "0s"),
    ];
    let ran = site.run_in(&settings, &["migrate"]).await;
    assert!(ran.refused(1).contains("lock timeout"), "{ran:#?}");
    let document = site
        .run(&["migrate", "--dry-run", "--output", "json"])
        .await
        .document();
    assert_eq!(lines(&document, "functions"), ["refuse_change"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_at_once_end_well_and_one_of_them_did_it() {
    let site = bare().await;
    let migrate = || site.run(&["migrate", "--output", "json"]);
    let ran: [Ran; 3] = tokio::join!(migrate(), migrate(), migrate()).into();
    let applied = ran.map(|one| one.document()["applied"].as_array().expect("a list").len());
    assert!(applied.contains(&MIGRATIONS.iter().count()), "{applied:?}");
    site.run(&["migrate", "--dry-run"]).await.done();
}

#[tokio::test]
async fn what_the_applications_tables_lack_is_told_with_its_fix() {
    let site = bare().await;
    site.db
        .execute(
            "create table company_subscriptions (company_id uuid, monthly_token_quota bigint,
                 monthly_quota_balance bigint, purchased_token_balance bigint, current_period_end timestamptz,
                 updated_at timestamptz)",
        )
        .await;
    let document = site.run(&["migrate", "--output", "json"]).await.document();
    let faults = lines(&document, "to_be_fixed");
    assert!(
        faults
            .iter()
            .any(|fault| fault.contains("unique") && fault.contains("company_id")),
        "{faults:#?}"
    );
    let said = site.run(&["migrate"]).await;
    assert!(said.done().contains("to be fixed:"), "{said:#?}");
    site.db
        .execute("create unique index on company_subscriptions (company_id)")
        .await;
    let document = site.run(&["migrate", "--output", "json"]).await.document();
    assert_eq!(lines(&document, "to_be_fixed"), Vec::<String>::new());
}

#[tokio::test]
async fn a_stranger_with_migrates_advisory_lock_is_named() {
    let site = bare().await;
    let role = TestRole::create(&site).await;
    let mut stranger = PgConnection::connect(role.url()).await.expect("connected");
    sqlx::query("select pg_advisory_lock(hashtextextended('token-billing migrate', 0))")
        .execute(&mut stranger)
        .await
        .expect("locked");
    let settings = [("TOKEN_BILLING__DATABASE__MIGRATE_LOCK_TIMEOUT", "50ms")];
    let environment = [&site.environment(), &settings[..]].concat();
    let mut migrating = Process::start(&["migrate"], &environment);
    let said = migrating.wait_for_log("waiting for a lock", PATIENCE).await;
    assert!(said.contains("holds an advisory lock"), "{said}");
    stranger.close().await.expect("gone");
    assert_eq!(migrating.wait(PATIENCE).await, Some(0));
}

#[tokio::test]
async fn only_a_table_of_our_own_gets_room_for_updates() {
    let has_room = "select count(*) from pg_class
                    where oid = 'article_jobs'::regclass and reloptions @> '{fillfactor=70}'";
    assert_eq!(Site::new().await.number(has_room).await, 1);
    let site = bare().await;
    site.db
        .execute(
            "create table article_jobs (id uuid primary key, company_id uuid not null, article_id uuid,
                 status text not null, error_message text, updated_at timestamptz)",
        )
        .await;
    Ran::to_its_end(&["migrate"], &site.environment(), b"")
        .await
        .done();
    assert_eq!(site.number(has_room).await, 0);
}
