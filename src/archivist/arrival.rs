//! From a message to what the archive keeps of it. Nothing a message holds can make this fail.

use time::OffsetDateTime;

use crate::{
    broker::Delivered,
    domain::{Glimpse, excerpt, signature},
    storage::{Arrival, StorageError},
};

/// Bytes of the database's words in the error of a bare letter.
const REFUSAL_MAX: usize = 512;

/// What the archive keeps of a dead letter.
pub(super) fn arrival(letter: &Delivered) -> Arrival {
    let glimpse = Glimpse::of(&letter.body, letter.content_type());
    let error = letter.error();
    Arrival {
        reason: letter.reason().to_owned(),
        error_signature: signature(&error),
        error,
        body: letter.body.clone(),
        properties: letter.properties_json(),
        headers: letter.headers_json(),
        job_id: glimpse.job_id,
        company_id: glimpse.company_id,
        article_id: glimpse.article_id,
        tokens: glimpse.tokens,
        attempts: i32::try_from(letter.attempt())
            .unwrap_or(i32::MAX)
            .saturating_add(1),
        first_failed_at: letter.first_failed_at(),
        last_failed_at: letter.failed_at(),
        replay_of: letter.replay_of(),
    }
}

/// The last resort for what the database refuses: the body byte for byte, the reason, what could be read of
/// the body, and the refusal, without anything else that somebody sent along.
pub(super) fn bare(arrival: &Arrival, refusal: &StorageError) -> Arrival {
    let refusal = refusal.to_string().replace('\0', "");
    let error = format!(
        "Archived without its headers, properties and error, which the database refused: {}",
        excerpt::cut(&refusal, REFUSAL_MAX)
    );
    let now = OffsetDateTime::now_utc();
    Arrival {
        error_signature: signature(&error),
        error,
        properties: "{}".to_owned(),
        headers: "{}".to_owned(),
        attempts: 1,
        first_failed_at: now,
        last_failed_at: now,
        ..arrival.clone()
    }
}
