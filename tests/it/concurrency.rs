//! Many at once on the same keys and companies.

use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::adds_up::assert_ledger_adds_up;
use crate::support::eventually::{PATIENCE, eventually};
use crate::support::ledger::{Answer, Item, Ledger, deduct, deduct_batch};

async fn connections(ledger: &Ledger, count: u32) -> PgPool {
    PgPoolOptions::new()
        .min_connections(count)
        .max_connections(count)
        .acquire_timeout(PATIENCE)
        .connect(ledger.url())
        .await
        .expect("connected")
}

/// Returns when `count` sessions of this database wait for a lock.
async fn waiting_for_a_lock(ledger: &Ledger, count: i64) {
    eventually(
        "sessions wait for a lock",
        PATIENCE,
        async || {
            sqlx::query_scalar(
                "select count(*) from pg_stat_activity
                 where datname = current_database() and wait_event_type = 'Lock'",
            )
            .fetch_one(ledger.pool())
            .await
            .expect("activity can be read")
        },
        |&waiting: &i64| waiting == count,
    )
    .await;
}

/// Charges in a session of its own.
fn spawn_batch(ledger: &Ledger, items: Vec<Item>) -> tokio::task::JoinHandle<Vec<Answer>> {
    let pool = ledger.pool().clone();
    tokio::spawn(async move { deduct_batch(&pool, &items).await.expect("no error") })
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_calls_with_one_new_key_exactly_one_charges() {
    let ledger = Ledger::open().await;
    let company = ledger.company(300, 1000).await;
    let pool = connections(&ledger, 64).await;
    let start = std::sync::Arc::new(Barrier::new(64));
    let mut calls = JoinSet::new();
    for _ in 0..64 {
        let mut connection = pool.acquire().await.expect("a connection");
        let start = start.clone();
        calls.spawn(async move {
            start.wait().await;
            deduct(&mut *connection, "job", company, 500).await
        });
    }
    let answers: Vec<Answer> = calls
        .join_all()
        .await
        .into_iter()
        .map(|answer| answer.expect("none errors"))
        .collect();
    pool.close().await;

    let charged: Vec<&Answer> = answers
        .iter()
        .filter(|answer| answer.success && !answer.idempotent)
        .collect();
    assert_eq!(charged.len(), 1, "{answers:#?}");
    for answer in &answers {
        assert!(
            answer.error() == "deduction_in_progress"
                || answer.deduction_record_id == charged[0].deduction_record_id,
            "{answer:#?}"
        );
    }
    assert_eq!(ledger.balances(company).await, (0, 800));
    assert_ledger_adds_up(ledger.pool(), company, 1300).await;
}

#[tokio::test]
async fn a_key_that_a_single_call_is_charging_is_in_progress_for_every_other() {
    let ledger = Ledger::open().await;
    let (company, other) = (ledger.company(0, 100).await, ledger.company(0, 100).await);
    let mut first = ledger.pool().begin().await.expect("begun");
    let charged = deduct(&mut *first, "job", company, 60)
        .await
        .expect("charged");
    for company in [company, other] {
        let answer = ledger.deduct("job", company, 60).await;
        assert!(!answer.success);
        assert_eq!(answer.error(), "deduction_in_progress");
        assert_eq!((answer.status, answer.retry_count), (None, None));
    }
    first.commit().await.expect("committed");
    let after = ledger.deduct("job", company, 60).await;
    assert!(after.idempotent);
    assert_eq!(after.deduction_record_id, charged.deduction_record_id);
}

#[tokio::test]
async fn a_call_that_was_rolled_back_was_never_made() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 100).await;
    let mut first = ledger.pool().begin().await.expect("begun");
    deduct(&mut *first, "job", company, 60)
        .await
        .expect("charged");
    first.rollback().await.expect("rolled back");
    let answer = ledger.deduct("job", company, 70).await;
    assert_eq!((answer.success, answer.retry_count), (true, Some(0)));
}

#[tokio::test]
async fn a_single_call_waits_for_a_batch_and_gets_its_result() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 100).await;
    let mut batch = ledger.pool().begin().await.expect("begun");
    let charged = deduct_batch(&mut *batch, &[Item::new("job", company, 60)])
        .await
        .expect("charged");
    let pool = ledger.pool().clone();
    let single = tokio::spawn(async move { deduct(&pool, "job", company, 60).await });
    waiting_for_a_lock(&ledger, 1).await;
    batch.commit().await.expect("committed");
    let answer = single.await.expect("joined").expect("no error");
    assert_eq!(
        answer,
        Answer {
            idempotent: true,
            ..charged[0].clone()
        }
    );
}

#[tokio::test]
async fn waiting_for_a_company_is_bounded_by_lock_timeout() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 100).await;
    let mut holder = ledger.pool().begin().await.expect("begun");
    deduct(&mut *holder, "job", company, 60)
        .await
        .expect("charged");
    let mut waiter = ledger.pool().begin().await.expect("begun");
    sqlx::query("set local lock_timeout = 20")
        .execute(&mut *waiter)
        .await
        .expect("set");
    let error = deduct(&mut *waiter, "other", company, 1)
        .await
        .expect_err("the company is locked");
    let code = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    assert_eq!(code.as_deref(), Some("55P03"), "{error}");
}

#[tokio::test]
async fn a_quota_that_expires_while_a_charge_waits_is_not_spent() {
    let ledger = Ledger::open().await;
    let company = ledger.company(300, 100).await;
    let mut holder = ledger.pool().begin().await.expect("begun");
    sqlx::query("select from company_subscriptions for update")
        .execute(&mut *holder)
        .await
        .expect("locked");
    let waiter = spawn_batch(&ledger, vec![Item::new("job", company, 50)]);
    waiting_for_a_lock(&ledger, 1).await;
    // After the waiting charge was asked for, and before it gets the lock.
    sqlx::query("update company_subscriptions set current_period_end = clock_timestamp()")
        .execute(&mut *holder)
        .await
        .expect("the period ends");
    holder.commit().await.expect("committed");
    let answers = waiter.await.expect("joined");
    assert_eq!(answers[0].purchased_deducted, 50, "{answers:#?}");
    assert_eq!(ledger.balances(company).await, (300, 50));
}

/// Two companies ask for one key; the first has charged it but not yet decided to keep that.
async fn one_key_of_two_companies(ledger: &Ledger, first_commits: bool) -> (Uuid, Answer) {
    let (a, b) = (ledger.company(0, 100).await, ledger.company(0, 100).await);
    let mut first = ledger.pool().begin().await.expect("begun");
    let charged = deduct_batch(&mut *first, &[Item::new("job", a, 60)])
        .await
        .expect("charged");
    assert!(charged[0].success);
    let second = spawn_batch(ledger, vec![Item::new("job", b, 60)]);
    waiting_for_a_lock(ledger, 1).await;
    if first_commits {
        first.commit().await.expect("committed");
    } else {
        first.rollback().await.expect("rolled back");
    }
    let [answer] = second
        .await
        .expect("joined")
        .try_into()
        .expect("one answer");
    (b, answer)
}

#[tokio::test]
async fn one_key_of_two_companies_at_once_is_charged_to_who_commits() {
    let ledger = Ledger::open().await;
    let (loser, answer) = one_key_of_two_companies(&ledger, true).await;
    assert_eq!(answer.error(), "idempotency_key_reused");
    assert_eq!(ledger.balances(loser).await, (0, 100));
    assert!(ledger.usage_logs(loser).await.is_empty());
}

#[tokio::test]
async fn one_key_of_two_companies_at_once_is_charged_to_the_second_if_the_first_gives_up() {
    let ledger = Ledger::open().await;
    let (winner, answer) = one_key_of_two_companies(&ledger, false).await;
    assert!(answer.success && !answer.idempotent);
    assert_eq!(ledger.balances(winner).await, (0, 40));
}

#[tokio::test]
async fn a_correction_to_two_companies_at_once_is_charged_to_one() {
    let ledger = Ledger::open().await;
    ledger.deduct("job", Uuid::new_v4(), 60).await;
    let (loser, answer) = one_key_of_two_companies(&ledger, true).await;
    assert_eq!(answer.error(), "idempotency_key_reused");
    assert_eq!(ledger.balances(loser).await, (0, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_companies_racing_for_the_same_keys_never_share_one() {
    let ledger = Ledger::open().await;
    let companies = [ledger.company(0, 1000).await, ledger.company(0, 1000).await];
    for round in 0..30 {
        let keys: Vec<String> = (0..5).map(|n| format!("{round}-{n}")).collect();
        let [mut ours, mut theirs] = companies.map(|company| {
            keys.iter()
                .map(|key| Item::new(key, company, 1))
                .collect::<Vec<_>>()
        });
        ours.rotate_left(round % 5);
        theirs.reverse();
        let (ours, theirs) = (spawn_batch(&ledger, ours), spawn_batch(&ledger, theirs));
        let answers = [ours.await.expect("joined"), theirs.await.expect("joined")].concat();
        let won = answers.iter().filter(|answer| answer.success).count();
        assert_eq!(won, keys.len(), "{answers:#?}");
        for answer in answers.iter().filter(|answer| !answer.success) {
            assert_eq!(answer.error(), "idempotency_key_reused");
        }
    }
    for company in companies {
        assert_ledger_adds_up(ledger.pool(), company, 1000).await;
    }
}
