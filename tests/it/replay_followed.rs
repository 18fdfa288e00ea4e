//! A replay runs by itself: whoever comes follows it by its number, and finds it in the record once it is over.

use std::sync::Arc;

use token_billing::{
    operations::{
        Actor, Dependency, OperationError, Operations,
        replay::{
            PreviewOutcome, ReplayEnded, ReplayOrder, ReplayPhase, ReplayProgress, ReplayReport,
            ReplaySelection, RunningReplay,
        },
    },
    storage::{DeadLetterState, Selection},
};

use crate::support::{
    eventually::{PATIENCE, eventually},
    site::Site,
};

async fn operations(site: &Site) -> Arc<Operations> {
    let operations = Operations::open(&site.settings()).await;
    Arc::new(operations.expect("the database is there"))
}

/// Begins a replay of all open ones in a task that is over when it has begun, as a request's handler is.
async fn begun(operations: &Arc<Operations>, rate: u32) -> RunningReplay {
    let operations = operations.clone();
    let handler = tokio::spawn(async move {
        let selection = Selection {
            states: vec![DeadLetterState::Open],
            ..Selection::default()
        };
        let selection = ReplaySelection::new(selection, true)?;
        let plan = operations.plan_replay(selection).await?;
        let order = ReplayOrder {
            actor: Actor::new("ann")?,
            note: None,
            rate: Some(rate),
            canary: None,
            wait: false,
        };
        operations.replay(plan, order).await
    });
    let running = handler.await.expect("no panic");
    running.expect("it begins")
}

/// What a handler awaits may go on in another thread.
fn on_any_thread<T: Future + Send>(asked: T) -> T {
    asked
}

/// Everything that is seen of it until it is over.
async fn seen(running: RunningReplay) -> Vec<ReplayProgress> {
    let (mut progress, mut seen) = (running.progress, Vec::new());
    while progress.changed().await.is_ok() {
        seen.push(progress.borrow_and_update().clone());
    }
    seen
}

fn report(seen: &[ReplayProgress]) -> ReplayReport {
    let last = seen.last().expect("something is seen");
    assert_eq!(last.phase, ReplayPhase::Ended);
    last.report.clone().expect("a report")
}

#[tokio::test]
async fn two_followers_see_one_running_replay_by_its_number() {
    let site = Site::new().await;
    site.declare().await;
    site.park(site.company(0, 1_000).await, 1, 40).await;
    let operations = operations(&site).await;
    let running = begun(&operations, 40).await;
    let id = running.action_id;
    let late = operations.running_replay(id).expect("it runs");
    assert!(operations.running_replay(id + 1).is_none());
    let nothing_yet = operations.replay_report(id).await.expect("it is known");
    assert_eq!(nothing_yet, None, "it is not over");

    let (first, second) = tokio::join!(seen(running), seen(late));
    for seen in [&first, &second] {
        assert!(seen.iter().any(|progress| progress.done < 40), "{seen:#?}");
        assert!(seen.is_sorted_by_key(|progress| progress.done), "{seen:#?}");
        assert!(seen.iter().all(|progress| progress.planned == 40));
    }
    let report = report(&first);
    assert_eq!(first.last(), second.last());
    assert_eq!(
        (&report.ended, report.outcomes.sent),
        (&ReplayEnded::Done, 40)
    );
    assert!(operations.running_replay(id).is_none(), "it is over");
    operations.close().await;
    found_in_the_record(&site, id, &report).await;
}

/// By a process that has not run it.
async fn found_in_the_record(site: &Site, id: i64, report: &ReplayReport) {
    let operations = operations(site).await;
    let recorded = operations.replay_report(id).await.expect("it is known");
    assert_eq!(recorded.as_ref(), Some(report));
    let unknown = on_any_thread(operations.replay_report(id + 1)).await;
    assert!(
        matches!(unknown, Err(OperationError::NotFound(_))),
        "{unknown:?}"
    );
    operations.close().await;
}

#[tokio::test]
async fn one_that_nobody_follows_is_stopped_when_its_process_closes_and_leaves_nothing_in_flight() {
    let site = Site::new().await;
    site.declare().await;
    site.park(site.company(0, 1_000).await, 1, 100).await;
    let operations = operations(&site).await;
    let id = begun(&operations, 10).await.action_id;
    let sent = async || site.in_state(DeadLetterState::Replayed).await;
    eventually("some are sent", PATIENCE, sent, |&sent| sent > 0).await;
    operations.close().await;

    let sent = sent().await;
    assert!(sent < 100, "{sent}");
    let claimed = "select count(*) from dead_letters where claimed_until is not null";
    assert_eq!(site.number(claimed).await, 0);
    let queued = site.broker.ready_count(&site.broker.work_queue()).await;
    assert_eq!(queued.map(|queued| queued as usize), Some(sent));
    let report = self::operations(&site).await.replay_report(id).await;
    let report = report.expect("it is known").expect("it is over");
    assert_eq!(
        (report.ended, usize::try_from(report.outcomes.sent)),
        (ReplayEnded::Interrupted, Ok(sent))
    );
}

#[tokio::test]
async fn what_failed_is_told_by_what_was_away() {
    let mut site = Site::new().await;
    site.set("BROKER__URL", "amqp://127.0.0.1:1/%2f");
    site.park(site.company(0, 1_000).await, 1, 1).await;
    let operations = operations(&site).await;
    let story = on_any_thread(operations.dead_letter(1)).await;
    let outcome = story.expect("it is known").replay.outcome;
    assert_eq!(
        outcome,
        PreviewOutcome::WouldCharge,
        "a preview needs no broker"
    );
    let running = begun(&operations, 10).await;
    let id = running.action_id;
    let report = running.report().await.expect("a report");
    let ReplayEnded::Failed { dependency, why } = &report.ended else {
        panic!("{report:?}");
    };
    assert_eq!(*dependency, Dependency::Broker);
    assert!(why.contains("127.0.0.1:1"), "{why}");
    operations.close().await;
    found_in_the_record(&site, id, &report).await;
    assert_eq!(site.in_state(DeadLetterState::Open).await, 1);
}
