//! An error's text without what differs from one event to the next: one cause, one signature.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

use super::excerpt::cut;

/// Bytes of a signature.
const MAX_BYTES: usize = 200;
/// Bytes of an error that are looked at: ours have no more.
const MAX_READ: usize = 1024;

/// What differs, and what looks like it but tells one cause from another.
static PARTS: LazyLock<Regex> = LazyLock::new(|| {
    // Double-quoted with escapes, and the ellipsis of a value that was cut; an open end is one.
    let quoted = r#""(?:[^"\\]|\\.)*(?:"…?|\\?$)"#;
    let (hex, edge) = ("[0-9A-Fa-f]", r"(?-u:\b)");
    let pattern = format!(
        r"(?xs)
        (?<kept>
            # names of the database
            {edge} (?: column | constraint | database | function | index | parameter | relation | role
                | schema | sequence | table | trigger ) \x20+ {quoted}
            | SQLSTATE \x20 [0-9A-Za-z]*
            | UTF-?8 | U\+0000 | RFC \x20 3339 )
        | (?<quoted> {quoted} )
        | (?<id> -? {edge} (?: {hex}{{8}} - (?: {hex}{{4}} - ){{3}} {hex}{{12}} | 0x {hex}+ | {hex}{{8,}} ) {edge} )
        | -? [0-9]+ (?: \. [0-9]+ )? (?: [eE] [+-]? [0-9]+ )?"
    );
    Regex::new(&pattern).expect("a pattern of our own")
});

/// `error` with ids, numbers and double-quoted values folded, at most 200 bytes. Names of columns, tables
/// and the like stay, and so do SQLSTATEs: they tell one cause from another.
#[must_use]
pub fn signature(error: &str) -> String {
    let start = &error[..error.floor_char_boundary(MAX_READ)];
    let folded = PARTS.replace_all(start, |part: &Captures<'_>| {
        let (whole, at) = part
            .get(0)
            .map_or(("", 0), |whole| (whole.as_str(), whole.start()));
        // Else a word is taken for an id: `defaced`.
        let is_word = !whole.contains(|char: char| char.is_ascii_digit());
        if part.name("kept").is_some() || (part.name("id").is_some() && is_word) {
            Cow::Owned(whole.to_owned())
        } else if part.name("quoted").is_some() {
            Cow::Borrowed("\"…\"")
        } else if whole.starts_with('-') && start[..at].ends_with(char::is_alphanumeric) {
            // After a word a dash is no sign.
            Cow::Borrowed("-#")
        } else {
            Cow::Borrowed("#")
        }
    });
    cut(&folded, MAX_BYTES).into_owned()
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
                "no row of job-8b0c1c1e-6f5e-4a43-9d0a-3f4c2f1d7a10 in shard-34c2f1d7",
                "no row of job-# in shard-#",
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
