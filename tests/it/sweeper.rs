//! Pending charges, processed by the sweeper.

use std::{sync::Arc, time::Duration};

use token_billing::sweeper::{SweepReport, Sweeper};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{
    adds_up::assert_ledger_adds_up,
    eventually::{PATIENCE, eventually},
    is_long,
    ledger::{Item, mark_pending},
    pending::{mark, pending, pending_for_nothing},
    process::Process,
    site::Site,
};

const HOUR: Duration = Duration::from_hours(1);

async fn sweep(site: &Site) -> SweepReport {
    let sweeper = Sweeper::new(&site.settings(), Arc::new(site.storage()));
    let swept = sweeper.run_once(HOUR, &CancellationToken::new()).await;
    swept.expect("the pass comes to its end")
}

#[tokio::test]
async fn what_was_written_is_charged_and_what_was_not_is_written_off() {
    let site = Site::new().await;
    let company = site.company(100, 1000).await;
    let written = pending(&site, company, 300, 90).await;
    let unwritten = pending_for_nothing(&site, company, 90).await;
    let nameless = site.job(company).await;
    mark(&site, &[Item::new(nameless, company, 5)], 90).await;
    let by_job = site.job(company).await;
    site.db
        .execute(format!(
            "update article_jobs set article_id = (select id from articles limit 1) where id = '{by_job}'"
        ))
        .await;
    mark(&site, &[Item::new(by_job, company, 7)], 90).await;
    let too_dear = pending(&site, company, 5000, 90).await;

    let expected = SweepReport {
        charged: 2,
        refused: 1,
        written_off: 1,
        written_off_tokens: 70,
        undecidable: 1,
        ..SweepReport::default()
    };
    assert_eq!(sweep(&site).await, expected);

    let record = site.record(written).await.expect("a record");
    assert_eq!(
        (record.status.as_str(), record.retry_count),
        ("completed", 1)
    );
    assert_eq!(
        (record.monthly_deducted, record.purchased_deducted),
        (100, 200)
    );
    assert_eq!(site.job_status(written).await.0, "completed");
    assert_eq!(
        site.record(by_job).await.expect("a record").status,
        "completed"
    );
    let record = site.record(unwritten).await.expect("a record");
    assert_eq!(
        (record.status.as_str(), record.error_code.as_deref()),
        ("failed", Some("article_not_found"))
    );
    assert_eq!(site.job_status(unwritten).await.0, "failed");
    let record = site.record(too_dear).await.expect("a record");
    assert_eq!(
        (record.status.as_str(), record.error_code.as_deref()),
        ("failed", Some("insufficient_balance"))
    );
    assert_eq!(
        site.record(nameless).await.expect("a record").status,
        "pending"
    );
    assert_eq!(site.balance(company).await, (0, 793));
    assert_ledger_adds_up(site.db.pool(), company, 1100).await;

    // What could not be decided was taken for a while; nothing else is left.
    assert_eq!(sweep(&site).await, SweepReport::default());
}

#[tokio::test]
async fn what_is_pending_for_less_than_an_hour_is_not_touched() {
    let site = Site::new().await;
    let company = site.company(0, 1000).await;
    let young = pending(&site, company, 10, 59).await;
    let old = pending(&site, company, 10, 61).await;
    // Failed for days, and pending since a moment ago.
    let revived = site.job(company).await;
    site.db.deduct(revived, company, 5000).await;
    site.db
        .execute("update token_deduction_records set created_at = now() - interval '3 days' where status = 'failed'")
        .await;
    mark_pending(site.db.pool(), &[Item::new(revived, company, 10)], "busy")
        .await
        .expect("marked");

    assert_eq!(sweep(&site).await.charged, 1);
    assert_eq!(
        site.record(old).await.expect("a record").status,
        "completed"
    );
    for job in [young, revived] {
        assert_eq!(site.record(job).await.expect("a record").status, "pending");
    }
    // Marked again while pending: it is pending since the first time.
    mark_pending(site.db.pool(), &[Item::new(young, company, 10)], "busy")
        .await
        .expect("marked");
    let since = site
        .number(
            "select count(*) from token_deduction_records
             where status = 'pending' and pending_since < now() - interval '58 min'",
        )
        .await;
    assert_eq!(since, 1);
}

#[tokio::test]
async fn an_empty_table_of_articles_writes_nothing_off() {
    let site = Site::new().await;
    let company = site.company(0, 1000).await;
    let job = pending_for_nothing(&site, company, 90).await;
    let report = sweep(&site).await;
    assert_eq!((report.undecidable, report.written_off), (1, 0));
    assert!(report.needs_person());
    assert_eq!(site.record(job).await.expect("a record").status, "pending");
}

#[tokio::test]
async fn what_is_settled_between_the_look_and_the_write_is_left_alone() {
    let site = Site::new().await;
    let storage = site.storage();
    let company = site.company(0, 1000).await;
    let (charged, written_off) = (
        pending(&site, company, 300, 90).await,
        pending_for_nothing(&site, company, 90).await,
    );
    let look = token_billing::storage::StaleLook {
        stale_after: HOUR,
        after: None,
        limit: 10,
    };
    let stale = storage
        .claim_stale_deductions(&look, HOUR)
        .await
        .expect("claimed");
    assert_eq!(stale.len(), 2);
    for job in [charged, written_off] {
        assert!(
            site.db
                .deduct(job, company, if job == charged { 300 } else { 70 })
                .await
                .success
        );
    }
    let before = site.db.everything().await;
    let (charged, written_off) = (charged.to_string(), written_off.to_string());
    assert!(
        storage
            .charge_pending(&[&charged])
            .await
            .expect("asked")
            .is_empty()
    );
    assert!(
        storage
            .write_off_pending(&[&written_off])
            .await
            .expect("asked")
            .is_empty()
    );
    assert_eq!(site.db.everything().await, before);
}

#[tokio::test]
async fn one_record_that_always_fails_keeps_nobody_waiting() {
    let site = Site::new().await;
    let cursed = site.company(0, 1000).await;
    let company = site.company(0, 1000).await;
    let bad = pending(&site, cursed, 10, 600).await;
    let good = [
        pending(&site, company, 10, 90).await,
        pending(&site, company, 10, 80).await,
    ];
    site.db
        .execute(format!(
            "create function curse() returns trigger language plpgsql as
                 $$ begin raise exception 'cursed'; end $$;
             create trigger curse before update on company_subscriptions for each row
                 when (new.company_id = '{cursed}') execute function curse()"
        ))
        .await;
    let report = sweep(&site).await;
    assert_eq!((report.charged, report.set_aside), (2, 1));
    for job in good {
        assert_eq!(
            site.record(job).await.expect("a record").status,
            "completed"
        );
    }
    assert_eq!(site.record(bad).await.expect("a record").status, "pending");
}

#[tokio::test]
async fn three_sweepers_share_the_work_while_others_charge() {
    let site = Arc::new(Site::new().await);
    let (records, companies) = if is_long() {
        (100_000, 500)
    } else {
        (3_000, 50)
    };
    let mut ids = Vec::new();
    for _ in 0..companies {
        ids.push(site.company(0, 1_000_000).await);
    }
    site.db
        .execute(format!(
            "insert into articles (id, company_id)
             select gen_random_uuid(), company_id from generate_series(1, {records} / {companies}), company_subscriptions;
             insert into token_deduction_records
                 (idempotency_key, company_id, article_id, amount, status, error_code, pending_since)
             select gen_random_uuid()::text, company_id, id, 3, 'pending', 'retries_exhausted', now() - interval '2 hours'
             from articles;
             analyze token_deduction_records"
        ))
        .await;
    let live = {
        let (site, ids) = (site.clone(), ids.clone());
        tokio::spawn(async move {
            for n in 0..300 {
                let charged = site.db.deduct(Uuid::new_v4(), ids[n % ids.len()], 2).await;
                assert!(charged.success, "{charged:?}");
            }
        })
    };
    let sweeps = [(); 3].map(|()| {
        let site = site.clone();
        tokio::spawn(async move { sweep(&site).await })
    });
    let mut reports = Vec::new();
    for swept in sweeps {
        reports.push(swept.await.expect("no panic"));
    }
    live.await.expect("nobody is refused");
    // A row that was locked at the very moment of the look is left to the next pass.
    reports.push(sweep(&site).await);
    let charged: u64 = reports.iter().map(|report| report.charged).sum();
    assert_eq!(charged, records, "{reports:#?}");
    assert!(
        reports
            .iter()
            .all(|report| report.set_aside + report.no_longer_pending == 0),
        "{reports:#?}"
    );
    let pending = site
        .number("select count(*) from token_deduction_records where status = 'pending'")
        .await;
    assert_eq!(pending, 0);
    for company in ids {
        assert_ledger_adds_up(site.db.pool(), company, 1_000_000).await;
    }
}

#[tokio::test]
async fn a_sweeper_that_dies_in_mid_pass_leaves_the_rest_to_the_next() {
    let mut site = Site::new().await;
    site.set("SWEEPER__BATCH_MAX", "2");
    site.set("SWEEPER__CLAIM", "1s");
    site.set("SWEEPER__INTERVAL", "1s");
    let company = site.company(0, 1000).await;
    let mut jobs = Vec::new();
    for n in 0..7 {
        jobs.push(pending(&site, company, 10, 100 - n).await);
    }
    let failpoint = format!("after_sweep_claim:{}", jobs[3]);
    let mut environment = site.environment();
    environment.push(("TOKEN_BILLING_FAILPOINT", &failpoint));
    let serve = ["serve", "--role", "sweeper"];
    let mut process = Process::start(&serve, &environment);
    assert_eq!(process.wait(PATIENCE).await, None, "{:#?}", process.log());
    let done = "select count(*) from token_deduction_records where status = 'completed'";
    assert_eq!(site.number(done).await, 2);

    let mut process = Process::start(&serve, &site.environment());
    eventually(
        "all are charged",
        PATIENCE,
        async || site.number(done).await,
        |&done| done == 7,
    )
    .await;
    process.terminate().await;
    assert_eq!(process.wait(PATIENCE).await, Some(0));
    assert_eq!(site.balance(company).await, (0, 930));
    assert_ledger_adds_up(site.db.pool(), company, 1000).await;
}

#[tokio::test]
async fn records_that_somebody_holds_do_not_end_the_pass() {
    let mut site = Site::new().await;
    site.set("SWEEPER__BATCH_MAX", "1");
    let company = site.company(0, 1000).await;
    let (held, free) = (
        pending(&site, company, 10, 90).await,
        pending(&site, company, 10, 80).await,
    );
    let mut holder = site.db.pool().begin().await.expect("begun");
    sqlx::query("select from token_deduction_records where idempotency_key = $1 for update")
        .bind(held.to_string())
        .execute(&mut *holder)
        .await
        .expect("held");
    assert_eq!(sweep(&site).await.charged, 1);
    assert_eq!(
        site.record(free).await.expect("a record").status,
        "completed"
    );
    holder.rollback().await.expect("let go");
    assert_eq!(sweep(&site).await.charged, 1);
}

#[tokio::test]
async fn a_company_that_somebody_holds_is_set_aside_after_two_tries() {
    let mut site = Site::new().await;
    site.set("DATABASE__LOCK_TIMEOUT", "100ms");
    let (busy, idle) = (site.company(0, 1000).await, site.company(0, 1000).await);
    for _ in 0..20 {
        pending(&site, busy, 1, 90).await;
    }
    pending(&site, idle, 1, 80).await;
    let mut holder = site.db.pool().begin().await.expect("begun");
    sqlx::query("select from company_subscriptions where company_id = $1 for update")
        .bind(busy)
        .execute(&mut *holder)
        .await
        .expect("held");
    let report = sweep(&site).await;
    assert_eq!((report.charged, report.set_aside), (1, 20));
    holder.rollback().await.expect("let go");
}

#[tokio::test]
async fn however_many_companies_somebody_holds_the_others_are_swept() {
    let mut site = Site::new().await;
    site.set("DATABASE__LOCK_TIMEOUT", "100ms");
    let mut holder = site.db.pool().begin().await.expect("begun");
    for _ in 0..5 {
        let busy = site.company(0, 1000).await;
        pending(&site, busy, 1, 90).await;
        sqlx::query("select from company_subscriptions where company_id = $1 for update")
            .bind(busy)
            .execute(&mut *holder)
            .await
            .expect("held");
    }
    let idle = site.company(0, 1000).await;
    pending(&site, idle, 1, 80).await;
    let report = sweep(&site).await;
    assert_eq!((report.charged, report.set_aside), (1, 5));
    holder.rollback().await.expect("let go");
}

#[tokio::test]
async fn however_many_articles_the_query_is_too_slow_for_it_is_asked_about_the_others() {
    let mut site = Site::new().await;
    let (slow, company) = (site.company(0, 1000).await, site.company(0, 1000).await);
    site.set("DATABASE__LOCK_TIMEOUT", "200ms");
    site.set("DATABASE__STATEMENT_TIMEOUT", "300ms");
    site.set(
        "SWEEPER__ARTICLE_EXISTS_QUERY",
        &format!(
            "select $1::uuid is not null and $2::uuid is not null
                    and pg_sleep(case $3::uuid when '{slow}' then 60 else 0 end) is not null"
        ),
    );
    for _ in 0..5 {
        pending(&site, slow, 1, 90).await;
    }
    pending(&site, company, 1, 80).await;
    let report = sweep(&site).await;
    assert_eq!((report.charged, report.set_aside), (1, 5));
}
