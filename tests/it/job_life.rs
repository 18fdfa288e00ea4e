//! `show`: the life of one job, whatever happened to it.

use serde_json::Value;
use uuid::Uuid;

use crate::support::{
    ledger::{Item, mark_pending},
    site::Site,
};

async fn life(site: &Site, job: &str) -> Value {
    site.run(&["show", job, "--output", "json"])
        .await
        .document()
}

/// What happened, in order.
fn told(life: &Value) -> Vec<&str> {
    let moments = life["timeline"].as_array().expect("a list");
    moments
        .iter()
        .map(|moment| moment["what"].as_str().expect("a word"))
        .collect()
}

#[tokio::test]
async fn a_life_from_refusal_to_refund_is_told_in_order() {
    let site = Site::new().await;
    let (running, archivist) = (site.start().await, site.archive_running().await);
    let company = site.company(100, 0).await;
    let job = site.job(company).await;
    site.publish(job, company, 500).await;
    site.archived(1).await;
    let (id, job) = (company.to_string(), job.to_string());
    let credit = [
        "credit",
        &id,
        "--purchased",
        "400",
        "--key",
        "k",
        "--replay-parked",
        "--as",
        "ann",
    ];
    site.run(&credit).await.done();
    site.run(&["refund", &job, "--reason", "ticket 7", "--as", "bob"])
        .await
        .done();
    running.stop().await;
    archivist.stop().await;

    let life = life(&site, &job).await;
    assert_eq!(
        told(&life),
        [
            "job_created",
            "charge_refused",
            "dead_lettered",
            "archived",
            "replay",
            "charged",
            "resolved",
            "refunded"
        ],
        "{life:#}"
    );
    let moments = &life["timeline"];
    assert_eq!(
        (&moments[2]["attempts"], &moments[2]["dead_letter_id"]),
        (&1.into(), &1.into())
    );
    assert_eq!(
        (&moments[4]["actor"], &moments[7]["actor"]),
        (&"ann".into(), &"bob".into())
    );
    assert_eq!(
        (&moments[5]["tokens"], &moments[7]["tokens"]),
        (&500.into(), &500.into())
    );
    assert_eq!(
        moments[5]["detail"]
            .as_str()
            .map(|detail| detail.split(", position").next()),
        Some(Some("100 monthly and 400 purchased; balance 500 -> 0"))
    );
    assert_eq!(life["record"]["status"], "compensated");
    let table = site.run(&["show", &job.to_uppercase()]).await;
    assert!(table.done().contains("refunded"), "{table:#?}");
    assert!(table.done().contains("ticket 7"), "{table:#?}");
}

#[tokio::test]
async fn what_is_pending_and_then_swept_is_told() {
    let site = Site::new().await;
    let company = site.company(0, 100).await;
    let (job, article) = (site.job(company).await, Uuid::new_v4());
    let item = Item {
        article_id: Some(article),
        ..Item::new(job, company, 30)
    };
    mark_pending(site.db.pool(), &[item], "the database was busy")
        .await
        .expect("marked");
    let job = job.to_string();
    assert_eq!(
        told(&life(&site, &job).await),
        ["job_created", "charge_pending"]
    );
    site.db
        .execute(format!(
            "insert into articles (id, company_id) values ('{article}', '{company}')"
        ))
        .await;
    site.db
        .execute("update token_deduction_records set pending_since = now() - interval '2 hours'")
        .await;
    site.run(&["reconcile"]).await.done();
    let life = life(&site, &job).await;
    assert!(told(&life).contains(&"article_written"), "{life:#}");
    assert!(told(&life).contains(&"charged"), "{life:#}");
}

#[tokio::test]
async fn a_job_that_nobody_knows_is_an_error() {
    let site = Site::new().await;
    let job = Uuid::new_v4().to_string();
    let ran = site.run(&["show", &job]).await;
    assert!(
        ran.refused(1)
            .contains(&format!("nothing is known of job {job}")),
        "{ran:#?}"
    );
}
