//! Sending dead letters again: what is charged, what is refused, what is asked.

use serde_json::{Value, json};
use token_billing::storage::{DeadLetterState, Selection};
use uuid::Uuid;

use crate::support::{
    command::keys,
    dead_letters::refused,
    eventually::{PATIENCE, eventually},
    site::Site,
};

const REPLAY: [&str; 3] = ["dlq", "replay", "--yes"];
const JSON: [&str; 2] = ["--output", "json"];

fn words<'a>(parts: &[&[&'a str]]) -> Vec<&'a str> {
    parts.concat()
}

#[tokio::test]
async fn a_replay_after_a_top_up_charges() {
    let site = Site::new().await;
    let (running, archivist) = (site.start().await, site.archive_running().await);
    let company = site.company(0, 100).await;
    let job = site.job(company).await;
    site.publish(job, company, 500).await;
    eventually(
        "it is in the archive",
        PATIENCE,
        async || site.dead_letters().await.len(),
        |&n| n == 1,
    )
    .await;
    let id = site.dead_letters().await[0].id.to_string();
    let credit = [
        "credit",
        &*company.to_string(),
        "--purchased",
        "450",
        "--key",
        "k",
    ];
    site.run(&credit).await.done();

    let flags = ["--as", "ann", "--note", "they paid"];
    let ran = site.run(&words(&[&REPLAY, &[&id], &flags, &JSON])).await;
    let document = ran.document();
    assert_eq!(keys(&document), ["plan", "replay"]);
    let plan = &document["plan"];
    assert_eq!(
        (&plan["charged"], &plan["charged_tokens"]),
        (&json!(1), &json!(500))
    );
    assert_eq!(plan["companies"][0]["company_id"], json!(company));
    let replay = &document["replay"];
    assert_eq!(
        [
            &replay["sent"],
            &replay["charged"],
            &replay["charged_tokens"],
            &replay["failed_again"]
        ],
        [&json!(1), &json!(1), &json!(500), &json!(0)]
    );
    assert_eq!(replay["ended"], json!("done"));
    running.stop().await;
    archivist.stop().await;
    assert_eq!(site.balance(company).await, (0, 50));
    assert_eq!(site.job_status(job).await.0, "completed");
    assert_eq!(site.in_state(DeadLetterState::Resolved).await, 1);
    let (actor, subject, reason, details): (String, String, String, Value) = sqlx::query_as(
        "select actor, subject, reason, details from operator_actions where action = 'replay'",
    )
    .fetch_one(site.db.pool())
    .await
    .expect("one action");
    assert_eq!((&*actor, &*subject, &*reason), ("ann", "1", "they paid"));
    assert_eq!(
        (&details["sent"], &details["charged"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(
        site.number("select count(*) from dead_letter_actions")
            .await,
        1
    );
}

#[tokio::test]
async fn what_is_charged_by_now_is_resolved_and_not_sent() {
    let site = Site::new().await;
    site.declare().await;
    let company = site.company(0, 1000).await;
    let (jobs, ids) = site.park(company, 500, 2).await;
    assert!(site.db.deduct(jobs[0], company, 500).await.success);
    let before = site.db.everything().await;
    let ran = site.run(&words(&[&REPLAY, &[&ids[0].to_string()]])).await;
    assert_eq!(ran.done(), "");
    assert!(
        ran.notes()
            .contains("dead letter 1 is resolved: passed over"),
        "{ran:#?}"
    );
    assert!(ran.notes().contains("nothing to replay"), "{ran:#?}");
    assert_eq!(site.db.everything().await, before);

    // Charged between the plan and the claim.
    let storage = site.storage();
    let run = storage
        .begin_replay("me", "all", None, &json!({}))
        .await
        .expect("begun");
    assert!(site.db.deduct(jobs[1], company, 500).await.success);
    let lease = std::time::Duration::from_secs(60);
    let claim = storage.claim(run, &ids, lease).await.expect("claimed");
    assert_eq!((claim.resolved, claim.dead_letters.len()), (1, 0));
    assert_eq!(site.in_state(DeadLetterState::Resolved).await, 2);
    assert_eq!(
        site.broker.ready_count(&site.broker.work_queue()).await,
        Some(0)
    );
}

#[tokio::test]
async fn a_refunded_job_is_never_sent_again() {
    let site = Site::new().await;
    site.declare().await;
    let company = site.company(0, 1000).await;
    let (jobs, ids) = site.park(company, 500, 2).await;
    assert!(site.db.deduct(jobs[0], company, 500).await.success);
    site.db
        .execute("update token_deduction_records set status = 'compensated'")
        .await;
    let id = ids[0].to_string();
    let ran = site.run(&words(&[&REPLAY, &[&id]])).await;
    assert_eq!(
        ran.refused(1),
        "error: refused: 1 dead letter of refunded jobs, which are never charged again\n"
    );
    let all = ["--all", "--no-wait"];
    let document = site.run(&words(&[&REPLAY, &all, &JSON])).await.document();
    assert_eq!(document["plan"]["refused"], json!(1));
    assert_eq!(document["replay"]["sent"], json!(1));
    let states: Vec<_> = site.dead_letters().await.iter().map(|l| l.state).collect();
    assert_eq!(states, [DeadLetterState::Open, DeadLetterState::Replayed]);
    let sent = site.broker.take_all(&site.broker.work_queue()).await;
    assert_eq!(sent.len(), 1);
    assert!(String::from_utf8_lossy(&sent[0].body).contains(&jobs[1].to_string()));
}

#[tokio::test]
async fn it_takes_bytes_as_they_came_and_an_edited_body_in_their_place() {
    let site = Site::new().await;
    site.declare().await;
    let company = site.company(0, 1000).await;
    let body = format!(
        r#" {{"tokens":7,  "company_id":"{company}","job_id":"{}"}} "#,
        Uuid::new_v4()
    );
    let raw = token_billing::storage::Arrival {
        body: body.clone().into_bytes(),
        ..refused(Uuid::new_v4(), company, 7)
    };
    let malformed = token_billing::storage::Arrival {
        body: b"\xff\x00 no event".to_vec(),
        reason: "malformed".to_owned(),
        job_id: None,
        ..raw.clone()
    };
    let ids = site.archive(&[raw, malformed]).await;
    let edited = format!(
        "update dead_letters set edited_body = '{{}}' where id = {}",
        ids[1]
    );
    site.db.execute(edited).await;
    site.run(&words(&[&REPLAY, &["--all", "--no-wait"]]))
        .await
        .done();
    let sent = site.broker.take_all(&site.broker.work_queue()).await;
    assert_eq!(sent[0].body, body.as_bytes());
    assert_eq!(sent[1].body, b"{}");
    for (message, id) in sent.iter().zip(ids) {
        assert_eq!(message.header("replay-of"), Some(id.to_string()));
        assert_eq!(message.header("attempt"), None);
        assert_eq!(message.properties.delivery_mode(), &Some(2));
        let content_type = message.properties.content_type().as_ref().expect("kept");
        assert_eq!(content_type.as_str(), "application/json");
    }
}

#[tokio::test]
async fn what_is_not_clear_is_refused_before_anything_happens() {
    let site = Site::new().await;
    site.declare().await;
    let company = site.company(0, 1000).await;
    site.park(company, 500, 1).await;
    let before = site.archive_rows().await;
    for (args, named) in [
        (&["--yes"][..], "which dead letters?"),
        (&[], "which dead letters?"),
        (&["--all", "1", "--yes"], "--all"),
        (&["1"], "there is no terminal"),
        (&["--all"], "there is no terminal"),
        (&["--all", "--state", "discarded", "--yes"], "--state"),
        (&["--all", "--rate", "0", "--yes"], "--rate"),
        (
            &["--all", "--canary", "1", "--no-wait", "--yes"],
            "--canary",
        ),
        (&["--all", "--dry-run", "--yes"], "--dry-run"),
    ] {
        let ran = site.run(&words(&[&["dlq", "replay"], args])).await;
        assert!(ran.refused(2).contains(named), "{args:?}: {ran:#?}");
    }
    let ran = site.run(&words(&[&REPLAY, &["1", "99"]])).await;
    assert_eq!(ran.refused(1), "error: there is no dead letter 99\n");
    assert_eq!(site.archive_rows().await, before);

    let nothing = ["--reason", "malformed"];
    let ran = site.run(&words(&[&REPLAY, &nothing])).await;
    assert_eq!(ran.done(), "");
    assert!(ran.notes().contains("nothing to replay"), "{ran:#?}");
    let document = site
        .run(&words(&[&REPLAY, &nothing, &JSON]))
        .await
        .document();
    assert_eq!(
        (&document["plan"]["dead_letters"], &document["replay"]),
        (&json!(0), &Value::Null)
    );
    assert_eq!(
        site.broker.ready_count(&site.broker.work_queue()).await,
        Some(0)
    );
}

#[tokio::test]
async fn a_dry_run_changes_nothing_at_all_and_holds_nobody_up() {
    let site = Site::new().await;
    let company = site.company(0, 1000).await;
    let job = site.job(company).await;
    let (paid, _) = site.park(company, 300, 4).await;
    site.archive(&[
        refused(job, company, 400),
        refused(Uuid::new_v4(), Uuid::new_v4(), 1),
    ])
    .await;
    assert!(site.db.deduct(paid[0], company, 299).await.success);
    site.storage()
        .resolve_dead_letters()
        .await
        .expect("resolved");
    let before = (site.db.everything().await, site.archive_rows().await);
    let dry_run = ["dlq", "replay", "--all", "--dry-run"];
    let text = site.run(&dry_run).await.done().to_owned();
    assert!(text.contains("company_not_found"), "{text}");
    let document = site.run(&words(&[&dry_run, &JSON])).await.document();
    assert_eq!(document["plan"]["charged_tokens"], json!(600));
    assert_eq!(document["replay"], Value::Null);
    assert_eq!(
        (site.db.everything().await, site.archive_rows().await),
        before
    );

    // Dropped in the middle, a dry run leaves nothing either.
    let storage = site.storage();
    let body = storage
        .replay_candidates(&Selection::default())
        .await
        .expect("read");
    let mut dry_run = storage.begin_dry_run().await.expect("begun");
    let bodies = dry_run.bodies(&[body[1].id]).await.expect("read");
    let limits = site.settings().limits;
    let event = token_billing::domain::CompletionEvent::parse(&bodies[0].body, None, &limits);
    let answers = dry_run
        .deduct(&[&event.expect("good")])
        .await
        .expect("tried");
    assert!(
        matches!(answers[0], token_billing::domain::Deduction::Charged { .. }),
        "{answers:?}"
    );
    drop(dry_run);
    let charged = site.db.deduct(Uuid::new_v4(), company, 701).await;
    assert!(charged.success, "nobody holds the company: {charged:?}");
    let records = site
        .number("select count(*) from token_deduction_records")
        .await;
    assert_eq!(records, 2);
}
