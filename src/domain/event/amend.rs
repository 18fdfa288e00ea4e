//! Changing single fields of a body that may not be an event yet, for people who fix it.

use std::borrow::Cow;
use std::ops::Range;

use serde_json::value::RawValue;

use super::envelope::is_cloud_event;
use crate::domain::json;

/// Fields whose values are text: what is typed for them is text even if it looks like a number.
const TEXT_FIELDS: [&str; 5] = [
    "job_id",
    "company_id",
    "article_id",
    "usage_type",
    "occurred_at",
];

/// Why a field can't be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmendError {
    /// There are no fields.
    #[error("the body is not a JSON object, so it has no fields to set")]
    NotAnObject,
    /// It says it is an envelope.
    #[error(
        "the body is a CloudEvents envelope without an object as its data, so it has no fields to set"
    )]
    NoData,
}

/// The body with these fields of its event set, each to a value as a person types it: JSON if it is
/// JSON, else text. Everything else keeps its bytes. A key that was there twice is there once
/// afterwards, which is the way to fix that.
///
/// # Errors
///
/// [`AmendError`] where there are no fields.
pub fn amend(
    body: &[u8],
    content_type: Option<&str>,
    fields: &[(String, String)],
) -> Result<Vec<u8>, AmendError> {
    let mut text = std::str::from_utf8(body)
        .map_err(|_| AmendError::NotAnObject)?
        .to_owned();
    for (field, value) in fields {
        let at = event_in(&text, content_type)?;
        let changed = with_member(&text[at.clone()], field, &value_of(field, value));
        text.replace_range(at, &changed.ok_or(AmendError::NotAnObject)?);
    }
    Ok(text.into_bytes())
}

/// Where the event's object is.
fn event_in(text: &str, content_type: Option<&str>) -> Result<Range<usize>, AmendError> {
    let members = members(text).ok_or(AmendError::NotAnObject)?;
    let envelope =
        is_cloud_event(content_type) || members.iter().any(|(key, _)| key == "specversion");
    if !envelope {
        return Ok(0..text.len());
    }
    members
        .into_iter()
        .find(|(key, at)| key == "data" && text[at.clone()].starts_with('{'))
        .map(|(_, at)| at)
        .ok_or(AmendError::NoData)
}

fn value_of(field: &str, typed: &str) -> String {
    let is_text = TEXT_FIELDS.contains(&field);
    match serde_json::from_str::<&RawValue>(typed) {
        Ok(json) if !is_text || matches!(json.get().as_bytes(), [b'"', ..] | b"null") => {
            json.get().to_owned()
        }
        _ => serde_json::Value::from(typed).to_string(),
    }
}

/// The object's text with this member; `None` if it isn't an object.
fn with_member(object: &str, key: &str, value: &str) -> Option<String> {
    let members = members(object)?;
    let mut text = object.to_owned();
    let mut places = members
        .iter()
        .enumerate()
        .filter(|(_, (name, _))| name == key)
        .map(|(at, _)| at);
    let Some(first) = places.next() else {
        return Some(with_new_member(&text, &members, key, value));
    };
    // From the end, so that places further ahead stay where they are.
    for duplicate in places.rev() {
        text.replace_range(members[duplicate - 1].1.end..members[duplicate].1.end, "");
    }
    text.replace_range(members[first].1.clone(), value);
    Some(text)
}

/// At the end, spaced like the members before it.
fn with_new_member(
    object: &str,
    members: &[(Cow<'_, str>, Range<usize>)],
    key: &str,
    value: &str,
) -> String {
    let mut text = object.to_owned();
    let key = serde_json::Value::from(key);
    let Some(((_, first), (_, last))) = members.first().zip(members.last()) else {
        let at = object.find('{').map_or(0, |at| at + 1);
        text.insert_str(at, &format!("{key}:{value}"));
        return text;
    };
    let open = object.find('{').map_or(0, |at| at + 1);
    let gap = object[open..]
        .find('"')
        .map_or("", |at| &object[open..open + at]);
    let spaced = object[..first.start].ends_with(' ');
    let after_comma = match (gap, spaced) {
        ("", true) => " ",
        (gap, _) => gap,
    };
    let colon = if spaced { ": " } else { ":" };
    text.insert_str(last.end, &format!(",{after_comma}{key}{colon}{value}"));
    text
}

/// Key and place of the value of each member, duplicates included; `None` if it isn't an object.
fn members(text: &str) -> Option<Vec<(Cow<'_, str>, Range<usize>)>> {
    let (members, whole) = json::seen(text);
    let place = |value: &str| {
        // A slice of the text itself.
        let start = value.as_ptr() as usize - text.as_ptr() as usize;
        start..start + value.len()
    };
    whole.then(|| {
        let placed = |(key, value)| (key, place(value));
        members.into_iter().map(placed).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amended(body: &str, fields: &[(&str, &str)]) -> String {
        let fields: Vec<(String, String)> = fields
            .iter()
            .map(|(field, value)| ((*field).to_owned(), (*value).to_owned()))
            .collect();
        String::from_utf8(amend(body.as_bytes(), None, &fields).unwrap()).unwrap()
    }

    #[test]
    fn one_value_changes_and_every_other_byte_stays() {
        let body = "{ \"tokens\" : \"15000\",\n\t\"x\": [1, 1.50, \"tokens\"], \"tokens_\": 1 }";
        let expected = "{ \"tokens\" : 15000,\n\t\"x\": [1, 1.50, \"tokens\"], \"tokens_\": 1 }";
        assert_eq!(amended(body, &[("tokens", "15000")]), expected);
        assert_eq!(
            amended(
                r#"{"a":{"b":1},"c":2}"#,
                &[("c", r#"{"d": [ ]}"#), ("a", "x y")]
            ),
            r#"{"a":"x y","c":{"d": [ ]}}"#
        );
        assert_eq!(
            amended(r#"{"t\u006fkens":1}"#, &[("tokens", "2")]),
            r#"{"t\u006fkens":2}"#
        );
    }

    #[test]
    fn what_is_typed_for_a_text_field_is_text() {
        assert_eq!(
            amended("{}", &[("usage_type", "123")]),
            r#"{"usage_type":"123"}"#
        );
        assert_eq!(
            amended("{}", &[("usage_type", "\"x\"")]),
            r#"{"usage_type":"x"}"#
        );
        assert_eq!(
            amended("{}", &[("company_id", "null")]),
            r#"{"company_id":null}"#
        );
        assert_eq!(amended("{}", &[("tokens", " 7 ")]), r#"{"tokens":7}"#);
        assert_eq!(
            amended("{}", &[("note", "say \"x\"\n")]),
            r#"{"note":"say \"x\"\n"}"#
        );
    }

    #[test]
    fn a_new_field_is_spaced_like_the_others() {
        let rows = [
            (r#"{}"#, r#"{"n":1}"#),
            (r#" { } "#, r#" {"n":1 } "#),
            (r#"{"a":1}"#, r#"{"a":1,"n":1}"#),
            (r#"{"a": 1, "b": 2}"#, r#"{"a": 1, "b": 2, "n": 1}"#),
            ("{\n  \"a\": 1\n}\n", "{\n  \"a\": 1,\n  \"n\": 1\n}\n"),
        ];
        for (body, expected) in rows {
            assert_eq!(amended(body, &[("n", "1")]), expected);
        }
    }

    #[test]
    fn a_key_that_was_there_twice_is_there_once() {
        assert_eq!(
            amended(
                r#"{"tokens":1,"a":2, "tokens":3,"tokens":4}"#,
                &[("tokens", "9")]
            ),
            r#"{"tokens":9,"a":2}"#
        );
    }

    #[test]
    fn in_an_envelope_it_is_the_data_that_changes() {
        let body = r#"{"specversion":"1.0","tokens":1,"data":{"tokens":2}}"#;
        assert_eq!(
            amended(body, &[("tokens", "9"), ("job_id", "j")]),
            r#"{"specversion":"1.0","tokens":1,"data":{"tokens":9,"job_id":"j"}}"#
        );
        let set = [("tokens".to_owned(), "9".to_owned())];
        let envelope = Some("application/cloudevents+json; charset=utf-8");
        let amended = amend(br#"{"data":{}}"#, envelope, &set).unwrap();
        assert_eq!(amended, br#"{"data":{"tokens":9}}"#);
        for body in [
            r#"{"specversion":"1.0"}"#,
            r#"{"specversion":"1.0","data":"{}"}"#,
        ] {
            assert_eq!(amend(body.as_bytes(), None, &set), Err(AmendError::NoData));
        }
    }

    #[test]
    fn what_is_no_object_has_no_fields() {
        let set = [("tokens".to_owned(), "9".to_owned())];
        for body in [
            &b""[..],
            b"[]",
            b"{\"tokens\":1",
            b"{} x",
            b"\"a\"",
            b"{\"a\":\"\xff\"}",
        ] {
            assert_eq!(amend(body, None, &set), Err(AmendError::NotAnObject));
        }
    }
}
