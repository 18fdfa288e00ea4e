//! Filters of the `dlq` commands that can't match anything: a typo must not answer "nothing to do".

use uuid::Uuid;

use crate::support::{dead_letters::refused, site::Site};

#[tokio::test]
async fn a_mistyped_reason_is_wrong_usage_and_the_right_one_is_suggested() {
    let site = Site::new().await;
    let company = site.company(0, 0).await;
    site.park(company, 10, 2).await;
    let before = site.archive_rows().await;
    for command in [
        &["list", "--reason"][..],
        &["groups", "--reason"],
        &["watch", "--reason"],
        &["replay", "--yes", "--reason"],
        &["replay", "--dry-run", "--output", "json", "--reason"],
        &[
            "discard",
            "--yes",
            "--reason",
            "insufficent_balance",
            "--only-reason",
        ],
        &["restore", "--yes", "--only-reason"],
    ] {
        let args = [&["dlq"], command, &["insufficent_balance"]].concat();
        let ran = site.run(&args).await;
        let flag = command.last().expect("a flag");
        let said = ran.refused(2);
        let expected = format!(
            "{flag}: there is no reason insufficent_balance; did you mean insufficient_balance?"
        );
        assert!(said.contains(&expected), "{command:?}: {said}");
        assert!(
            said.contains("retries_exhausted, rejected_by_database, delivery_limit"),
            "{said}"
        );
    }
    assert_eq!(site.archive_rows().await, before);
}

#[tokio::test]
async fn a_reason_of_ours_or_one_that_the_archive_has_may_be_asked_for() {
    let site = Site::new().await;
    let company = site.company(0, 0).await;
    let mut foreign = refused(Uuid::new_v4(), company, 10);
    foreign.reason = "their-own.word".to_owned();
    let id = site.archive(&[foreign]).await[0];
    // Nothing has it now, but it may be tomorrow's alarm.
    for reason in ["malformed", "delivery_limit", "expired", "unknown"] {
        let ran = site.run(&["dlq", "list", "--reason", reason]).await;
        assert_eq!(ran.done(), "no open dead letters match\n");
        let nothing = ["dlq", "replay", "--yes", "--reason", reason];
        site.run(&nothing).await.done();
    }
    let list = [
        "dlq",
        "list",
        "--reason",
        "their-own.word",
        "--output",
        "json",
    ];
    assert_eq!(
        site.run(&list).await.document()["dead_letters"][0]["id"],
        id
    );
    // One of several is wrong; the archive's own words are named.
    let two = [
        "dlq",
        "list",
        "--reason",
        "malformed",
        "--reason",
        "their_own.word",
    ];
    let ran = site.run(&two).await;
    assert!(
        ran.refused(2).contains("did you mean their-own.word?"),
        "{ran:#?}"
    );
}

#[tokio::test]
async fn a_group_a_company_or_an_action_that_is_not_there_is_said_to_be_not_there() {
    let site = Site::new().await;
    let (company, idle) = (site.company(0, 0).await, site.company(0, 0).await);
    site.park(company, 10, 1).await;
    let nobody = Uuid::new_v4().to_string();
    let idle = idle.to_string();
    for (args, said) in [
        (
            &["list", "--group", "00000000"][..],
            "--group: no dead letter is of group 00000000",
        ),
        (
            &["replay", "--group", "00000000", "--yes"],
            "--group: no dead letter is of group",
        ),
        (&["list", "--company", &nobody], "--company: "),
        (
            &["discard", "--yes", "--reason", "x", "--company", &nobody],
            "--company: ",
        ),
        (
            &["history", "--action", "replayed"],
            "--action: there is no action replayed; did you mean replay?",
        ),
    ] {
        let ran = site.run(&[&["dlq"], args].concat()).await;
        assert!(ran.refused(2).contains(said), "{args:?}: {ran:#?}");
    }
    // A company that has no dead letter is no typo.
    let ran = site.run(&["dlq", "list", "--company", &idle]).await;
    assert_eq!(ran.done(), "no open dead letters match\n");
    let ran = site.run(&["dlq", "history", "--as", "nobody"]).await;
    assert_eq!(ran.done(), "nothing that was done by hand matches\n");
}

#[tokio::test]
async fn what_is_wrong_usage_in_any_case_is_told_though_the_database_is_away() {
    let site = Site::new().await;
    let away = [(
        "TOKEN_BILLING__DATABASE__URL",
        "postgres://nobody@127.0.0.1:1/none",
    )];
    let never = ["--since", "1h", "--until", "2h"];
    for (args, said) in [
        (&[&["list"], &never[..]].concat()[..], "--since"),
        (&[&["groups"], &never[..]].concat(), "--since"),
        (&[&["watch"], &never[..]].concat(), "--since"),
        (&[&["replay", "--yes"], &never[..]].concat(), "--since"),
        (&["replay", "--yes"], "--all"),
        (&["replay", "1", "--yes", "--state", "replayed"], "--state"),
        (&["replay", "1"], "no terminal"),
        (&["discard", "--yes", "--reason", "x"], "--all"),
        (&["restore", "--yes", "--all", "1"], "--all"),
        (&["restore", "1"], "no terminal"),
    ] {
        let ran = site.run_in(&away, &[&["dlq"], args].concat()).await;
        assert!(ran.refused(2).contains(said), "{args:?}: {ran:#?}");
    }
    site.run_in(&away, &["dlq", "list"]).await.refused(1);
}
