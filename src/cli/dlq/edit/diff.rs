//! Old and new lines of a body.

use std::time::{Duration, Instant};

use similar::{Algorithm, capture_diff_slices_deadline};

use crate::cli::dlq::body::pretty;
use crate::cli::output::cut_columns;

/// Lines shown of each, and columns of a line.
const LINES: usize = 30;
const COLUMNS: usize = 160;
/// For lines in common; later ones count as changed.
const PATIENCE: Duration = Duration::from_secs(1);

/// The lines that went (`-`) and those that came (`+`), one field a line where the body is JSON.
pub(super) fn changes(old: &[u8], new: &[u8]) -> Vec<String> {
    let (old, new) = (pretty(old), pretty(new));
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let deadline = Some(Instant::now() + PATIENCE);
    capture_diff_slices_deadline(Algorithm::Myers, &old, &new, deadline)
        .iter()
        .filter(|part| part.tag() != similar::DiffTag::Equal)
        .flat_map(|part| {
            let went = marked('-', &old[part.old_range()]);
            went.into_iter().chain(marked('+', &new[part.new_range()]))
        })
        .collect()
}

fn marked(mark: char, lines: &[&str]) -> Vec<String> {
    let line = |line: &&str| format!("{mark} {}", cut_columns(line, COLUMNS));
    let mut marked: Vec<String> = lines.iter().take(LINES).map(line).collect();
    if lines.len() > LINES {
        marked.push(format!("{mark} … {} more lines", lines.len() - LINES));
    }
    marked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_shown() {
        let old = br#"{"a":1,"tokens":"15","b":2,"c":3}"#;
        let new = br#"{"a":1,"tokens":15,"b":2,"d":4,"c":3}"#;
        assert_eq!(
            changes(old, new),
            [
                "-   \"tokens\": \"15\",",
                "+   \"tokens\": 15,",
                "+   \"d\": 4,"
            ]
        );
        assert_eq!(changes(old, old), Vec::<String>::new());
        assert_eq!(changes(b"", b"x"), ["+ x"]);
    }

    #[test]
    fn nothing_of_a_body_reaches_the_terminal_as_a_command() {
        let lines = changes(b"\x1b[2J\xff", "a\u{202e}b".as_bytes());
        assert_eq!(lines, ["- \\u{1b}[2J\\xff", "+ a\\u{202e}b"]);
        let long = changes(&[b'x'; 300_000], b"y\n".repeat(100_000).as_slice());
        assert_eq!(long.len(), 1 + LINES + 1);
        assert!(long.iter().all(|line| line.len() < 200), "{long:?}");
    }
}
