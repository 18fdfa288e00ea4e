//! `serve` on an installation that can't work: it says what is missing and how that is fixed, takes nothing
//! from the queue meanwhile, and goes on by itself.

use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{
    db::TestDb,
    eventually::{PATIENCE, eventually},
    process::Process,
    role::healthy,
    servers::Servers,
    site::Site,
};

async fn nothing(_: &PgPool) {}

/// Waits until the last line of readiness has all of these.
async fn until_told(process: &Process, parts: &[&str]) -> String {
    let last = async || {
        let log = process.log();
        let mut lines = log.iter().rev().filter(|line| line.contains("readiness: "));
        lines.next().cloned().unwrap_or_default()
    };
    let has_all = |line: &String| parts.iter().all(|part| line.contains(part));
    eventually(&format!("{parts:?}"), PATIENCE, last, has_all).await
}

fn impatient(site: &mut Site) {
    site.set("RECONNECT__INITIAL", "20ms");
    site.set("RECONNECT__MAX", "200ms");
}

#[tokio::test]
async fn an_unmigrated_database_is_named_so_and_worked_with_once_it_is_migrated() {
    let mut site = Site::new().await;
    let empty = TestDb::create(Servers::shared(), nothing).await;
    site.declare().await;
    site.set("DATABASE__URL", empty.url());
    impatient(&mut site);
    let (job, company) = (Uuid::new_v4(), Uuid::new_v4());
    site.publish(job, company, 10).await;
    let mut process = Process::start(&["serve"], &site.environment());
    let told = [
        "not ready: the database is not ready for use: migrations: not applied: 1, 2",
        "(fix: token-billing migrate)",
    ];
    until_told(&process, &told).await;
    let queue = site.broker.work_queue();
    assert_eq!(site.broker.ready_count(&queue).await, Some(1));
    site.run(&["migrate"]).await.done();
    let sql =
        "insert into company_subscriptions (company_id, purchased_token_balance) values ($1, 100)";
    sqlx::query(sql)
        .bind(company)
        .execute(empty.pool())
        .await
        .expect("added");
    let balance = "select purchased_token_balance from company_subscriptions";
    until_told(&process, &["readiness: ready"]).await;
    eventually(
        "it is charged, or was refused before its company was there",
        PATIENCE,
        async || {
            let records = "select count(*) from token_deduction_records";
            sqlx::query_scalar::<_, i64>(records)
                .fetch_one(empty.pool())
                .await
                .expect("read")
        },
        |&records| records == 1,
    )
    .await;
    let left: i64 = sqlx::query_scalar(balance)
        .fetch_one(empty.pool())
        .await
        .expect("read");
    assert!(left == 90 || left == 100);
    process.terminate().await;
    assert_eq!(process.wait(PATIENCE).await, Some(0));
    // Nobody's log is filled while a person reads it.
    let pauses = process
        .log()
        .iter()
        .filter(|line| line.contains("work pauses"))
        .count();
    // One for each state that a migration in between may have shown.
    let states = 1 + token_billing::storage::MIGRATIONS.iter().count();
    assert!(pauses <= states, "{:#?}", process.log());
}

#[tokio::test]
async fn whatever_is_missing_is_named_with_its_fix_and_found_again_when_it_is_there() {
    let (mut site, role) = healthy().await;
    impatient(&mut site);
    let name = role.quoted();
    let charge = "charge_events(uuid[],uuid[],uuid[],bigint[],jsonb[],text[],int)";
    // As whose owner all functions are taken to run.
    let owned = "deduct_tokens_batch(text[],uuid[],uuid[],bigint[],jsonb[],text[],uuid[])";
    for (broken, told, fixed) in [
        (
            format!("revoke execute on function {charge} from {name}"),
            ["rights enough", "charge_events(", "migrate --print-grants"],
            format!("grant execute on function {charge} to {name}"),
        ),
        (
            "create table kept as select * from _sqlx_migrations where version = 3;
             delete from _sqlx_migrations where version = 3"
                .to_owned(),
            ["migrations", "not applied: 3", "token-billing migrate"],
            "insert into _sqlx_migrations select * from kept; drop table kept".to_owned(),
        ),
        (
            "alter table company_subscriptions rename updated_at to changed_at".to_owned(),
            [
                "application tables",
                "company_subscriptions.updated_at: there is no such column",
                "add column updated_at",
            ],
            "alter table company_subscriptions rename changed_at to updated_at".to_owned(),
        ),
        (
            format!(
                "alter function {owned} owner to {name}; alter table article_jobs enable row level security"
            ),
            [
                "row security",
                "article_jobs: row level security may hide rows",
                "create policy",
            ],
            format!(
                "alter function {owned} owner to current_user; alter table article_jobs disable row level security"
            ),
        ),
        (
            format!("alter role {name} set session_replication_role = replica"),
            [
                "triggers",
                "session_replication_role is replica",
                "reset session_replication_role",
            ],
            format!("alter role {name} reset session_replication_role"),
        ),
    ] {
        site.db.execute(format!("begin; {broken}; commit")).await;
        let company = site.company(0, 100).await;
        let job = Uuid::new_v4();
        site.publish(job, company, 10).await;
        let mut process = Process::start(&["serve"], &site.environment());
        until_told(&process, &["not ready"]).await;
        until_told(&process, &told).await;
        assert!(site.record(job).await.is_none(), "{broken}");
        site.db.execute(format!("begin; {fixed}; commit")).await;
        until_told(&process, &["readiness: ready"]).await;
        site.until(job, "completed").await;
        process.terminate().await;
        assert_eq!(process.wait(PATIENCE).await, Some(0));
        assert_eq!(site.balance(company).await, (0, 90));
    }
}

#[tokio::test]
async fn what_goes_missing_while_it_runs_pauses_the_work_and_uses_up_no_attempt() {
    let (mut site, role) = healthy().await;
    impatient(&mut site);
    let name = role.quoted();
    let charge = "charge_events(uuid[],uuid[],uuid[],bigint[],jsonb[],text[],int)";
    let mut process = Process::start(&["serve"], &site.environment());
    until_told(&process, &["readiness: ready"]).await;
    let company = site.company(0, 100).await;
    let revoke = format!("revoke execute on function {charge} from {name}");
    site.db.execute(revoke).await;
    let job = Uuid::new_v4();
    site.publish(job, company, 10).await;
    until_told(&process, &["not ready", "rights enough", "print-grants"]).await;
    assert!(site.record(job).await.is_none());
    let grant = format!("grant execute on function {charge} to {name}");
    site.db.execute(grant).await;
    site.until(job, "completed").await;
    until_told(&process, &["readiness: ready"]).await;
    process.terminate().await;
    assert_eq!(process.wait(PATIENCE).await, Some(0));
    let retried = process
        .log()
        .iter()
        .any(|line| line.contains("retrying later"));
    assert!(!retried, "{:#?}", process.log());
    assert_eq!(site.balance(company).await, (0, 90));
}

#[tokio::test]
async fn what_is_no_reason_to_stop_is_said_once_and_charged_with() {
    let (mut site, _role) = healthy().await;
    impatient(&mut site);
    site.db
        .execute("alter table article_jobs drop column updated_at")
        .await;
    let company = site.company(0, 100).await;
    let job = site.job(company).await;
    site.publish(job, company, 10).await;
    let mut process = Process::start(&["serve"], &site.environment());
    until_told(&process, &["readiness: ready"]).await;
    site.until(job, "completed").await;
    process.terminate().await;
    assert_eq!(process.wait(PATIENCE).await, Some(0));
    let log = process.log();
    let said = "to be fixed: application tables: article_jobs.updated_at: there is no such column (fix: alter table";
    assert_eq!(
        log.iter().filter(|line| line.contains(said)).count(),
        1,
        "{log:#?}"
    );
    assert_eq!(site.balance(company).await, (0, 90));
}

#[tokio::test]
async fn a_full_disk_is_told_once_and_over_when_something_was_written() {
    let mut site = Site::new().await;
    impatient(&mut site);
    let (job, company) = (Uuid::new_v4(), site.company(0, 100).await);
    // A device that is always full; the sequence counts the tries, whatever is rolled back.
    site.db
        .execute(
            "create sequence tries;
             create function write_to_a_full_disk() returns trigger language plpgsql as $$ begin
                 perform nextval('tries');
                 copy (select 1) to '/dev/full';
                 return new;
             end $$;
             create trigger full_disk before update on company_subscriptions
                 for each row execute function write_to_a_full_disk()",
        )
        .await;
    let mut process = Process::start(&["serve"], &site.environment());
    until_told(&process, &["readiness: ready"]).await;
    site.publish(job, company, 10).await;
    let tries = async || site.number("select last_value from tries").await;
    eventually("it is tried again and again", PATIENCE, tries, |tries| {
        *tries >= 5
    })
    .await;
    until_told(&process, &["no connection, memory or disk left"]).await;
    site.db
        .execute("drop trigger full_disk on company_subscriptions")
        .await;
    site.until(job, "completed").await;
    until_told(&process, &["readiness: ready"]).await;
    process.terminate().await;
    assert_eq!(process.wait(PATIENCE).await, Some(0));
    // Ready, full, ready: the looks between, which write nothing, found nothing wrong.
    let log = process.log();
    let readiness = log.iter().filter(|line| line.contains("readiness: "));
    assert_eq!(readiness.count(), 3, "{log:#?}");
    assert_eq!(site.balance(company).await, (0, 90));
}
