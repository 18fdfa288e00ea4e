//! Dead letters that attack whoever looks at them. Whatever is in one, a terminal only shows it, and a
//! program gets it back as it was.

use serde_json::{Value, json};
use token_billing::storage::Arrival;
use uuid::Uuid;

use crate::support::{
    command::Ran,
    dead_letters::{malformed, refused},
    site::Site,
    stream::Stream,
};

/// Clears the screen, sets the title, writes to the clipboard, rings, and colours; turns the text
/// around; hides; breaks lines where none are expected.
const HOSTILE: &str = "\u{1b}[2J\u{1b}]0;pwned\u{7}\u{1b}]52;c;cm0gLXJm\u{1b}\\\u{9b}31m\u{90}q\u{7f}\u{8}\r\n\t\
                       \u{202e}gnihton\u{2066}\u{2069}\u{200f}\u{61c}\u{200b}\u{feff}\u{ad}\u{2028}\u{2029}\
                       \u{85}\u{e0041}\u{fe0f}\u{3164}\u{e000}\u{fff9} \"end\" \\u001b 漢字 é";

fn is_hostile(char: char) -> bool {
    let code = u32::from(char);
    (code < 0x20 && char != '\n')
        || (0x7f..0xa0).contains(&code)
        || matches!(code, 0xad | 0x61c | 0x3164 | 0xfeff | 0xe000..=0xf8ff | 0xfe00..=0xfe0f | 0xfff0..=0xfffb)
        || matches!(code, 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xe0000..=0x10_ffff)
}

fn assert_harmless(ran: &Ran) {
    for text in [ran.printed(), ran.notes()] {
        if let Some(char) = text.chars().find(|char| is_hostile(*char)) {
            panic!(
                "{:?} reaches the terminal: {ran:#?}",
                char.escape_unicode().to_string()
            );
        }
    }
}

/// In every place where text from outside is kept. PostgreSQL's texts can't hold NUL; bodies can.
fn hostile_dead_letters() -> Vec<Arrival> {
    let text = json!({ HOSTILE: [HOSTILE, { "n": HOSTILE }] }).to_string();
    let everywhere = Arrival {
        reason: HOSTILE.to_owned(),
        error_signature: HOSTILE.to_owned(),
        properties: text.clone(),
        headers: text,
        ..malformed(HOSTILE.as_bytes(), HOSTILE)
    };
    let with_body = |body: &[u8]| Arrival {
        body: body.to_vec(),
        ..everywhere.clone()
    };
    let mut binary: Vec<u8> = (0..=255).collect();
    binary.extend(b"\xed\xa0\x80\xf4\x90\x80\x80\xc0\xaf\xe2\x82");
    vec![
        everywhere.clone(),
        with_body(&binary),
        with_body(format!("{{\"job\":\"{HOSTILE}\",{HOSTILE}}}").as_bytes()),
        with_body(
            &[
                &b"\x1b["[..],
                &"\u{202e}".repeat(87_381).into_bytes(),
                b"\x1b",
            ]
            .concat(),
        ),
        with_body(&vec![0; 1_000]),
        with_body(&vec![b'['; 5_000]),
        with_body(b""),
    ]
}

async fn site_under_attack() -> (Site, Vec<Arrival>, Vec<i64>) {
    let site = Site::new().await;
    let dead_letters = hostile_dead_letters();
    let ids = site.archive(&dead_letters).await;
    let first = ids[0];
    // A hostile operator is still an operator, but their colleagues look at it.
    sqlx::query(
        "with done as (
             insert into operator_actions (actor, action, subject, reason, details)
             values ($1, $1, 'x', $1, jsonb_build_object('why', $1::text)) returning id
         )
         insert into dead_letter_actions (action_id, dead_letter_id) select id, $2 from done",
    )
    .bind(HOSTILE)
    .bind(first)
    .execute(site.db.pool())
    .await
    .expect("inserted");
    site.db
        .execute(format!(
            "update dead_letters set edited_body = body where id = {first}"
        ))
        .await;
    (site, dead_letters, ids)
}

#[tokio::test]
async fn no_dead_letter_can_make_a_terminal_do_anything() {
    let (site, _, ids) = site_under_attack().await;
    let shown: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let mut commands = vec![
        vec!["list"],
        vec!["list", "--text", HOSTILE],
        vec!["list", "--limit", "1", "--reason", HOSTILE],
        vec!["groups"],
        vec!["stats", "--max-open", "0"],
        vec!["list", "--group", HOSTILE],
    ];
    commands.extend(shown.iter().map(|id| vec!["show", id.as_str()]));
    for command in commands {
        // What clap says of a refused argument is what was just typed, and its colours are off.
        let is_refused = command.ends_with(&["--group", HOSTILE]);
        for format in ["table", "json"] {
            let args = [&["dlq"], &command[..], &["--output", format]].concat();
            let ran = site.run(&args).await;
            if is_refused {
                ran.refused(2);
            } else {
                assert!(!ran.printed().is_empty(), "{ran:#?}");
                assert_harmless(&ran);
            }
        }
    }
    let ran = site.run(&["dlq", "show", &shown[1]]).await;
    for escaped in ["\\xff", "\\u{1b}", "\\u{0}", "\\u{7f}", "\\xed\\xa0\\x80"] {
        assert!(ran.done().contains(escaped), "{escaped}: {ran:#?}");
    }
    let ran = site.run(&["dlq", "show", &shown[3]]).await;
    let note = format!("body: {} bytes, of which the first 4 KiB", "262,146");
    assert!(ran.done().contains(&note), "{ran:#?}");
    assert!(ran.done().len() < 60_000, "{} bytes", ran.done().len());
    // The end of the body is a bracket, so the forged heading is inside.
    let forged = ran
        .done()
        .lines()
        .filter(|line| line.starts_with("body"))
        .count();
    assert_eq!(forged, 1);
}

#[tokio::test]
async fn a_program_gets_every_value_back_as_it_was() {
    let (site, dead_letters, ids) = site_under_attack().await;
    let page = site
        .run(&["dlq", "list", "--output", "json"])
        .await
        .document();
    for dead_letter in page["dead_letters"].as_array().expect("a list") {
        assert_eq!(
            (&dead_letter["reason"], &dead_letter["error"]),
            (&json!(HOSTILE), &json!(HOSTILE))
        );
    }
    let groups = site
        .run(&["dlq", "groups", "--output", "json"])
        .await
        .document();
    assert_eq!(groups["groups"][0]["error_signature"], json!(HOSTILE));
    assert_eq!(
        groups["groups"][0]["dead_letters"],
        json!(dead_letters.len())
    );

    for (dead_letter, id) in dead_letters.iter().zip(&ids) {
        let id = id.to_string();
        let document = site
            .run(&["dlq", "show", &id, "--output", "json"])
            .await
            .document();
        let headers: Value = serde_json::from_str(&dead_letter.headers).expect("JSON");
        assert_eq!(
            (&document["headers"], &document["properties"]),
            (&headers, &headers)
        );
        match std::str::from_utf8(&dead_letter.body) {
            Ok(text) => assert_eq!(document["body"], json!({ "text": text, "base64": null })),
            Err(_) => assert!(document["body"]["text"].is_null()),
        }
        let raw = site.bytes_of(&["dlq", "show", &id, "--raw"]).await;
        assert!(raw == dead_letter.body, "{id} is not what was published");
    }
    let document = site
        .run(&["dlq", "show", &ids[0].to_string(), "--output", "json"])
        .await
        .document();
    let action = &document["actions"][0];
    for key in ["actor", "action", "reason"] {
        assert_eq!(action[key], json!(HOSTILE), "{key}");
    }
}

#[tokio::test]
async fn a_watcher_sees_one_harmless_line_for_each() {
    let (site, dead_letters, ids) = site_under_attack().await;
    let mut json_lines = Stream::start(&["dlq", "watch", "--output", "json"], &site.environment());
    let mut lines = Stream::start(&["dlq", "watch"], &site.environment());
    assert!(lines.line().await.starts_with("failed"));
    let polite = site
        .archive(&[refused(Uuid::new_v4(), Uuid::new_v4(), 5)])
        .await[0];
    for (number, id) in ids.iter().chain([&polite]).enumerate() {
        let (line, json_line) = (lines.line().await, json_lines.line().await);
        for line in [&line, &json_line] {
            assert!(!line.chars().any(is_hostile), "{line:?}");
        }
        assert_eq!(
            line.split_whitespace().nth(2),
            Some(id.to_string().as_str()),
            "{line}"
        );
        let document: Value = serde_json::from_str(&json_line).expect("JSON");
        assert_eq!(document["id"], json!(id));
        if number < dead_letters.len() {
            assert_eq!(document["error"], json!(HOSTILE));
        }
    }
}
