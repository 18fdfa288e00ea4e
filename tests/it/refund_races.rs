//! Refunds, charges and credits at once: one order or the other, never half.

use serde_json::Value;
use token_billing::domain::Reason;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::refund::{figures, refund, refund_by, refusal, used};
use crate::support::{
    adds_up::assert_ledger_adds_up,
    eventually::{PATIENCE, eventually},
    ledger::{Item, Ledger, deduct, deduct_batch},
};

#[tokio::test]
async fn a_period_that_ends_while_a_refund_waits_has_ended() {
    let ledger = Ledger::open().await;
    let company = ledger.company(300, 100).await;
    ledger.deduct("job", company, 350).await;
    let mut holder = ledger.pool().begin().await.expect("begun");
    sqlx::query("select from company_subscriptions for update")
        .execute(&mut *holder)
        .await
        .expect("locked");
    let pool = ledger.pool().clone();
    let waiter = tokio::spawn(async move { refund_by(&pool, "job", "forfeit").await });
    waiting_for_a_lock(&ledger).await;
    // After the refund was asked for, and before it gets the lock.
    let ended: String = sqlx::query_scalar("select clock_timestamp()::text")
        .fetch_one(&mut *holder)
        .await
        .expect("the time");
    for column in [
        "company_subscriptions set current_period_end",
        "token_deduction_records set monthly_period_end",
    ] {
        let sql = format!("update {column} = '{ended}'");
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .execute(&mut *holder)
            .await
            .expect("the period ends");
    }
    holder.commit().await.expect("committed");
    let answer = waiter.await.expect("joined").expect("answered");
    assert_eq!(figures(&answer), [0, 50, 300]);
}

async fn waiting_for_a_lock(ledger: &Ledger) {
    let sql = "select count(*) from pg_stat_activity
               where datname = current_database() and wait_event_type = 'Lock'";
    eventually(
        "a session waits for a lock",
        PATIENCE,
        async || {
            let waiting: i64 = sqlx::query_scalar(sql)
                .fetch_one(ledger.pool())
                .await
                .expect("read");
            waiting
        },
        |&waiting| waiting == 1,
    )
    .await;
}
#[tokio::test]
async fn a_charge_that_comes_during_a_refund_waits_and_finds_it_refunded() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 100).await;
    ledger.deduct("job", company, 60).await;
    let mut refunding = ledger.pool().begin().await.expect("begun");
    refund_by(&mut *refunding, "job", "forfeit")
        .await
        .expect("refunded");
    let pool = ledger.pool().clone();
    let charge =
        tokio::spawn(async move { deduct_batch(&pool, &[Item::new("job", company, 60)]).await });
    waiting_for_a_lock(&ledger).await;
    refunding.commit().await.expect("committed");
    let answers = charge.await.expect("joined").expect("answered");
    assert_eq!(answers[0].error(), Reason::AlreadyCompensated.as_str());
    assert_eq!(ledger.balances(company).await, (0, 100));
}

#[tokio::test]
async fn a_refund_that_comes_during_a_charge_finds_nothing_or_the_whole_of_it() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 100).await;
    let mut charging = ledger.pool().begin().await.expect("begun");
    deduct(&mut *charging, "job", company, 60)
        .await
        .expect("charged");
    assert_eq!(refund(&ledger, "job").await, refusal("not_found"));
    charging.commit().await.expect("committed");
    assert_eq!(figures(&refund(&ledger, "job").await), [0, 60, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_refunds_and_charges_at_once_leave_each_job_charged_or_refunded_once() {
    let ledger = Ledger::open().await;
    let (company, other) = (
        ledger.company(500, 2000).await,
        ledger.company(0, 2500).await,
    );
    let jobs: Vec<(String, Uuid)> = (0..12)
        .map(|n| {
            (
                Uuid::new_v4().to_string(),
                if n % 3 == 0 { other } else { company },
            )
        })
        .collect();
    let mut tasks = JoinSet::new();
    for round in 0..8 {
        let (pool, jobs) = (ledger.pool().clone(), jobs.clone());
        tasks.spawn(async move {
            let mut refunded = 0;
            for at in 0..jobs.len() {
                let (key, company) = &jobs[(at + round) % jobs.len()];
                let item = Item::new(key, *company, 100);
                if round % 2 == 0 {
                    deduct_batch(&pool, &[item]).await.expect("no deadlock");
                }
                let answer = refund_by(&pool, key, "forfeit").await.expect("no deadlock");
                refunded += usize::from(answer["idempotent"] == false);
            }
            refunded
        });
    }
    let refunded: usize = tasks.join_all().await.into_iter().sum();
    // Each was charged by somebody before he asked for its refund.
    assert_eq!(refunded, jobs.len());
    for (key, _) in &jobs {
        assert_eq!(
            ledger.record(key).await.expect("there").status,
            "compensated"
        );
    }
    assert_eq!(ledger.balances(company).await, (500, 2000));
    for (company, tokens) in [(company, 2500), (other, 2500)] {
        assert_ledger_adds_up(ledger.pool(), company, tokens).await;
        assert_eq!(used(&ledger, company).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_refunded_and_credited_at_once_is_both() {
    let ledger = Ledger::open().await;
    let (company, other) = (ledger.company(0, 100).await, ledger.company(0, 0).await);
    for round in 0..20 {
        let key = format!("job {round}");
        assert!(ledger.deduct(&key, company, 5).await.success);
        let (refunded, credited) = tokio::join!(
            refund(&ledger, &key),
            sqlx::query_scalar::<_, Value>("select credit_tokens($1, $2, 5, null, null, 'me')")
                .bind(&key)
                .bind(other)
                .fetch_one(ledger.pool())
        );
        for answer in [refunded, credited.expect("answered")] {
            assert_eq!(answer["success"], true, "{key}: {answer}");
        }
    }
    assert_ledger_adds_up(ledger.pool(), company, 100).await;
    assert_ledger_adds_up(ledger.pool(), other, 0).await;
}
