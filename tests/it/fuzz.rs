//! Random headers and bodies into both exchanges, with everything running: each message is accounted for, and nothing
//! breaks.

mod noise;

use std::{collections::HashSet, time::Duration};

use lapin::{BasicProperties, types::ShortString};
use token_billing::domain::CompletionEvent;
use uuid::Uuid;

use self::noise::Noise;
use crate::support::{
    broker::ROUTING_KEY,
    eventually::{PATIENCE, eventually},
    is_long,
    process::Process,
    site::Site,
};

/// Of every dead letter.
const DEAD_LETTER_KEY: &str = "dead-letter";

struct Sent {
    body: Vec<u8>,
    content_type: Option<String>,
    /// To be charged if it can be; else it was sent as a dead letter.
    is_event: bool,
}

/// The one to repeat, or another one each time.
fn seed() -> u64 {
    let given = std::env::var("TOKEN_BILLING_FUZZ_SEED").ok();
    let seed = match given {
        Some(given) => given.parse().expect("TOKEN_BILLING_FUZZ_SEED is a number"),
        None => Uuid::new_v4().as_u64_pair().0,
    };
    eprintln!("TOKEN_BILLING_FUZZ_SEED={seed}");
    seed
}

async fn send(site: &Site, noise: &mut Noise, count: usize, company: Uuid) -> Vec<Sent> {
    let dead_letters = site.broker.dead_letters();
    let mut sent = Vec::new();
    for n in 0..2 * count {
        let is_event = n % 2 == 0;
        let (body, properties) = (noise.body(company), noise.properties());
        sent.push(Sent {
            body: body.clone(),
            content_type: content_type(&properties),
            is_event,
        });
        let (exchange, key) = match is_event {
            true => (site.broker.prefix(), ROUTING_KEY),
            false => (dead_letters.as_str(), DEAD_LETTER_KEY),
        };
        site.broker.send(exchange, key, &body, properties).await;
    }
    sent
}

fn content_type(properties: &BasicProperties) -> Option<String> {
    let content_type = properties.content_type().as_ref();
    content_type.map(ShortString::as_str).map(str::to_owned)
}

/// What is neither charged nor archived with its body as it was.
async fn missing(site: &Site, sent: &[Sent]) -> usize {
    let archived: Vec<Vec<u8>> = sqlx::query_scalar("select body from dead_letters")
        .fetch_all(site.db.pool())
        .await
        .expect("read");
    let charged: Vec<String> = sqlx::query_scalar(
        "select idempotency_key from token_deduction_records where status = 'completed'",
    )
    .fetch_all(site.db.pool())
    .await
    .expect("read");
    let archived: HashSet<Vec<u8>> = archived.into_iter().collect();
    let charged: HashSet<String> = charged.into_iter().collect();
    let limits = site.settings().limits;
    let is_charged = |one: &Sent| {
        let event = CompletionEvent::parse(&one.body, one.content_type.as_deref(), &limits);
        one.is_event && event.is_ok_and(|event| charged.contains(&event.job_id().to_string()))
    };
    sent.iter()
        .filter(|one| !archived.contains(&one.body) && !is_charged(one))
        .count()
}

#[tokio::test]
async fn whatever_is_published_is_charged_or_archived_and_breaks_nothing() {
    let count = if is_long() { 10_000 } else { 300 };
    let mut noise = Noise::new(seed());
    let site = Site::new().await;
    let mut process = Process::start(&["serve"], &site.environment());
    process.wait_for_log("readiness: ready", PATIENCE).await;
    let company = site.company(1_000, 1_000_000).await;
    let sent = send(&site, &mut noise, count, company).await;
    eventually(
        "all are accounted for",
        Duration::from_secs(300),
        async || missing(&site, &sent).await,
        |missing| *missing == 0,
    )
    .await;
    process.terminate().await;
    assert_eq!(process.wait(PATIENCE).await, Some(0));
    for line in process.log() {
        for trouble in [
            "building it anew",
            "gave the messages",
            "can't be read",
            "panic",
            "not confirmed",
        ] {
            assert!(!line.contains(trouble), "{line}");
        }
    }
    // Nobody died with one, so each came once; and charges and balance agree.
    let arrived = site
        .number("select coalesce(sum(occurrences), 0)::bigint from dead_letters")
        .await;
    let completed = "select count(*) from token_deduction_records where status = 'completed'";
    let completed = site.number(completed).await;
    let total = i64::try_from(sent.len()).expect("some");
    assert!(
        arrived + completed <= total,
        "{arrived} + {completed} of {total}"
    );
    let events = sent.iter().filter(|one| one.is_event).count();
    assert!(completed > 0 && usize::try_from(arrived).expect("some") >= events);
    let spent = "select coalesce(sum(amount), 0)::bigint from token_deduction_records where status = 'completed'";
    let spent = site.number(spent).await;
    let (monthly, purchased) = site.balance(company).await;
    assert_eq!(monthly + purchased, 1_001_000 - spent);
    for queue in [
        site.broker.work_queue(),
        site.broker.dead_letters(),
        site.broker.unreadable(),
    ] {
        assert_eq!(site.broker.ready_count(&queue).await, Some(0), "{queue}");
    }
}
