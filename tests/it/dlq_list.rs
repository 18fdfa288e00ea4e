//! `dlq list` and `dlq groups`: what they select, and how they page.

use serde_json::{Value, json};
use time::Duration;
use token_billing::operations::Operations;
use token_billing::storage::{ActionFilter, Arrival, Selection};
use uuid::Uuid;

use crate::support::{
    command::keys,
    dead_letters::{malformed, refused},
    site::Site,
};

const JSON: [&str; 2] = ["--output", "json"];

async fn document(site: &Site, args: &[&str]) -> Value {
    site.run(&[&["dlq"], args, &JSON].concat()).await.document()
}

fn ids(page: &Value) -> Vec<i64> {
    let dead_letters = page["dead_letters"].as_array().expect("a list");
    let id = |dead_letter: &Value| dead_letter["id"].as_i64().expect("a number");
    dead_letters.iter().map(id).collect()
}

async fn listed(site: &Site, args: &[&str]) -> Vec<i64> {
    ids(&document(site, &[&["list"], args].concat()).await)
}

/// The words of a command that was printed for the shell, without the program's name.
fn typed(line: &str) -> Vec<String> {
    let (_, command) = line.split_once("token-billing ").expect("a command");
    command.split(' ').map(str::to_owned).collect()
}

#[tokio::test]
async fn dead_letters_are_listed_newest_first_and_each_page_names_the_command_for_the_next() {
    let site = Site::new().await;
    let company = site.company(0, 0).await;
    let arrivals: Vec<Arrival> = (1..=7)
        .map(|n| refused(Uuid::new_v4(), company, n))
        .collect();
    let mut expected = site.archive(&arrivals).await;
    expected.reverse();

    let page = document(&site, &["list", "--limit", "3"]).await;
    assert_eq!(keys(&page), ["dead_letters", "more", "next_before"]);
    assert_eq!(
        (ids(&page), &page["more"]),
        (expected[..3].to_vec(), &json!(4))
    );
    assert_eq!(page["next_before"], json!(expected[2]));

    let company = company.to_string();
    let first = ["dlq", "list", "--limit", "3", "--company", &company];
    let ran = site.run(&first).await;
    // What comes meanwhile is newer and shifts nothing.
    site.archive(&[malformed(b"{", "line 1")]).await;
    let next = typed(ran.done().lines().last().expect("a last line"));
    let mut next: Vec<&str> = next.iter().map(String::as_str).collect();
    next.extend(JSON);
    let page = site.run(&next).await.document();
    assert_eq!(ids(&page), expected[3..6]);
    assert_eq!(page["more"], json!(1));
    let before = expected[5].to_string();
    let page = document(&site, &["list", "--before", &before]).await;
    assert_eq!(ids(&page), expected[6..]);
    assert_eq!(
        (&page["more"], &page["next_before"]),
        (&json!(0), &Value::Null)
    );
}

#[tokio::test]
async fn each_filter_selects_what_it_says() {
    let site = Site::new().await;
    let (company, other) = (site.company(0, 0).await, site.company(0, 0).await);
    let (job, long_ago) = (Uuid::new_v4(), Duration::hours(5));
    let first = refused(job, company, 10);
    let old = Arrival {
        reason: "company_not_found".to_owned(),
        error: "Company X has no token subscription.".to_owned(),
        error_signature: "Company # has no token subscription.".to_owned(),
        first_failed_at: first.first_failed_at - long_ago,
        last_failed_at: first.last_failed_at - long_ago,
        ..refused(Uuid::new_v4(), other, 20)
    };
    let broken = malformed(b"{\"needle\": \xff}", "line 1, column 12: no UTF-8");
    let ids = site.archive(&[first, old, broken]).await;
    let (first, old, broken) = (ids[0], ids[1], ids[2]);
    site.db
        .execute(format!(
            "update dead_letters set state = 'discarded' where id = {broken}"
        ))
        .await;

    let (company, job) = (company.to_string(), job.to_string());
    let boundary = {
        let at = time::OffsetDateTime::now_utc() - Duration::hours(1);
        let form = time::format_description::well_known::Rfc3339;
        at.format(&form).expect("a moment")
    };
    let (one, three) = (first.to_string(), broken.to_string());
    for (args, expected) in [
        (&[][..], vec![old, first]),
        (&["--reason", "company_not_found"], vec![old]),
        (
            &[
                "--reason",
                "company_not_found",
                "--reason",
                "insufficient_balance",
            ],
            vec![old, first],
        ),
        (&["--reason", "malformed"], vec![]),
        (&["--company", &company], vec![first]),
        (&["--job", &job], vec![first]),
        (&["--since", "1h"], vec![first]),
        (&["--since", &boundary], vec![first]),
        (&["--until", "1h"], vec![old]),
        (&["--since", "6h", "--until", "4h"], vec![old]),
        (&["--state", "discarded"], vec![broken]),
        (&["--state", "all"], vec![broken, old, first]),
        (
            &["--state", "open", "--state", "discarded"],
            vec![broken, old, first],
        ),
        (&["--text", "SUBSCRIPTION"], vec![old]),
        (&["--text", "needle", "--state", "all"], vec![broken]),
        // Named: whatever its state.
        (&[&one, &three], vec![broken, first]),
        (&[&three, "--state", "open"], vec![]),
    ] {
        assert_eq!(listed(&site, args).await, expected, "{args:?}");
    }
}

#[tokio::test]
async fn what_the_ledger_has_charged_meanwhile_is_no_longer_listed() {
    let site = Site::new().await;
    let company = site.company(0, 1_000).await;
    let (job, pending) = (Uuid::new_v4(), Uuid::new_v4());
    let ids = site
        .archive(&[refused(job, company, 500), refused(pending, company, 9)])
        .await;
    assert!(site.db.deduct(job, company, 500).await.success);

    assert_eq!(listed(&site, &[]).await, [ids[1]]);
    let id = ids[0].to_string();
    let page = document(&site, &["list", &id]).await;
    let dead_letter = &page["dead_letters"][0];
    assert_eq!(
        (&dead_letter["state"], &dead_letter["charge_state"]),
        (&json!("resolved"), &json!("charged"))
    );
    let ran = site.run(&["dlq", "list", &id]).await;
    let row = ran.done().lines().nth(1).expect("a row");
    assert!(row.contains("resolved") && row.contains("charged"), "{row}");
    let ran = site.run(&["dlq", "list", "--reason", "malformed"]).await;
    assert_eq!(ran.done(), "no open dead letters match\n");
}

#[tokio::test]
async fn a_line_is_as_wide_as_the_terminal_and_no_wider() {
    let site = Site::new().await;
    let company = site.company(0, 0).await;
    let wordy = Arrival {
        error: "漢字 ".repeat(300),
        ..refused(Uuid::new_v4(), company, 5)
    };
    site.archive(&[wordy]).await;
    for columns in ["80", "200"] {
        for command in ["list", "groups"] {
            let ran = site
                .run_in(&[("COLUMNS", columns)], &["dlq", command])
                .await;
            let most: usize = columns.parse().expect("a number");
            for line in ran.done().lines().take(2) {
                assert!(line.chars().count() <= most, "{command}: {line}");
            }
        }
    }
    let ran = site.run_in(&[("COLUMNS", "200")], &["dlq", "list"]).await;
    assert!(ran.done().contains(&company.to_string()), "{ran:#?}");
}

#[tokio::test]
async fn a_narrow_terminal_has_room_for_the_error() {
    let site = Site::new().await;
    let company = site.company(0, 0).await;
    let poor = refused(Uuid::new_v4(), company, 5);
    let error = poor.error[..15].to_owned();
    site.archive(&[poor]).await;
    for command in ["list", "groups"] {
        let ran = site.run_in(&[("COLUMNS", "80")], &["dlq", command]).await;
        assert!(ran.done().contains(&error), "{command}: {ran:#?}");
    }
}

#[tokio::test]
async fn who_looks_is_told_that_charged_ones_are_not_marked_and_sees_them_all_the_same() {
    let site = Site::new().await;
    let company = site.company(0, 0).await;
    site.archive(&[refused(Uuid::new_v4(), company, 5)]).await;
    site.db
        .execute("alter function resolve_dead_letters rename to elsewhere")
        .await;
    let ran = site.run(&["dlq", "list", "--output", "json"]).await;
    let listed = ran.document()["dead_letters"].as_array().map(Vec::len);
    assert_eq!(listed, Some(1));
    let note =
        "note: charged dead letters are not marked as resolved: function resolve_dead_letters";
    assert!(ran.notes().starts_with(note), "{ran:#?}");
}

#[tokio::test]
async fn a_page_has_a_limit_whoever_asks() {
    let site = Site::new().await;
    let operations = Operations::open(&site.settings()).await.expect("reached");
    let (all, filter) = (Selection::default(), ActionFilter::default());
    for limit in [-1, 0, 10_001] {
        for refused in [
            operations.list_dead_letters(&all, None, limit).await.err(),
            operations.group_dead_letters(&all, limit).await.err(),
            operations.history(&filter, limit).await.err(),
        ] {
            let said = refused.map(|error| error.to_string());
            assert_eq!(said, Some(format!("limit: {limit} is not in 1..=10000")));
        }
    }
    operations.close().await;
}

#[tokio::test]
async fn one_cause_is_one_group_and_the_largest_comes_first() {
    let site = Site::new().await;
    let (company, other) = (site.company(0, 0).await, site.company(0, 0).await);
    let poor = refused(Uuid::new_v4(), company, 100);
    let huge = Arrival {
        tokens: Some(i64::MAX),
        ..malformed(b"[", "line 1: expected an object")
    };
    let ids = site
        .archive(&[
            huge.clone(),
            poor.clone(),
            poor,
            refused(Uuid::new_v4(), other, 7),
            Arrival {
                body: b"[[".to_vec(),
                ..huge.clone()
            },
            Arrival {
                body: b"[[[".to_vec(),
                ..huge
            },
        ])
        .await;
    let document = document(&site, &["groups"]).await;
    assert_eq!(keys(&document), ["groups", "more"]);
    let groups = document["groups"].as_array().expect("a list");
    let figures = |group: &Value| {
        [
            "reason",
            "dead_letters",
            "occurrences",
            "tokens",
            "companies",
        ]
        .map(|key| group[key].clone())
    };
    let malformed = json!(["malformed", 3, 3, i64::MAX, 0]);
    let poor = json!(["insufficient_balance", 2, 3, 107, 2]);
    let groups: Vec<Value> = groups.iter().map(|group| json!(figures(group))).collect();
    assert_eq!(groups, [malformed, poor]);

    // Its last lines are commands that work as they stand.
    let ran = site
        .run(&["dlq", "groups", "--reason", "insufficient_balance"])
        .await;
    let line = ran
        .done()
        .lines()
        .find(|line| line.contains("dlq list"))
        .expect("a command");
    let list = typed(line);
    let list: Vec<&str> = list[1..].iter().map(String::as_str).collect();
    assert_eq!(listed(&site, &list[1..]).await, [ids[3], ids[1]]);
    let one = site
        .run(&[&["dlq", "groups", "--limit", "1"], &JSON[..]].concat())
        .await
        .document();
    assert_eq!(one["more"], json!(1));
}

#[tokio::test]
async fn a_selection_that_makes_no_sense_is_wrong_usage() {
    let site = Site::new().await;
    for (args, named) in [
        (&["list", "--since", "soon"][..], "--since"),
        (&["list", "--since", "1h", "--until", "2h"], "--since"),
        (&["groups", "--group", "x"], "--group"),
        (&["list", "--state", "shut"], "--state"),
        (&["list", "0"], "[ID]"),
        (&["list", "--limit", "0"], "--limit"),
        (&["show"], "<ID>"),
        (&["watch", "--tail=-1"], "--tail"),
    ] {
        let ran = site.run(&[&["dlq"], args].concat()).await;
        assert!(ran.refused(2).contains(named), "{args:?}: {ran:#?}");
    }
}
