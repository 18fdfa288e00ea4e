//! The functions against a plain model of the ledger: random sequences of charges, duplicates, reuses,
//! top-ups, renewals, expiries, holds and refunds must give the model's answers and the model's rows, whether charged
//! one by one, in batches, both in turn, or as events.

mod holds;
mod model;
mod moves;
mod play;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tokio::runtime::Runtime;
use uuid::Uuid;

use self::moves::{Move, Names, as_events, sequence, unbroken_sequence};
use self::play::{BALANCES, By, Play, refund};
use crate::support::adds_up::assert_ledger_adds_up;
use crate::support::ledger::{Answer, Item, Ledger, deduct_item, mark_pending};

/// Runs `play` for random sequences, on one database.
fn for_random<S: Strategy>(cases: u32, strategy: &S, play: &impl AsyncFn(&Ledger, S::Value)) {
    let long = std::env::var_os("TOKEN_BILLING_TEST_LONG").is_some();
    let runtime = Runtime::new().expect("a runtime");
    let ledger = runtime.block_on(Ledger::open());
    // Nothing crashes here, and waiting for the disk would be most of the time.
    runtime.block_on(ledger.execute("set synchronous_commit = off"));
    let mut runner = TestRunner::new(Config {
        cases: if long { 20 * cases } else { cases },
        failure_persistence: None,
        max_shrink_iters: 1000,
        ..Config::default()
    });
    let outcome = runner.run(strategy, |moves| {
        runtime.block_on(play(&ledger, moves));
        Ok::<(), TestCaseError>(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

fn equals_the_model(by: By) {
    for_random(60, &sequence(), &async |ledger, moves| {
        let mut play = Play::start(ledger).await;
        for what in &moves {
            play.make(what, by).await;
        }
        play.finish().await;
    });
}

#[test]
fn charging_one_by_one_equals_the_model() {
    equals_the_model(By::Single);
}

#[test]
fn charging_in_batches_equals_the_model() {
    equals_the_model(By::Batch);
}

#[test]
fn charging_both_ways_in_turn_equals_the_model() {
    equals_the_model(By::Both);
}

#[test]
fn charging_events_equals_the_model() {
    equals_the_model(By::Events);
}

/// Plays one part of several, and counts the new charges.
async fn play_part(ledger: &Ledger, names: &Names, moves: &[Move], by: By) -> usize {
    let (mut answers, mut events) = (Vec::new(), 0);
    for what in moves {
        match what {
            Move::Charges { items, as_batch } => {
                let items: Vec<Item> = items.iter().map(|charge| names.item(charge)).collect();
                if matches!(by, By::Events) {
                    let outcomes = ledger.charge_events(&as_events(items)).await;
                    events += outcomes.iter().filter(|&it| it == "charged").count();
                } else if *as_batch {
                    answers.extend(ledger.deduct_batch(&items).await);
                } else {
                    for item in &items {
                        answers.push(deduct_item(ledger.pool(), item).await.expect("an answer"));
                    }
                }
            }
            Move::Mark(charge) => {
                let item = names.item(charge);
                mark_pending(ledger.pool(), &[item], "busy")
                    .await
                    .expect("marked");
            }
            Move::TopUp { company, amount } => {
                sqlx::query("select credit_tokens($1, $2, $3, null, null, 'model')")
                    .bind(Uuid::new_v4().to_string())
                    .bind(names.companies[*company])
                    .bind(amount)
                    .execute(ledger.pool())
                    .await
                    .expect("an answer");
            }
            Move::Refund { key, as_purchased } => {
                // What one finds charged another may have refunded meanwhile: any answer is right.
                let _ = refund(ledger, &names.keys[*key], *as_purchased).await;
            }
            Move::Hold {
                key,
                company,
                amount,
            } => {
                if let Ok(job) = names.keys[*key].parse() {
                    let _ = holds::ask(ledger, job, names.companies[*company], *amount).await;
                }
            }
            Move::Release { key } => {
                holds::release(ledger, &names.keys[*key]).await;
            }
            other => unreachable!("{other:?} breaks the chain"),
        }
    }
    let is_new = |answer: &&Answer| answer.success && !answer.idempotent;
    events + answers.iter().filter(is_new).count()
}

#[test]
fn whatever_several_do_at_once_the_ledger_adds_up() {
    let part = unbroken_sequence;
    for_random(20, &(part(), part(), part()), &async |ledger, (a, b, c)| {
        let names = Names::new();
        for (&id, (monthly, purchased)) in names.companies.iter().zip(BALANCES) {
            ledger.add_company(id, monthly, purchased).await;
        }
        let (a, b, c) = tokio::join!(
            play_part(ledger, &names, &a, By::Both),
            play_part(ledger, &names, &b, By::Events),
            play_part(ledger, &names, &c, By::Events),
        );
        let completed: i64 = sqlx::query_scalar(
            "select count(*) from token_deduction_records
             where status in ('completed', 'compensated') and idempotency_key = any($1)",
        )
        .bind(&names.keys)
        .fetch_one(ledger.pool())
        .await
        .expect("counted");
        assert_eq!(
            i64::try_from(a + b + c),
            Ok(completed),
            "each charge was answered once"
        );
        holds::assert_closed(ledger, &names.keys).await;
        for (&id, (monthly, purchased)) in names.companies.iter().zip(BALANCES) {
            assert_ledger_adds_up(ledger.pool(), id, monthly + purchased).await;
        }
    });
}
