//! The archivist: every kind of dead letter, into the archive with all that is known of it.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::site::Site;

/// What only the table shows: body, properties, headers and signature, by letter, oldest first.
#[derive(Debug, sqlx::FromRow)]
struct Kept {
    body: Vec<u8>,
    properties: Value,
    headers: Value,
    error_signature: String,
}

async fn kept(site: &Site) -> Vec<Kept> {
    sqlx::query_as(
        "select body, properties, headers, error_signature from dead_letters order by id",
    )
    .fetch_all(site.db.pool())
    .await
    .expect("read")
}

#[tokio::test]
async fn a_refused_event_is_archived_with_all_that_is_known_of_it() {
    let site = Site::new().await;
    let archiving = site.archive_running().await;
    let running = site.start_unready();
    let company = site.company(0, 7).await;
    let job = Uuid::new_v4();
    site.publish(job, company, 500).await;

    let letters = site.archived(1).await;
    running.stop().await;
    archiving.stop().await;

    let letter = &letters[0];
    let error = "Not enough tokens: the article needs 500 and the company has 7.";
    assert_eq!(
        (&*letter.reason, &*letter.error),
        ("insufficient_balance", error)
    );
    assert_eq!(
        (letter.job_id, letter.company_id),
        (Some(job), Some(company))
    );
    assert_eq!(
        (letter.tokens, letter.attempts, letter.occurrences),
        (Some(500), 1, 1)
    );
    let kept = kept(&site).await;
    assert_eq!(
        kept[0].properties["content_type"],
        json!("application/json")
    );
    assert_eq!(kept[0].headers["reason"], json!("insufficient_balance"));
    println!("{kept:#?} {letter:#?}");
}
