//! A file of events: read whole and checked, then read again and sent.

use std::io::{self, BufReader, Read, Seek};

use uuid::Uuid;

use super::Place;
use super::lines::{Line, Lines};
use crate::config::Limits;
use crate::domain::CompletionEvent;

/// Bad lines that are told one by one.
const TOLD: usize = 20;
/// Read at once, in bytes.
const BUFFER: usize = 256 * 1024;
/// On their way at once, at most: messages, and bytes of their bodies.
const WINDOW: usize = 1024;
const WINDOW_BYTES: usize = 8 * 1024 * 1024;

/// A file of which every line is an event that may be published.
pub(crate) struct EventFile<S> {
    /// What people call it.
    pub(super) name: String,
    lines: Lines<BufReader<S>>,
    limits: Limits,
    pub(crate) events: u64,
    /// The line of the last one.
    pub(super) last_line: u64,
}

/// A file with lines that are no events that may be published.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RefusedFile {
    pub(crate) events: u64,
    pub(crate) refused: u64,
    /// The first of them: the line, from 1, and what is wrong with it.
    pub(crate) first: Vec<(u64, String)>,
}

impl<S: Read + Seek> EventFile<S> {
    /// Reads all of it and checks each line: an event by the rules for messages, and where there is a `payer`, one that
    /// names it. The outer error: it can't be read.
    pub(crate) fn check(
        name: String,
        source: S,
        payer: Option<Uuid>,
        limits: &Limits,
    ) -> io::Result<Result<Self, RefusedFile>> {
        let source = BufReader::with_capacity(BUFFER, source);
        let mut lines = Lines::new(source, limits.max_body_bytes);
        let (mut events, mut last_line) = (0, 0);
        let (mut refused, mut first) = (0, Vec::new());
        while let Some(line) = lines.next_line()? {
            events += 1;
            last_line = line.number;
            let checked = parse(&line, limits);
            if let Err(problem) = checked.and_then(|event| paid_by(payer, &event)) {
                refused += 1;
                if first.len() < TOLD {
                    first.push((line.number, problem));
                }
            }
        }
        if refused > 0 {
            return Ok(Err(RefusedFile {
                events,
                refused,
                first,
            }));
        }
        lines.rewind()?;
        Ok(Ok(Self {
            name,
            lines,
            limits: limits.clone(),
            events,
            last_line,
        }))
    }

    /// What is sent at once: the line, the job and the bytes of each; none at the end.
    pub(super) fn next_window(&mut self) -> io::Result<Vec<(Place, Vec<u8>)>> {
        let (mut window, mut bytes) = (Vec::new(), 0);
        while window.len() < WINDOW && bytes < WINDOW_BYTES {
            let Some(line) = self.lines.next_line()? else {
                break;
            };
            let number = line.number;
            let changed = |_| io::Error::other(format!("line {number} changed since the check"));
            let event = parse(&line, &self.limits).map_err(changed)?;
            bytes += line.bytes.len();
            window.push(((number, event.job_id()), line.bytes));
        }
        Ok(window)
    }
}

/// Whoever acts for one company has to say so in each event: without it, the job's row would say who pays.
pub(crate) fn paid_by(payer: Option<Uuid>, event: &CompletionEvent) -> Result<(), String> {
    match payer {
        Some(payer) if event.company_id() != Some(payer) => Err(format!(
            "company_id: expected {payer}, the company of the key"
        )),
        _ => Ok(()),
    }
}

fn parse(line: &Line, limits: &Limits) -> Result<CompletionEvent, String> {
    if line.len > limits.max_body_bytes as u64 {
        let limit = limits.max_body_bytes;
        return Err(format!("body: {} bytes, the limit is {limit}", line.len));
    }
    CompletionEvent::parse(&line.bytes, None, limits).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    const GOOD: &str = r#"{"job_id":"8b0c1c1e-6f5e-4a43-9d0a-3f4c2f1d7a10","tokens":1}"#;

    fn check(text: &str) -> Result<(u64, u64), RefusedFile> {
        let checked = EventFile::check("x".to_owned(), Cursor::new(text), None, &Limits::default());
        checked
            .expect("read")
            .map(|file| (file.events, file.last_line))
    }

    #[test]
    fn a_good_file_is_counted() {
        assert_eq!(check(&format!("{GOOD}\n\n{GOOD}\r\n\n")), Ok((2, 3)));
        assert_eq!(check("\n"), Ok((0, 0)));
    }

    #[test]
    fn one_bad_line_stops_all() {
        let refused = RefusedFile {
            events: 3,
            refused: 1,
            first: vec![(2, "job_id: missing".to_owned())],
        };
        assert_eq!(check(&format!("{GOOD}\n{{}}\n{GOOD}\n")), Err(refused));
    }

    #[test]
    fn a_line_is_refused_by_the_rules_for_messages() {
        let line = |bytes: &str, len| Line {
            number: 1,
            bytes: bytes.as_bytes().to_vec(),
            len,
        };
        let limits = Limits::default();
        let refused = |line: &Line| parse(line, &limits).unwrap_err();
        assert_eq!(refused(&line("{}", 2)), "job_id: missing");
        assert_eq!(
            refused(&line("{}", 262_145)),
            "body: 262145 bytes, the limit is 262144"
        );
    }
}
