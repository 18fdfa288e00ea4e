//! `show` tells the past: what it has said once it says every time.

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use token_billing::storage::Arrival;
use uuid::Uuid;

use crate::support::{
    dead_letters::refused,
    ledger::{Item, deduct_item, mark_pending},
    site::Site,
};

/// All that `show` has said so far of one job.
struct Told<'s> {
    site: &'s Site,
    job: String,
    lines: Vec<Value>,
}

impl Told<'_> {
    /// Asks again, holds it to what it said before, in that order, and returns what is new.
    async fn again(&mut self) -> Vec<String> {
        let shown = ["show", &self.job, "--output", "json"];
        let life = self.site.run(&shown).await.document();
        let lines = life["timeline"].as_array().expect("a list").clone();
        let mut rest = lines.iter();
        for line in &self.lines {
            assert!(
                rest.any(|now| now == line),
                "{line:#} is gone or moved: {life:#}"
            );
        }
        let word = |line: &Value| line["what"].as_str().expect("a word").to_owned();
        let new = lines.iter().filter(|line| !self.lines.contains(line));
        let new = new.map(word).collect();
        self.lines = lines;
        new
    }
}

/// A dead letter as a worker makes it: the headers say what it says.
fn dead(job: Uuid, company: Uuid, tokens: i64, reason: &str, error: &str) -> Arrival {
    let now = OffsetDateTime::now_utc();
    let text = now.format(&Rfc3339).expect("a time");
    Arrival {
        reason: reason.to_owned(),
        error: error.to_owned(),
        headers:
            json!({ "attempt": 0, "error": error, "failed-at": text, "first-failed-at": text })
                .to_string(),
        first_failed_at: now,
        last_failed_at: now,
        ..refused(job, company, tokens)
    }
}

#[tokio::test]
async fn every_line_that_show_has_said_once_is_said_by_every_later_show() {
    let site = Site::new().await;
    let company = site.company(0, 10).await;
    let job = site.job(company).await;
    let mut told = Told {
        site: &site,
        job: job.to_string(),
        lines: Vec::new(),
    };
    let item = Item {
        article_id: Some(Uuid::new_v4()),
        ..Item::new(job, company, 50)
    };
    assert_eq!(told.again().await, ["job_created"]);

    // Refused, and archived; then once more, for more tokens, with other words in the same dead letter.
    let refuse = async |item: &Item| {
        deduct_item(site.db.pool(), item)
            .await
            .expect("asked")
            .success
    };
    assert!(!refuse(&item).await);
    site.archive(&[dead(
        job,
        company,
        50,
        "insufficient_balance",
        "needs 50, has 10",
    )])
    .await;
    assert_eq!(
        told.again().await,
        ["charge_refused", "dead_lettered", "archived"]
    );
    assert!(
        !refuse(&Item {
            amount: Some(60),
            ..item.clone()
        })
        .await
    );
    site.archive(&[dead(
        job,
        company,
        50,
        "insufficient_balance",
        "needs 60, has 10",
    )])
    .await;
    assert_eq!(told.again().await, ["charge_refused"]);

    pending_and_written_off(&mut told, company, &item).await;
    paid_and_refunded(&mut told, company).await;
    assert_eq!(
        site.record(job).await.expect("a record").status,
        "compensated"
    );
}

/// Pending, with a dead letter of its own, and again; written off, since no article is there.
async fn pending_and_written_off(told: &mut Told<'_>, company: Uuid, item: &Item) {
    let site = told.site;
    let job = item.job_id.expect("a job");
    for error in ["the lock was held", "it still was"] {
        mark_pending(site.db.pool(), std::slice::from_ref(item), error)
            .await
            .expect("marked");
        assert_eq!(told.again().await, ["charge_pending"]);
    }
    site.archive(&[dead(job, company, 50, "retries_exhausted", "it still was")])
        .await;
    assert_eq!(told.again().await, ["dead_lettered", "archived"]);
    site.db
        .execute(format!(
            "update token_deduction_records set pending_since = now() - interval '2 hours';
             insert into articles (id, company_id) values ('{}', '{company}')",
            Uuid::new_v4()
        ))
        .await;
    assert_eq!(told.again().await, [""; 0]);
    site.run(&["reconcile"]).await.done();
    assert!(told.again().await.contains(&"written_off".to_owned()));
}

/// Topped up, sent again, charged; refunded.
async fn paid_and_refunded(told: &mut Told<'_>, company: Uuid) {
    let site = told.site;
    let id = company.to_string();
    let credit = ["credit", &id, "--purchased", "100", "--key", "k"];
    site.run(&credit).await.done();
    assert_eq!(told.again().await, [""; 0]);
    let running = site.start().await;
    let replay = [
        "dlq",
        "replay",
        "--reason",
        "insufficient_balance",
        "--yes",
        "--as",
        "ann",
    ];
    site.run(&replay).await.done();
    running.stop().await;
    let new = told.again().await;
    assert!(
        new.contains(&"replay".to_owned()) && new.contains(&"charged".to_owned()),
        "{new:?}"
    );
    site.run(&["refund", &told.job, "--reason", "ticket 7"])
        .await
        .done();
    assert!(told.again().await.contains(&"refunded".to_owned()));
}

#[tokio::test]
async fn show_says_how_things_stand_beside_what_happened() {
    let site = Site::new().await;
    let company = site.company(0, 10).await;
    let job = site.job(company).await;
    site.db.deduct(job, company, 50).await;
    for error in ["needs 50, has 10", "needs 50, has 9"] {
        site.archive(&[dead(job, company, 50, "insufficient_balance", error)])
            .await;
    }
    let job = job.to_string();
    let life = site
        .run(&["show", &job, "--output", "json"])
        .await
        .document();
    assert_eq!(life["job"]["status"], "failed", "{life:#}");
    let dead_letter = &life["dead_letters"][0];
    assert_eq!(
        (&dead_letter["state"], &dead_letter["occurrences"]),
        (&"open".into(), &2.into())
    );
    assert_eq!(dead_letter["error"], "needs 50, has 9");
    let table = site.run(&["show", &job]).await;
    for said in [
        "article_jobs says: failed: ",
        "dead letter 1: open, insufficient_balance; it came 2 times, the last ",
        "insufficient_balance: needs 50, has 10",
    ] {
        assert!(table.done().contains(said), "{said}: {table:#?}");
    }
}
