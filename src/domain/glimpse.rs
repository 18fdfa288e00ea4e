//! What can be made out in a body that may not be an event: for people who look for a dead letter, never for
//! a charge.

use std::borrow::Cow;

use uuid::Uuid;

use super::event::is_cloud_event;
use super::json;

/// Bytes of a body that are looked at.
const MAX_READ: usize = 1024 * 1024;

/// The fields that say what a dead letter is about; `None` where one is missing, malformed or said twice
/// in different ways.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Glimpse {
    pub job_id: Option<Uuid>,
    pub company_id: Option<Uuid>,
    pub article_id: Option<Uuid>,
    /// The tokens asked for, an integer, in whatever range.
    pub tokens: Option<i64>,
}

impl Glimpse {
    /// Reads what it can of the first MiB: of the event or, in a `CloudEvents` envelope, of its `data`; also
    /// beside other fields that are malformed, and before the place where the text breaks off. Neither
    /// size nor depth of a body makes it work for long.
    #[must_use]
    pub fn of(body: &[u8], content_type: Option<&str>) -> Self {
        let start = &body[..body.len().min(MAX_READ)];
        let text = String::from_utf8_lossy(start);
        let (mut members, _) = json::seen(text.trim_start_matches('\u{feff}'));
        if is_cloud_event(content_type) || members.iter().any(|(key, _)| key == "specversion") {
            let data = members.iter().rfind(|(key, _)| key == "data");
            members = data.map_or_else(Vec::new, |(_, data)| json::seen(data).0);
        }
        Self {
            job_id: said(&members, "job_id", |value| {
                uuid(value).filter(|id| !id.is_nil())
            }),
            company_id: said(&members, "company_id", uuid),
            article_id: said(&members, "article_id", uuid),
            tokens: said(&members, "tokens", |value| value.parse().ok()),
        }
    }
}

/// What a field's value is read as, if all its values are read as the same.
fn said<T: PartialEq>(
    members: &[(Cow<'_, str>, &str)],
    field: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let values = members.iter().filter(|(key, _)| key == field);
    let mut values = values.map(|(_, value)| read(value));
    let first = values.next()?;
    values.all(|other| other == first).then_some(first)?
}

/// As the event's own rule has it: hyphenated or plain.
fn uuid(value: &str) -> Option<Uuid> {
    let text: String = serde_json::from_str(value).ok()?;
    Uuid::try_parse(&text)
        .ok()
        .filter(|_| matches!(text.len(), 32 | 36))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    const JOB: &str = "8b0c1c1e-6f5e-4a43-9d0a-3f4c2f1d7a10";
    const COMPANY: &str = "11111111-2222-4333-8444-555555555555";

    fn glimpse(body: impl AsRef<[u8]>) -> Glimpse {
        Glimpse::of(body.as_ref(), Some("application/json"))
    }

    fn job_only() -> Glimpse {
        Glimpse {
            job_id: JOB.parse().ok(),
            ..Glimpse::default()
        }
    }

    #[test]
    fn a_good_event_is_read_whole() {
        let whole = Glimpse {
            job_id: JOB.parse().ok(),
            company_id: COMPANY.parse().ok(),
            article_id: COMPANY.parse().ok(),
            tokens: Some(7),
        };
        let event = format!(
            r#"{{"x":[{{}}],"tokens": 7 ,"job_id":"{JOB}","company_id":"{COMPANY}","article_id":"{COMPANY}"}}"#
        );
        assert_eq!(glimpse(&event), whole);
        assert_eq!(glimpse(format!("\u{feff}{event}")), whole);
        let envelope = format!(r#"{{"data":{event},"specversion":"1.0","job_id":"other"}}"#);
        assert_eq!(glimpse(envelope), whole);
        let bare = format!(r#"{{"data":{event}}}"#);
        assert_eq!(
            Glimpse::of(bare.as_bytes(), Some("application/cloudevents+json")),
            whole
        );
        assert_eq!(glimpse(bare), Glimpse::default());
    }

    #[test]
    fn one_malformed_field_hides_no_other() {
        let deep = "[".repeat(5000) + &"]".repeat(5000);
        for wrong in [
            r#""tokens":1.5"#,
            r#""tokens":1e999"#,
            r#""tokens":"7""#,
            r#""tokens":[{"tokens":7}]"#,
            r#""tokens":99999999999999999999"#,
            r#""tokens":1,"tokens":2"#,
            r#""company_id":"acme""#,
            r#""company_id":"\ud800""#,
            r#""article_id":{}"#,
            r#""\ud800":1"#,
            &format!(r#""metadata":{deep}"#),
            "\"metadata\":\"\u{0}\"",
        ] {
            let before = glimpse(format!(r#"{{{wrong},"job_id":"{JOB}"}}"#));
            // A control character inside a string breaks the text off.
            if !wrong.contains('\0') {
                assert_eq!(before, job_only(), "{wrong}");
            }
            let after = glimpse(format!(r#"{{"job_id":"{JOB}",{wrong}}}"#));
            assert_eq!(after, job_only(), "{wrong}");
        }
        let raw = [b"{\"a\":\"\xff\xfe\",\"job_id\":\"", JOB.as_bytes(), b"\"}"].concat();
        assert_eq!(glimpse(raw), job_only());
    }

    #[test]
    fn what_came_before_the_break_is_kept() {
        for rest in [
            ",",
            ",\"x\":",
            ",\"x\":tru",
            "} and more",
            ",'y':1}",
            "\u{0}",
        ] {
            let body = format!(r#"{{"job_id":"{JOB}"{rest}"#);
            assert_eq!(glimpse(&body), job_only(), "{rest}");
        }
    }

    #[test]
    fn a_job_that_is_named_twice_differently_is_none() {
        let twice = |second: &str| glimpse(format!(r#"{{"job_id":"{JOB}","job_id":"{second}"}}"#));
        assert_eq!(twice(JOB), job_only());
        assert_eq!(twice(COMPANY), Glimpse::default());
        assert_eq!(twice("x"), Glimpse::default());
        let nil = Uuid::nil();
        assert_eq!(glimpse(format!(r#"{{"job_id":"{nil}"}}"#)).job_id, None);
    }

    #[test]
    fn whatever_the_bytes_are_it_answers_soon() {
        let started = Instant::now();
        let many = 4 * MAX_READ;
        for start in ["", "{\"a\":", "{\"data\":", "{\"job_id\":"] {
            for fill in [
                "[",
                "{\"a\":",
                "\"",
                "\\",
                "1",
                "-",
                "\0",
                " ",
                "{\"a\":1,",
                "é",
            ] {
                let body = start.to_owned() + &fill.repeat(many / fill.len());
                assert_eq!(glimpse(&body), Glimpse::default());
            }
        }
        for body in ["", "null", "[]", "7", "\"x\"", "{", "{}"] {
            assert_eq!(glimpse(body), Glimpse::default());
        }
        let mut huge = format!(r#"{{"job_id":"{JOB}","x":""#).into_bytes();
        huge.resize(many, b'x');
        assert_eq!(glimpse(huge), job_only());
        // A debug build on a busy machine; the point is that nothing is quadratic.
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}
