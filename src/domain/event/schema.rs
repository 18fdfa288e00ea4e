//! What [`CompletionEvent::parse`](super::CompletionEvent::parse) accepts, as a JSON Schema (draft 2020-12).

use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::fields::MAX_USAGE_TYPE_CHARS;
use crate::config::Limits;

/// Hyphenated or plain, in any case.
const UUID: &str = "^([0-9A-Fa-f]{32}|[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12})$";

/// A finished article, to be charged once. Unknown fields are ignored, and an optional field that is null is absent.
/// No key may be there twice, no text may hold U+0000, and integers are written as such: 1, not 1.0 or 1e0.
#[derive(JsonSchema)]
#[schemars(rename = "CompletionEvent")]
#[expect(dead_code, reason = "only documents what is parsed")]
struct EventDocument {
    /// The finished job, a UUID but not the nil one: it is charged once, whatever happens
    #[schemars(regex(pattern = UUID), extend("not" = { "pattern": "^[0-]*$" }))]
    job_id: String,
    /// What the article cost
    #[schemars(range(min = 1))]
    tokens: i64,
    /// Who pays; looked up by the job if absent
    #[schemars(regex(pattern = UUID))]
    company_id: Option<String>,
    /// Looked up by the job if absent
    #[schemars(regex(pattern = UUID))]
    article_id: Option<String>,
    /// What the tokens were used for [default: article_generation]
    #[schemars(length(min = 1, max = MAX_USAGE_TYPE_CHARS))]
    #[schemars(regex(pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"))]
    usage_type: Option<String>,
    /// When the article was finished, by the publisher's clock
    #[schemars(extend("format" = "date-time"))]
    occurred_at: Option<String>,
    /// Kept with the charge
    metadata: Option<Map<String, Value>>,
}

/// The schema of an event within these limits.
#[must_use]
pub fn event_schema(limits: &Limits) -> Schema {
    let settings = SchemaSettings::draft2020_12();
    let mut schema = settings
        .into_generator()
        .into_root_schema_for::<EventDocument>();
    if let Some(tokens) = schema.pointer_mut("/properties/tokens") {
        tokens["maximum"] = json!(limits.max_tokens_per_event);
    }
    let bytes = format!(
        "Kept with the charge; at most {} bytes as JSON",
        limits.max_metadata_bytes
    );
    if let Some(metadata) = schema.pointer_mut("/properties/metadata") {
        metadata["description"] = bytes.into();
    }
    schema
}
