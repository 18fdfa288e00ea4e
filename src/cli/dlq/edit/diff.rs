//! Old and new lines of a body.

use crate::cli::dlq::body::pretty;
use crate::cli::output::cut_columns;

/// Lines shown of each, and columns of a line.
const LINES: usize = 30;
const COLUMNS: usize = 160;

/// The lines that went (`-`) and those that came (`+`), one field a line where the body is JSON.
pub(super) fn changes(old: &[u8], new: &[u8]) -> Vec<String> {
    let (old, new) = (pretty(old), pretty(new));
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let kept = common(&old, &new);
    let (mut lines, mut at) = (Vec::new(), (0, 0));
    for (in_old, in_new) in kept.into_iter().chain([(old.len(), new.len())]) {
        lines.extend(marked('-', &old[at.0..in_old]));
        lines.extend(marked('+', &new[at.1..in_new]));
        at = (in_old + 1, in_new + 1);
    }
    lines
}

fn marked(mark: char, lines: &[&str]) -> Vec<String> {
    let line = |line: &&str| format!("{mark} {}", cut_columns(line, COLUMNS));
    let mut marked: Vec<String> = lines.iter().take(LINES).map(line).collect();
    if lines.len() > LINES {
        marked.push(format!("{mark} … {} more lines", lines.len() - LINES));
    }
    marked
}

/// Places of lines that are in both, in order: as many as can be, unless the texts are too long to try.
fn common(old: &[&str], new: &[&str]) -> Vec<(usize, usize)> {
    const CELLS: usize = 1_000_000;
    let start = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old_rest, new_rest) = (&old[start..], &new[start..]);
    let end = old_rest
        .iter()
        .rev()
        .zip(new_rest.iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let (old_end, new_end) = (old.len() - end, new.len() - end);
    let (middle_old, middle_new) = (&old[start..old_end], &new[start..new_end]);
    let mut places: Vec<(usize, usize)> = (0..start).map(|at| (at, at)).collect();
    if middle_old.len().saturating_mul(middle_new.len()) <= CELLS {
        let middle = longest_common(middle_old, middle_new);
        places.extend(middle.into_iter().map(|(a, b)| (a + start, b + start)));
    }
    places.extend((0..end).map(|at| (old_end + at, new_end + at)));
    places
}

fn longest_common(old: &[&str], new: &[&str]) -> Vec<(usize, usize)> {
    let width = new.len() + 1;
    let mut lengths = vec![0_u32; (old.len() + 1) * width];
    for a in (0..old.len()).rev() {
        for b in (0..new.len()).rev() {
            lengths[a * width + b] = if old[a] == new[b] {
                lengths[(a + 1) * width + b + 1] + 1
            } else {
                lengths[(a + 1) * width + b].max(lengths[a * width + b + 1])
            };
        }
    }
    let (mut a, mut b, mut places) = (0, 0, Vec::new());
    while a < old.len() && b < new.len() {
        if old[a] == new[b] {
            places.push((a, b));
            (a, b) = (a + 1, b + 1);
        } else if lengths[(a + 1) * width + b] >= lengths[a * width + b + 1] {
            a += 1;
        } else {
            b += 1;
        }
    }
    places
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
