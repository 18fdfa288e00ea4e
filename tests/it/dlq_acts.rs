//! Writing dead letters off and taking that back: the ledger stay as they are, and it is recorded.

use serde_json::json;
use token_billing::storage::{Act, Arrival, DeadLetterState, Selection, Signed, Storage};
use uuid::Uuid;

use crate::support::{command::keys, dead_letters::refused, site::Site};

/// The arguments that print a document.
pub(crate) const JSON: [&str; 2] = ["--output", "json"];

/// Archives a dead letter of each of these companies.
pub(crate) async fn dead_letters(storage: &Storage, companies: &[Uuid], tokens: i64) -> Vec<i64> {
    let arrivals: Vec<Arrival> = companies
        .iter()
        .map(|company| refused(Uuid::new_v4(), *company, tokens))
        .collect();
    storage.archive(&arrivals).await.expect("archived")
}

async fn states(storage: &Storage) -> Vec<DeadLetterState> {
    let all = Selection::default();
    let mut dead_letters = storage
        .dead_letters(&all, None, 1000)
        .await
        .expect("listed");
    dead_letters.reverse();
    dead_letters
        .iter()
        .map(|dead_letter| dead_letter.state)
        .collect()
}

/// As if a replay had this dead letter in flight, until so many minutes from now.
pub(crate) async fn claim(site: &Site, id: i64, minutes: i32) {
    site.db
        .execute(format!(
            "insert into operator_actions (actor, action, subject) values ('another', 'replay', '{id}');
             update dead_letters set claimed_by = (select max(id) from operator_actions),
                                     claimed_until = clock_timestamp() + interval '{minutes} minutes'
             where id = {id}"
        ))
        .await;
}

#[tokio::test]
async fn what_is_discarded_can_be_restored_and_the_ledger_never_notices() {
    let site = Site::new().await;
    let storage = site.storage();
    let company = site.company(300, 1000).await;
    assert!(site.db.deduct(Uuid::new_v4(), company, 50).await.success);
    let ledger = site.db.everything().await;
    let ids = dead_letters(&storage, &[company, company, Uuid::new_v4()], 500).await;
    let ids: Vec<String> = ids.iter().map(i64::to_string).collect();

    let why = ["--reason", "test traffic", "--as", "ann", "--yes"];
    let discard = [&["dlq", "discard", &ids[0], &ids[2]][..], &why].concat();
    let ran = site.run(&discard).await;
    let shown = "2 dead letters of 2 companies, asking for 1,000 tokens";
    assert!(ran.done().contains(shown), "{ran:#?}");
    assert!(ran.done().contains("discarded 2 dead letters"), "{ran:#?}");
    use DeadLetterState::{Discarded, Open};
    assert_eq!(states(&storage).await, [Discarded, Open, Discarded]);

    let restore = ["dlq", "restore", "--company", &company.to_string()];
    let restore = [&restore[..], &["--as", "bob", "--yes"], &JSON].concat();
    let report = site.run(&restore).await.document();
    assert_eq!(
        (&report["changed"], &report["dead_letters"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(states(&storage).await, [Open, Open, Discarded]);

    let history = [&["dlq", "history", &ids[0]][..], &JSON].concat();
    let history = site.run(&history).await.document();
    let actions = history["actions"].as_array().expect("a list");
    let told = |n: usize| {
        let action = &actions[n];
        ["actor", "action", "dead_letters", "reason"].map(|key| action[key].clone())
    };
    assert_eq!(actions.len(), 2);
    assert_eq!(
        told(0),
        [json!("bob"), json!("restore"), json!(1), json!(null)]
    );
    assert_eq!(
        told(1),
        [
            json!("ann"),
            json!("discard"),
            json!(2),
            json!("test traffic")
        ]
    );
    assert_eq!(
        actions[1]["subject"],
        json!(format!("{}, {}", ids[0], ids[2]))
    );
    assert_eq!(actions[0]["subject"], json!(format!("company {company}")));
    let others = [&["dlq", "history", &ids[1]][..], &JSON].concat();
    assert_eq!(site.run(&others).await.document()["actions"], json!([]));

    let mut after = site.db.everything().await;
    after["operator_actions"] = ledger["operator_actions"].clone();
    assert_eq!(after, ledger);
}

#[tokio::test]
async fn only_open_dead_letters_that_nobody_replays_are_discarded() {
    let site = Site::new().await;
    let storage = site.storage();
    let company = site.company(0, 1000).await;
    let jobs: Vec<Uuid> = (0..4).map(|_| Uuid::new_v4()).collect();
    let arrivals: Vec<Arrival> = jobs.iter().map(|job| refused(*job, company, 5)).collect();
    let ids = storage.archive(&arrivals).await.expect("archived");
    claim(&site, ids[0], 5).await;
    // Its replay died, and its time has run out.
    claim(&site, ids[1], -5).await;
    // Charged by another way; the command marks it first.
    assert!(site.db.deduct(jobs[2], company, 5).await.success);

    let words: Vec<String> = ids.iter().map(i64::to_string).collect();
    let mut discard = vec!["dlq", "discard", "999999", "--reason", "why", "--yes"];
    discard.extend(words.iter().map(String::as_str));
    let ran = site.run(&discard).await;
    for left_out in [
        "left out: 1 dead letter is just being replayed",
        "left out: 1 dead letter is not open",
        "left out: 1 dead letter is not there",
        "discarded 2 dead letters",
    ] {
        assert!(ran.done().contains(left_out), "{left_out}: {ran:#?}");
    }
    use DeadLetterState::{Discarded, Open, Resolved};
    assert_eq!(
        states(&storage).await,
        [Open, Discarded, Resolved, Discarded]
    );

    for (id, why) in [
        (&words[0], "1 dead letter is just being replayed"),
        (&words[2], "1 dead letter is not open"),
        (&"999999".to_owned(), "1 dead letter is not there"),
    ] {
        let ran = site
            .run(&["dlq", "discard", id, "--reason", "why", "--yes"])
            .await;
        let problem = format!("error: nothing to discard: {why}\n");
        assert_eq!(ran.refused(1), problem);
    }
    let ran = site.run(&["dlq", "restore", &words[0], "--yes"]).await;
    assert!(ran.refused(1).contains("is not discarded"), "{ran:#?}");
    let recorded = site.number("select count(*) from operator_actions where action = 'discard'");
    assert_eq!(recorded.await, 1, "what did nothing is not in the record");
}

#[tokio::test]
async fn what_the_ledger_will_still_do_is_said_before() {
    let site = Site::new().await;
    let storage = site.storage();
    let company = site.company(0, 1000).await;
    let (pending, charged) = (Uuid::new_v4(), Uuid::new_v4());
    let reused = Arrival {
        reason: "idempotency_key_reused".to_owned(),
        ..refused(charged, company, 6)
    };
    let dead = [refused(pending, company, 5), reused];
    storage.archive(&dead).await.expect("archived");
    assert!(site.db.deduct(charged, company, 5).await.success);
    site.db
        .execute(format!(
            "select * from mark_deductions_pending(array['{pending}'], array['{company}']::uuid[], array[null]::uuid[],
                 array[5], array['{{}}']::jsonb[], array[null], array[null]::uuid[], array['busy'])"
        ))
        .await;
    let before = states(&storage).await;
    let dry_run = ["dlq", "discard", "--all", "--reason", "why", "--dry-run"];
    let ran = site.run(&dry_run).await;
    for said in [
        "2 dead letters of 1 company, asking for 11 tokens",
        "1 of a job that was charged",
        "1 of a job that is pending: discarding does not stop the sweeper",
        "dry run: nothing was changed",
    ] {
        assert!(ran.done().contains(said), "{said}: {ran:#?}");
    }
    let report = site.run(&[&dry_run[..], &JSON].concat()).await.document();
    let figures = ["charged", "pending", "changed"].map(|key| report[key].clone());
    assert_eq!(figures, [json!(1), json!(1), json!(0)]);
    assert_eq!(
        keys(&report),
        [
            "action",
            "action_id",
            "being_replayed",
            "changed",
            "charged",
            "companies",
            "compensated",
            "dead_letters",
            "dry_run",
            "in_other_state",
            "largest",
            "pending",
            "tokens",
            "without_tokens"
        ]
    );
    assert_eq!(states(&storage).await, before);
}

#[tokio::test]
async fn nothing_typed_does_not_mean_everything() {
    let site = Site::new().await;
    let storage = site.storage();
    dead_letters(&storage, &[Uuid::new_v4()], 5).await;
    for (args, problem) in [
        (
            &["discard", "--reason", "why", "--yes"][..],
            "which dead letters?",
        ),
        (&["restore", "--yes"], "which dead letters?"),
        (
            &[
                "discard", "--reason", "why", "--yes", "--all", "--text", "x",
            ],
            "--all",
        ),
        // Nobody is there to be asked.
        (&["discard", "--reason", "why", "--all"], "--yes"),
        (&["discard", "--all", "--yes"], "--reason"),
        (&["discard", "1", "--yes", "--reason", ""], "--reason"),
        (&["history", "--limit", "0"], "--limit"),
        (&["edit", "0"], "<ID>"),
        (&["edit", "1", "--set", "tokens"], "--set"),
        (&["edit", "1", "--set", "=5"], "--set"),
    ] {
        let ran = site.run(&[&["dlq"], args].concat()).await;
        assert!(ran.refused(2).contains(problem), "{args:?}: {ran:#?}");
    }
    assert_eq!(states(&storage).await, [DeadLetterState::Open]);
    let ran = site.run(&["dlq", "restore", "--all", "--yes"]).await;
    assert_eq!(ran.done(), "nothing to restore\n");
}

#[tokio::test]
async fn many_dead_letters_go_in_pages_and_what_arrives_later_stays() {
    let site = Site::new().await;
    let storage = site.storage();
    let company = site.company(0, 0).await;
    site.db
        .execute(format!(
            "insert into dead_letters (reason, error, error_signature, body, company_id, tokens, attempts,
                                       first_failed_at, last_failed_at, last_arrival)
             select 'malformed', 'x', 'x', convert_to(n::text, 'UTF8'), '{company}', 9223372036854775807, 1,
                    now(), now(), nextval('dead_letter_arrival_seq') from generate_series(1, 2500) n"
        ))
        .await;
    let mut open = Selection {
        states: vec![DeadLetterState::Open],
        ..Selection::default()
    };
    let plan = storage
        .plan_act(Act::Discard, &open)
        .await
        .expect("planned");
    assert_eq!((plan.sums.dead_letters, plan.sums.tokens), (2500, i64::MAX));
    open.up_to = plan.sums.up_to;
    dead_letters(&storage, &[company], 5).await;

    let signed = Signed {
        actor: "ann",
        reason: Some("why"),
    };
    let mut pages = Vec::new();
    let acted = storage
        .act(Act::Discard, &open, signed, |done| pages.push(done))
        .await;
    assert_eq!(acted.expect("discarded").dead_letters, 2500);
    assert_eq!(pages, [1000, 2000, 2500]);
    let left = site
        .number("select count(*) from dead_letters where state = 'open'")
        .await;
    assert_eq!(left, 1);
    let recorded =
        "select count(*) from dead_letter_actions t join operator_actions a on a.id = t.action_id
                    where a.action = 'discard'";
    assert_eq!(site.number(recorded).await, 2500);
    assert_eq!(
        site.number("select count(*) from operator_actions").await,
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_discard_the_same_dead_letters_at_once_discard_each_once() {
    let site = Site::new().await;
    let storage = site.storage();
    dead_letters(&storage, &[Uuid::new_v4(); 50], 5).await;
    let open = Selection {
        states: vec![DeadLetterState::Open],
        ..Selection::default()
    };
    let signed = |actor| Signed {
        actor,
        reason: Some("why"),
    };
    let (ours, theirs) = tokio::join!(
        storage.act(Act::Discard, &open, signed("ann"), |_| ()),
        storage.act(Act::Discard, &open, signed("bob"), |_| ()),
    );
    let sum = ours.expect("discarded").dead_letters + theirs.expect("discarded").dead_letters;
    assert_eq!(sum, 50);
    assert_eq!(
        site.number("select count(*) from dead_letter_actions")
            .await,
        50
    );
}

#[tokio::test]
async fn a_dead_letter_comes_back_beside_one_that_arrived_since() {
    let site = Site::new().await;
    let storage = site.storage();
    let dead = [refused(Uuid::new_v4(), Uuid::new_v4(), 5)];
    let first = storage.archive(&dead).await.expect("archived")[0];
    let id = first.to_string();
    let discard = ["dlq", "discard", &id, "--reason", "why", "--yes"];
    site.run(&discard).await.done();
    let second = storage.archive(&dead).await.expect("archived")[0];
    assert_ne!(first, second);
    site.run(&["dlq", "restore", &id, "--yes"]).await.done();
    assert_eq!(states(&storage).await, [DeadLetterState::Open; 2]);
}
