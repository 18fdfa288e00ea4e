//! Everything at once: events, single calls, batches, marks, refunds, credits, renewals, replays, sweepers, rows
//! held briefly and for seconds, an application that changes, deletes and opens companies; while sessions are
//! ended, processes killed and, in the long run, PostgreSQL crashes. Then the audit, a recomputation of every
//! bucket, and an account of every job.

mod accounting;
mod callers;
mod havoc;
mod publishing;
mod reading;
mod recompute;
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinSet;
use tokio::time::timeout;
use uuid::Uuid;

use self::accounting::Accounts;
use self::callers::{Caller, Habit, add_jobs, change_company, connect};
use self::reading::EXTERNAL_CHANGES;
use self::recompute::Recomputed;
use self::world::World;
use crate::support::{dice::Dice, eventually::eventually, is_long, ledger::Ledger};

fn how_long() -> Duration {
    Duration::from_secs(if is_long() { 240 } else { 15 })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_at_once_every_token_and_every_job_is_accounted_for() {
    let mut dice = Dice::told("torture");
    let world = Arc::new(World::create(dice.below(u64::MAX)).await);
    world.site.db.execute(EXTERNAL_CHANGES).await;
    let mut connection = connect(&world).await;
    add_jobs(&world, &mut connection).await.expect("jobs");
    for company in world.companies() {
        let opened = change_company(&mut connection, company, &mut dice).await;
        opened.expect("opened");
    }

    let mut tasks = JoinSet::new();
    for habit in [
        Habit::Functions,
        Habit::Functions,
        Habit::Functions,
        Habit::Application,
        Habit::Holding,
        Habit::HoldingLong,
    ] {
        let caller = Caller::connect(&world, dice.another()).await;
        tasks.spawn(caller.run(habit));
    }
    for _ in 0..2 {
        tasks.spawn(publishing::publish(world.clone(), dice.another()));
    }
    tasks.spawn(havoc::operate(world.clone(), dice.another()));
    let havoc = tokio::spawn(havoc::havoc(world.clone(), dice.another()));
    let began = Instant::now();
    // None of them ends by itself, except in a panic, which is told at once.
    if let Ok(Some(ended)) = timeout(how_long(), tasks.join_next()).await {
        ended.expect("a torturer failed");
    }
    world.stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a torturer failed");
    }
    let (processes, havoc) = havoc.await.expect("havoc failed");
    let load = began.elapsed();

    all_decided(&world).await;
    havoc::stop(processes).await;
    eprintln!(
        "load {load:?}, {havoc:?}, all decided after {:?}",
        began.elapsed()
    );
    hold_to_account(&world).await;
}

/// Waits until everything has an outcome; then says of each undecidable job that its article was written.
async fn all_decided(world: &World) {
    let patience = Duration::from_secs(120);
    let look = async || {
        let accounts = Accounts::look(world).await;
        (accounts.missing(world), accounts.pending().len())
    };
    eventually(
        "every job has an outcome",
        patience,
        look,
        |(missing, _)| missing.is_empty(),
    )
    .await;
    world
        .site
        .db
        .execute(
            "insert into articles (id, company_id)
                 select id, company_id from article_jobs where article_id is null on conflict do nothing;
             update article_jobs set article_id = id where article_id is null",
        )
        .await;
    eventually(
        "nothing is pending",
        patience,
        look,
        |(missing, pending)| missing.is_empty() && *pending == 0,
    )
    .await;
}

async fn hold_to_account(world: &World) {
    let accounts = Accounts::look(world).await;
    assert_eq!(accounts.missing(world), [""; 0]);
    assert_eq!(accounts.pending(), [""; 0]);
    let ledger = Recomputed::read(world.site.db.pool()).await;
    let counts = ["completed", "compensated", "failed"].map(|status| accounts.count(status));
    eprintln!(
        "{} published; {counts:?} completed, compensated, failed; {} movements; dead letters {:?}",
        world.told().published.len(),
        ledger.movements.len(),
        accounts.reasons(),
    );
    assert!(
        counts.iter().all(|&count| count > 0),
        "{counts:?}: too few to mean anything"
    );
    assert_eq!(ledger.faults(), [""; 0]);

    let audit = world
        .site
        .run(&["audit", "--output", "json"])
        .await
        .document();
    assert_eq!(audit["violations"], json!([]));
    // What it lists as external is what the application has changed, and nothing else.
    for change in audit["external_changes"].as_array().expect("a list") {
        let company = serde_json::from_value(change["company_id"].clone()).expect("a company");
        let after = change["after_seq"].as_i64().expect("a movement");
        let explained = ledger.has_external(company, after, change["before_seq"].as_i64());
        assert!(explained, "{change}: {:#?}", ledger.of(company, after));
    }
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    assert_eq!(world.site.number(deadlocks).await, 0);
}

/// Books with a charge of both buckets, a refund, a renewal and a change of the application's.
async fn small_ledger() -> Ledger {
    let ledger = Ledger::open().await;
    ledger.execute(EXTERNAL_CHANGES).await;
    let mut connection = PgConnection::connect(ledger.url())
        .await
        .expect("connected");
    let company = Uuid::from_u64_pair(7, 7);
    let mut dice = Dice::new(1);
    for _ in 0..4 {
        let changed = change_company(&mut connection, company, &mut dice).await;
        changed.expect("changed");
    }
    ledger
        .execute(format!(
            "select credit_tokens('1', '{company}', null, 10, now() + interval '1 day', 'test');
             select credit_tokens('2', '{company}', 50, null, null, 'test');
             select deduct_tokens_atomic('both', '{company}', null, 20);
             select deduct_tokens_atomic('back', '{company}', null, 5);
             select refund_tokens('back', 'forfeit', 'test', 'test')"
        ))
        .await;
    ledger
}

#[tokio::test]
async fn the_recomputation_finds_what_is_wrong_by_one_token() {
    let right = small_ledger().await;
    assert_eq!(Recomputed::read(right.pool()).await.faults(), [""; 0]);
    for wrong in [
        "update company_subscriptions set purchased_token_balance = purchased_token_balance + 1",
        // The sum stays.
        "update company_subscriptions set monthly_quota_balance = monthly_quota_balance + 1,
             purchased_token_balance = purchased_token_balance - 1",
        "update company_subscriptions set current_period_end = current_period_end + interval '1 second'",
        "delete from company_subscriptions",
        "update token_deduction_records set monthly_deducted = monthly_deducted - 1,
             purchased_deducted = purchased_deducted + 1 where idempotency_key = 'both'",
        "update token_deduction_records set status = 'completed'",
        "delete from token_deduction_records where idempotency_key = 'both'",
        "update token_credits set purchased_amount = purchased_amount + 1, purchased_after = purchased_after + 1
         where kind = 'top_up'",
        "update token_credits set forfeited_amount = 1 where kind = 'refund'",
        "delete from token_usage_logs where token_amount = 20",
        "delete from token_usage_logs where token_amount < 0",
        "insert into token_usage_logs select id + 1000000, company_id, article_id, token_amount, deduction_record_id,
             usage_type, metadata, created_at from token_usage_logs where token_amount = 20",
    ] {
        let ledger = small_ledger().await;
        for table in ["token_deduction_records", "token_credits", "token_usage_logs"] {
            let sql = format!("alter table {table} disable trigger user");
            ledger.execute(sql).await;
        }
        ledger.execute(wrong).await;
        assert_ne!(Recomputed::read(ledger.pool()).await.faults(), [""; 0], "{wrong}");
    }
}
