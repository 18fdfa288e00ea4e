//! Tokens held for jobs that have begun: nobody else's charge takes them, and whatever ends them is told.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use token_billing::{
    storage::{Hold, HoldAnswer, Storage},
    sweeper::{SweepReport, Sweeper},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{
    adds_up::assert_ledger_adds_up,
    dead_letters::refused,
    eventually::{PATIENCE, eventually},
    ledger::deduct,
    pending::pending_for_nothing,
    process::Process,
    site::Site,
};

const HOUR: Duration = Duration::from_hours(1);

async fn ask(storage: &Storage, job: Uuid, company: Uuid, amount: i64) -> HoldAnswer {
    let answer = storage.hold_tokens(job, company, amount, HOUR).await;
    answer.expect("an answer")
}

/// Holds for a new job.
async fn hold(storage: &Storage, company: Uuid, amount: i64) -> Uuid {
    let job = Uuid::new_v4();
    let answer = ask(storage, job, company, amount).await;
    let is_new = matches!(
        answer,
        HoldAnswer::Held {
            idempotent: false,
            ..
        }
    );
    assert!(is_new, "{answer:?}");
    job
}

/// Status and reason.
async fn state(site: &Site, job: Uuid) -> (String, Option<String>) {
    sqlx::query_as("select status, reason from token_holds where job_id = $1")
        .bind(job)
        .fetch_one(site.db.pool())
        .await
        .expect("a hold")
}

fn released(reason: &str) -> (String, Option<String>) {
    ("released".to_owned(), Some(reason.to_owned()))
}

fn charged() -> (String, Option<String>) {
    ("charged".to_owned(), None)
}

async fn expire(site: &Site, job: Uuid) {
    let sql = "update token_holds set expires_at = now() - interval '1 s' where job_id";
    site.db.execute(format!("{sql} = '{job}'")).await;
}

async fn sweep(site: &Site) -> SweepReport {
    let sweeper = Sweeper::new(&site.settings(), Arc::new(site.storage()));
    let swept = sweeper.run_once(HOUR, &CancellationToken::new()).await;
    swept.expect("the pass comes to its end")
}

#[tokio::test]
async fn of_a_thousand_holds_at_once_a_balance_for_a_hundred_grants_a_hundred() {
    let site = Site::new().await;
    let company = site.company(40, 60).await;
    let storage = Arc::new(site.storage());
    let mut asked = JoinSet::new();
    for _ in 0..1000 {
        let storage = storage.clone();
        asked.spawn(async move { ask(&storage, Uuid::new_v4(), company, 1).await });
    }
    let answers = asked.join_all().await;
    let held = |answer: &&HoldAnswer| matches!(answer, HoldAnswer::Held { .. });
    assert_eq!(answers.iter().filter(held).count(), 100);
    let refused = HoldAnswer::InsufficientBalance {
        required: 1,
        available: 0,
    };
    assert_eq!(answers.iter().filter(|it| **it == refused).count(), 900);
    assert_eq!(site.balance(company).await, (40, 60), "no token has moved");
}

#[tokio::test]
async fn the_same_hold_again_is_that_hold_and_another_one_is_refused() {
    let site = Site::new().await;
    let (company, other) = (site.company(0, 100).await, site.company(0, 100).await);
    let storage = site.storage();
    let job = Uuid::new_v4();
    let first = ask(&storage, job, company, 60).await;
    let again = ask(&storage, job, company, 60).await;
    let (
        HoldAnswer::Held { hold: one, .. },
        HoldAnswer::Held {
            hold: two,
            idempotent,
        },
    ) = (first, again)
    else {
        panic!("both are held")
    };
    assert_eq!((&one, idempotent), (&two, true));
    let Hold { status, amount, .. } = one;
    assert_eq!((status.as_str(), amount), ("open", 60));

    let differs = HoldAnswer::Refused("hold_differs".to_owned());
    assert_eq!(ask(&storage, job, company, 61).await, differs);
    assert_eq!(ask(&storage, job, other, 60).await, differs);
    for (company, amount, error) in [
        (Uuid::new_v4(), 1, "company_not_found"),
        (company, 0, "invalid_request"),
    ] {
        let refused = HoldAnswer::Refused(error.to_owned());
        assert_eq!(
            ask(&storage, Uuid::new_v4(), company, amount).await,
            refused
        );
    }

    // Another company's key releases nothing of this one's.
    let release = async |of| storage.release_hold(job, of).await.expect("an answer");
    assert!(!release(Some(other)).await);
    assert!(release(Some(company)).await);
    assert!(!release(None).await, "the second time there is none");
    let answer = ask(&storage, job, other, 60).await;
    assert!(matches!(answer, HoldAnswer::Held { .. }), "{answer:?}");
}

#[tokio::test]
async fn a_worker_leaves_alone_what_is_held_for_another_job_and_closes_the_jobs_own() {
    let site = Site::new().await;
    site.declare().await;
    let company = site.company(50, 50).await;
    let storage = site.storage();
    let mine = hold(&storage, company, 70).await;
    let (too_much, little) = (Uuid::new_v4(), Uuid::new_v4());
    let mut process = Process::start(&["serve"], &site.environment());
    site.publish(too_much, company, 31).await;
    let refused = site.until(too_much, "failed").await;
    assert_eq!(
        refused.error_message.as_deref(),
        Some(
            "Not enough tokens: the article needs 31 and the company has 100, of which 70 are held for other articles."
        )
    );
    site.publish(little, company, 30).await;
    site.until(little, "completed").await;
    // Less than was held for it: the rest is free again, for the one that was refused.
    site.publish(mine, company, 39).await;
    site.until(mine, "completed").await;
    assert_eq!(state(&site, mine).await, charged());
    site.publish(too_much, company, 31).await;
    site.until(too_much, "completed").await;
    process.terminate().await;
    assert_eq!(site.balance(company).await, (0, 0));
    assert_ledger_adds_up(site.db.pool(), company, 100).await;
}

#[tokio::test]
async fn too_little_for_the_real_amount_is_refused_and_the_hold_is_released() {
    let site = Site::new().await;
    let company = site.company(0, 100).await;
    let storage = site.storage();
    let (job, other) = (
        hold(&storage, company, 40).await,
        hold(&storage, company, 60).await,
    );
    let answer = deduct(site.db.pool(), job, company, 41).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.error(), "insufficient_balance");
    assert_eq!((answer.required, answer.available), (Some(41), Some(40)));
    assert_eq!(state(&site, job).await, released("insufficient_balance"));
    let answer = deduct(site.db.pool(), other, company, 100).await;
    assert!(
        answer.expect("an answer").success,
        "it may take more than was held for it"
    );
    let taken = HoldAnswer::Refused("already_charged".to_owned());
    assert_eq!(ask(&storage, other, company, 1).await, taken);
}

#[tokio::test]
async fn what_has_expired_counts_no_more_and_is_never_charged_against() {
    let site = Site::new().await;
    let company = site.company(0, 100).await;
    let storage = site.storage();
    let (old, new) = (hold(&storage, company, 80).await, Uuid::new_v4());
    expire(&site, old).await;
    let answer = ask(&storage, new, company, 90).await;
    assert!(matches!(answer, HoldAnswer::Held { .. }), "{answer:?}");
    let answer = deduct(site.db.pool(), old, company, 80).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.available, Some(10), "its hold gives no right to it");
}

#[tokio::test]
async fn the_sweeper_closes_what_has_expired_and_tells_whose_event_is_missing() {
    let site = Site::new().await;
    let company = site.company(0, 1000).await;
    let storage = site.storage();
    // Nothing was written; something was, and no event came; its event came and lies among the dead letters.
    let (unwritten, written, dead) = (
        site.job(company).await,
        site.job(company).await,
        site.job(company).await,
    );
    for job in [unwritten, written, dead] {
        ask(&storage, job, company, 10).await;
        expire(&site, job).await;
    }
    for job in [written, dead] {
        let article = Uuid::new_v4();
        site.db
            .execute(format!(
                "insert into articles (id, company_id) values ('{article}', '{company}');
                 update article_jobs set article_id = '{article}' where id = '{job}'"
            ))
            .await;
    }
    site.archive(&[refused(dead, company, 10)]).await;
    let open = hold(&storage, company, 10).await;

    let expected = SweepReport {
        holds_expired: 3,
        events_missing: 1,
        ..SweepReport::default()
    };
    let preview = site
        .run(&["reconcile", "--dry-run", "--output", "json"])
        .await;
    let preview = preview.json();
    assert_eq!(
        (&preview["holds_expired"], &preview["events_missing"]),
        (&json!(3), &json!(1))
    );
    assert_eq!(sweep(&site).await, expected);
    assert!(expected.needs_person());
    assert_eq!(state(&site, unwritten).await, released("expired"));
    assert_eq!(state(&site, written).await, released("event_missing"));
    assert_eq!(state(&site, dead).await, released("expired"));
    assert_eq!(state(&site, open).await.0, "open");
    assert_eq!(site.balance(company).await, (0, 1000), "nothing is charged");
    assert_eq!(sweep(&site).await, SweepReport::default(), "once");
}

#[tokio::test]
async fn a_query_of_the_applications_says_whether_the_article_of_an_expired_hold_exists() {
    let mut site = Site::new().await;
    site.set(
        "SWEEPER__ARTICLE_EXISTS_QUERY",
        "select $1::uuid is null and $2::uuid is not null",
    );
    let company = site.company(0, 100).await;
    let job = hold(&site.storage(), company, 10).await;
    expire(&site, job).await;
    assert_eq!(sweep(&site).await.events_missing, 1);

    // A query that fails leaves it open; it counts for nothing.
    site.set(
        "SWEEPER__ARTICLE_EXISTS_QUERY",
        "select 1 / (length($2::uuid::text) - 36) = 1 and $1::uuid is null",
    );
    let job = hold(&site.storage(), company, 10).await;
    expire(&site, job).await;
    let report = sweep(&site).await;
    assert_eq!((report.set_aside, report.holds_expired), (1, 0));
    assert_eq!(state(&site, job).await.0, "open");
}

#[tokio::test]
async fn a_charge_that_is_written_off_is_held_for_no_more() {
    let site = Site::new().await;
    let company = site.company(0, 100).await;
    site.db
        .execute(format!(
            "insert into articles (id, company_id) values (gen_random_uuid(), '{company}')"
        ))
        .await;
    let job = pending_for_nothing(&site, company, 90).await;
    ask(&site.storage(), job, company, 70).await;
    assert_eq!(sweep(&site).await.written_off, 1);
    assert_eq!(state(&site, job).await, released("article_not_found"));
}

#[tokio::test]
async fn people_see_what_is_held() {
    let site = Site::new().await;
    let company = site.company(30, 70).await;
    let job = hold(&site.storage(), company, 80).await;
    let id = company.to_string();
    let balance = site.run(&["balance", &id, "--output", "json"]).await.json();
    let figures = ["total", "held", "available"].map(|field| balance[field].as_i64());
    assert_eq!(figures, [Some(100), Some(80), Some(20)]);
    let table = site.run(&["balance", &id]).await;
    assert!(table.printed().contains("held"), "{}", table.printed());

    let key = job.to_string();
    let shown = site.run(&["show", &key]).await;
    assert!(shown.printed().contains("80 tokens are held for it until"));
    let told = site.run(&["show", &key, "--output", "json"]).await.json();
    assert_eq!(told["timeline"][0]["what"], "held");
    assert_eq!(told["hold"]["status"], "open");
}

#[tokio::test]
async fn an_audit_finds_holds_that_contradict_the_ledger() {
    let site = Site::new().await;
    let company = site.company(0, 1000).await;
    let storage = site.storage();
    let (uncharged, still_held, forgotten) = (
        hold(&storage, company, 10).await,
        hold(&storage, company, 10).await,
        hold(&storage, company, 10).await,
    );
    site.run(&["audit"]).await.done();
    let charge = deduct(site.db.pool(), still_held, company, 10).await;
    assert!(charge.expect("an answer").success);
    site.db
        .execute(format!(
            "update token_holds set status = 'charged', closed_at = now() where job_id = '{uncharged}';
             update token_holds set status = 'open', closed_at = null where job_id = '{still_held}';
             update token_holds set expires_at = now() - interval '1 day' where job_id = '{forgotten}'"
        ))
        .await;
    let audit = site.run(&["audit", "--output", "json"]).await;
    let found = audit.json();
    let mut kinds: Vec<&str> = found["violations"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|violation| violation["kind"].as_str())
        .collect();
    kinds.sort_unstable();
    assert_eq!(
        kinds,
        ["charged_job_held", "hold_not_closed", "hold_without_charge"]
    );
}

#[tokio::test]
async fn holds_and_charges_at_once_never_spend_a_token_twice() {
    let site = Site::new().await;
    site.declare().await;
    let company = site.company(0, 300).await;
    let mut processes =
        [(); 2].map(|()| Process::start(&["serve", "--role", "worker"], &site.environment()));
    let storage = Arc::new(site.storage());
    let mut asked = JoinSet::new();
    for _ in 0..200 {
        let storage = storage.clone();
        asked.spawn(async move {
            let job = Uuid::new_v4();
            (job, ask(&storage, job, company, 3).await)
        });
    }
    let mut held = Vec::new();
    // Others, who hold nothing, come between.
    let mut others = Vec::new();
    while let Some(answer) = asked.join_next().await {
        let (job, answer) = answer.expect("asked");
        if matches!(answer, HoldAnswer::Held { .. }) {
            site.publish(job, company, 3).await;
            held.push(job);
        }
        let other = Uuid::new_v4();
        site.publish(other, company, 1).await;
        others.push(other);
    }
    let decided = async || {
        site.number("select count(*) from token_deduction_records where status <> 'pending'")
            .await
    };
    let all = i64::try_from(held.len() + others.len()).expect("few");
    eventually("all are decided", PATIENCE, decided, |&n| n == all).await;
    for process in &mut processes {
        process.terminate().await;
    }
    // Whoever was promised tokens got them.
    for job in held {
        assert_eq!(
            site.record(job).await.expect("a record").status,
            "completed"
        );
        assert_eq!(state(&site, job).await, charged());
    }
    assert_ledger_adds_up(site.db.pool(), company, 300).await;
}
