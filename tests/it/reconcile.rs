//! The sweeper by hand, and an application's own word on what exists.

use token_billing::storage::DeadLetterState;

use crate::support::{
    dead_letters::refused,
    ledger::Item,
    pending::{mark, pending, pending_for_nothing},
    site::Site,
};

#[tokio::test]
async fn an_applications_own_query_says_what_exists() {
    let mut site = Site::new().await;
    let company = site.company(0, 1000).await;
    site.db
        .execute("create table posts (job uuid, state text)")
        .await;
    let (written, unwritten, unsure) = (
        pending_for_nothing(&site, company, 90).await,
        pending(&site, company, 10, 90).await,
        pending(&site, company, 10, 90).await,
    );
    site.db
        .execute(format!(
            "insert into posts values ('{written}', 'out'), ('{unwritten}', 'gone'), ('{unsure}', null)"
        ))
        .await;
    let query = "select (select state = 'out' from posts where job = $2 and $1::uuid is not null)";
    site.set("SWEEPER__ARTICLE_EXISTS_QUERY", query);
    let ran = site.run(&["reconcile", "--output", "json"]).await;
    ran.failed(3);
    let report = ran.json();
    for outcome in ["charged", "written_off", "undecidable"] {
        assert_eq!(report[outcome], 1, "{report}");
    }
    assert_eq!(
        site.record(written).await.expect("a record").status,
        "completed"
    );
}

#[tokio::test]
async fn a_query_that_cannot_work_is_refused_at_the_start_by_name() {
    let mut site = Site::new().await;
    for (query, why) in [
        ("select 1", "gives [\"INT4\"], not one boolean"),
        ("select true, false", "not one boolean"),
        (
            "select exists (select from nowhere where id = $1)",
            "\"nowhere\" does not exist",
        ),
        ("select $1 = 5", "not UUIDs"),
        ("delete from articles", "not one boolean"),
    ] {
        site.set("SWEEPER__ARTICLE_EXISTS_QUERY", query);
        for args in [&["serve", "--role", "sweeper"][..], &["reconcile"]] {
            let ran = site.run(args).await;
            let error = ran.failed(1);
            assert!(error.contains("sweeper.article_exists_query: "), "{error}");
            assert!(error.contains(why), "{error}");
        }
    }
    let writes = "with gone as (delete from articles where id = $1 returning id) select exists (select from gone)";
    site.set("SWEEPER__ARTICLE_EXISTS_QUERY", writes);
    let company = site.company(0, 1000).await;
    pending(&site, company, 10, 90).await;
    let ran = site.run(&["reconcile"]).await;
    assert!(ran.failed(1).contains("read-only transaction"), "{ran:#?}");
    assert_eq!(site.number("select count(*) from articles").await, 1);
}

#[tokio::test]
async fn reconcile_shows_first_and_then_does_what_it_showed() {
    let site = Site::new().await;
    let company = site.company(0, 1000).await;
    pending(&site, company, 10, 90).await;
    pending(&site, company, 10, 30).await;
    pending_for_nothing(&site, company, 90).await;
    let before = site.db.everything().await;
    let shown = site
        .run(&["reconcile", "--dry-run", "--output", "json"])
        .await
        .document();
    assert_eq!(site.db.everything().await, before);
    assert_eq!(
        (&shown["charged"], &shown["written_off"]),
        (&1.into(), &1.into())
    );
    let done = site
        .run(&["reconcile", "--output", "json"])
        .await
        .document();
    assert_eq!(
        (&done["charged"], &done["written_off_tokens"]),
        (&1.into(), &70.into())
    );
    assert_eq!(
        site.run(&["reconcile"]).await.done(),
        "nothing is pending longer than 1h\n"
    );
    let rest = site.run(&["reconcile", "--older-than", "10m"]).await;
    assert!(rest.done().contains("charged"), "{rest:#?}");
    assert_eq!(site.balance(company).await, (0, 980));
}

#[tokio::test]
async fn what_another_sweeper_has_claimed_is_told_and_is_not_nothing() {
    let site = Site::new().await;
    let company = site.company(0, 1000).await;
    pending(&site, company, 10, 90).await;
    // Nobody can tell whether these have an article, so whoever sweeps leaves them pending.
    let undecidable = ["a", "b"].map(|key| Item::new(key, company, 5));
    mark(&site, &undecidable, 90).await;
    let claim = "update token_deduction_records set claimed_until = now() + interval '1 hour'";
    site.db.execute(claim).await;
    let before = site.db.everything().await;
    for args in [&["reconcile"][..], &["reconcile", "--dry-run"]] {
        let ran = site.run(args).await;
        assert!(
            ran.failed(3).contains("another sweeper has claimed them"),
            "{ran:#?}"
        );
        for row in [
            "in other hands: stays pending        3",
            "  of these undecidable               2",
        ] {
            assert!(ran.printed().contains(row), "{row}: {ran:#?}");
        }
        assert!(
            ran.printed().lines().all(|line| line.chars().count() <= 80),
            "{ran:#?}"
        );
        let ran = site.run(&[args, &["--output", "json"]].concat()).await;
        ran.failed(3);
        let report = ran.json();
        assert_eq!(report["charged"], 0, "{report}");
        assert_eq!(report["held_by_others"], 3, "{report}");
        assert_eq!(report["held_by_others_tokens"], 20, "{report}");
        assert_eq!(report["held_by_others_undecidable"], 2, "{report}");
        assert!(report["held_by_others_until"].is_string(), "{report}");
    }
    assert_eq!(site.db.everything().await, before);

    // Its own claims are not another's: what stays pending after its own pass is counted once.
    site.db
        .execute("update token_deduction_records set claimed_until = null")
        .await;
    let ran = site.run(&["reconcile", "--output", "json"]).await;
    ran.failed(3);
    let report = ran.json();
    assert_eq!(
        (&report["charged"], &report["undecidable"]),
        (&1.into(), &2.into())
    );
    assert_eq!(report["held_by_others"], 0, "{report}");
    let again = site.run(&["reconcile"]).await;
    assert!(again.failed(3).contains("claimed"), "{again:#?}");
    // A row that somebody has locked is passed over, and is pending all the same.
    let unclaim = "update token_deduction_records set claimed_until = null";
    site.db.execute(unclaim).await;
    let mut holder = site.db.pool().begin().await.expect("begun");
    sqlx::query("select from token_deduction_records for update")
        .execute(&mut *holder)
        .await
        .expect("locked");
    let ran = site.run(&["reconcile", "--output", "json"]).await;
    assert!(ran.failed(3).contains("rows locked"), "{ran:#?}");
    assert_eq!(ran.json()["held_by_others"], 2, "{ran:#?}");
    holder.rollback().await.expect("released");
    // What is pending for less than was asked is nobody's concern here.
    let ran = site.run(&["reconcile", "--older-than", "2h"]).await;
    assert_eq!(ran.done(), "nothing is pending longer than 2h\n");
}

#[tokio::test]
async fn the_dead_letter_of_a_charge_that_was_written_off_is_resolved_and_its_alarm_ends() {
    let site = Site::new().await;
    let company = site.company(0, 1000).await;
    // An article of somebody's, so that one that isn't there is known not to exist.
    pending(&site, company, 10, 30).await;
    let job = pending_for_nothing(&site, company, 90).await;
    let mut arrivals = [refused(job, company, 70), refused(job, company, 70)];
    arrivals[0].reason = "retries_exhausted".to_owned();
    // Of the same job, but not about this: it stays until somebody decides.
    arrivals[1].reason = "rejected_by_database".to_owned();
    site.archive(&arrivals).await;
    let alarm = ["dlq", "stats", "--max-open", "1"];
    site.run(&alarm).await.failed(3);
    site.run(&["reconcile"]).await.done();
    site.run(&alarm).await.done();
    let states: Vec<DeadLetterState> = site.dead_letters().await.iter().map(|l| l.state).collect();
    assert_eq!(states, [DeadLetterState::Resolved, DeadLetterState::Open]);
    site.run(&["audit"]).await.done();
    let life = ["show", &job.to_string(), "--output", "json"];
    let life = site.run(&life).await.document();
    let happened = life["timeline"].as_array().expect("a list");
    for what in ["charge_pending", "written_off", "resolved"] {
        assert!(
            happened.iter().any(|moment| moment["what"] == what),
            "{what}: {life:#}"
        );
    }
}
