//! The rules for each field of an event.

use std::borrow::Cow;
use std::fmt;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::{CompletionEvent, DEFAULT_USAGE_TYPE, EventError};
use crate::config::Limits;
use crate::domain::Reason;
use crate::domain::excerpt::{cut, quoted};
use crate::domain::json::Value;

pub(super) const MAX_USAGE_TYPE_CHARS: usize = 100;

pub(super) type Result<T> = std::result::Result<T, EventError>;

/// The body as text, if its size and encoding allow it.
pub(super) fn text_of<'a>(body: &'a [u8], limits: &Limits) -> Result<&'a str> {
    check_size("body", body.len(), limits.max_body_bytes)?;
    if body.is_empty() {
        return Err(EventError::malformed("body: empty"));
    }
    if body.starts_with(b"\xEF\xBB\xBF") {
        let problem = "body: starts with a byte order mark, which JSON must not";
        return Err(EventError::malformed(problem));
    }
    std::str::from_utf8(body).map_err(|error| {
        EventError::malformed(format!("body: not UTF-8 at byte {}", error.valid_up_to()))
    })
}

fn check_size(field: impl fmt::Display, bytes: usize, limit: usize) -> Result<()> {
    if bytes <= limit {
        return Ok(());
    }
    let problem = format!("{field}: {bytes} bytes, the limit is {limit}");
    Err(EventError::new(Reason::PayloadTooLarge, &problem))
}

/// The fields of an event, as they were found.
#[derive(Default)]
pub(super) struct Fields<'a> {
    job_id: Option<Value<'a>>,
    tokens: Option<Value<'a>>,
    company_id: Option<Value<'a>>,
    article_id: Option<Value<'a>>,
    usage_type: Option<Value<'a>>,
    occurred_at: Option<Value<'a>>,
    metadata: Option<Value<'a>>,
}

impl<'a> Fields<'a> {
    /// Keeps `value` if `key` is a field of an event.
    pub(super) fn take(&mut self, key: &str, value: Value<'a>) {
        let slot = match key {
            "job_id" => &mut self.job_id,
            "tokens" => &mut self.tokens,
            "company_id" => &mut self.company_id,
            "article_id" => &mut self.article_id,
            "usage_type" => &mut self.usage_type,
            "occurred_at" => &mut self.occurred_at,
            "metadata" => &mut self.metadata,
            _ => return,
        };
        *slot = Some(value);
    }

    /// Checks every field; `at` comes before its name in an error (`data.`).
    pub(super) fn check(&self, at: &'static str, limits: &Limits) -> Result<CompletionEvent> {
        let job_id = Field(at, "job_id");
        let tokens = Field(at, "tokens");
        Ok(CompletionEvent {
            job_id: job_id.idempotency_key(job_id.required(self.job_id.as_ref())?)?,
            tokens: tokens.amount(tokens.required(self.tokens.as_ref())?, limits)?,
            company_id: optional(&self.company_id, |id| Field(at, "company_id").uuid(id))?,
            article_id: optional(&self.article_id, |id| Field(at, "article_id").uuid(id))?,
            usage_type: optional(&self.usage_type, |value| {
                Field(at, "usage_type").usage_type(value)
            })?
            .unwrap_or(Cow::Borrowed(DEFAULT_USAGE_TYPE)),
            occurred_at: optional(&self.occurred_at, |time| {
                Field(at, "occurred_at").time(time)
            })?,
            metadata: optional(&self.metadata, |value| {
                Field(at, "metadata").metadata(value, limits)
            })?
            .unwrap_or(Cow::Borrowed("{}")),
        })
    }
}

/// An optional field that is null is absent.
fn optional<'a, T>(
    value: &Option<Value<'a>>,
    check: impl FnOnce(&Value<'a>) -> Result<T>,
) -> Result<Option<T>> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) => check(value).map(Some),
    }
}

/// A field's name, behind where it was found.
#[derive(Clone, Copy)]
pub(super) struct Field(pub(super) &'static str, pub(super) &'static str);

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.0, self.1)
    }
}

impl Field {
    pub(super) fn malformed(self, problem: impl fmt::Display) -> EventError {
        EventError::malformed(format!("{self}: {problem}"))
    }

    pub(super) fn required<'v, 'a>(self, value: Option<&'v Value<'a>>) -> Result<&'v Value<'a>> {
        match value {
            None => Err(self.malformed("missing")),
            Some(Value::Null) => Err(self.malformed("missing, the value is null")),
            Some(value) => Ok(value),
        }
    }

    pub(super) fn string<'v>(self, value: &'v Value<'_>) -> Result<&'v str> {
        match value {
            Value::String(text) => Ok(text),
            other => Err(EventError::expected(self, "a string", other)),
        }
    }

    pub(super) fn object<'a>(self, value: &Value<'a>) -> Result<&'a str> {
        match value {
            Value::Object(text) => Ok(text),
            other => Err(EventError::expected(self, "an object", other)),
        }
    }

    /// Hyphenated or plain, in any case; not in braces and not as a URN.
    fn uuid(self, value: &Value<'_>) -> Result<Uuid> {
        let text = self.string(value)?;
        Some(text)
            .filter(|text| matches!(text.len(), 32 | 36))
            .and_then(|text| Uuid::try_parse(text).ok())
            .ok_or_else(|| self.malformed(format_args!("{} is not a UUID", quoted(text))))
    }

    /// The nil UUID is a publisher's unset variable: as a key it would swallow all but one charge.
    fn idempotency_key(self, value: &Value<'_>) -> Result<Uuid> {
        let id = self.uuid(value)?;
        if id.is_nil() {
            return Err(self.malformed("the nil UUID identifies no job"));
        }
        Ok(id)
    }

    fn amount(self, value: &Value<'_>, limits: &Limits) -> Result<i64> {
        let digits = match value {
            Value::Number(text) if !text.contains(['.', 'e', 'E']) => text,
            other => return Err(EventError::expected(self, "an integer", other)),
        };
        let max = limits.max_tokens_per_event;
        let amount: Option<i64> = digits.parse().ok();
        amount
            .filter(|amount| *amount >= 1 && amount.unsigned_abs() <= max)
            .ok_or_else(|| {
                let problem = format!("{self}: {} is not in 1..={max}", cut(digits, 64));
                EventError::new(Reason::AmountOutOfRange, &problem)
            })
    }

    fn usage_type(self, value: &Value<'_>) -> Result<Cow<'static, str>> {
        let text = self.string(value)?;
        if text == DEFAULT_USAGE_TYPE {
            return Ok(Cow::Borrowed(DEFAULT_USAGE_TYPE));
        }
        if text.is_empty() {
            return Err(self.malformed("empty"));
        }
        let chars = text.chars().count();
        if chars > MAX_USAGE_TYPE_CHARS {
            let problem = format_args!("{chars} characters, the limit is {MAX_USAGE_TYPE_CHARS}");
            return Err(self.malformed(problem));
        }
        if text.chars().any(char::is_control) {
            let problem = format_args!("{} has a control character", quoted(text));
            return Err(self.malformed(problem));
        }
        Ok(Cow::Owned(text.to_owned()))
    }

    fn time(self, value: &Value<'_>) -> Result<OffsetDateTime> {
        let text = self.string(value)?;
        OffsetDateTime::parse(text, &Rfc3339)
            .map_err(|_| self.malformed(format_args!("{} is not RFC 3339", quoted(text))))
    }

    fn metadata(self, value: &Value<'_>, limits: &Limits) -> Result<Cow<'static, str>> {
        let text = self.object(value)?;
        check_size(self, text.len(), limits.max_metadata_bytes)?;
        Ok(match text {
            "{}" => Cow::Borrowed("{}"),
            text => Cow::Owned(text.to_owned()),
        })
    }
}
