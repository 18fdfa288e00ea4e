//! What a command prints: one table for people, or one JSON document for programs. Nothing that it prints
//! can make a terminal do anything but show it.

mod printable;

use std::io::{self, ErrorKind, Write as _};

use anyhow::Context as _;
use clap::ValueEnum;
use comfy_table::{Cell, CellAlignment, presets};
use serde::Serialize;

use printable::printable_json;
pub use printable::{cut_columns, is_printable, printable, printable_lines, push_printable};

/// Columns of a line where there is no terminal to say how many it has.
const UNBOUNDED_COLUMNS: usize = 1_000;

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
            // Its cells are harmless already; this is for whatever was forgotten.
            Self::Table => printable_lines(&text(document)),
            Self::Json => printable_json(&serde_json::to_string_pretty(document)?),
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
    offer(bytes).map(drop)
}

/// Whether anybody reads what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// It was written.
    Present,
    /// The pipe is closed at the other end.
    Gone,
}

/// Prints one JSON document in one line, at once: for a program that reads a stream of them.
///
/// # Errors
///
/// As for [`print_bytes`].
pub fn stream_json<T: Serialize>(document: &T) -> anyhow::Result<Reader> {
    offer(format!("{}\n", printable_json(&serde_json::to_string(document)?)).as_bytes())
}

/// Prints one line for people at once, cut to the width of the terminal.
///
/// # Errors
///
/// As for [`print_bytes`].
pub fn stream_line(line: &str) -> anyhow::Result<Reader> {
    offer(format!("{}\n", cut_columns(printable(line).trim_end(), columns())).as_bytes())
}

fn offer(bytes: &[u8]) -> anyhow::Result<Reader> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(Reader::Present),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(error).context("standard output"),
    }
}

/// The width to print for: `COLUMNS` if that is set, else the terminal's, else as good as none.
pub fn columns() -> usize {
    let asked = super::variable("COLUMNS").and_then(|columns| columns.parse().ok());
    let terminal = || comfy_table::Table::new().width().map(usize::from);
    // Narrower ones are no terminals that a person reads.
    let sane = |columns: &usize| *columns >= 20;
    let known = asked.filter(sane).or_else(terminal);
    known.filter(sane).unwrap_or(UNBOUNDED_COLUMNS)
}

/// One line on standard error, where notes, progress and errors go. Nobody may be there to read it.
pub fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", printable_lines(line));
}

/// Notes what an operation warns of while it goes on all the same.
pub fn note_warnings() {
    let fields = tracing_subscriber::fmt::format::debug_fn(|writer, field, value| {
        let text = printable(&format!("{value:?}"));
        match field.name() {
            "message" => write!(writer, "note: {text}"),
            _ => write!(writer, ": {text}"),
        }
    });
    let notes = tracing_subscriber::fmt()
        .with_env_filter("token_billing::operations=warn")
        .with_writer(io::stderr)
        .fmt_fields(fields)
        .with_ansi(false)
        .with_level(false)
        .with_target(false)
        .without_time();
    // Where something listens already, that tells it.
    let _ = tracing::subscriber::set_global_default(notes.finish());
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

    /// The table as text in which no line is wider than the terminal: what is too much is cut.
    pub fn render_cut(self) -> String {
        let (text, columns) = (self.render(), columns());
        let lines = text.lines().map(|line| cut_columns(line, columns));
        lines.collect::<Vec<_>>().join("\n")
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
}
