//! White space of a JSON text, and nothing else of it: what is between the quotes, the digits of numbers,
//! the order of keys and even duplicates stay as they were written. No library lays out a text that it
//! would refuse, and the text may be what a parser stumbled over.

use std::iter::repeat_n;

use serde::de::IgnoredAny;

pub(super) const SPACE: [char; 4] = [' ', '\t', '\n', '\r'];
const INDENT: &str = "  ";
/// No line is indented further: the text could be all brackets.
const MAX_INDENT: usize = 32;

/// The text with one member a line; `push` adds a token, or what is to be shown of it.
#[must_use]
pub fn laid_out(text: &str, push: impl Fn(&mut String, &str)) -> String {
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

/// The text with one member a line, if it is JSON.
#[must_use]
pub fn indented(text: &str) -> Option<String> {
    is_json(text).then(|| laid_out(text, String::push_str))
}

/// The text without the white space between its parts, if it is JSON.
#[must_use]
pub fn compacted(text: &str) -> Option<String> {
    is_json(text).then(|| tokens(text).collect())
}

/// Of whatever depth.
pub(super) fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
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

    #[test]
    fn only_the_white_space_changes() {
        let text = r#" {"a":1.50e3,"a" : [ ],"b":[1 ,{"c":"x , \" }"}],"d":{} } "#;
        let shown = "{\n  \"a\": 1.50e3,\n  \"a\": [],\n  \"b\": [\n    1,\n    {\n      \
                     \"c\": \"x , \\\" }\"\n    }\n  ],\n  \"d\": {}\n}";
        assert_eq!(indented(text).as_deref(), Some(shown));
        let short = r#"{"a":1.50e3,"a":[],"b":[1,{"c":"x , \" }"}],"d":{}}"#;
        assert_eq!(compacted(text).as_deref(), Some(short));
        assert_eq!(compacted(shown).as_deref(), Some(short));
        assert_eq!(indented("\"\\\\\"").as_deref(), Some("\"\\\\\""));
    }

    #[test]
    fn what_is_not_json_has_no_layout() {
        for text in ["", "{", "{\"a\":1,}", "nul", "1 2", "{} {}"] {
            assert_eq!((indented(text), compacted(text)), (None, None), "{text}");
        }
        let nested = "[".repeat(100_000) + &"]".repeat(100_000);
        let longest = nested.len() * (MAX_INDENT * 2 + 2);
        assert!(indented(&nested).is_some_and(|text| text.len() < longest));
        assert_eq!(compacted(&nested), Some(nested));
    }
}
