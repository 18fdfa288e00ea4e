//! White space of a JSON text, and nothing else of it: what is between the quotes, the digits of numbers,
//! the order of keys and even their twins stay as they were written.

use serde::de::IgnoredAny;

const INDENT: &str = "  ";
/// Deeper nesting is not laid out: indenting it would make gigabytes of a hostile body.
const MAX_DEPTH: usize = 64;

/// The text with one member a line; `None` if it isn't JSON, or nests deeper than
/// anybody means.
#[must_use]
pub fn indented(text: &str) -> Option<String> {
    (is_json(text) && depth(text) <= MAX_DEPTH).then(|| {
        let mut out = String::with_capacity(text.len() * 2);
        let mut depth = 0;
        let mut tokens = tokens(text).peekable();
        while let Some(token) = tokens.next() {
            match token {
                "{" | "[" => {
                    out.push_str(token);
                    if let Some(end) = tokens.next_if(|next| matches!(*next, "}" | "]")) {
                        out.push_str(end);
                    } else {
                        depth += 1;
                        new_line(&mut out, depth);
                    }
                }
                "}" | "]" => {
                    depth -= 1;
                    new_line(&mut out, depth);
                    out.push_str(token);
                }
                "," => {
                    out.push(',');
                    new_line(&mut out, depth);
                }
                ":" => out.push_str(": "),
                other => out.push_str(other),
            }
        }
        out
    })
}

/// The text without the white space between its parts; `None` if it isn't JSON.
#[must_use]
pub fn compacted(text: &str) -> Option<String> {
    is_json(text).then(|| tokens(text).collect())
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for token in tokens(text) {
        match token {
            "{" | "[" => depth += 1,
            "}" | "]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    for _ in 0..depth {
        out.push_str(INDENT);
    }
}

/// Brackets, commas, colons, strings, and whatever else stands together.
fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text.trim_ascii_start();
    std::iter::from_fn(move || {
        let end = match rest.bytes().next()? {
            b'{' | b'}' | b'[' | b']' | b',' | b':' => 1,
            b'"' => end_of_string(rest),
            _ => rest
                .find(|char: char| "{}[],:\"".contains(char) || char.is_ascii_whitespace())
                .unwrap_or(rest.len()),
        };
        let (token, after) = rest.split_at(end);
        rest = after.trim_ascii_start();
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
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert!(indented(&nested(MAX_DEPTH)).is_some());
        assert_eq!(indented(&nested(100_000)), None);
        assert_eq!(compacted(&nested(100)), Some(nested(100)));
    }
}
