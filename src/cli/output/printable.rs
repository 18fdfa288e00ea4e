//! Text from outside, made harmless for a terminal.
//!
//! Bodies, headers and errors of dead letters are whatever somebody published. What a terminal would act on
//! (escape sequences), hide, or show in another order than it is written (bidirectional marks) is escaped.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthChar as _;

/// Whether a terminal shows it as itself: no control or format character, no separator but the blank, no
/// private or unassigned code point, and none that is drawn as nothing.
pub fn is_printable(char: char) -> bool {
    if char.is_ascii() {
        return !char.is_ascii_control();
    }
    // Letters, or marks on the letter before, that are drawn as nothing.
    let hidden = matches!(char,
        '\u{34f}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}');
    if hidden {
        return false;
    }
    // After a letter, since a text that begins with an accent has it escaped.
    let mut after_a_letter = [b'a'; 5];
    let length = char.encode_utf8(&mut after_a_letter[1..]).len();
    std::str::from_utf8(&after_a_letter[..=length])
        .is_ok_and(|text| text.escape_debug().nth(1) == Some(char))
}

/// `value` in one line, with everything escaped that isn't printable.
pub fn printable(value: &str) -> String {
    escaped(value, |char| {
        matches!(char, '\n' | '\r' | '\t').then_some(' ')
    })
}

/// Text of several lines, with everything else escaped that isn't printable.
pub fn printable_lines(value: &str) -> String {
    escaped(value, |char| (char == '\n').then_some(char))
}

fn escaped(value: &str, kept: impl Fn(char) -> Option<char>) -> String {
    let mut text = String::with_capacity(value.len());
    for char in value.chars() {
        match kept(char) {
            Some(char) => text.push(char),
            None => push_printable(&mut text, char),
        }
    }
    text
}

/// Adds the character as it is, or escaped: `\u{1b}`.
pub fn push_printable(text: &mut String, char: char) {
    if is_printable(char) {
        text.push(char);
    } else {
        match char {
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            char => text.extend(char.escape_unicode()),
        }
    }
}

/// A JSON text that means the same, in which everything that isn't printable is escaped. In what a
/// serializer wrote, such characters stand only inside strings, apart from line feeds.
pub(super) fn printable_json(text: &str) -> String {
    let mut json = String::with_capacity(text.len());
    for char in text.chars() {
        if char == '\n' || is_printable(char) {
            json.push(char);
            continue;
        }
        for unit in char.encode_utf16(&mut [0; 2]) {
            // Writing to a string can't fail.
            let _ = write!(json, "\\u{unit:04x}");
        }
    }
    json
}

/// As much of a printable line as fits into so many columns, with an ellipsis where something is
/// missing.
pub fn cut_columns(line: &str, columns: usize) -> String {
    let mut used = 0;
    let mut end = 0;
    for (at, char) in line.char_indices() {
        used += char.width().unwrap_or(0);
        if used > columns {
            return format!("{}…", line[..end].trim_end());
        }
        // Leaves room for the ellipsis.
        if used < columns {
            end = at + char.len_utf8();
        }
    }
    line.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_as_a_command_or_unseen() {
        assert_eq!(printable("a\u{1b}[31m\nb\r\tc"), "a\\u{1b}[31m b  c");
        for char in [
            '\0',
            '\u{7}',
            '\u{7f}',
            '\u{85}',
            '\u{9b}',
            '\u{a0}',
            '\u{ad}',
            '\u{61c}',
            '\u{180e}',
            '\u{200b}',
            '\u{200d}',
            '\u{200f}',
            '\u{2028}',
            '\u{2029}',
            '\u{202e}',
            '\u{2066}',
            '\u{2069}',
            '\u{206f}',
            '\u{3000}',
            '\u{3164}',
            '\u{e000}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{fff9}',
            '\u{fffe}',
            '\u{1d173}',
            '\u{e0041}',
            '\u{e01ef}',
            '\u{10ffff}',
        ] {
            let shown = printable(&format!("a{char}"));
            assert_eq!(shown, format!("a\\u{{{:x}}}", u32::from(char)));
        }
        let text = "Zürich \"naïve\" e\u{301} Ελλ हिन्दी עברית 漢字 🙂 \\ '";
        assert_eq!(printable(text), text);
    }

    #[test]
    fn json_means_the_same_and_shows_nothing_hostile() {
        let value = "\u{1b}[2J\u{7f}\u{9b}\u{202e}\u{2028}\u{e0041}\0 ü\n\"\\";
        let text = serde_json::to_string_pretty(&[value]).unwrap();
        let json = printable_json(&text);
        assert!(
            json.chars().all(|char| char == '\n' || is_printable(char)),
            "{json}"
        );
        assert!(json.contains("\\udb40\\udc41"), "{json}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&json).unwrap(), [value]);
    }

    #[test]
    fn what_is_cut_fits() {
        let rows = [
            ("abcd", 4, "abcd"),
            ("abcde", 4, "abc…"),
            ("ab cde", 4, "ab…"),
            ("漢字漢字", 8, "漢字漢字"),
            ("漢字漢字", 7, "漢字漢…"),
            ("漢字漢字", 6, "漢字…"),
            ("", 0, ""),
            ("a", 0, "…"),
        ];
        for (line, columns, cut) in rows {
            assert_eq!(cut_columns(line, columns), cut, "{line} {columns}");
        }
    }
}
