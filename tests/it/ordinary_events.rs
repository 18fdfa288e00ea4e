//! `charge_events`: ordinary events are charged together, by one statement; all others are decided one by one, and
//! that shows in nothing but its speed.

use std::collections::BTreeSet;

use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::support::eventually::{PATIENCE, eventually};
use crate::support::ledger::{Item, Ledger, charge_events, deduct, deduct_batch};

/// As the worker has it.
fn event(job: Uuid, company: Uuid, amount: i64) -> Item {
    Item {
        usage_type: Some("article_generation".to_owned()),
        ..Item::new(job, company, amount)
    }
}

fn new_event(company: Uuid) -> Item {
    event(Uuid::new_v4(), company, 10)
}

/// The places of those that are ordinary; they are charged.
async fn charge_ordinary(connection: &mut PgConnection, events: &[Item]) -> Vec<i32> {
    let column = |of: fn(&Item) -> Option<Uuid>| -> Vec<_> { events.iter().map(of).collect() };
    sqlx::query_scalar("select charged from charge_ordinary_events($1, $2, $3, $4, $5, $6)")
        .bind(column(|event| event.job_id))
        .bind(column(|event| event.company_id))
        .bind(column(|event| event.article_id))
        .bind(events.iter().map(|event| event.amount).collect::<Vec<_>>())
        .bind(
            events
                .iter()
                .map(|event| event.metadata.clone())
                .collect::<Vec<_>>(),
        )
        .bind(
            events
                .iter()
                .map(|event| event.usage_type.clone())
                .collect::<Vec<_>>(),
        )
        .fetch_one(connection)
        .await
        .expect("the places")
}

async fn ordinary_of(ledger: &Ledger, events: &[Item]) -> Vec<i32> {
    let mut connection = ledger.pool().acquire().await.expect("a connection");
    charge_ordinary(&mut connection, events).await
}

#[tokio::test]
async fn ordinary_events_need_no_other_function() {
    let ledger = Ledger::open().await;
    let (a, b) = (ledger.company(15, 100).await, ledger.company(0, 20).await);
    let (job, article) = (ledger.job(a).await, Uuid::new_v4());
    ledger
        .execute(format!(
            "update article_jobs set article_id = '{article}' where id = '{job}'"
        ))
        .await;
    let unnamed = Item {
        company_id: None,
        ..event(ledger.job(b).await, b, 5)
    };
    let events = [event(job, a, 10), new_event(b), new_event(a), unnamed];
    let mut transaction = ledger.pool().begin().await.expect("a transaction");
    sqlx::query("set local track_functions = 'all'")
        .execute(&mut *transaction)
        .await
        .expect("set");
    let outcomes = charge_events(&mut *transaction, &events).await;
    assert_eq!(outcomes.expect("charged"), ["charged"; 4]);
    let calls: Vec<(String, i64)> = sqlx::query_as(
        "select funcname::text, calls from pg_stat_xact_user_functions
         where funcname in ('charge_ordinary_events', 'charge_other_events')",
    )
    .fetch_all(&mut *transaction)
    .await
    .expect("counted");
    assert_eq!(calls, [("charge_ordinary_events".to_owned(), 1)]);
    transaction.commit().await.expect("committed");

    assert_eq!(ledger.balances(a).await, (0, 95));
    assert_eq!(ledger.balances(b).await, (0, 5));
    let record = ledger.record(job).await.expect("recorded");
    assert_eq!(record.article_id, Some(article));
    assert!(record.monthly_period_end.is_some());
    let third = ledger.record(events[2].job_id.expect("a job")).await;
    let third = third.expect("recorded");
    assert_eq!((third.monthly_deducted, third.purchased_deducted), (5, 5));
    for event in [&events[0], &events[3]] {
        let status = ledger.job_status(event.job_id.expect("a job")).await;
        assert_eq!(status, ("completed".to_owned(), None));
    }
}

/// A company with tokens for ten events.
async fn rich(ledger: &Ledger) -> Uuid {
    ledger.company(0, 100).await
}

#[tokio::test]
async fn an_event_that_is_not_ordinary_takes_along_at_most_its_company() {
    let ledger = Ledger::open().await;
    let (plain, twice, before) = (
        rich(&ledger).await,
        rich(&ledger).await,
        rich(&ledger).await,
    );
    let (failed, poor) = (rich(&ledger).await, ledger.company(0, 15).await);
    let (charged, tried) = (Uuid::new_v4(), Uuid::new_v4());
    ledger.deduct(charged, before, 10).await;
    ledger.deduct(tried, failed, 1000).await;
    let copied = new_event(twice);
    let events = [
        new_event(plain),
        new_event(poor),
        event(charged, before, 10),
        copied.clone(),
        new_event(Uuid::new_v4()),
        new_event(poor),
        new_event(before),
        copied.clone(),
        new_event(failed),
        event(tried, failed, 10),
        new_event(plain),
    ];
    let mut trial = ledger.pool().begin().await.expect("a transaction");
    let ordinary = charge_ordinary(&mut trial, &events).await;
    assert_eq!(
        ordinary.into_iter().collect::<BTreeSet<_>>(),
        [1, 4, 7, 11].into()
    );
    trial.rollback().await.expect("rolled back");

    let (short, again) = ("insufficient_balance", "charged_before");
    let missing = "company_not_found";
    assert_eq!(
        ledger.charge_events(&events).await,
        [
            "charged", "charged", again, "charged", missing, short, "charged", again, "charged",
            "charged", "charged"
        ]
    );
    let left = [
        (plain, 80),
        (twice, 90),
        (before, 80),
        (poor, 5),
        (failed, 80),
    ];
    for (company, purchased) in left {
        assert_eq!(ledger.balances(company).await, (0, purchased));
    }
}

#[tokio::test]
async fn a_row_that_is_locked_or_another_companys_is_not_ordinary() {
    let ledger = Ledger::open().await;
    let (plain, busy, jobs) = (
        rich(&ledger).await,
        rich(&ledger).await,
        rich(&ledger).await,
    );
    let (foreign, held) = (ledger.job(plain).await, ledger.job(jobs).await);
    let events = [
        event(foreign, jobs, 10),
        new_event(busy),
        event(held, jobs, 10),
        new_event(jobs),
    ];
    let mut holder = ledger.pool().begin().await.expect("a transaction");
    for lock in [
        format!("select from company_subscriptions where company_id = '{busy}' for update"),
        format!("select from article_jobs where id = '{held}' for update"),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(lock))
            .execute(&mut *holder)
            .await
            .expect("locked");
    }
    assert_eq!(
        ledger.charge_events(&events).await,
        [
            "company_mismatch",
            "company_locked",
            "job_locked",
            "charged"
        ]
    );
    holder.rollback().await.expect("released");
    for (company, purchased) in [(plain, 100), (busy, 100), (jobs, 90)] {
        assert_eq!(ledger.balances(company).await, (0, purchased));
    }
}

#[tokio::test]
async fn an_expired_quota_pays_nothing() {
    let ledger = Ledger::open().await;
    let (some, none) = (ledger.company(50, 10).await, ledger.company(50, 9).await);
    ledger.expire(some).await;
    ledger.expire(none).await;
    assert_eq!(
        ordinary_of(&ledger, &[new_event(some), new_event(none)]).await,
        [1]
    );
    assert_eq!(ledger.balances(some).await, (50, 0));
    assert_eq!(ledger.balances(none).await, (50, 9));
}

/// Whether a charge of events waits for somebody's lock.
async fn is_waited_for(ledger: &Ledger) -> bool {
    sqlx::query_scalar(
        "select exists (select from pg_stat_activity
         where datname = current_database() and wait_event_type = 'Lock' and query like '%charge_events(%')",
    )
    .fetch_one(ledger.pool())
    .await
    .expect("seen")
}

/// A key that another transaction is inserting is waited for, and costs nobody else anything.
#[tokio::test]
async fn a_key_that_another_company_records_meanwhile_is_that_companys() {
    let ledger = Ledger::open().await;
    let company = async || ledger.company(0, 100).await;
    let (first, second, third) = (company().await, company().await, company().await);
    let job = Uuid::new_v4();
    let mut open = ledger.pool().begin().await.expect("a transaction");
    deduct(&mut *open, job, first, 10).await.expect("charged");
    let events = [event(job, second, 10), new_event(third), new_event(second)];
    let charging = ledger.charge_events(&events);
    let committing = async {
        eventually(
            "the charge waits for the key",
            PATIENCE,
            async || is_waited_for(&ledger).await,
            |&is_waited_for| is_waited_for,
        )
        .await;
        open.commit().await.expect("committed");
    };
    let (outcomes, ()) = tokio::join!(charging, committing);
    assert_eq!(outcomes, ["idempotency_key_reused", "charged", "charged"]);
    assert_eq!(ledger.balances(second).await, (0, 90));
}

/// The charge stands, and is told.
#[tokio::test]
async fn a_status_that_the_application_refuses_undoes_no_charge() {
    let ledger = Ledger::open().await;
    let (a, b) = (ledger.company(0, 100).await, ledger.company(0, 100).await);
    let (refused, fine) = (ledger.job(a).await, ledger.job(b).await);
    ledger
        .execute(format!(
            "alter table article_jobs add check (id <> '{refused}' or status <> 'completed')"
        ))
        .await;
    let events = [event(refused, a, 10), event(fine, b, 10)];
    assert_eq!(ordinary_of(&ledger, &events).await, [0; 0]);
    let told: Vec<(i32, String, bool)> = sqlx::query_as(
        "select item, outcome, job_status_error like '%article_jobs%'
         from charge_events($1, $2, '{null,null}', '{10,10}', '{\"{}\",\"{}\"}', '{a,a}', null)",
    )
    .bind([refused, fine])
    .bind([a, b])
    .fetch_all(ledger.pool())
    .await
    .expect("charged");
    assert_eq!(told, [(1, "charged".to_owned(), true)]);
    assert_eq!(ledger.job_status(refused).await.0, "running");
    assert_eq!(ledger.job_status(fine).await.0, "completed");
    assert_eq!(ledger.balances(a).await, (0, 90));
}

/// One statement writes company and job, and the trigger's write of the same row must not be lost beside it.
#[tokio::test]
async fn a_trigger_may_write_the_companys_row_when_its_job_is_completed() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 100).await;
    ledger
        .execute(
            "alter table company_subscriptions add articles int not null default 0;
             create function count_article() returns trigger language plpgsql as $$ begin
                 update company_subscriptions set articles = articles + 1 where company_id = new.company_id;
                 return new;
             end $$;
             create trigger counts before update on article_jobs for each row execute function count_article()",
        )
        .await;
    let jobs = [ledger.job(company).await, ledger.job(company).await];
    let events = jobs.map(|job| event(job, company, 10));
    assert_eq!(ledger.charge_events(&events).await, ["charged", "charged"]);
    assert_eq!(ledger.balances(company).await, (0, 80));
    let articles: i32 = sqlx::query_scalar("select articles from company_subscriptions")
        .fetch_one(ledger.pool())
        .await
        .expect("counted");
    assert_eq!(articles, 2);
}

/// Open holds of these jobs.
async fn hold(connection: &mut PgConnection, jobs: &[Uuid], company: Uuid) {
    sqlx::query(
        "insert into token_holds (job_id, company_id, amount, expires_at)
         select job, $2, 10, now() + interval '1 hour' from unnest($1) job",
    )
    .bind(jobs)
    .bind(company)
    .execute(connection)
    .await
    .expect("held");
}

#[tokio::test]
async fn a_hold_is_found_by_its_job_however_many_its_company_has() {
    const HOLDS: usize = 1000;
    for is_batch in [false, true] {
        let ledger = Ledger::open().await;
        let company = ledger.company(0, 1_000_000).await;
        let mut connection = ledger.pool().acquire().await.expect("a connection");
        let charge = async |connection: &mut PgConnection, jobs: &[Uuid]| {
            let events: Vec<Item> = jobs.iter().map(|&job| event(job, company, 10)).collect();
            if is_batch {
                let answers = deduct_batch(connection, &events).await.expect("answered");
                assert!(answers.iter().all(|answer| answer.success));
            } else {
                let outcomes = charge_events(connection, &events).await.expect("answered");
                assert!(outcomes.iter().all(|outcome| outcome == "charged"));
            }
        };
        // Plans are made for a table that is as good as empty, and kept.
        let first = Uuid::new_v4();
        hold(&mut connection, &[first], company).await;
        charge(&mut connection, &[first]).await;

        let jobs: Vec<Uuid> = (0..HOLDS).map(|_| Uuid::new_v4()).collect();
        hold(&mut connection, &jobs, company).await;
        let mut transaction = connection.begin().await.expect("a transaction");
        charge(&mut transaction, &jobs[..100]).await;
        let looked_at: i64 = sqlx::query_scalar(
            "select idx_tup_fetch from pg_stat_xact_user_tables where relname = 'token_holds'",
        )
        .fetch_one(&mut *transaction)
        .await
        .expect("counted");
        // Each once, for what is held of the company, and a few of each event's own.
        let looked_at = usize::try_from(looked_at).expect("a count");
        assert!(
            (HOLDS..2 * HOLDS).contains(&looked_at),
            "{looked_at}, batch {is_batch}"
        );
    }
}
