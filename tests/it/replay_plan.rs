//! What a plan promises, and what then happens.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use token_billing::storage::Arrival;
use uuid::Uuid;

use crate::support::{dead_letters::refused, site::Site};

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Dead letters of every kind, of several companies, in no order.
async fn mixed_dead_letters(site: &Site, dice: &mut Dice) -> Vec<Arrival> {
    let mut companies = Vec::new();
    for _ in 0..6 {
        let purchased = i64::try_from(dice.below(4_000)).expect("small");
        companies.push(site.company(500, purchased).await);
    }
    let mut dead_letters: Vec<Arrival> = Vec::new();
    for _ in 0..150 {
        let company = companies[usize::try_from(dice.below(6)).expect("small")];
        let tokens = i64::try_from(1 + dice.below(600)).expect("small");
        let plain = refused(Uuid::new_v4(), company, tokens);
        let job = plain.job_id.expect("it has one");
        let body = |value: Value| value.to_string().into_bytes();
        dead_letters.push(match dice.below(12) {
            0 => Arrival {
                body: format!("no event {job}").into_bytes(),
                reason: "malformed".into(),
                job_id: None,
                company_id: None,
                ..plain
            },
            1 => Arrival {
                body: body(json!({ "job_id": job, "company_id": company, "tokens": 99_000_000 })),
                reason: "amount_out_of_range".into(),
                ..plain
            },
            2 => refused(job, Uuid::new_v4(), tokens),
            // Its company is known by the job's row only, which is there by now.
            3 => {
                let job = site.job(company).await;
                Arrival {
                    body: body(json!({ "job_id": job, "tokens": tokens })),
                    reason: "job_not_found".into(),
                    job_id: Some(job),
                    company_id: None,
                    ..plain
                }
            }
            4 => Arrival {
                body: body(json!({ "job_id": job, "tokens": tokens })),
                reason: "job_not_found".into(),
                company_id: None,
                ..plain
            },
            5 => refused(site.job(companies[0]).await, companies[1], tokens),
            // The same event, dead in two ways.
            6 if !dead_letters.is_empty() => Arrival {
                reason: "retries_exhausted".into(),
                ..dead_letters[dead_letters.len() - 1].clone()
            },
            7 => {
                site.db.deduct(job, company, 1).await;
                Arrival {
                    reason: "idempotency_key_reused".into(),
                    ..plain
                }
            }
            _ => plain,
        });
    }
    dead_letters
}

#[tokio::test]
async fn a_plan_comes_true() {
    for seed in [1, 77] {
        let mut site = Site::new().await;
        // One lane: it comes to dead letters in the order in which they were sent, as the plan did.
        site.set("WORKER__LANES", "1");
        site.set("RETRY__ATTEMPTS", "1");
        let dead_letters = mixed_dead_letters(&site, &mut Dice(seed)).await;
        site.archive(&dead_letters).await;
        site.db
            .execute(
                "update token_deduction_records set status = 'compensated'
                 where idempotency_key in (select idempotency_key from token_deduction_records
                                           where status = 'completed' order by 1 limit 2)",
            )
            .await;
        let charged_before = charged(&site).await;

        let (running, archivist) = (site.start().await, site.archive_running().await);
        let args = ["dlq", "replay", "--all", "--yes", "--output", "json"];
        let document = site.run(&args).await.document();
        running.stop().await;
        archivist.stop().await;

        let (plan, replay) = (&document["plan"], &document["replay"]);
        for (promised, done) in [
            ("charged", "charged"),
            ("charged_tokens", "charged_tokens"),
            ("already_charged", "duplicates"),
            ("fail_again", "failed_again"),
        ] {
            assert_eq!(plan[promised], replay[done], "{document:#}");
        }
        assert_eq!(plan["not_computed"], json!(0));
        assert_eq!(replay["unexpected_failures"], json!(0));
        assert!(plan["refused"].as_i64() > Some(0), "{plan:#}");
        let failures = replay["failures"].as_array().expect("a list");
        let came: BTreeMap<&str, &Value> = failures
            .iter()
            .map(|failure| {
                (
                    failure["reason"].as_str().expect("text"),
                    &failure["dead_letters"],
                )
            })
            .collect();
        assert_eq!(json!(came), plan["failures"]);
        assert!(came.len() >= 6, "every kind of failure: {came:?}");

        let charged_after = charged(&site).await;
        let companies = plan["companies"].as_array().expect("a list");
        let mut promised: BTreeMap<Uuid, i64> = charged_before;
        for company in companies {
            if let Ok(id) = serde_json::from_value::<Uuid>(company["company_id"].clone()) {
                let tokens = company["charged_tokens"].as_i64().expect("a number");
                *promised.entry(id).or_default() += tokens;
            }
        }
        promised.retain(|_, tokens| *tokens > 0);
        assert_eq!(charged_after, promised);
    }
}

/// Tokens charged by company.
async fn charged(site: &Site) -> BTreeMap<Uuid, i64> {
    let rows: Vec<(Uuid, i64)> = sqlx::query_as(
        "select company_id, sum(amount)::bigint from token_deduction_records
         where status in ('completed', 'compensated') group by 1",
    )
    .fetch_all(site.db.pool())
    .await
    .expect("read");
    rows.into_iter().collect()
}

async fn dry_run(site: &Site) -> Value {
    let args = ["dlq", "replay", "--all", "--dry-run", "--output", "json"];
    site.run(&args).await.document()["plan"].clone()
}

#[tokio::test]
async fn a_company_that_is_busy_keeps_only_its_own_dead_letters_from_being_planned() {
    let site = Site::new().await;
    let (busy, free) = (site.company(0, 1_000).await, site.company(0, 1_000).await);
    site.park(busy, 10, 3).await;
    site.park(free, 10, 4).await;
    site.archive(&[Arrival {
        body: b"{".to_vec(),
        reason: "malformed".into(),
        job_id: None,
        company_id: None,
        ..refused(Uuid::new_v4(), busy, 1)
    }])
    .await;
    let mut other = site.db.pool().begin().await.expect("begun");
    sqlx::query("select from company_subscriptions where company_id = $1 for update")
        .bind(busy)
        .execute(&mut *other)
        .await
        .expect("locked");
    let plan = dry_run(&site).await;
    assert_eq!(
        [
            &plan["dead_letters"],
            &plan["charged"],
            &plan["fail_again"],
            &plan["not_computed"]
        ],
        [&json!(8), &json!(4), &json!(1), &json!(3)]
    );
    other.rollback().await.expect("over");
    assert_eq!(dry_run(&site).await["charged"], json!(7));
}

#[tokio::test]
async fn beyond_plan_max_the_rest_of_a_company_is_not_computed() {
    let mut site = Site::new().await;
    site.set("REPLAY__PLAN_MAX", "2");
    let (many, few) = (site.company(0, 1_000).await, site.company(0, 1_000).await);
    site.park(many, 10, 5).await;
    site.park(few, 10, 2).await;
    let plan = dry_run(&site).await;
    assert_eq!(
        (&plan["charged"], &plan["not_computed"]),
        (&json!(4), &json!(3))
    );
    assert_eq!(plan["companies"][0]["company_id"], json!(many));
    let text = site.run(&["dlq", "replay", "--all", "--dry-run"]).await;
    assert!(text.done().contains("beyond replay.plan_max"), "{text:#?}");
}

#[tokio::test]
async fn people_are_shown_the_biggest_twenty_companies() {
    let site = Site::new().await;
    for n in 0..23 {
        let company = site.company(0, 1_000).await;
        site.park(company, 10, 1 + n).await;
    }
    let ran = site.run(&["dlq", "replay", "--all", "--dry-run"]).await;
    let text = ran.done();
    // A heading, twenty companies, the sum.
    assert_eq!(text.lines().count(), 22, "{text}");
    assert!(
        text.contains("all, with 3 more") && text.contains("276"),
        "{text}"
    );
    assert!(!text.contains("not computed"), "{text}");
}
