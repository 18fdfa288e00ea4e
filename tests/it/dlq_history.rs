//! What people did by hand: who, when, what, to which, why.

use serde_json::json;
use uuid::Uuid;

use crate::dlq_acts::{JSON, dead_letters};
use crate::support::site::Site;

#[tokio::test]
async fn history_finds_who_did_what_and_has_credits_too() {
    let site = Site::new().await;
    let storage = site.storage();
    let company = site.company(0, 0).await;
    let id = dead_letters(&storage, &[company], 5).await[0].to_string();
    let credit = [
        "credit",
        &company.to_string(),
        "--purchased",
        "5000",
        "--key",
        "k",
    ];
    site.run(&[&credit[..], &["--as", "ann"]].concat())
        .await
        .done();
    let discard = [
        "dlq", "discard", &id, "--reason", "why", "--yes", "--as", "bob",
    ];
    site.run(&discard).await.done();

    for (filter, expected) in [
        (&[][..], &["discard", "credit"][..]),
        (&["--as", "ann"], &["credit"]),
        (&["--action", "discard"], &["discard"]),
        (&["--since", "1h"], &["discard", "credit"]),
        (&["--since", "2100-01-01T00:00:00Z"], &[]),
        (&["--limit", "1"], &["discard"]),
        (&["--as", "bob", "--action", "credit"], &[]),
    ] {
        let args = [&["dlq", "history"][..], filter, &JSON].concat();
        let page = site.run(&args).await.document();
        let actions = page["actions"].as_array().expect("a list");
        let kinds: Vec<&str> = actions
            .iter()
            .filter_map(|one| one["action"].as_str())
            .collect();
        assert_eq!(kinds, expected, "{filter:?}");
    }
    let ran = site.run(&["dlq", "history"]).await;
    let given = format!("{company} +5,000 purchased");
    assert!(ran.done().contains(&given), "{ran:#?}");
}

#[tokio::test]
async fn hostile_names_and_reasons_cannot_move_the_terminal() {
    let site = Site::new().await;
    let storage = site.storage();
    let id = dead_letters(&storage, &[Uuid::new_v4()], 5).await[0].to_string();
    let (who, why) = ("\u{1b}]0;owned\u{7}ann\u{202e}", "a\u{9b}2J\r\nb\u{2066}");
    let args = ["dlq", "discard", &id, "--reason", why, "--as", who, "--yes"];
    site.run(&args).await.done();
    let ran = site.run(&["dlq", "history"]).await;
    let shown = ran.done();
    let harmless =
        |char: char| char == '\n' || (!char.is_control() && !"\u{202e}\u{2066}".contains(char));
    assert!(shown.chars().all(harmless), "{shown:?}");
    assert_eq!(shown.lines().count(), 2, "{shown}");
    let page = site
        .run(&["dlq", "history", "--output", "json"])
        .await
        .document();
    assert_eq!(page["actions"][0]["actor"], json!(who));
    assert_eq!(page["actions"][0]["reason"], json!(why));
}
