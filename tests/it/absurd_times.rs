//! Times that no calendar has, in the tables of the application's and wherever else a stranger may set one: every
//! command bears them.

use uuid::Uuid;

use crate::support::{dead_letters::refused, pending::pending, site::Site};

const ABSURD: [&str; 5] = [
    "'infinity'",
    "'-infinity'",
    "'294276-12-31 23:59:59+00'",
    "'4713-01-01 00:00:00+00 BC'",
    "null",
];

/// A job that was charged, one that was refused, one that is pending; and the id of the refused one's dead letter.
struct Jobs {
    company: Uuid,
    charged: Uuid,
    refused: Uuid,
    pending: Uuid,
    dead_letter: i64,
}

async fn jobs(site: &Site) -> Jobs {
    let (company, poor) = (site.company(0, 1000).await, site.company(0, 0).await);
    let (charged, unpaid) = (site.job(company).await, site.job(poor).await);
    assert!(site.db.deduct(charged, company, 10).await.success);
    assert!(!site.db.deduct(unpaid, poor, 10).await.success);
    let dead_letter = site.archive(&[refused(unpaid, poor, 10)]).await[0];
    let pending = pending(site, company, 10, 62).await;
    Jobs {
        company,
        charged,
        refused: unpaid,
        pending,
        dead_letter,
    }
}

/// Runs everything that reads a time, and what is to end well does.
async fn everything_is_borne(site: &Site, jobs: &Jobs, time: &str) {
    let (company, dead_letter) = (jobs.company.to_string(), jobs.dead_letter.to_string());
    let [charged, refused, pending] =
        [jobs.charged, jobs.refused, jobs.pending].map(|job| job.to_string());
    let key = Uuid::new_v4().to_string();
    for args in [
        &["show", &charged][..],
        &["show", &refused],
        &["show", &pending],
        &["balance", &company],
        &["credit", &company, "--purchased", "5", "--key", &key],
        &["dlq", "show", &dead_letter],
        &["dlq", "list", "--state", "all"],
        &["dlq", "groups"],
        &["dlq", "replay", "--all", "--dry-run"],
        &["dlq", "history"],
        &["reconcile", "--dry-run"],
        &["audit"],
        &["refund", &charged, "--reason", "why", "--dry-run"],
    ] {
        // Of the tables only those that write times.
        let for_people = matches!(args[0], "show" | "balance") || args.get(1) == Some(&"show");
        let formats = if for_people {
            &["json", "table"][..]
        } else {
            &["json"]
        };
        for format in formats {
            let ran = site.run(&[args, &["--output", format]].concat()).await;
            assert!(!ran.done().is_empty(), "{time}: {args:?}");
        }
    }
}

#[tokio::test]
async fn every_command_bears_any_time_in_the_applications_tables() {
    let site = Site::new().await;
    let jobs = jobs(&site).await;
    // An application's own tables may allow that they are missing.
    for (table, column) in [
        ("article_jobs", "created_at"),
        ("article_jobs", "updated_at"),
        ("articles", "created_at"),
        ("company_subscriptions", "created_at"),
        ("company_subscriptions", "updated_at"),
    ] {
        let optional = format!("alter table {table} alter {column} drop not null");
        site.db.execute(optional).await;
    }
    for time in ABSURD {
        let set = format!(
            "update article_jobs set created_at = {time}, updated_at = {time};
             update articles set created_at = {time};
             update company_subscriptions
             set current_period_end = {time}, created_at = {time}, updated_at = {time}"
        );
        site.db.execute(set).await;
        everything_is_borne(&site, &jobs, time).await;
        // What no calendar has is no moment in the life of a job: it is known that it was, not when.
        let shown = ["show", &jobs.charged.to_string(), "--output", "json"];
        let life = site.run(&shown).await.document();
        let first = &life["timeline"][0];
        assert_eq!(
            (&first["what"], first["at"].is_null()),
            (&"job_created".into(), true),
            "{life:#}"
        );
    }
    let table = site.run(&["show", &jobs.charged.to_string()]).await;
    assert!(table.done().contains("unknown"), "{table:#?}");
    // And the charges are right with them all the same.
    site.run(&["reconcile"]).await.done();
    let refund = ["refund", &jobs.charged.to_string(), "--reason", "why"];
    site.run(&refund).await.done();
    let records =
        "select count(*) from token_deduction_records where status in ('completed', 'compensated')";
    assert_eq!(site.number(records).await, 2);
    site.run(&["audit"]).await.done();
}

#[tokio::test]
async fn every_command_bears_the_times_that_a_caller_of_our_functions_may_set() {
    let site = Site::new().await;
    let jobs = jobs(&site).await;
    for time in &ABSURD[..4] {
        let Jobs { company, .. } = jobs;
        // A charge keeps the end of the period that paid for it, and a renewal the ones before and after.
        site.db
            .execute(format!(
                "update company_subscriptions set current_period_end = {time}, monthly_quota_balance = 50
                 where company_id = '{company}'"
            ))
            .await;
        assert!(site.db.deduct(Uuid::new_v4(), company, 1).await.success);
        site.db
            .execute(format!(
                "select credit_tokens('{}', '{company}', null, 50, {time}, 'application')",
                Uuid::new_v4()
            ))
            .await;
        assert!(site.db.deduct(Uuid::new_v4(), company, 1).await.success);
        site.db
            .execute(format!(
                "select archive_dead_letters(array['theirs'], array['x'], array['x'], array['{}'::bytea],
                     array['{{}}'::jsonb], array['{{}}'::jsonb], array['{}'::uuid], array['{company}'::uuid],
                     array[null::uuid], array[1::bigint], array[1], array[{time}::timestamptz],
                     array[{time}::timestamptz], array[null::bigint])",
                Uuid::new_v4(), jobs.charged
            ))
            .await;
        everything_is_borne(&site, &jobs, time).await;
    }
    let dead_letters = site.dead_letters().await;
    for dead_letter in dead_letters
        .iter()
        .filter(|dead_letter| dead_letter.reason == "theirs")
    {
        site.run(&["dlq", "show", &dead_letter.id.to_string()])
            .await
            .done();
    }
}

#[tokio::test]
async fn a_moment_that_is_none_in_utc_is_refused_by_the_name_of_its_flag() {
    let site = Site::new().await;
    let company = site.company(0, 0).await.to_string();
    let late = "9999-12-31T23:00:00-05:00";
    for (args, flag) in [
        (
            &[
                "credit",
                &company,
                "--monthly",
                "1",
                "--key",
                "k",
                "--period-end",
                late,
            ][..],
            "--period-end",
        ),
        (&["dlq", "list", "--since", late], "--since"),
        (&["dlq", "list", "--until", late], "--until"),
        (&["dlq", "history", "--since", late], "--since"),
    ] {
        let ran = site.run(args).await;
        assert!(ran.refused(2).contains(flag), "{ran:#?}");
    }
}
