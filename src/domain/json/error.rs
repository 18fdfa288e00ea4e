//! Where a text is wrong, and what would have been right there.
//!
//! `serde_json` knows the place of a fault of grammar, but doesn't say what it met there, nor what it waited
//! for in a text that ends too early. That much is found here, from the tokens before the place.

use super::layout::{is_json, tokens};
use crate::domain::excerpt::{cut, quoted};

/// Bytes of a path that an error shows.
const PATH_BYTES: usize = 256;

/// Why a text was refused: which value, and what is wrong with it.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::domain) struct JsonError {
    /// The way to the value, outermost first; `None` if it is the text as a whole that is wrong.
    path: Option<String>,
    problem: String,
}

impl JsonError {
    pub(super) fn of_text(problem: String) -> Self {
        Self {
            path: None,
            problem,
        }
    }

    pub(super) fn of_value(problem: impl Into<String>) -> Self {
        let (path, problem) = (Some(String::new()), problem.into());
        Self { path, problem }
    }

    /// A fault of grammar: line and column count characters, from 1.
    #[cold]
    pub(super) fn of_syntax(text: &str, error: &serde_json::Error) -> Self {
        let lines = text
            .split_inclusive('\n')
            .take(error.line().saturating_sub(1));
        let start: usize = lines.map(str::len).sum();
        // The last byte that was read is the one that didn't fit.
        let at = if error.is_eof() {
            text.len()
        } else {
            text.floor_char_boundary(start + error.column().saturating_sub(1))
        };
        let (at, problem) = if let Some((at, expected)) = expected(text, at) {
            let got = match text[at..].chars().next() {
                None => "the end".to_owned(),
                Some(character) => quoted(character.encode_utf8(&mut [0; 4])),
            };
            (at, format!("expected {expected}, got {got}"))
        } else {
            let said = error.to_string();
            let place = format!(" at line {} column {}", error.line(), error.column());
            (at, said.trim_end_matches(&place).to_owned())
        };
        let before = text[..at].split('\n');
        let column = before.clone().next_back().unwrap_or("").chars().count() + 1;
        let line = before.count();
        Self::of_text(format!("line {line}, column {column}: {problem}"))
    }

    /// The same error seen from one level further out. A fault of the text as a whole stays one.
    pub(in crate::domain) fn inside(mut self, outer: &str) -> Self {
        self.path = self.path.map(|path| match path.as_bytes() {
            [] => outer.to_owned(),
            [b'[', ..] => format!("{outer}{path}"),
            _ => format!("{outer}.{path}"),
        });
        self
    }

    /// `metadata.tags[2]: the problem`; `text` names the text where there is no path.
    pub(in crate::domain) fn message(&self, text: &str) -> String {
        let path = self.path.as_deref().filter(|path| !path.is_empty());
        format!(
            "{}: {}",
            cut(path.unwrap_or(text), PATH_BYTES),
            self.problem
        )
    }
}

/// A key as part of a path: as it is if that is unmistakable, else quoted.
pub(super) fn path_of_key(key: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if (1..=64).contains(&key.len()) && key.bytes().all(plain) {
        key.to_owned()
    } else {
        quoted(key)
    }
}

/// Where around `at` a token stands that can't follow those before it, and what could. `None` if it is a
/// string or a number that is wrong in itself, for which the library has words.
fn expected(text: &str, at: usize) -> Option<(usize, &'static str)> {
    let mut place = text.len();
    let mut open = Vec::new();
    let (mut last, mut last_but_one) = ("", "");
    for token in tokens(text) {
        let start = token.as_ptr() as usize - text.as_ptr() as usize;
        let is_mark = matches!(token, "{" | "}" | "[" | "]" | "," | ":");
        let is_broken = start + token.len() >= at && !is_mark && !is_json(token);
        if is_broken && token.starts_with(|char: char| matches!(char, '"' | '-' | '0'..='9')) {
            return None;
        }
        if is_broken || start >= at {
            place = start;
            break;
        }
        match token {
            "{" | "[" => open.push(token),
            "}" | "]" => drop(open.pop()),
            _ => {}
        }
        (last_but_one, last) = (last, token);
    }
    let is_key = last.starts_with('"') && matches!(last_but_one, "{" | ",");
    let expected = match (last, open.last().copied()) {
        ("{", _) | (",", Some("{")) => "a key in double quotes",
        ("" | ":" | "[" | ",", _) => "a value",
        (_, None) => "nothing more",
        (_, Some("{")) if is_key => "a colon after the key",
        (_, Some("{")) => "a comma or the end of the object",
        _ => "a comma or the end of the array",
    };
    Some((place, expected))
}
