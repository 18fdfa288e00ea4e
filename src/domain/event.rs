//! The event: one finished article, to be charged once.
//!
//! [`CompletionEvent::parse`] is the only way in. What it lets through can be stored and charged as
//! it stands; what it refuses comes with a message that tells the publisher which field, what was
//! expected, and what was there.

mod amend;
mod draft;
mod envelope;
mod fields;
mod schema;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::Reason;
use super::excerpt::cut;
use super::json::{self, Value};
use crate::config::Limits;
use envelope::Envelope;
use fields::{Fields, text_of};

pub use amend::{AmendError, amend};
pub use draft::EventDraft;
pub(super) use envelope::is_cloud_event;
pub use envelope::{EVENT_TYPE, MEDIA_TYPE as CLOUD_EVENT};
pub use schema::event_schema;

/// The usage type of an event that names none.
pub const DEFAULT_USAGE_TYPE: &str = "article_generation";

/// Bytes of an error message: it travels in a header, and an oversized header fails a publish.
const MAX_MESSAGE_BYTES: usize = 1024;

/// A finished article and the tokens it cost. `job_id` is the idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletionEvent {
    job_id: Uuid,
    tokens: i64,
    company_id: Option<Uuid>,
    article_id: Option<Uuid>,
    usage_type: Cow<'static, str>,
    occurred_at: Option<OffsetDateTime>,
    metadata: Cow<'static, str>,
}

impl CompletionEvent {
    /// Reads a message body: the event itself, or a `CloudEvents` 1.0 structured envelope with the
    /// event as its `data`. It is an envelope if `content_type` says so or if it has a
    /// `specversion`. Unknown fields are ignored; a null optional field counts as absent.
    ///
    /// # Errors
    ///
    /// [`EventError`] names the field (`data.tokens` in an envelope) and the offending value.
    pub fn parse(
        body: &[u8],
        content_type: Option<&str>,
        limits: &Limits,
    ) -> Result<Self, EventError> {
        let text = text_of(body, limits)?;
        let mut event = Fields::default();
        let mut envelope = Envelope::default();
        let whole = json::read(text, limits.max_depth, |key, value| match key {
            "specversion" => envelope.specversion = Some(value),
            "type" => envelope.kind = Some(value),
            "id" => envelope.id = Some(value),
            "source" => envelope.source = Some(value),
            "data" => envelope.data = Some(value),
            "data_base64" => envelope.data_base64 = Some(value),
            _ => event.take(key, value),
        })
        .map_err(|error| EventError::malformed(error.message("body")))?;
        if !matches!(whole, Value::Object(_)) {
            return Err(EventError::expected("body", "an object", &whole));
        }
        if envelope.specversion.is_none() && !is_cloud_event(content_type) {
            return event.check("", limits);
        }
        let mut event = Fields::default();
        json::read_again(envelope.data()?, |key, value| event.take(key, value))
            .map_err(|error| EventError::malformed(error.inside("data").message("data")))?;
        event.check("data.", limits)
    }

    /// The content type under which to publish `body`, which [`parse`](Self::parse) has accepted.
    #[must_use]
    pub fn content_type(body: &[u8], limits: &Limits) -> &'static str {
        match Self::parse(body, Some(envelope::MEDIA_TYPE), limits) {
            Ok(_) => envelope::MEDIA_TYPE,
            Err(_) => "application/json",
        }
    }

    /// The event as a message body, for publishers.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let text = |id: Uuid| id.hyphenated().to_string();
        let draft = EventDraft {
            job_id: text(self.job_id),
            tokens: self.tokens,
            company_id: self.company_id.map(text),
            article_id: self.article_id.map(text),
            usage_type: Some(self.usage_type.to_string()),
            // What was read from RFC 3339 can be written as RFC 3339.
            occurred_at: self.occurred_at.and_then(|at| at.format(&Rfc3339).ok()),
            metadata: Some(self.metadata.to_string()),
        };
        draft.to_json().into_bytes()
    }

    /// The job that is charged for: the idempotency key.
    #[must_use]
    pub fn job_id(&self) -> Uuid {
        self.job_id
    }

    /// Tokens to charge, 1 or more.
    #[must_use]
    pub fn tokens(&self) -> i64 {
        self.tokens
    }

    /// The company that pays; without it the job's row says who does.
    #[must_use]
    pub fn company_id(&self) -> Option<Uuid> {
        self.company_id
    }

    /// The article; without it the job's row may know.
    #[must_use]
    pub fn article_id(&self) -> Option<Uuid> {
        self.article_id
    }

    /// What the tokens were used for: 1 to 100 characters, none of them a control character.
    #[must_use]
    pub fn usage_type(&self) -> &str {
        &self.usage_type
    }

    /// When the article was finished, by the publisher's clock.
    #[must_use]
    pub fn occurred_at(&self) -> Option<OffsetDateTime> {
        self.occurred_at
    }

    /// A JSON object, byte for byte as it was published; `{}` if there was none.
    #[must_use]
    pub fn metadata(&self) -> &str {
        &self.metadata
    }
}

/// Why a body is not an event. The message names the field and the offending value, is safe to show
/// on a terminal, and has at most 1 KiB.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EventError {
    reason: Reason,
    message: String,
}

impl EventError {
    /// The dead letter's reason: `malformed`, `amount_out_of_range` or `payload_too_large`.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.reason
    }

    fn new(reason: Reason, message: &str) -> Self {
        let message = cut(message, MAX_MESSAGE_BYTES).into_owned();
        Self { reason, message }
    }

    fn malformed(message: impl AsRef<str>) -> Self {
        Self::new(Reason::Malformed, message.as_ref())
    }

    fn expected(field: impl std::fmt::Display, what: &str, value: &Value<'_>) -> Self {
        Self::malformed(format!(
            "{field}: expected {what}, got {}",
            value.describe()
        ))
    }
}
