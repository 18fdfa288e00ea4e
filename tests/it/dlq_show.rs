//! `dlq show`: all that is known of one dead letter, and what its replay would do.

use serde_json::{Value, json};
use token_billing::storage::Arrival;
use uuid::Uuid;

use crate::support::{
    command::keys,
    dead_letters::{malformed, refused},
    site::{Site, event},
};

async fn shown(site: &Site, id: i64) -> Value {
    let id = id.to_string();
    let ran = site.run(&["dlq", "show", &id, "--output", "json"]).await;
    ran.document()
}

async fn told(site: &Site, id: i64) -> String {
    let ran = site.run(&["dlq", "show", &id.to_string()]).await;
    ran.done().to_owned()
}

#[tokio::test]
async fn a_body_is_indented_and_no_token_of_it_is_changed() {
    let site = Site::new().await;
    let body =
        br#"{"tokens":123456789012345678901234567890,"tokens":1.50,"x":"\u001b","y":[{},[]]}"#;
    let id = site
        .archive(&[malformed(body, "tokens: the key appears twice")])
        .await[0];
    let text = told(&site, id).await;
    let expected = r#"
  {
    "tokens": 123456789012345678901234567890,
    "tokens": 1.50,
    "x": "\u001b",
    "y": [
      {},
      []
    ]
  }
"#;
    assert!(text.contains(expected), "{text}");
    let raw = site
        .bytes_of(&["dlq", "show", &id.to_string(), "--raw"])
        .await;
    assert_eq!(raw, body);
    let document = shown(&site, id).await;
    assert_eq!(
        document["body"]["text"],
        json!(std::str::from_utf8(body).expect("UTF-8"))
    );
}

/// One dead letter for each thing that a replay could meet, and the company that can pay.
async fn dead_letters_of_every_outcome(site: &Site) -> (Uuid, Vec<i64>) {
    let (rich, poor) = (site.company(100, 900).await, site.company(0, 7).await);
    let jobs_of_rich = site.job(rich).await;
    let (nameless, charged) = (Uuid::new_v4(), Uuid::new_v4());
    let without_company = Arrival {
        body: json!({ "job_id": nameless, "tokens": 10 })
            .to_string()
            .into_bytes(),
        ..refused(nameless, rich, 10)
    };
    let charged_since = Arrival {
        reason: "idempotency_key_reused".to_owned(),
        ..refused(charged, rich, 10)
    };
    let ids = site
        .archive(&[
            refused(Uuid::new_v4(), rich, 300),
            refused(Uuid::new_v4(), poor, 300),
            refused(Uuid::new_v4(), Uuid::new_v4(), 300),
            refused(jobs_of_rich, poor, 1),
            without_company,
            malformed(b"{\"job_id\": 7", "line 1"),
            charged_since,
        ])
        .await;
    assert!(site.db.deduct(charged, rich, 10).await.success);
    (rich, ids)
}

#[tokio::test]
async fn it_says_what_a_replay_would_do_and_does_nothing() {
    let site = Site::new().await;
    let (rich, ids) = dead_letters_of_every_outcome(&site).await;
    let state = async || {
        let records = site
            .number("select count(*) from token_deduction_records")
            .await;
        (site.balance(rich).await, records)
    };
    let before = state().await;

    let expected = [
        ("would_charge", Value::Null, "balance 990 → 690"),
        (
            "would_fail",
            json!("insufficient_balance"),
            "needs 300 and the company has 7",
        ),
        (
            "would_fail",
            json!("company_not_found"),
            "no token subscription",
        ),
        (
            "would_fail",
            json!("company_mismatch"),
            "article_jobs names",
        ),
        ("would_fail", json!("job_not_found"), "doesn't know the job"),
        ("would_fail", json!("malformed"), "line 1"),
        ("already_charged", Value::Null, "would change nothing"),
    ];
    for (id, (outcome, reason, text)) in ids.iter().zip(expected) {
        let document = shown(&site, *id).await;
        assert_eq!(
            document["replay"]["outcome"],
            json!(outcome),
            "{document:#}"
        );
        assert_eq!(document["replay"]["reason"], reason, "{document:#}");
        let told = told(&site, *id).await;
        let line = told
            .lines()
            .find(|line| line.starts_with("replay "))
            .expect("a line");
        assert!(line.contains(text), "{line}");
    }
    assert_eq!(before, state().await, "a dry run leaves nothing behind");
}

#[tokio::test]
async fn it_says_whether_money_moved_and_how() {
    let site = Site::new().await;
    let company = site.company(100, 900).await;
    let job = Uuid::new_v4();
    let id = site.archive(&[refused(job, company, 300)]).await[0];
    assert!(
        told(&site, id)
            .await
            .contains("never charged: the ledger doesn't know the job")
    );

    assert!(site.db.deduct(job, company, 300).await.success);
    let text = told(&site, id).await;
    assert!(text.contains("resolved"), "{text}");
    assert!(text.contains("charged 300 tokens on "), "{text}");
    assert!(
        text.contains("100 monthly, 200 purchased; balance 1,000 → 700"),
        "{text}"
    );
    assert!(
        text.contains("replay     is not open for it: its job is charged"),
        "{text}"
    );
    let document = shown(&site, id).await;
    assert_eq!(document["record"]["monthly_deducted"], json!(100));
    assert_eq!(
        (&document["charge_state"], &document["state"]),
        (&json!("charged"), &json!("resolved"))
    );
    site.db
        .execute(format!(
            "update token_deduction_records set status = 'compensated' where idempotency_key = '{job}'"
        ))
        .await;
    assert!(
        told(&site, id)
            .await
            .contains("compensated, given back after it was charged 300")
    );
}

#[tokio::test]
async fn a_dead_letter_knows_what_it_replaced_what_became_of_it_and_what_people_did() {
    let site = Site::new().await;
    let (company, job) = (site.company(0, 0).await, Uuid::new_v4());
    let dead_letter = refused(job, company, 500);
    let mut chain = site.archive(std::slice::from_ref(&dead_letter)).await;
    for round in 0..2 {
        let last = chain[round];
        site.db
            .execute(format!(
                "with done as (
                     insert into operator_actions (actor, action, subject, reason)
                     values ('ann', 'replay', '{last}', 'round {round}') returning id
                 ), told as (
                     insert into dead_letter_actions (action_id, dead_letter_id) select id, {last} from done
                 )
                 update dead_letters set claimed_by = (select id from done),
                                         claimed_until = clock_timestamp() + interval '1 minute'
                 where id = {last}"
            ))
            .await;
        let back = Arrival {
            replay_of: Some(last),
            ..dead_letter.clone()
        };
        chain.extend(site.archive(&[back]).await);
    }
    let edited = event(job, company, 1).to_string();
    site.db
        .execute(format!(
            "update dead_letters set edited_body = '{edited}' where id = {}",
            chain[2]
        ))
        .await;

    for id in &chain {
        let document = shown(&site, *id).await;
        let links = document["chain"].as_array().expect("a list");
        let ids: Vec<i64> = links
            .iter()
            .filter_map(|link| link["id"].as_i64())
            .collect();
        assert_eq!(ids, chain, "from {id}");
    }
    let text = told(&site, chain[1]).await;
    let expected = format!(
        "{} (insufficient_balance, replayed) → {} (this one) → {} (insufficient_balance, open)",
        chain[0], chain[1], chain[2]
    );
    assert!(text.contains(&expected), "{text}");
    assert!(text.contains("replay by ann: round 1 (action 2)"), "{text}");
    assert!(
        text.contains(&format!("failed again as {}", chain[2])),
        "{text}"
    );
    let text = told(&site, chain[2]).await;
    assert!(text.contains("edited body, which a replay sends"), "{text}");
    // What would be sent is what is tried.
    assert!(text.contains("the article needs 1 and"), "{text}");
}

#[tokio::test]
async fn its_document_has_stable_keys_and_an_unknown_dead_letter_is_a_failure() {
    let site = Site::new().await;
    let id = site.archive(&[malformed(b"{", "line 1")]).await[0];
    let document = shown(&site, id).await;
    let expected = [
        "actions",
        "archived_at",
        "article_id",
        "attempts",
        "body",
        "body_bytes",
        "body_sha256",
        "chain",
        "charge_state",
        "charged_at",
        "charged_company_id",
        "charged_tokens",
        "claimed_by",
        "claimed_until",
        "company_id",
        "edited",
        "edited_body",
        "error",
        "error_signature",
        "failed_again_as",
        "first_failed_at",
        "group_id",
        "headers",
        "id",
        "job_id",
        "last_arrival",
        "last_arrived_at",
        "last_failed_at",
        "occurrences",
        "properties",
        "reason",
        "record",
        "replay",
        "replayed_at",
        "resolved_at",
        "state",
        "tokens",
    ];
    assert_eq!(keys(&document), expected);
    for args in [
        &["dlq", "show", "999"][..],
        &["dlq", "show", "999", "--raw"],
    ] {
        assert_eq!(
            site.run(args).await.refused(1),
            "error: there is no dead letter 999\n"
        );
    }
}
