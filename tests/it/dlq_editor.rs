//! A dead letter in somebody's editor.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use tempfile::TempDir;
use uuid::Uuid;

use crate::dlq_edit::{bodies, malformed};
use crate::support::dead_letters::refused;
use crate::support::{command::Ran, site::Site};

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
async fn a_job_that_is_charged_while_its_dead_letter_is_in_the_editor_stays_what_it_is() {
    let site = Site::new().await;
    let storage = site.storage();
    let company = site.company(0, 1000).await;
    let job = Uuid::new_v4();
    let id = storage
        .archive(&[refused(job, company, 5)])
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
