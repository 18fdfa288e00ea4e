//! The `CloudEvents` 1.0 structured envelope that may surround an event.
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>

use super::EventError;
use super::fields::{Field, Result};
use crate::domain::json::Value;

/// The media type of an event in an envelope.
pub const MEDIA_TYPE: &str = "application/cloudevents+json";
const VERSION: &str = "1.0";
/// The `type` of its envelope.
pub const EVENT_TYPE: &str = "article.generation.completed";

/// Whether a content type is that of a structured envelope; parameters and case don't matter.
pub(in crate::domain) fn is_cloud_event(content_type: Option<&str>) -> bool {
    let media_type = content_type.and_then(|value| value.split(';').next());
    media_type.is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case(MEDIA_TYPE))
}

/// What is read of an envelope.
#[derive(Default)]
pub(super) struct Envelope<'a> {
    pub(super) specversion: Option<Value<'a>>,
    pub(super) kind: Option<Value<'a>>,
    pub(super) id: Option<Value<'a>>,
    pub(super) source: Option<Value<'a>>,
    pub(super) data: Option<Value<'a>>,
    pub(super) data_base64: Option<Value<'a>>,
}

impl<'a> Envelope<'a> {
    /// The text of `data`, if the envelope is in order.
    pub(super) fn data(&self) -> Result<&'a str> {
        let constants = [
            ("specversion", &self.specversion, VERSION),
            ("type", &self.kind, EVENT_TYPE),
        ];
        for (name, value, constant) in constants {
            let field = Field("", name);
            let value = field.required(value.as_ref())?;
            if !matches!(value, Value::String(text) if text == constant) {
                return Err(EventError::expected(field, &format!("{constant:?}"), value));
            }
        }
        for (name, value) in [("id", &self.id), ("source", &self.source)] {
            let field = Field("", name);
            if field.string(field.required(value.as_ref())?)?.is_empty() {
                return Err(EventError::malformed(format!("{field}: empty")));
            }
        }
        if self
            .data_base64
            .as_ref()
            .is_some_and(|value| *value != Value::Null)
        {
            let problem = "data_base64: not supported; the event goes into data, as a JSON object";
            return Err(EventError::malformed(problem));
        }
        let field = Field("", "data");
        field.object(field.required(self.data.as_ref())?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::CompletionEvent;
    use super::super::tests::{body, parse, refused};
    use crate::config::Limits;
    use crate::domain::Reason::{AmountOutOfRange, Malformed};

    fn envelope(attributes: &str, data: &str) -> String {
        format!(r#"{{"data":{data},"id":"1","source":"/writer",{attributes}}}"#)
    }

    const ATTRIBUTES: &str = r#""specversion":"1.0","type":"article.generation.completed""#;

    #[test]
    fn an_envelope_is_opened_by_its_content_type_or_its_specversion() {
        let flat = parse(&body("")).unwrap();
        let wrapped = envelope(ATTRIBUTES, &body(""));
        assert_eq!(parse(&wrapped).unwrap(), flat);
        let content_type = Some("Application/CloudEvents+JSON ; charset=utf-8");
        let limits = Limits::default();
        let parsed = CompletionEvent::parse(wrapped.as_bytes(), content_type, &limits);
        assert_eq!(parsed.unwrap(), flat);
        let error = CompletionEvent::parse(body("").as_bytes(), content_type, &limits).unwrap_err();
        assert_eq!(error.to_string(), "specversion: missing");
        let published_as = |body: &str| CompletionEvent::content_type(body.as_bytes(), &limits);
        assert_eq!(published_as(&wrapped), "application/cloudevents+json");
        assert_eq!(published_as(&body("")), "application/json");
    }

    #[test]
    fn a_wrong_envelope_is_refused() {
        let event = body("");
        let rows = [
            (
                envelope(r#""specversion":"0.3""#, &event),
                "specversion: expected \"1.0\", got the string \"0.3\"",
            ),
            (
                envelope(r#""specversion":1.0"#, &event),
                "specversion: expected \"1.0\", got the fractional number 1.0",
            ),
            (envelope(r#""specversion":"1.0""#, &event), "type: missing"),
            (
                envelope(r#""specversion":"1.0","type":"article.deleted""#, &event),
                "type: expected \"article.generation.completed\", got the string \"article.deleted\"",
            ),
            (
                format!(r#"{{{ATTRIBUTES},"source":"s","data":{event}}}"#),
                "id: missing",
            ),
            (
                format!(r#"{{{ATTRIBUTES},"id":"","source":"s","data":{event}}}"#),
                "id: empty",
            ),
            (
                format!(r#"{{{ATTRIBUTES},"id":"1","source":[],"data":{event}}}"#),
                "source: expected a string, got an array",
            ),
            (
                format!(r#"{{{ATTRIBUTES},"id":"1","source":"s"}}"#),
                "data: missing",
            ),
            (
                envelope(ATTRIBUTES, "[]"),
                "data: expected an object, got an array",
            ),
            (envelope(ATTRIBUTES, "{}"), "data.job_id: missing"),
            (
                envelope(ATTRIBUTES, &event.replace("15000", "\"15000\"")),
                "data.tokens: expected an integer, got the string \"15000\"",
            ),
            (
                envelope(ATTRIBUTES, &body(r#","tokens":1"#)),
                "data.tokens: the key appears twice",
            ),
            (
                envelope(ATTRIBUTES, &body(r#","metadata":{"a":"\u0000"}"#)),
                "data.metadata.a: a string holds U+0000, which can't be stored",
            ),
            (
                format!(r#"{{{ATTRIBUTES},"id":"1","source":"s","data_base64":"e30="}}"#),
                "data_base64: not supported; the event goes into data, as a JSON object",
            ),
        ];
        for (body, message) in rows {
            refused(body, Malformed, message);
        }
        let zero = envelope(ATTRIBUTES, &event.replace("15000", "0"));
        refused(
            zero,
            AmountOutOfRange,
            "data.tokens: 0 is not in 1..=10000000",
        );
    }
}
