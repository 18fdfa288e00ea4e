//! A body for the eye: JSON indented without reading it, everything else as it is.
//!
//! No parser is asked, since the body may be what a parser stumbled over: a duplicate key, a number of a
//! hundred digits, a missing brace all stay what they are. Only the space between tokens is ours.

use crate::cli::output::push_printable;

/// Deeper than this no line is indented: the text could be all brackets.
const MAX_INDENT: usize = 32;

/// A piece of a body.
#[derive(Debug, Clone, Copy)]
enum Piece {
    Char(char),
    /// A byte that is not UTF-8.
    Byte(u8),
}

/// The body in printable lines, bytes that aren't UTF-8 as `\xff`.
pub(super) fn pretty(body: &[u8]) -> String {
    let pieces = body.utf8_chunks().flat_map(|chunk| {
        let bytes = chunk.invalid().iter().map(|byte| Piece::Byte(*byte));
        chunk.valid().chars().map(Piece::Char).chain(bytes)
    });
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    if matches!(first, Some(b'{' | b'[')) {
        Indenter::default().run(pieces)
    } else {
        plain(pieces)
    }
}

/// Line feeds break lines, the rest is escaped where it must be.
fn plain(pieces: impl Iterator<Item = Piece>) -> String {
    let mut text = String::new();
    for piece in pieces {
        match piece {
            Piece::Char('\n') => text.push('\n'),
            piece => push(&mut text, piece),
        }
    }
    text
}

fn push(text: &mut String, piece: Piece) {
    match piece {
        Piece::Char(char) => push_printable(text, char),
        Piece::Byte(byte) => text.push_str(&format!("\\x{byte:02x}")),
    }
}

#[derive(Debug, Default)]
struct Indenter {
    text: String,
    depth: usize,
    in_string: bool,
    after_backslash: bool,
    /// There was space since the last token.
    after_space: bool,
    /// An opening bracket was the last token: if it is closed at once, it stays on its line.
    just_opened: bool,
}

impl Indenter {
    fn run(mut self, pieces: impl Iterator<Item = Piece>) -> String {
        for piece in pieces {
            if self.in_string {
                self.within_string(piece);
            } else {
                self.between_strings(piece);
            }
        }
        self.text
    }

    fn within_string(&mut self, piece: Piece) {
        push(&mut self.text, piece);
        match piece {
            _ if self.after_backslash => self.after_backslash = false,
            Piece::Char('\\') => self.after_backslash = true,
            Piece::Char('"') => self.in_string = false,
            _ => {}
        }
    }

    fn between_strings(&mut self, piece: Piece) {
        match piece {
            Piece::Char(' ' | '\t' | '\n' | '\r') => {
                self.after_space = true;
                return;
            }
            Piece::Char(bracket @ ('}' | ']')) => {
                self.depth = self.depth.saturating_sub(1);
                if !std::mem::take(&mut self.just_opened) {
                    self.new_line();
                }
                self.text.push(bracket);
            }
            Piece::Char(',') => {
                self.break_after_bracket();
                self.text.push(',');
                self.new_line();
            }
            Piece::Char(':') => {
                self.break_after_bracket();
                self.text.push_str(": ");
            }
            piece => {
                self.break_after_bracket();
                // No JSON, but two words all the same.
                if self.after_space && !self.text.ends_with([' ', '\n']) && !self.text.is_empty() {
                    self.text.push(' ');
                }
                self.token(piece);
            }
        }
        self.after_space = false;
    }

    fn token(&mut self, piece: Piece) {
        push(&mut self.text, piece);
        match piece {
            Piece::Char('{' | '[') => {
                self.depth += 1;
                self.just_opened = true;
            }
            piece => self.in_string = matches!(piece, Piece::Char('"')),
        }
    }

    fn break_after_bracket(&mut self) {
        if std::mem::take(&mut self.just_opened) {
            self.new_line();
        }
    }

    fn new_line(&mut self) {
        // Line feeds of the body itself are escaped by now.
        let length = self.text.trim_end_matches([' ', '\n']).len();
        self.text.truncate(length);
        self.text.push('\n');
        self.text
            .extend(std::iter::repeat_n("  ", self.depth.min(MAX_INDENT)));
    }
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
