use super::*;
use crate::domain::Reason::{AmountOutOfRange, Malformed, PayloadTooLarge};

const JOB: &str = "8b0c1c1e-6f5e-4a43-9d0a-3f4c2f1d7a10";
const COMPANY: &str = "11111111-2222-4333-8444-555555555555";

pub(super) fn parse(body: &str) -> Result<CompletionEvent, EventError> {
    CompletionEvent::parse(
        body.as_bytes(),
        Some("application/json"),
        &Limits::default(),
    )
}

/// An event with `job_id` and `tokens`, and `more` after them.
pub(super) fn body(more: &str) -> String {
    format!(r#"{{"job_id":"{JOB}","tokens":15000{more}}}"#)
}

#[track_caller]
pub(super) fn refused(body: impl AsRef<[u8]>, reason: Reason, message: &str) {
    let body = body.as_ref();
    let error = CompletionEvent::parse(body, None, &Limits::default()).unwrap_err();
    let shown = String::from_utf8_lossy(&body[..body.len().min(200)]);
    assert_eq!(error.to_string(), message, "{shown}");
    assert_eq!(error.reason(), reason, "{shown}");
}

#[test]
fn the_smallest_event_gets_the_defaults() {
    let event = parse(&body("")).unwrap();
    assert_eq!(event.job_id().to_string(), JOB);
    assert_eq!(event.tokens(), 15_000);
    assert_eq!(event.company_id(), None);
    assert_eq!(event.article_id(), None);
    assert_eq!(event.usage_type(), "article_generation");
    assert_eq!(event.occurred_at(), None);
    assert_eq!(event.metadata(), "{}");
}

#[test]
fn a_full_event_is_read_whole_and_its_metadata_is_kept_as_written() {
    let metadata = r#"{ "b":1.0, "a":[1e2, "\u00e9"] }"#;
    let event = parse(&body(&format!(
        r#","company_id":"{COMPANY}","article_id":null,"usage_type":"summary é",
        "occurred_at":"2026-11-21T10:00:00.5+01:00","metadata":{metadata},"new_field":[{{}}]"#
    )))
    .unwrap();
    assert_eq!(event.company_id().unwrap().to_string(), COMPANY);
    assert_eq!(event.article_id(), None);
    assert_eq!(event.usage_type(), "summary é");
    assert_eq!(
        event.occurred_at(),
        Some(time::macros::datetime!(2026-11-21 10:00:00.5 +01:00))
    );
    assert_eq!(event.metadata(), metadata);
}

#[test]
fn null_optional_fields_are_absent() {
    let nulls = r#","company_id":null,"article_id":null,"usage_type":null,"occurred_at":null,"metadata":null"#;
    assert_eq!(parse(&body(nulls)), parse(&body("")));
}

#[test]
fn a_uuid_may_be_plain_and_of_any_case() {
    let plain = JOB.replace('-', "").to_uppercase();
    let event = parse(&format!(r#"{{"job_id":"{plain}","tokens":1}}"#)).unwrap();
    assert_eq!(event.job_id().hyphenated().to_string(), JOB);
}

#[test]
fn the_limits_themselves_are_allowed() {
    let limits = Limits::default();
    let max = limits.max_tokens_per_event;
    assert_eq!(
        parse(&format!(r#"{{"job_id":"{JOB}","tokens":{max}}}"#))
            .unwrap()
            .tokens(),
        10_000_000
    );
    let text = "x".repeat(limits.max_metadata_bytes - r#"{"a":""}"#.len());
    assert!(parse(&body(&format!(r#","metadata":{{"a":"{text}"}}"#))).is_ok());
    let text = "x".repeat(limits.max_body_bytes - body(r#","a":"""#).len());
    assert!(parse(&body(&format!(r#","a":"{text}""#))).is_ok());
    assert!(parse(&body(&format!(r#","usage_type":"{}""#, "é".repeat(100)))).is_ok());
    let deep = "[".repeat(31) + &"]".repeat(31);
    assert!(parse(&body(&format!(r#","a":{deep}"#))).is_ok());
}

#[test]
fn a_body_that_is_not_a_json_object_is_refused() {
    let too_long = " ".repeat(300_000);
    let too_deep = body(&format!(r#","a":{}{}"#, "[".repeat(32), "]".repeat(32)));
    refused(
        &too_long,
        PayloadTooLarge,
        "body: 300000 bytes, the limit is 262144",
    );
    refused("", Malformed, "body: empty");
    refused(
        "  ",
        Malformed,
        "body: line 1, column 3: expected a value, got the end",
    );
    refused(
        b"{\"job_id\": \"abcde\xff\"}",
        Malformed,
        "body: not UTF-8 at byte 17",
    );
    refused(
        format!("\u{feff}{}", body("")),
        Malformed,
        "body: starts with a byte order mark, which JSON must not",
    );
    refused("[1]", Malformed, "body: expected an object, got an array");
    refused(
        "\"x\"",
        Malformed,
        "body: expected an object, got the string \"x\"",
    );
    refused("null", Malformed, "body: expected an object, got null");
    refused(
        "{}x",
        Malformed,
        "body: line 1, column 3: expected nothing more, got \"x\"",
    );
    refused(
        "{\"job_id\"",
        Malformed,
        "body: line 1, column 10: expected a colon after the key, got the end",
    );
    refused(too_deep, Malformed, "body: nesting deeper than 32");
}

const BAD_JOB_IDS: &[(&str, &str)] = &[
    ("null", "missing, the value is null"),
    ("5", "expected a string, got the number 5"),
    ("true", "expected a string, got the boolean true"),
    ("\"\"", "\"\" is not a UUID"),
    ("\"abc\"", "\"abc\" is not a UUID"),
    (
        "\"\\u001b[31m\\u202e\"",
        "\"\\u{1b}[31m\\u{202e}\" is not a UUID",
    ),
    (
        "\"00000000-0000-0000-0000-000000000000\"",
        "the nil UUID identifies no job",
    ),
    (
        "\"{8b0c1c1e-6f5e-4a43-9d0a-3f4c2f1d7a10}\"",
        "\"{8b0c1c1e-6f5e-4a43-9d0a-3f4c2f1d7a10}\" is not a UUID",
    ),
    (
        "\"urn:uuid:8b0c1c1e-6f5e-4a43-9d0a-3f4c2f1d7a10\"",
        "\"urn:uuid:8b0c1c1e-6f5e-4a43-9d0a-3f4c2f1d7a10\" is not a UUID",
    ),
    (
        "\"8b0c1c1e6-f5e-4a43-9d0a-3f4c2f1d7a10\"",
        "\"8b0c1c1e6-f5e-4a43-9d0a-3f4c2f1d7a10\" is not a UUID",
    ),
];

#[test]
fn a_wrong_job_id_is_refused() {
    for (value, problem) in BAD_JOB_IDS {
        let body = format!(r#"{{"job_id":{value},"tokens":1}}"#);
        refused(body, Malformed, &format!("job_id: {problem}"));
    }
    refused("{}", Malformed, "job_id: missing");
}

const BAD_TOKENS: &[(&str, Reason, &str)] = &[
    ("null", Malformed, "missing, the value is null"),
    (
        "\"15000\"",
        Malformed,
        "expected an integer, got the string \"15000\"",
    ),
    (
        "1.5",
        Malformed,
        "expected an integer, got the fractional number 1.5",
    ),
    (
        "15000.0",
        Malformed,
        "expected an integer, got the fractional number 15000.0",
    ),
    (
        "1e3",
        Malformed,
        "expected an integer, got the number 1e3 with an exponent",
    ),
    ("1e999", Malformed, "the number 1e999 is out of range"),
    ("[1]", Malformed, "expected an integer, got an array"),
    ("{}", Malformed, "expected an integer, got an object"),
    (
        "false",
        Malformed,
        "expected an integer, got the boolean false",
    ),
    ("0", AmountOutOfRange, "0 is not in 1..=10000000"),
    ("-0", AmountOutOfRange, "-0 is not in 1..=10000000"),
    ("-5", AmountOutOfRange, "-5 is not in 1..=10000000"),
    (
        "10000001",
        AmountOutOfRange,
        "10000001 is not in 1..=10000000",
    ),
    (
        "99999999999999999999",
        AmountOutOfRange,
        "99999999999999999999 is not in 1..=10000000",
    ),
    (
        "-9223372036854775808",
        AmountOutOfRange,
        "-9223372036854775808 is not in 1..=10000000",
    ),
];

#[test]
fn wrong_tokens_are_refused() {
    for (value, fault, problem) in BAD_TOKENS {
        let body = format!(r#"{{"job_id":"{JOB}","tokens":{value}}}"#);
        refused(body, *fault, &format!("tokens: {problem}"));
    }
    refused(
        format!(r#"{{"job_id":"{JOB}"}}"#),
        Malformed,
        "tokens: missing",
    );
}

const BAD_OPTIONAL_FIELDS: &[(&str, &str)] = &[
    (
        r#""company_id":7"#,
        "company_id: expected a string, got the number 7",
    ),
    (r#""article_id":"x""#, "article_id: \"x\" is not a UUID"),
    (r#""usage_type":"""#, "usage_type: empty"),
    (
        r#""usage_type":"a\u0085b""#,
        "usage_type: \"a\\u{85}b\" has a control character",
    ),
    (
        r#""usage_type":[]"#,
        "usage_type: expected a string, got an array",
    ),
    (
        r#""occurred_at":"yesterday""#,
        "occurred_at: \"yesterday\" is not RFC 3339",
    ),
    (
        r#""occurred_at":"2026-02-30T10:00:00Z""#,
        "occurred_at: \"2026-02-30T10:00:00Z\" is not RFC 3339",
    ),
    (
        r#""occurred_at":"2026-11-21T10:00:00""#,
        "occurred_at: \"2026-11-21T10:00:00\" is not RFC 3339",
    ),
    (
        r#""occurred_at":1763719200"#,
        "occurred_at: expected a string, got the number 1763719200",
    ),
    (
        r#""metadata":[]"#,
        "metadata: expected an object, got an array",
    ),
    (
        r#""metadata":"{}""#,
        "metadata: expected an object, got the string \"{}\"",
    ),
    (
        r#""metadata":{"a":[{"b":1,"b":2}]}"#,
        "metadata.a[0].b: the key appears twice",
    ),
    (
        r#""metadata":{"a":"\u0000"}"#,
        "metadata.a: a string holds U+0000, which can't be stored",
    ),
    (
        r#""metadata":{"n":1e9999}"#,
        "metadata.n: the number 1e9999 is out of range",
    ),
    (
        r#""unknown":{"a":1,"a":2}"#,
        "unknown.a: the key appears twice",
    ),
    (
        r#""company_id":null,"company_id":null"#,
        "company_id: the key appears twice",
    ),
    (r#""tokens":1"#, "tokens: the key appears twice"),
    (r#""tok\u0065ns":1"#, "tokens: the key appears twice"),
];

#[test]
fn a_wrong_optional_field_is_refused() {
    for (more, message) in BAD_OPTIONAL_FIELDS {
        refused(body(&format!(",{more}")), Malformed, message);
    }
    let long = body(&format!(r#","usage_type":"{}""#, "é".repeat(101)));
    refused(
        long,
        Malformed,
        "usage_type: 101 characters, the limit is 100",
    );
    let text = "x".repeat(16_384);
    let big = body(&format!(r#","metadata":{{"a":"{text}"}}"#));
    refused(
        big,
        PayloadTooLarge,
        "metadata: 16392 bytes, the limit is 16384",
    );
}

#[test]
fn a_message_stays_below_one_kibibyte() {
    let text = "\u{202e}".repeat(10_000);
    for more in [
        format!(r#","article_id":"{text}""#),
        format!(r#","{text}":{{"{text}":1e999}}"#),
        format!(r#","{text}":1,"{text}":2"#),
    ] {
        let error = parse(&body(&more)).unwrap_err().to_string();
        assert!(
            error.len() <= 1024 && !error.contains('\u{202e}'),
            "{error}"
        );
    }
}
