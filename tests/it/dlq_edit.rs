//! A dead letter's body fixed: checked before it is kept, the original beside it, never another job for
//! what was charged.

use serde_json::{Value, json};
use token_billing::{
    domain::CompletionEvent,
    storage::{Arrival, Edit, EditError, Signed, Storage},
};
use uuid::Uuid;

use crate::dlq_acts::claim;
use crate::support::dead_letters::refused;
use crate::support::{
    command::{Ran, keys},
    site::{Site, event},
};

const JSON: [&str; 2] = ["--output", "json"];

/// A dead letter with this body, which nothing could be read from.
pub(crate) async fn malformed(storage: &Storage, body: impl Into<Vec<u8>>) -> i64 {
    let dead = Arrival {
        reason: "malformed".to_owned(),
        body: body.into(),
        job_id: None,
        company_id: None,
        tokens: None,
        ..refused(Uuid::new_v4(), Uuid::new_v4(), 1)
    };
    storage.archive(&[dead]).await.expect("archived")[0]
}

async fn edit(site: &Site, id: i64, args: &[&str]) -> Ran {
    site.run(&[&["dlq", "edit", &id.to_string()], args].concat())
        .await
}

/// The original body, and what a replay sends.
pub(crate) async fn bodies(site: &Site, id: i64) -> (Vec<u8>, Vec<u8>) {
    let sql = "select body, coalesce(edited_body, body) from dead_letters where id = $1";
    let row = sqlx::query_as(sql).bind(id).fetch_one(site.db.pool());
    row.await.expect("the dead letter is there")
}

#[tokio::test]
async fn a_malformed_dead_letter_is_fixed_and_what_it_says_now_is_charged() {
    let site = Site::new().await;
    let storage = site.storage();
    let company = site.company(0, 1000).await;
    let job = Uuid::new_v4();
    let body = format!(
        "{{ \"job_id\":\"{job}\", \"tokens\" : \"15\",\"later\":1.50e2,\"company_id\":\"{company}\"}}"
    );
    let id = malformed(&storage, body.as_str()).await;

    let ran = edit(&site, id, &["--set", "tokens=15", "--reason", "ticket 7"]).await;
    for shown in [
        "-   \"tokens\": \"15\",\n+   \"tokens\": 15,\n",
        &format!("job {job}, company {company}, 15 tokens"),
        &format!("token-billing dlq replay {id}"),
    ] {
        assert!(ran.done().contains(shown), "{shown}: {ran:#?}");
    }
    let fixed = body.replace("\"15\"", "15");
    assert_eq!(
        bodies(&site, id).await,
        (body.into_bytes(), fixed.clone().into_bytes())
    );
    let draft = storage.dead_letter(id).await.expect("read").expect("there");
    assert!(draft.dead_letter.edited);
    assert_eq!(
        (
            draft.dead_letter.job_id,
            draft.dead_letter.company_id,
            draft.dead_letter.tokens
        ),
        (Some(job), Some(company), Some(15))
    );

    // As a replay does.
    let running = site.start().await;
    site.broker.publish(fixed).await;
    let record = site.until(job, "completed").await;
    running.stop().await;
    assert_eq!((record.amount, record.company_id), (15, company));
    let dead_letter = id.to_string();
    let history = [&["dlq", "history", &dead_letter][..], &JSON].concat();
    let action = &site.run(&history).await.document()["actions"][0];
    assert_eq!(
        (&action["action"], &action["reason"]),
        (&json!("edit"), &json!("ticket 7"))
    );
}

#[tokio::test]
async fn what_would_not_be_an_event_is_refused_and_nothing_is_kept() {
    let site = Site::new().await;
    let storage = site.storage();
    let id = storage
        .archive(&[refused(Uuid::new_v4(), Uuid::new_v4(), 5)])
        .await
        .expect("archived")[0];
    let before = bodies(&site, id).await;
    for (set, problem) in [
        ("tokens=15.5", "tokens: expected an integer"),
        ("tokens=0", "tokens: 0 is not in 1..="),
        (
            "tokens=many",
            "tokens: expected an integer, got the string \"many\"",
        ),
        ("job_id=7", "job_id: \"7\" is not a UUID"),
        (
            "company_id=\u{1b}[2J",
            "company_id: \"\\u{1b}[2J\" is not a UUID",
        ),
        ("metadata=[]", "metadata: expected an object"),
    ] {
        let ran = edit(&site, id, &["--set", set]).await;
        let said = ran.refused(1);
        assert!(
            said.contains(problem) && said.contains("nothing was changed"),
            "{ran:#?}"
        );
    }
    let id_of_none = 999_999;
    let ran = edit(&site, id_of_none, &["--set", "tokens=5"]).await;
    assert_eq!(ran.refused(1), "error: there is no dead letter 999999\n");

    let no_object = malformed(&storage, "tokens\u{1b}[31m").await;
    let ran = edit(&site, no_object, &["--set", "tokens=5"]).await;
    assert!(
        ran.refused(1).contains("not a JSON object") && ran.notes().contains("$EDITOR"),
        "{ran:#?}"
    );
    assert_eq!(bodies(&site, id).await, before);
    assert_eq!(
        site.number("select count(*) from operator_actions").await,
        0
    );
}

#[tokio::test]
async fn the_same_again_changes_nothing_and_the_original_again_is_no_edit() {
    let site = Site::new().await;
    let storage = site.storage();
    let id = storage
        .archive(&[refused(Uuid::new_v4(), Uuid::new_v4(), 5)])
        .await
        .expect("archived")[0];
    let same = edit(&site, id, &["--set", "tokens=5"]).await;
    assert_eq!(same.done(), format!("dead letter {id}: nothing changed\n"));
    let dry_run = edit(&site, id, &["--set", "tokens=6", "--dry-run"]).await;
    assert!(dry_run.done().contains("+   \"tokens\": 6"), "{dry_run:#?}");
    let set = ["--set", "tokens=6", "--output", "json"];
    let report = edit(&site, id, &set).await.document();
    assert_eq!(
        keys(&report),
        [
            "action_id",
            "article_id",
            "body",
            "changed",
            "company_id",
            "dry_run",
            "id",
            "job_id",
            "tokens"
        ]
    );
    assert_eq!(
        (&report["changed"], &report["tokens"]),
        (&json!(true), &json!(6))
    );
    let again = edit(&site, id, &set).await.document();
    assert_eq!(
        (&again["changed"], &again["action_id"]),
        (&json!(false), &Value::Null)
    );
    edit(&site, id, &["--set", "tokens=5"]).await.done();
    assert!(
        !storage
            .dead_letter(id)
            .await
            .expect("read")
            .expect("there")
            .dead_letter
            .edited
    );
    assert_eq!(
        site.number("select count(*) from operator_actions").await,
        2
    );
}

#[tokio::test]
async fn nothing_that_was_charged_becomes_another_event() {
    let site = Site::new().await;
    let storage = site.storage();
    let company = site.company(0, 1000).await;
    let (charged, refunded) = (Uuid::new_v4(), Uuid::new_v4());
    for job in [charged, refunded] {
        assert!(site.db.deduct(job, company, 70).await.success);
    }
    site.db
        .execute(format!(
            "update token_deduction_records set status = 'compensated' where idempotency_key = '{refunded}'"
        ))
        .await;
    let other = Uuid::new_v4();
    let dead_letter = |job: Uuid| Arrival {
        reason: "idempotency_key_reused".to_owned(),
        ..refused(job, company, 5)
    };
    let dead = [
        dead_letter(charged),
        dead_letter(refunded),
        dead_letter(other),
    ];
    let ids = storage.archive(&dead).await.expect("archived");
    let figures = format!("was charged 70 tokens of company {company} at ");
    let to = |job: Uuid| format!("job_id={job}");
    for (id, set) in [
        (ids[0], to(Uuid::new_v4())),
        (ids[0], "tokens=70".to_owned()),
        (ids[1], to(Uuid::new_v4())),
        (ids[2], to(charged)),
        (ids[2], to(refunded)),
    ] {
        let ran = edit(&site, id, &["--set", &set]).await;
        assert!(ran.refused(1).contains(&figures), "{id} {set}: {ran:#?}");
    }
    let ran = edit(&site, ids[2], &["--set", &to(refunded)]).await;
    assert!(ran.refused(1).contains("and refunded since"), "{ran:#?}");

    // It stood for another job once, and that one is charged now.
    edit(&site, ids[2], &["--set", &to(Uuid::new_v4())])
        .await
        .done();
    assert!(site.db.deduct(other, company, 5).await.success);
    let ran = edit(&site, ids[2], &["--set", "tokens=9"]).await;
    assert!(
        ran.refused(1)
            .contains(&format!("job {other} was charged 5 tokens")),
        "{ran:#?}"
    );
}

#[tokio::test]
async fn only_an_open_dead_letter_that_nobody_replays_can_be_edited() {
    let site = Site::new().await;
    let storage = site.storage();
    let dead = [refused(Uuid::new_v4(), Uuid::new_v4(), 5)];
    let id = storage.archive(&dead).await.expect("archived")[0];
    claim(&site, id, 5).await;
    let ran = edit(&site, id, &["--set", "tokens=6"]).await;
    assert!(ran.failed(1).contains("just being replayed"), "{ran:#?}");
    claim(&site, id, -5).await;
    let ran = edit(&site, id, &["--set", "tokens=6"]).await;
    ran.done();
    assert!(ran.notes().contains("may have been sent"), "{ran:#?}");
    let discard = [
        "dlq",
        "discard",
        &id.to_string(),
        "--reason",
        "why",
        "--yes",
    ];
    site.run(&discard).await.done();
    let ran = edit(&site, id, &["--set", "tokens=7"]).await;
    assert!(ran.refused(1).contains("is discarded"), "{ran:#?}");
}

fn parsed(body: &[u8]) -> CompletionEvent {
    let limits = token_billing::config::Limits::default();
    CompletionEvent::parse(body, None, &limits).expect("an event")
}

#[tokio::test]
async fn what_happens_between_the_look_and_the_write_is_seen() {
    let site = Site::new().await;
    let storage = site.storage();
    let company = site.company(0, 1000).await;
    let job = Uuid::new_v4();
    let dead = [refused(job, company, 5)];
    let id = storage.archive(&dead).await.expect("archived")[0];
    let seen = dead[0].body.clone();
    let body = event(Uuid::new_v4(), company, 5).to_string().into_bytes();
    let event_now = parsed(&body);
    let write = Edit {
        id,
        seen: &seen,
        body: &body,
        event: &event_now,
    };
    let signed = Signed {
        actor: "ann",
        reason: None,
    };
    edit(&site, id, &["--set", "tokens=6"]).await.done();
    let refused = storage
        .edit_dead_letter(write, signed)
        .await
        .expect_err("another edit");
    assert!(
        matches!(refused, EditError::EditedMeanwhile(_)),
        "{refused}"
    );

    let seen = bodies(&site, id).await.1;
    let write = Edit {
        seen: &seen,
        ..write
    };
    assert!(site.db.deduct(job, company, 5).await.success);
    let refused = storage
        .edit_dead_letter(write, signed)
        .await
        .expect_err("charged");
    assert!(matches!(refused, EditError::AlreadyCharged(_)), "{refused}");
    assert_eq!(bodies(&site, id).await.1, seen);
}
