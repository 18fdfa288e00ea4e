//! What a dead letter says about itself.

use lapin::types::{AMQPValue, FieldTable};
use time::OffsetDateTime;

use super::{Delivered, headers};
use crate::domain::{excerpt, moment};

/// Bytes of an error, ours or anybody's.
const ERROR_MAX: usize = 1024;

/// What the broker notes when it moves a message to a dead-letter exchange by itself.
#[derive(Debug)]
struct Moved<'d> {
    /// `delivery_limit`, `expired`, `maxlen`, `rejected`.
    reason: &'d str,
    queue: &'d str,
    at: Option<OffsetDateTime>,
}

impl Delivered {
    /// Why it is dead, as a word: what the broker noted if it gave up at its delivery limit, for a
    /// `reason` header is then somebody else's or of an earlier life; else the `reason` header; else
    /// whatever the broker noted; else `unknown`.
    pub fn reason(&self) -> &str {
        let moved = self.moved();
        if let Some(Moved { reason, .. }) = &moved
            && *reason == DELIVERY_LIMIT
        {
            return DELIVERY_LIMIT;
        }
        let own = self.text_header("reason").filter(|reason| is_word(reason));
        own.or(moved.map(|moved| moved.reason)).unwrap_or("unknown")
    }

    /// The same for a person; at most 1 KiB, without NUL.
    pub fn error(&self) -> String {
        let own = self.text_header("error").map(headers::without_nul);
        let text = match (self.moved(), own) {
            (Some(moved), own) if moved.reason == DELIVERY_LIMIT => {
                let last = own.map_or(String::new(), |own| {
                    format!(" Its last error before: {own}")
                });
                format!(
                    "The broker gave up: each worker that was given it died, or lost its connection, before \
                     it was done with it, as often as the delivery limit of {} allows.{last}",
                    excerpt::quoted(moved.queue)
                )
            }
            (_, Some(own)) => own,
            (Some(moved), None) => format!(
                "The broker moved it here from {}: {}.",
                excerpt::quoted(moved.queue),
                moved.reason
            ),
            (None, None) => {
                "Neither a worker nor the broker says why: somebody else put it here.".to_owned()
            }
        };
        excerpt::cut(&text, ERROR_MAX).into_owned()
    }

    /// The first failure: the `first-failed-at` header, else the last one.
    pub fn first_failed_at(&self) -> OffsetDateTime {
        let last = self.failed_at();
        self.time_header("first-failed-at")
            .map_or(last, |first| first.min(last))
    }

    /// The last failure: when the broker moved it here, else the `failed-at` header, else now.
    pub fn failed_at(&self) -> OffsetDateTime {
        self.moved()
            .and_then(|moved| moved.at)
            .or_else(|| self.time_header("failed-at"))
            .unwrap_or_else(OffsetDateTime::now_utc)
    }

    /// The archived dead letter whose replay this is: the `replay-of` header.
    pub fn replay_of(&self) -> Option<i64> {
        self.whole_header("replay-of").filter(|id| *id >= 1)
    }

    /// All its properties but the headers, a JSON object without any NUL.
    pub fn properties_json(&self) -> String {
        let members = headers::properties_to_json(&self.properties);
        serde_json::Value::Object(members).to_string()
    }

    /// All its headers, a JSON object without any NUL.
    pub fn headers_json(&self) -> String {
        let none = FieldTable::default();
        let members = headers::to_json(self.properties.headers().as_ref().unwrap_or(&none));
        serde_json::Value::Object(members).to_string()
    }

    /// The newest entry of `x-death`. A worker never copies it, so where there is one, the broker was the
    /// last to have the message. The `x-first-death-…` headers may be those of a delay.
    fn moved(&self) -> Option<Moved<'_>> {
        let AMQPValue::FieldArray(deaths) = self.header("x-death")? else {
            return None;
        };
        let AMQPValue::FieldTable(death) = deaths.as_slice().first()? else {
            return None;
        };
        let text = |name| death.inner().get(name).and_then(text_of);
        let at = match death.inner().get("time") {
            Some(AMQPValue::Timestamp(seconds)) => i64::try_from(*seconds)
                .ok()
                .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok()),
            _ => None,
        };
        Some(Moved {
            reason: text("reason").filter(|reason| is_word(reason))?,
            queue: text("queue").unwrap_or_default(),
            at,
        })
    }

    fn time_header(&self, name: &str) -> Option<OffsetDateTime> {
        moment(self.text_header(name)?)
    }
}

/// What the broker writes where a message was delivered too often.
const DELIVERY_LIMIT: &str = "delivery_limit";

pub(super) fn text_of(value: &AMQPValue) -> Option<&str> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}

/// Reasons are typed by people and shown in tables. Anything else is somebody's mischief.
fn is_word(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=64).contains(&text.len()) && text.bytes().all(allowed)
}
