//! An event on its way to be published.

use super::{CompletionEvent, EventError};
use crate::config::Limits;
use crate::domain::json;

/// An event before it is checked, as a command line or a test has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventDraft {
    /// A UUID.
    pub job_id: String,
    /// Tokens to charge.
    pub tokens: i64,
    /// A UUID.
    pub company_id: Option<String>,
    /// A UUID.
    pub article_id: Option<String>,
    /// What the tokens were used for.
    pub usage_type: Option<String>,
    /// RFC 3339.
    pub occurred_at: Option<String>,
    /// A JSON object.
    pub metadata: Option<String>,
}

impl EventDraft {
    /// Checks the draft by the rules for messages, which is to say: as a message.
    ///
    /// # Errors
    ///
    /// [`EventError`], as [`CompletionEvent::parse`] gives it.
    pub fn into_event(self, limits: &Limits) -> Result<CompletionEvent, EventError> {
        // On its own first: `{}, "tokens": 1` would become part of the message around it.
        if let Some(metadata) = &self.metadata {
            json::read(metadata, limits.max_depth, |_, _| {}).map_err(|error| {
                EventError::malformed(error.inside("metadata").message("metadata"))
            })?;
        }
        CompletionEvent::parse(self.to_json().as_bytes(), None, limits)
    }

    pub(super) fn to_json(&self) -> String {
        let string = |text: &str| serde_json::Value::from(text).to_string();
        let mut json = format!(
            r#"{{"job_id":{},"tokens":{}"#,
            string(&self.job_id),
            self.tokens
        );
        let optional = [
            ("company_id", self.company_id.as_deref().map(string)),
            ("article_id", self.article_id.as_deref().map(string)),
            ("usage_type", self.usage_type.as_deref().map(string)),
            ("occurred_at", self.occurred_at.as_deref().map(string)),
            ("metadata", self.metadata.clone()),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                json.push_str(&format!(r#","{key}":{value}"#));
            }
        }
        json.push('}');
        json
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;
    use uuid::Uuid;

    use super::*;

    const JOB: &str = "8b0c1c1e-6f5e-4a43-9d0a-3f4c2f1d7a10";

    #[test]
    fn a_draft_is_checked_as_a_message() {
        let draft = EventDraft {
            job_id: JOB.to_owned(),
            tokens: 5,
            usage_type: Some("say \"hi\"".to_owned()),
            metadata: Some(" {\"a\": 1} ".to_owned()),
            ..EventDraft::default()
        };
        let limits = Limits::default();
        let event = draft.clone().into_event(&limits).unwrap();
        assert_eq!(event.usage_type(), "say \"hi\"");
        assert_eq!(event.metadata(), "{\"a\": 1}");
        let rows = [
            (
                EventDraft {
                    tokens: 0,
                    ..draft.clone()
                },
                "tokens: 0 is not in 1..=10000000",
            ),
            (
                EventDraft {
                    job_id: "x".into(),
                    ..draft.clone()
                },
                "job_id: \"x\" is not a UUID",
            ),
            (
                EventDraft {
                    metadata: Some("{}, \"tokens\": 1".into()),
                    ..draft.clone()
                },
                "metadata: line 1, column 3: expected nothing more, got \",\"",
            ),
            (
                EventDraft {
                    metadata: Some("[]".into()),
                    ..draft.clone()
                },
                "metadata: expected an object, got an array",
            ),
            (
                EventDraft {
                    metadata: Some(r#"{"a":{"b":1,"b":2}}"#.into()),
                    ..draft
                },
                "metadata.a.b: the key appears twice",
            ),
        ];
        for (draft, message) in rows {
            assert_eq!(draft.into_event(&limits).unwrap_err().to_string(), message);
        }
    }

    fn drafts() -> impl Strategy<Value = EventDraft> {
        let id = || any::<u128>().prop_map(|id| Uuid::from_u128(id.max(1)).to_string());
        let time = (0_i64..253_402_300_799).prop_map(|second| {
            let at = OffsetDateTime::from_unix_timestamp(second).unwrap();
            at.format(&Rfc3339).unwrap()
        });
        let metadata = prop::collection::hash_map("[^\u{0}]{0,6}", any::<f64>(), 0..4)
            .prop_map(|map| serde_json::to_string(&map).unwrap());
        (
            (id(), 1_i64..=10_000_000),
            prop::option::of(id()),
            prop::option::of(id()),
            prop::option::of("[^\\p{Cc}]{1,100}"),
            prop::option::of(time),
            prop::option::of(metadata),
        )
            .prop_map(
                |((job_id, tokens), company_id, article_id, usage_type, occurred_at, metadata)| {
                    EventDraft {
                        job_id,
                        tokens,
                        company_id,
                        article_id,
                        usage_type,
                        occurred_at,
                        metadata,
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = CompletionEvent::parse(&body, None, &Limits::default());
        }

        #[test]
        fn a_damaged_event_never_panics(draft in drafts(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut body = draft.to_json().into_bytes();
            let at = at.index(body.len());
            body[at] = byte;
            let _ = CompletionEvent::parse(&body, None, &Limits::default());
            let _ = CompletionEvent::parse(&body[..at], None, &Limits::default());
        }

        #[test]
        fn a_valid_event_survives_the_round_trip(draft in drafts()) {
            let event = draft.clone().into_event(&Limits::default()).unwrap();
            prop_assert_eq!(event.job_id().to_string(), draft.job_id);
            prop_assert_eq!(event.tokens(), draft.tokens);
            let again = CompletionEvent::parse(&event.to_json(), None, &Limits::default());
            prop_assert_eq!(again.unwrap(), event);
        }
    }
}
