//! Text from outside, made fit for a log line, a header or a terminal.

use std::borrow::Cow;

/// Characters of a value that [`quoted`] shows.
const QUOTED_CHARS: usize = 64;

/// `value` between double quotes, cut to 64 characters; quotes, control characters (terminal
/// escapes among them) and invisible ones (bidirectional marks) are escaped.
#[must_use]
pub fn quoted(value: &str) -> String {
    match value.char_indices().nth(QUOTED_CHARS) {
        None => format!("{value:?}"),
        Some((end, _)) => format!("{:?}…", &value[..end]),
    }
}

/// `text` if it has at most `max` bytes, else as much of it as fits together with an ellipsis.
#[must_use]
pub fn cut(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max {
        return Cow::Borrowed(text);
    }
    let end = text.floor_char_boundary(max.saturating_sub('…'.len_utf8()));
    Cow::Owned(format!("{}…", &text[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_invisible_survives_quoting() {
        let rows = [
            ("plain", r#""plain""#),
            ("é 漢 \"", r#""é 漢 \"""#),
            ("\u{1b}[31mred\n", r#""\u{1b}[31mred\n""#),
            ("\u{9b}", r#""\u{9b}""#),
            (
                "a\u{202e}b\u{200f}\u{2066}\u{61c}",
                r#""a\u{202e}b\u{200f}\u{2066}\u{61c}""#,
            ),
            ("\u{feff}\u{200b}\u{2028}", r#""\u{feff}\u{200b}\u{2028}""#),
        ];
        for (value, shown) in rows {
            assert_eq!(quoted(value), shown);
        }
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        assert_eq!(quoted(&"é".repeat(64)), format!("\"{}\"", "é".repeat(64)));
        assert_eq!(quoted(&"é".repeat(65)), format!("\"{}\"…", "é".repeat(64)));
        assert_eq!(cut("ééé", 6), "ééé");
        assert_eq!(cut("éééé", 6), "é…");
        assert_eq!(cut("éééé", 7), "éé…");
    }
}
