//! Dead letters parked for want of tokens, and what a credit does about them.

use serde_json::{Value, json};
use token_billing::storage::{Arrival, DeadLetterState};
use uuid::Uuid;

use crate::support::{dead_letters::refused, site::Site};

const JSON: [&str; 2] = ["--output", "json"];

fn figures(document: &Value) -> [&Value; 3] {
    [
        "parked_dead_letters",
        "parked_payable",
        "parked_payable_tokens",
    ]
    .map(|key| &document[key])
}

#[tokio::test]
async fn a_credit_says_what_it_pays_for_and_sends_it_again_as_far_as_it_goes() {
    let site = Site::new().await;
    let (company, other) = (site.company(0, 0).await, site.company(0, 5_000).await);
    let mut jobs = Vec::new();
    for tokens in [300, 300, 300, 100] {
        jobs.extend(site.park(company, tokens, 1).await.0);
    }
    // Neither another company's, nor what failed for another reason.
    site.park(other, 1, 1).await;
    site.archive(&[Arrival {
        reason: "company_not_found".into(),
        ..refused(Uuid::new_v4(), company, 1)
    }])
    .await;
    let id = company.to_string();
    let credit = ["credit", &id, "--purchased", "650", "--key", "k"];
    let ran = site.run(&credit).await;
    let said = "of 4 parked dead letters of this company, the balance pays for 2 (600 tokens): the same command \
                with --replay-parked sends them again";
    assert!(ran.done().contains(said), "{ran:#?}");
    let document = site.run(&[&credit[..], &JSON].concat()).await.document();
    assert_eq!(figures(&document), [&json!(4), &json!(2), &json!(600)]);
    assert_eq!(
        (&document["idempotent"], &document["replay"]),
        (&json!(true), &Value::Null)
    );
    assert_eq!(
        site.in_state(DeadLetterState::Open).await,
        6,
        "never by itself"
    );

    let (running, archivist) = (site.start().await, site.archive_running().await);
    let replay = [&credit[..], &["--replay-parked"], &JSON].concat();
    let document = site.run(&replay).await.document();
    let done = &document["replay"];
    assert_eq!(
        [&done["sent"], &done["charged"], &done["charged_tokens"]],
        [&json!(2), &json!(2), &json!(600)]
    );
    assert_eq!(site.balance(company).await, (0, 50));
    // Again: nothing is credited, and what is left costs too much.
    let document = site.run(&replay).await.document();
    assert_eq!(figures(&document), [&json!(2), &json!(0), &json!(0)]);
    assert_eq!(document["replay"], Value::Null);
    assert_eq!(site.balance(company).await, (0, 50));

    let more = [
        "credit",
        &id,
        "--purchased",
        "60",
        "--key",
        "k2",
        "--replay-parked",
        "--as",
        "ann",
    ];
    let ran = site.run(&more).await;
    assert!(ran.done().contains("1 charged: 100 tokens"), "{ran:#?}");
    assert_eq!(site.balance(company).await, (0, 10));
    running.stop().await;
    archivist.stop().await;

    only_the_third_is_left(&site, &jobs).await;
}

async fn only_the_third_is_left(site: &Site, jobs: &[Uuid]) {
    for (job, charged) in jobs.iter().zip([true, true, false, true]) {
        assert_eq!(site.record(*job).await.is_some(), charged, "{job}");
    }
    let dead_letters = site.dead_letters().await;
    assert_eq!(dead_letters.len(), 6, "nothing failed again");
    let open = dead_letters
        .iter()
        .filter(|l| l.state == DeadLetterState::Open);
    assert_eq!(open.map(|l| l.job_id).next(), Some(Some(jobs[2])));
    let actions = "select count(*) from operator_actions where action = 'replay' and actor = 'ann'
                   and subject like 'parked dead_letters of company %'";
    assert_eq!(site.number(actions).await, 1);
}

#[tokio::test]
async fn without_parked_dead_letters_a_credit_says_nothing_of_them() {
    let site = Site::new().await;
    let company = site.company(0, 0).await;
    site.park(site.company(0, 5).await, 1, 1).await;
    let id = company.to_string();
    let ran = site
        .run(&["credit", &id, "--purchased", "5", "--key", "k"])
        .await;
    assert!(!ran.done().contains("parked"), "{ran:#?}");
    let replay = [
        "credit",
        &id,
        "--purchased",
        "5",
        "--key",
        "k",
        "--replay-parked",
    ];
    let ran = site.run(&replay).await;
    assert!(!ran.done().contains("sent"), "{ran:#?}");
    let document = site.run(&[&replay[..], &JSON].concat()).await.document();
    assert_eq!(figures(&document), [&json!(0), &json!(0), &json!(0)]);
    assert_eq!(document["replay"], Value::Null);
}

#[tokio::test]
async fn a_replay_that_can_not_be_made_is_known_before_the_credit_or_leaves_it_standing() {
    let site = Site::new().await;
    let company = site.company(0, 0).await;
    site.park(company, 5, 1).await;
    let id = company.to_string();
    let credit = [
        "credit",
        &id,
        "--purchased",
        "5",
        "--key",
        "k",
        "--replay-parked",
    ];
    let settings = site.environment();
    let without_broker: Vec<_> = settings
        .into_iter()
        .filter(|(key, _)| !key.contains("BROKER__URL"))
        .collect();
    let ran = crate::support::command::Ran::to_its_end(&credit, &without_broker, b"").await;
    assert!(ran.refused(1).contains("broker.url"), "{ran:#?}");
    assert_eq!(site.balance(company).await, (0, 0));

    let nowhere = [("TOKEN_BILLING__BROKER__URL", "amqp://127.0.0.1:1/%2f")];
    let ran = site.run_in(&nowhere, &[&credit[..], &JSON].concat()).await;
    assert!(ran.failed(1).contains("not confirmed"), "{ran:#?}");
    assert_eq!(ran.json()["purchased_after"], json!(5));
    assert_eq!(site.balance(company).await, (0, 5));
    assert_eq!(site.in_state(DeadLetterState::Open).await, 1);
}
