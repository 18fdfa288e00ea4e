//! An error within a statement may be the installation's or one company's: nobody else pays for the latter.

use std::{collections::HashSet, sync::Arc, time::Duration};

use token_billing::sweeper::{SweepReport, Sweeper};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{
    eventually::{PATIENCE, eventually},
    process::Process,
    site::Site,
};

/// A trigger of the application's that fails for one company.
pub(crate) async fn fails_for(site: &Site, company: Uuid, how: &str) {
    site.db
        .execute(format!(
            "create or replace function of_the_application() returns trigger language plpgsql as $$
             begin
                 if new.company_id = '{company}' then {how}; end if;
                 return new;
             end $$;
             create or replace trigger of_the_application before update on company_subscriptions
                 for each row execute function of_the_application()"
        ))
        .await;
}

async fn pool_of_the_worker(site: &Site) -> HashSet<i32> {
    sqlx::query_scalar(
        "select pid from pg_stat_activity
         where datname = current_database() and application_name = 'token-billing'",
    )
    .fetch_all(site.db.pool())
    .await
    .expect("sessions can be listed")
    .into_iter()
    .collect()
}

/// 40 companies are charged, and one is not, whose trigger fails like this.
async fn one_company_fails_alone(how: &str, said: &str) {
    let site = Site::new().await;
    site.declare().await;
    let mut companies = Vec::new();
    for _ in 0..40 {
        companies.push(site.company(0, 1000).await);
    }
    let failing = site.company(0, 1000).await;
    fails_for(&site, failing, how).await;
    let mut process = Process::start(&["serve", "--role", "worker"], &site.environment());
    process.wait_for_log("readiness: ready", PATIENCE).await;
    site.publish(Uuid::new_v4(), companies[0], 1).await;
    let completed = "select count(*) from token_deduction_records where status = 'completed'";
    eventually(
        "one is charged",
        PATIENCE,
        async || site.number(completed).await,
        |&n| n == 1,
    )
    .await;
    let before = pool_of_the_worker(&site).await;

    let (mut jobs, each) = (Vec::new(), 10);
    for _ in 0..each {
        for company in &companies {
            site.publish(Uuid::new_v4(), *company, 1).await;
        }
        let job = Uuid::new_v4();
        jobs.push(job);
        site.publish(job, failing, 1).await;
    }
    eventually(
        "the others are charged",
        PATIENCE,
        async || site.number(completed).await,
        |&n| n == 1 + 40 * each,
    )
    .await;
    for job in &jobs {
        let record = site.until(*job, "pending").await;
        assert_eq!(record.error_code.as_deref(), Some("retries_exhausted"));
        let dead_letter = site.dead_letter().await;
        assert_eq!(
            dead_letter.header("reason").as_deref(),
            Some("retries_exhausted")
        );
        assert_eq!(dead_letter.header("attempt").as_deref(), Some("3"));
        let error = dead_letter.header("error").unwrap_or_default();
        assert!(error.contains(said), "{error}");
    }
    let after = pool_of_the_worker(&site).await;
    assert!(
        before.intersection(&after).next().is_some(),
        "the pool was thrown away"
    );
    process.terminate().await;
    assert_eq!(process.wait(PATIENCE).await, Some(0));
    assert_quiet(&process.log());
    assert_eq!(site.balance(failing).await, (0, 1000));
    for company in &companies[1..] {
        assert_eq!(site.balance(*company).await, (0, 1000 - each));
    }
    let usage = "select count(*) from token_usage_logs";
    assert_eq!(site.number(usage).await, 1 + 40 * each);
}

/// Readiness never changed, and beside what is said of each event there is little.
fn assert_quiet(log: &[String]) {
    let readiness = log.iter().filter(|line| line.contains("readiness:"));
    assert_eq!(readiness.count(), 1, "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("work pauses")));
    let of_an_event =
        |line: &&String| line.contains("retrying later") || line.contains("dead-lettered");
    let rest = log.iter().filter(|line| !of_an_event(line)).count();
    assert!(rest < 70, "{rest} lines");
}

#[tokio::test]
async fn a_column_that_one_companys_trigger_misses_is_no_outage() {
    let how = "perform no_such_column from article_jobs";
    one_company_fails_alone(how, "SQLSTATE 42703").await;
}

#[tokio::test]
async fn a_servers_state_that_a_trigger_raises_by_hand_is_no_outage() {
    let how = "raise exception 'not now' using errcode = '57P03'";
    one_company_fails_alone(how, "SQLSTATE 57P03").await;
}

#[tokio::test]
async fn too_many_connections_that_a_trigger_raises_by_hand_are_no_outage() {
    let how = "raise exception 'too many' using errcode = '53300'";
    one_company_fails_alone(how, "SQLSTATE 53300").await;
}

#[tokio::test]
async fn a_sweep_sets_one_failing_company_aside_and_settles_the_rest() {
    let site = Site::new().await;
    let (fine, failing) = (site.company(0, 100).await, site.company(0, 100).await);
    fails_for(&site, failing, "perform no_such_column from article_jobs").await;
    let mut jobs = Vec::new();
    for company in [failing, fine, failing, fine] {
        let (job, article) = (Uuid::new_v4(), Uuid::new_v4());
        jobs.push(job);
        site.db
            .execute(format!(
                "insert into articles (id, company_id) values ('{article}', '{company}');
                 select mark_deductions_pending(array['{job}'], array['{company}']::uuid[], array['{article}']::uuid[],
                     array[10], array['{{}}']::jsonb[], array[null]::text[], array[null]::uuid[], array['why']);
                 update token_deduction_records set pending_since = now() - interval '2 h'"
            ))
            .await;
    }
    let sweeper = Sweeper::new(&site.settings(), Arc::new(site.storage()));
    let hour = Duration::from_secs(3600);
    let report = sweeper.run_once(hour, &CancellationToken::new()).await;
    let expected = SweepReport {
        charged: 2,
        set_aside: 2,
        ..SweepReport::default()
    };
    assert_eq!(report.expect("a whole pass"), expected);
    assert_eq!(site.balance(fine).await, (0, 80));
    assert_eq!(site.balance(failing).await, (0, 100));
    for (job, status) in jobs
        .iter()
        .zip(["pending", "completed", "pending", "completed"])
    {
        assert_eq!(site.record(*job).await.expect("there").status, status);
    }
}
