//! A dead letter's body mended: checked before it is kept, the original beside it, never another job for
//! what was charged.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;
use token_billing::{
    domain::CompletionEvent,
    storage::{Arrival, Edit, EditError, Signed, Storage},
};
use uuid::Uuid;

use crate::dlq_acts::{arrival, claim};
use crate::support::{
    command::{Ran, keys},
    site::{Site, event},
};

const JSON: [&str; 2] = ["--output", "json"];

/// A letter with this body, which nothing could be read from.
async fn malformed(storage: &Storage, body: impl Into<Vec<u8>>) -> i64 {
    let dead = Arrival {
        reason: "malformed".to_owned(),
        body: body.into(),
        job_id: None,
        company_id: None,
        tokens: None,
        ..arrival(Uuid::new_v4(), Uuid::new_v4(), 1)
    };
    storage.archive(&[dead]).await.expect("archived")[0]
}

async fn edit(site: &Site, id: i64, args: &[&str]) -> Ran {
    site.run(&[&["dlq", "edit", &id.to_string()], args].concat())
        .await
}

/// The original body, and what a replay sends.
async fn bodies(site: &Site, id: i64) -> (Vec<u8>, Vec<u8>) {
    let sql = "select body, coalesce(edited_body, body) from dead_letters where id = $1";
    let row = sqlx::query_as(sql).bind(id).fetch_one(site.db.pool());
    row.await.expect("the letter is there")
}

/// An editor: a script that gets the file as `$1`.
fn editor(folder: &TempDir, script: &str) -> String {
    let path = folder.path().join("editor");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("set");
    path.display().to_string()
}

async fn edit_in(site: &Site, id: i64, folder: &TempDir, script: &str) -> Ran {
    let editor = editor(folder, script);
    let temporary = folder.path().display().to_string();
    let variables = [
        ("EDITOR", editor.as_str()),
        ("TMPDIR", &temporary),
        ("VISUAL", ""),
    ];
    site.run_in(&variables, &["dlq", "edit", &id.to_string()])
        .await
}

/// What was typed and not kept.
fn kept(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).expect("listed");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let drafts = paths.filter(|path| path.extension().is_some_and(|end| end == "json"));
    drafts.map(|path| path.display().to_string()).collect()
}

#[tokio::test]
async fn a_malformed_letter_is_mended_and_what_it_says_now_is_charged() {
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
    let mended = body.replace("\"15\"", "15");
    assert_eq!(
        bodies(&site, id).await,
        (body.into_bytes(), mended.clone().into_bytes())
    );
    let draft = storage.draft(id).await.expect("read").expect("there");
    assert!(draft.letter.edited);
    assert_eq!(
        (
            draft.letter.job_id,
            draft.letter.company_id,
            draft.letter.tokens
        ),
        (Some(job), Some(company), Some(15))
    );

    // As a replay does.
    let running = site.start().await;
    site.broker.publish(mended).await;
    let record = site.until(job, "completed").await;
    running.stop().await;
    assert_eq!((record.amount, record.company_id), (15, company));
    let letter = id.to_string();
    let history = [&["dlq", "history", &letter][..], &JSON].concat();
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
        .archive(&[arrival(Uuid::new_v4(), Uuid::new_v4(), 5)])
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
        .archive(&[arrival(Uuid::new_v4(), Uuid::new_v4(), 5)])
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
            .draft(id)
            .await
            .expect("read")
            .expect("there")
            .letter
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
    let letter = |job: Uuid| Arrival {
        reason: "idempotency_key_reused".to_owned(),
        ..arrival(job, company, 5)
    };
    let dead = [letter(charged), letter(refunded), letter(other)];
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
async fn only_an_open_letter_that_nobody_replays_can_be_edited() {
    let site = Site::new().await;
    let storage = site.storage();
    let dead = [arrival(Uuid::new_v4(), Uuid::new_v4(), 5)];
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
    let dead = [arrival(job, company, 5)];
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
    assert!(matches!(refused, EditError::Settled(_)), "{refused}");
    assert_eq!(bodies(&site, id).await.1, seen);
}

#[tokio::test]
async fn a_job_that_is_charged_while_its_letter_is_in_the_editor_stays_what_it_is() {
    let site = Site::new().await;
    let storage = site.storage();
    let company = site.company(0, 1000).await;
    let job = Uuid::new_v4();
    let id = storage
        .archive(&[arrival(job, company, 5)])
        .await
        .expect("archived")[0];
    let folder = TempDir::new().expect("a folder");
    let fifo = folder.path().join("go on");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.expect("mkfifo can be run").success());
    let script = format!(
        "cat '{}' > /dev/null\nsed -i 's/: 5/: 6/' \"$1\"",
        fifo.display()
    );
    let charge = async {
        // Opens once the editor reads, which is after the look.
        let mut pipe = tokio::fs::OpenOptions::new();
        let pipe = pipe.write(true).open(&fifo).await.expect("opened");
        assert!(site.db.deduct(job, company, 5).await.success);
        drop(pipe);
    };
    let (ran, ()) = tokio::join!(edit_in(&site, id, &folder, &script), charge);
    assert!(ran.refused(1).contains("was charged 5 tokens"), "{ran:#?}");
    let (original, sent) = bodies(&site, id).await;
    assert_eq!(original, sent);
}

#[tokio::test]
async fn an_editor_shows_one_field_a_line_and_what_it_saves_goes_out_as_it_came_in() {
    let site = Site::new().await;
    let storage = site.storage();
    let (job, company) = (Uuid::new_v4(), Uuid::new_v4());
    let one_line = format!(r#"{{"tokens":"7","job_id":"{job}","company_id":"{company}"}}"#);
    let id = malformed(&storage, one_line.as_str()).await;
    let folder = TempDir::new().expect("a folder");
    let script = "grep -qx '  \"tokens\": \"7\",' \"$1\" || exit 1\nsed -i 's/\"7\"/7/' \"$1\"";
    let ran = edit_in(&site, id, &folder, script).await;
    assert!(ran.done().contains("+   \"tokens\": 7,"), "{ran:#?}");
    let sent = bodies(&site, id).await.1;
    assert_eq!(sent, one_line.replace("\"7\"", "7").into_bytes());
    let ran = edit_in(&site, id, &folder, "true").await;
    assert!(ran.done().contains("nothing changed"), "{ran:#?}");
    assert_eq!(kept(&folder), Vec::<String>::new());

    // Neither JSON nor text: it is all the person's.
    let id = malformed(&storage, b"\xff\x00{".as_slice()).await;
    let script = format!("printf '{{\"tokens\":1,\\n\"job_id\":\"{job}\"}}\\n' > \"$1\"");
    edit_in(&site, id, &folder, &script).await.done();
    let (original, sent) = bodies(&site, id).await;
    assert_eq!(original, b"\xff\x00{");
    assert_eq!(
        sent,
        format!("{{\"tokens\":1,\n\"job_id\":\"{job}\"}}").into_bytes()
    );
}

#[tokio::test]
async fn what_was_typed_in_vain_is_kept_and_its_place_told() {
    let site = Site::new().await;
    let storage = site.storage();
    let id = malformed(&storage, "{}").await;
    let before = bodies(&site, id).await;
    let folder = TempDir::new().expect("a folder");
    let ran = edit_in(&site, id, &folder, "echo '{\"tokens\": 5}' > \"$1\"").await;
    let [path] = kept(&folder).try_into().expect("one draft");
    assert!(ran.refused(1).contains("job_id: missing"), "{ran:#?}");
    assert!(ran.notes().contains(&path), "{ran:#?}");
    let typed = fs::read_to_string(Path::new(&path)).expect("read");
    assert_eq!(typed, "{\"tokens\": 5}\n");
    fs::remove_file(path).expect("removed");

    let ran = edit_in(&site, id, &folder, "exit 3").await;
    assert!(ran.refused(1).contains("nothing was changed"), "{ran:#?}");
    assert_eq!(kept(&folder), Vec::<String>::new());
    let none = [("EDITOR", ""), ("VISUAL", "")];
    let ran = site.run_in(&none, &["dlq", "edit", &id.to_string()]).await;
    assert!(ran.refused(1).contains("--set"), "{ran:#?}");
    assert_eq!(bodies(&site, id).await, before);
}
