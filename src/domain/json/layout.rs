//! White space of a JSON text, and nothing else of it: what is between the quotes, the digits of numbers,
//! the order of keys and even their twins stay as they were written. No library lays out a text that it
//! would refuse, and the text may be what a parser stumbled over.

use std::iter::repeat_n;

use serde::de::IgnoredAny;

pub(super) const SPACE: [char; 4] = [' ', '\t', '\n', '\r'];
const INDENT: &str = "  ";
/// No line is indented further: the text could be all brackets.
const MAX_INDENT: usize = 32;

/// The text with one member a line; `push` adds a token, or what is to be shown of it.
#[must_use]
pub fn indented(text: &str, push: impl Fn(&mut String, &str)) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let (mut depth, mut last) = (0_usize, "");
    let mut tokens = tokens(text).peekable();
    let new_line = |out: &mut String, depth: usize| {
        out.truncate(out.trim_end_matches([' ', '\n']).len());
        out.push('\n');
        out.extend(repeat_n(INDENT, depth.min(MAX_INDENT)));
    };
    while let Some(token) = tokens.next() {
        match token {
            "}" | "]" => {
                depth = depth.saturating_sub(1);
                if !matches!(last, "{" | "[") {
                    new_line(&mut out, depth);
                }
            }
            "," | ":" => {}
            // Not JSON, but two words all the same.
            _ if !matches!(last, "" | "{" | "[" | "," | ":") => out.push(' '),
            _ => {}
        }
        push(&mut out, token);
        let closes = |next: &&str| matches!(*next, "}" | "]");
        match token {
            "{" | "[" => {
                depth += 1;
                if !tokens.peek().is_some_and(closes) {
                    new_line(&mut out, depth);
                }
            }
            "," => new_line(&mut out, depth),
            ":" => out.push(' '),
            _ => {}
        }
        last = token;
    }
    out
}

/// Whether a text is JSON, of whatever depth.
#[must_use]
pub fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// A JSON text without the white space between its parts.
#[must_use]
pub fn compacted(text: &str) -> String {
    tokens(text).collect()
}

/// Brackets, commas, colons, strings, and whatever else stands together.
pub(super) fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text.trim_start_matches(SPACE);
    std::iter::from_fn(move || {
        let end = match rest.bytes().next()? {
            b'{' | b'}' | b'[' | b']' | b',' | b':' => 1,
            b'"' => end_of_string(rest),
            _ => rest
                .bytes()
                .position(|byte| b"{}[],:\" \t\n\r".contains(&byte))
                .unwrap_or(rest.len()),
        };
        let (token, after) = rest.split_at(end);
        rest = after.trim_start_matches(SPACE);
        Some(token)
    })
}

/// Behind the closing quote.
fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid_out(text: &str) -> String {
        indented(text, String::push_str)
    }

    #[test]
    fn only_the_white_space_changes() {
        let text = r#" {"a":1.50e3,"a" : [ ],"b":[1 ,{"c":"x , \" }"}],"d":{} } "#;
        let shown = "{\n  \"a\": 1.50e3,\n  \"a\": [],\n  \"b\": [\n    1,\n    {\n      \
                     \"c\": \"x , \\\" }\"\n    }\n  ],\n  \"d\": {}\n}";
        assert_eq!(laid_out(text), shown);
        let short = r#"{"a":1.50e3,"a":[],"b":[1,{"c":"x , \" }"}],"d":{}}"#;
        assert_eq!(compacted(text), short);
        assert_eq!(compacted(shown), short);
        assert_eq!(laid_out("\"\\\\\""), "\"\\\\\"");
    }

    #[test]
    fn json_is_known_at_any_depth() {
        for text in ["", "{", "{\"a\":1,}", "nul", "1 2", "{} {}"] {
            assert!(!is_json(text), "{text}");
        }
        let nested = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(is_json(&nested));
        assert_eq!(compacted(&nested), nested);
        assert!(laid_out(&nested).len() < nested.len() * (MAX_INDENT * 2 + 2));
    }
}
