//! An error's text without what differs from one event to the next: one cause, one signature.

use super::excerpt::cut;

/// Bytes of a signature.
const MAX_BYTES: usize = 200;
/// Bytes of an error that are looked at: ours have no more.
const MAX_READ: usize = 1024;
/// Stands for an id or a number.
const FOLDED: &str = "#";
/// A word of hexadecimal digits of this length is an id.
const HEX_ID: usize = 8;

/// What a double-quoted word after one of these names is part of the database, and so of the cause.
const NAMERS: [&str; 12] = [
    "column",
    "constraint",
    "database",
    "function",
    "index",
    "parameter",
    "relation",
    "role",
    "schema",
    "sequence",
    "table",
    "trigger",
];
/// Where a number is part of a name.
const NAMES: [&str; 4] = ["UTF-8", "UTF8", "U+0000", "RFC 3339"];
/// What follows it is a code.
const SQLSTATE: &str = "SQLSTATE ";

/// `error` with ids, numbers and double-quoted values folded, at most 200 bytes. Names of columns, tables
/// and the like stay, and so do SQLSTATEs: they tell one cause from another.
#[must_use]
pub fn signature(error: &str) -> String {
    let mut rest = &error[..error.floor_char_boundary(MAX_READ)];
    let mut folded = String::with_capacity(rest.len().min(2 * MAX_BYTES));
    // What is cut off at the end need not be folded either.
    while !rest.is_empty() && folded.len() <= MAX_BYTES {
        let (taken, shown) = next(rest, &folded);
        folded.push_str(shown);
        rest = &rest[taken..];
    }
    cut(&folded, MAX_BYTES).into_owned()
}

/// How much of `rest` comes next, and what it becomes.
fn next<'t>(rest: &'t str, before: &str) -> (usize, &'t str) {
    let whole = |length: usize| (length, &rest[..length]);
    let first = rest.chars().next().unwrap_or(' ');
    if first == '"' {
        let length = quoted_length(rest);
        let name = before.trim_end().rsplit([' ', '(']).next().unwrap_or("");
        if NAMERS.contains(&name) {
            return whole(length);
        }
        return (length, "\"…\"");
    }
    if before.ends_with(SQLSTATE) {
        return whole(word_length(rest).max(first.len_utf8()));
    }
    if let Some(name) = NAMES.iter().find(|name| rest.starts_with(**name)) {
        return whole(name.len());
    }
    let in_word = before.ends_with(is_of_word);
    if !in_word && is_uuid(rest) {
        return (36, FOLDED);
    }
    if !in_word && let Some(length) = hex_id(rest) {
        return (length, FOLDED);
    }
    let sign = usize::from(first == '-' && !in_word);
    match number_length(&rest[sign..]) {
        0 => whole(first.len_utf8()),
        length => (sign + length, FOLDED),
    }
}

fn is_of_word(char: char) -> bool {
    // What was folded inside a word belongs to it.
    char.is_alphanumeric() || char == '_' || char == '#'
}

fn word_length(text: &str) -> usize {
    let end = text.find(|char: char| !(char.is_alphanumeric() || char == '_'));
    end.unwrap_or(text.len())
}

/// With its closing quote, and the ellipsis of a value that was cut; an open end is one.
fn quoted_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, char) in text.char_indices().skip(1) {
        match char {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' if text[at + 1..].starts_with('…') => return at + 1 + '…'.len_utf8(),
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Digits, a fraction, an exponent.
fn number_length(text: &str) -> usize {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let whole = digits(text);
    let mut length = whole;
    if whole > 0 && text[length..].starts_with('.') {
        let fraction = digits(&text[length + 1..]);
        length += if fraction > 0 { 1 + fraction } else { 0 };
    }
    if whole > 0 && text[length..].starts_with(['e', 'E']) {
        let sign = usize::from(text[length + 1..].starts_with(['+', '-']));
        let exponent = digits(&text[length + 1 + sign..]);
        length += if exponent > 0 { 1 + sign + exponent } else { 0 };
    }
    length
}

fn is_uuid(text: &str) -> bool {
    let Some(start) = text.as_bytes().get(..36) else {
        return false;
    };
    let fits = |(at, byte): (usize, &u8)| match at {
        8 | 13 | 18 | 23 => *byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    start.iter().enumerate().all(fits) && !text[36..].starts_with(is_of_word)
}

/// `8b0c1c1e…`, `0x7f`: hexadecimal digits alone, one of them a digit, so that no word is taken for one.
fn hex_id(text: &str) -> Option<usize> {
    let word = &text[..word_length(text)];
    let (digits, least) = match word.strip_prefix("0x") {
        Some(digits) => (digits, 1),
        None => (word, HEX_ID),
    };
    let fits = digits.len() >= least
        && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        && word.bytes().any(|byte| byte.is_ascii_digit());
    fits.then_some(word.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Limits, domain::CompletionEvent};

    fn parser_says(body: impl AsRef<[u8]>) -> String {
        CompletionEvent::parse(body.as_ref(), None, &Limits::default())
            .unwrap_err()
            .to_string()
    }

    fn event(field: &str, value: &str) -> String {
        let job = "8b0c1c1e-6f5e-4a43-9d0a-3f4c2f1d7a10";
        match field {
            "job_id" => format!(r#"{{"job_id":{value},"tokens":1}}"#),
            "tokens" => format!(r#"{{"job_id":"{job}","tokens":{value}}}"#),
            _ => format!(r#"{{"job_id":"{job}","tokens":1,"{field}":{value}}}"#),
        }
    }

    #[test]
    fn what_the_parser_says_of_one_fault_is_one_signature() {
        let too_deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        for (faults, folded) in [
            (
                vec![event("tokens", "1.5"), event("tokens", "15000.0")],
                "tokens: expected an integer, got the fractional number #",
            ),
            (
                vec![event("tokens", "1e3"), event("tokens", "-2E-7")],
                "tokens: expected an integer, got the number # with an exponent",
            ),
            (
                vec![
                    event("tokens", "0"),
                    event("tokens", "-99999999999999999999"),
                ],
                "tokens: # is not in #..=#",
            ),
            (
                vec![
                    event("job_id", r#""abc""#),
                    event("job_id", r#""a \" \u001b 7""#),
                ],
                "job_id: \"…\" is not a UUID",
            ),
            (
                vec![
                    event("company_id", &format!("\"{}\"", "x".repeat(300))),
                    event("company_id", "\"8b0c\""),
                ],
                "company_id: \"…\" is not a UUID",
            ),
            (
                vec!["{}x".to_owned(), "{} \n\n  yy".to_owned()],
                "body: line #, column #: expected nothing more, got \"…\"",
            ),
            (
                vec![" ".repeat(300_000), " ".repeat(262_145)],
                "body: # bytes, the limit is #",
            ),
            (
                vec![
                    event("occurred_at", "\"yesterday\""),
                    event("occurred_at", "\"1.1.2026\""),
                ],
                "occurred_at: \"…\" is not RFC 3339",
            ),
            (
                vec![event("x", &too_deep(40)), event("y", &too_deep(4000))],
                "body: nesting deeper than #",
            ),
        ] {
            for body in faults {
                assert_eq!(signature(&parser_says(&body)), folded, "{body}");
            }
        }
        for (body, folded) in [
            (&b"{\"a\": \"\xff\"}"[..], "body: not UTF-8 at byte #"),
            (b"\xff", "body: not UTF-8 at byte #"),
        ] {
            assert_eq!(signature(&parser_says(body)), folded);
        }
        let nul = parser_says(event("metadata", r#"{"a":["\u0000"]}"#));
        let folded = "metadata.a[#]: a string holds U+0000, which can't be stored";
        assert_eq!(signature(&nul), folded);
    }

    #[test]
    fn what_the_books_and_the_database_say_is_folded_to_its_cause() {
        for (error, folded) in [
            (
                "Not enough tokens: the article needs 500 and the company has 7.",
                "Not enough tokens: the article needs # and the company has #.",
            ),
            (
                "Company 11111111-2222-4333-8444-555555555555 has no token subscription.",
                "Company # has no token subscription.",
            ),
            (
                "The key belongs to a request for 30 tokens of company 8B0C1C1E-6F5E-4A43-9D0A-3F4C2F1D7A10.",
                "The key belongs to a request for # tokens of company #.",
            ),
            (
                "duplicate key value violates unique constraint \"idx_token_2\" (SQLSTATE 23505)",
                "duplicate key value violates unique constraint \"idx_token_2\" (SQLSTATE 23505)",
            ),
            (
                "null value in column \"company_id\" of relation \"article_jobs\" violates not-null constraint",
                "null value in column \"company_id\" of relation \"article_jobs\" violates not-null constraint",
            ),
            (
                "invalid input syntax for type uuid: \"x\"",
                "invalid input syntax for type uuid: \"…\"",
            ),
            (
                "deadlock detected: Process 4711 waits for ShareLock on transaction 0x7f; blocked by process 12.",
                "deadlock detected: Process # waits for ShareLock on transaction #; blocked by process #.",
            ),
            (
                "canceling statement due to lock timeout (SQLSTATE 55P03)",
                "canceling statement due to lock timeout (SQLSTATE 55P03)",
            ),
            (
                "value too long for type character varying(100) (SQLSTATE 22001)",
                "value too long for type character varying(#) (SQLSTATE 22001)",
            ),
            (
                "could not receive data from 10.0.0.7:5432: reset",
                "could not receive data from #.#:#: reset",
            ),
            (
                "job 9f86d081884c7d65 of queue7 waited 200ms",
                "job # of queue# waited #ms",
            ),
            (
                "the facade decade cafe deadbeef",
                "the facade decade cafe deadbeef",
            ),
            ("", ""),
        ] {
            assert_eq!(signature(error), folded);
        }
    }

    #[test]
    fn whatever_the_text_is_the_signature_is_short_and_the_work_is_bounded() {
        for text in [
            "é",
            "\"",
            "\\\"",
            "1.",
            "e5",
            "-",
            "漢 7",
            "8b0c1c1e-",
            "…",
            "#",
        ] {
            for times in [1, 7, 199, 200, 100_000] {
                let long = text.repeat(times);
                assert!(signature(&long).len() <= MAX_BYTES, "{times} × {text}");
            }
        }
        assert_eq!(signature("an open \"end"), "an open \"…\"");
    }
}
