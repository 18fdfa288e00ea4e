//! A body for the eye: JSON indented without reading it, everything else as it is.
//!
//! No parser is asked, since the body may be what a parser stumbled over: a duplicate key, a number of a
//! hundred digits, a missing brace all stay what they are. Only the space between tokens is ours.

use std::fmt::Write as _;

use crate::cli::output::{printable_lines, push_printable};
use crate::domain::layout;

/// The body in printable lines, bytes that aren't UTF-8 as `\xff`.
pub(super) fn pretty(body: &[u8]) -> String {
    let mut text = String::with_capacity(body.len());
    for chunk in body.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a string can't fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    if !text.trim_ascii_start().starts_with(['{', '[']) {
        return printable_lines(&text);
    }
    layout::laid_out(&text, |shown, token| {
        token.chars().for_each(|char| push_printable(shown, char));
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, prop_assume, proptest};

    use super::*;
    use crate::cli::output::is_printable;

    #[test]
    fn tokens_stay_as_they_are() {
        let rows = [
            (
                r#"{"a":1,"a":[ ],"b":{}}"#,
                "{\n  \"a\": 1,\n  \"a\": [],\n  \"b\": {}\n}",
            ),
            (
                r#"[123456789012345678901234567890.5e+10,"x, {\"y\\"]"#,
                "[\n  123456789012345678901234567890.5e+10,\n  \"x, {\\\"y\\\\\"\n]",
            ),
            // Broken in many ways, and nothing of it lost.
            (
                "{\"a\" \t\r\n1 2,}] 7 \"x\ny\"",
                "{\n  \"a\" 1 2,\n}\n] 7 \"x\\ny\"",
            ),
            (r#"{"open"#, "{\n  \"open"),
            ("[\u{1b}]", "[\n  \\u{1b}\n]"),
            ("plain\n\ttext", "plain\n\\ttext"),
            ("", ""),
        ];
        for (body, shown) in rows {
            assert_eq!(pretty(body.as_bytes()), shown, "{body}");
        }
        assert_eq!(
            pretty(b"{\"a\":\"\xff\xc3\"}"),
            "{\n  \"a\": \"\\xff\\xc3\"\n}"
        );
        assert_eq!(pretty(b"\x00\xe2\x82z"), "\\u{0}\\xe2\\x82z");
    }

    #[test]
    fn a_mountain_of_brackets_is_no_mountain_of_blanks() {
        let body = "[".repeat(4096);
        let shown = pretty(body.as_bytes());
        assert!(shown.len() < 4096 * 80, "{}", shown.len());
    }

    proptest! {
        #[test]
        fn nothing_but_space_is_added_or_lost(body in r#"[\[{][a-z0-9"\\{}\[\]:, ]{0,60}"#) {
            let solid = |text: &str| text.chars().filter(|char| !char.is_whitespace()).collect::<String>();
            prop_assert_eq!(solid(&pretty(body.as_bytes())), solid(&body));
        }

        #[test]
        fn whatever_the_bytes_what_is_shown_is_printable(body in proptest::collection::vec(any::<u8>(), 0..80)) {
            let shown = pretty(&body);
            prop_assert!(shown.chars().all(|char| char == '\n' || is_printable(char)), "{}", shown);
        }

        #[test]
        fn valid_json_stays_the_same_value(numbers in proptest::collection::vec(any::<i64>(), 0..5), text in any::<String>()) {
            let value = serde_json::json!({ "numbers": numbers, "empty": [{}, []], "text": text });
            let shown = pretty(serde_json::to_string(&value).unwrap().as_bytes());
            // Our own escapes are not JSON's.
            prop_assume!(text.chars().all(is_printable));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        }
    }
}
