//! What a command prints: one table for people, or one JSON document for programs.

use std::io::{self, ErrorKind, Write as _};

use anyhow::Context as _;
use clap::ValueEnum;
use comfy_table::{Cell, CellAlignment, presets};
use serde::Serialize;

/// The form of a command's result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// One JSON document with stable keys, and nothing else on standard output
    Json,
}

impl Format {
    /// Prints `document`, or what `text` makes of it for people.
    ///
    /// # Errors
    ///
    /// Standard output can't be written to. A reader that has gone away (`| head`) is no error.
    pub fn print<T: Serialize>(
        self,
        document: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        let text = match self {
            Self::Table => text(document),
            Self::Json => serde_json::to_string_pretty(document)?,
        };
        print_bytes(format!("{}\n", text.trim_end()).as_bytes())
    }
}

/// Writes to standard output. A reader that has gone away is no error.
///
/// # Errors
///
/// Any other failure: a full disk must not look like success.
pub fn print_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("standard output"),
    }
}

/// One line on standard error, where notes, progress and errors go. Nobody may be there to read it.
pub fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// A table without lines, so that its columns can be copied and grepped.
#[derive(Debug)]
pub struct Table(comfy_table::Table);

impl Table {
    /// A table with this heading; [`at_right`] stands above numbers.
    pub fn new(heading: impl IntoIterator<Item = Cell>) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(heading.into_iter().collect::<Vec<_>>());
        Self(table)
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.0.add_row(cells);
    }

    /// The table as text.
    pub fn render(mut self) -> String {
        for column in self.0.column_iter_mut() {
            let (left, right) = if column.index == 0 { (0, 1) } else { (1, 1) };
            column.set_padding((left, right));
        }
        let text = self.0.to_string();
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        lines.join("\n")
    }
}

/// A cell of text. What could move the cursor or colour the terminal is escaped.
pub fn text(value: &str) -> Cell {
    Cell::new(printable(value))
}

/// A cell with a number: at the right, thousands apart.
pub fn number(value: i64) -> Cell {
    at_right(&thousands(value))
}

/// A cell of text at the right.
pub fn at_right(value: &str) -> Cell {
    text(value).set_alignment(CellAlignment::Right)
}

/// `value` in one line, with control characters escaped.
pub fn printable(value: &str) -> String {
    let escaped = |char: char| match char {
        '\n' | '\r' | '\t' => " ".to_owned(),
        char if char.is_control() || is_invisible(char) => char.escape_unicode().to_string(),
        char => char.to_string(),
    };
    value.chars().map(escaped).collect()
}

/// What turns the direction of a line round, joins or hides characters: it could make one text look like
/// another.
fn is_invisible(char: char) -> bool {
    matches!(char,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// `1234567` → `1,234,567`.
pub fn thousands(value: impl Into<i128>) -> String {
    let value = value.into();
    let digits = value.unsigned_abs().to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0 { format!("-{text}") } else { text }
}

/// `1 event`, `1,000 events`.
pub fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", thousands(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        let rows = [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (123_456, "123,456"),
            (1_234_567, "1,234,567"),
            (-1_000, "-1,000"),
            (-999, "-999"),
            (i64::MIN, "-9,223,372,036,854,775,808"),
        ];
        for (value, text) in rows {
            assert_eq!(thousands(value), text);
        }
        assert_eq!(count(1, "event"), "1 event");
        assert_eq!(count(2_000, "event"), "2,000 events");
    }

    #[test]
    fn numbers_stand_at_the_right_and_no_line_ends_in_blanks() {
        let mut table = Table::new([text(""), at_right("tokens"), text("")]);
        table.row([text("monthly"), number(1_000), text("of 2,000")]);
        table.row([text("total"), number(10), text("")]);
        assert_eq!(
            table.render(),
            "         tokens\nmonthly   1,000  of 2,000\ntotal        10"
        );
    }

    #[test]
    fn nothing_in_a_cell_reaches_the_terminal_as_a_command() {
        assert_eq!(printable("a\u{1b}[31m\nb"), "a\\u{1b}[31m b");
        assert_eq!(printable("é\u{202e}b\u{9b}"), "é\\u{202e}b\\u{9b}");
    }
}
