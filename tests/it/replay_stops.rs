//! A replay that goes wrong stops; one that fails as planned does not, and nothing goes round for ever.

use serde_json::json;
use token_billing::storage::DeadLetterState;

use crate::support::site::Site;

const ALL: [&str; 6] = ["dlq", "replay", "--all", "--yes", "--output", "json"];

#[tokio::test]
async fn a_canary_that_fails_stops_the_rest() {
    let site = Site::new().await;
    let company = site.company(0, 0).await;
    let (_, ids) = site.park(company, 10, 10).await;
    let (running, archivist) = (site.start().await, site.archive_running().await);
    let ran = site.run(&[&ALL[..], &["--canary", "2"]].concat()).await;
    assert!(
        ran.failed(3).contains("2 of the first 2 failed again"),
        "{ran:#?}"
    );
    let replay = &ran.json()["replay"];
    assert_eq!(replay["ended"], json!("canary_failed"));
    assert_eq!(replay["failures"][0]["first"], json!(ids[0]));
    running.stop().await;
    archivist.stop().await;
    let dead_letters = site.dead_letters().await;
    assert_eq!(dead_letters.len(), 12, "two are back");
    let untouched = dead_letters[2..10]
        .iter()
        .all(|l| l.state == DeadLetterState::Open);
    assert!(untouched, "{dead_letters:#?}");
}

#[tokio::test]
async fn a_canary_waits_for_dead_letters_in_the_hands_of_a_replay_that_died() {
    let site = Site::new().await;
    let company = site.company(0, 0).await;
    site.park(company, 10, 10).await;
    site.db
        .execute(
            "insert into operator_actions (actor, action, subject) values ('dead', 'replay', 'all');
             update dead_letters set claimed_by = (select max(id) from operator_actions),
                                     claimed_until = clock_timestamp() + interval '1.5 s'",
        )
        .await;
    let (running, archivist) = (site.start().await, site.archive_running().await);
    let ran = site.run(&[&ALL[..], &["--canary", "2"]].concat()).await;
    assert!(
        ran.failed(3).contains("2 of the first 2 failed again"),
        "{ran:#?}"
    );
    running.stop().await;
    archivist.stop().await;
    assert_eq!(site.dead_letters().await.len(), 12, "two are back");
}

#[tokio::test]
async fn a_canary_that_lives_lets_the_rest_through() {
    let site = Site::new().await;
    let company = site.company(0, 1_000).await;
    site.park(company, 10, 10).await;
    let (running, archivist) = (site.start().await, site.archive_running().await);
    let document = site
        .run(&[&ALL[..], &["--canary", "3"]].concat())
        .await
        .document();
    assert_eq!(document["replay"]["charged"], json!(10));
    running.stop().await;
    archivist.stop().await;
    assert_eq!(site.balance(company).await, (0, 900));
}

#[tokio::test]
async fn a_canary_of_which_nothing_is_heard_stops_the_rest() {
    let mut site = Site::new().await;
    site.set("REPLAY__OUTCOME_TIMEOUT", "500ms");
    site.declare().await;
    let company = site.company(0, 1_000).await;
    site.park(company, 10, 10).await;
    let ran = site.run(&[&ALL[..], &["--canary", "3"]].concat()).await;
    assert!(ran.failed(3).contains("aren't back in time"), "{ran:#?}");
    assert_eq!(site.in_state(DeadLetterState::Replayed).await, 3);
    // Without a canary all are sent, and that not all is known in the end is said.
    let ran = site.run(&ALL).await;
    ran.failed(3);
    assert_eq!(ran.json()["replay"]["unknown"], json!(7));
}

#[tokio::test]
async fn failures_that_nobody_planned_stop_it_when_they_pile_up() {
    let mut site = Site::new().await;
    site.set("REPLAY__STOP_AFTER", "20");
    // The plan sees one dead letter only.
    site.set("REPLAY__PLAN_MAX", "1");
    let company = site.company(0, 0).await;
    site.park(company, 10, 400).await;
    let (running, archivist) = (site.start().await, site.archive_running().await);
    let ran = site.run(&[&ALL[..], &["--rate", "100"]].concat()).await;
    assert!(ran.failed(3).contains("not expected to"), "{ran:#?}");
    let replay = &ran.json()["replay"];
    assert_eq!(replay["ended"], json!("failures_piled_up"));
    assert!(
        replay["unexpected_failures"].as_u64() >= Some(20),
        "{replay:#}"
    );
    assert!(replay["sent"].as_u64() < Some(400), "{replay:#}");
    running.stop().await;
    archivist.stop().await;
}

#[tokio::test]
async fn what_fails_as_planned_is_sent_once_and_linked_and_stops_nothing() {
    let mut site = Site::new().await;
    site.set("REPLAY__STOP_AFTER", "5");
    let company = site.company(0, 0).await;
    let (_, ids) = site.park(company, 10, 120).await;
    let (running, archivist) = (site.start().await, site.archive_running().await);
    // Slow enough that the first are back while the last are still to be sent.
    let ran = site.run(&[&ALL[..], &["--rate", "60"]].concat()).await;
    let document = ran.document();
    assert_eq!(
        document["plan"]["failures"],
        json!({ "insufficient_balance": 120 })
    );
    let replay = &document["replay"];
    assert_eq!(
        (&replay["sent"], &replay["failed_again"]),
        (&json!(120), &json!(120))
    );
    running.stop().await;
    archivist.stop().await;
    let dead_letters = site.dead_letters().await;
    assert_eq!(dead_letters.len(), 240, "what came back was not sent again");
    for id in ids {
        let dead_letter = dead_letters.iter().find(|l| l.id == id).expect("there");
        let again = dead_letters
            .iter()
            .find(|l| Some(l.id) == dead_letter.failed_again_as);
        let again = again.expect("linked");
        assert_eq!(dead_letter.state, DeadLetterState::Replayed);
        assert_eq!(
            (again.state, again.job_id),
            (DeadLetterState::Open, dead_letter.job_id)
        );
    }
}

#[tokio::test]
async fn a_rate_is_kept() {
    let site = Site::new().await;
    site.declare().await;
    let company = site.company(0, 1_000).await;
    site.park(company, 1, 60).await;
    let args = [&ALL[..], &["--rate", "30", "--no-wait"]].concat();
    let document = site.run(&args).await.document();
    let seconds = document["replay"]["seconds"].as_f64().expect("a number");
    // 20 pages of 3, a tenth of a second apart.
    assert!((1.8..15.0).contains(&seconds), "{seconds}");
    assert_eq!(document["replay"]["sent"], json!(60));
}
