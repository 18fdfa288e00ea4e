//! A file of events: read whole and checked, then read again and sent.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use tempfile::SpooledTempFile;

use super::lines::{Line, Lines};
use super::send::{Item, Report, Sending};
use crate::broker::Outgoing;
use crate::cli::output::{count, note, printable};
use crate::config::Limits;
use crate::domain::CompletionEvent;

/// Bad lines that are shown.
const SHOWN: u64 = 20;
/// What can be read only once is kept in memory up to this many bytes, and in a temporary file beyond.
const IN_MEMORY: usize = 32 * 1024 * 1024;
/// Read at once.
const BUFFER: usize = 256 * 1024;

trait Twice: Read + Seek {}
impl<T: Read + Seek> Twice for T {}

pub(super) async fn publish(
    path: &Path,
    limits: &Limits,
    sending: Sending<'_>,
    outgoing: impl Fn(Vec<u8>) -> Outgoing,
) -> anyhow::Result<Report> {
    let name = if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        printable(&path.display().to_string())
    };
    let mut source = open(path).with_context(|| name.clone())?;
    let found = check(BufReader::with_capacity(BUFFER, &mut source), limits, &name)?;
    source.rewind().with_context(|| name.clone())?;
    let mut lines = Lines::new(
        BufReader::with_capacity(BUFFER, &mut source),
        limits.max_body_bytes,
    );
    let next = || -> anyhow::Result<Option<Item>> {
        let Some(line) = lines.next_line().with_context(|| name.clone())? else {
            return Ok(None);
        };
        let number = line.number;
        let job = match parse(&line, limits) {
            Ok(event) => event.job_id(),
            Err(_) => bail!("{name} line {number}: changed since it was checked"),
        };
        Ok(Some(Item {
            line: number,
            job,
            size: line.bytes.len(),
            message: outgoing(line.bytes),
        }))
    };
    sending.all(&name, found, next).await
}

/// What the check found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) events: u64,
    /// The line of the last event.
    pub(super) last_line: u64,
}

/// Something that can be read twice.
fn open(path: &Path) -> io::Result<Box<dyn Twice>> {
    let mut once: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(path)?;
        if file.metadata()?.is_file() {
            return Ok(Box::new(file));
        }
        Box::new(file)
    };
    let mut spool = SpooledTempFile::new(IN_MEMORY);
    io::copy(&mut once, &mut spool)?;
    spool.flush()?;
    spool.rewind()?;
    Ok(Box::new(spool))
}

/// Checks every line. Bad ones are shown, up to a number.
fn check(source: impl BufRead, limits: &Limits, name: &str) -> anyhow::Result<Found> {
    let mut lines = Lines::new(source, limits.max_body_bytes);
    let mut found = Found::default();
    let mut bad = 0;
    while let Some(line) = lines.next_line().with_context(|| name.to_owned())? {
        found.events += 1;
        found.last_line = line.number;
        if let Err(problem) = parse(&line, limits) {
            bad += 1;
            if bad <= SHOWN {
                note(&format!(
                    "error: {name} line {}: {}",
                    line.number,
                    printable(&problem)
                ));
            }
        }
    }
    if bad == 0 {
        return Ok(found);
    }
    let shown = if bad > SHOWN {
        format!(" (the first {SHOWN} are shown)")
    } else {
        String::new()
    };
    bail!(
        "{name}: {bad} of {} can't be published{shown}; nothing was published",
        count(found.events, "event")
    )
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
    use super::*;

    const GOOD: &str = r#"{"job_id":"8b0c1c1e-6f5e-4a43-9d0a-3f4c2f1d7a10","tokens":1}"#;

    #[test]
    fn a_good_file_is_counted() {
        let text = format!("{GOOD}\n\n{GOOD}\r\n\n");
        let found = check(text.as_bytes(), &Limits::default(), "x").unwrap();
        assert_eq!((found.events, found.last_line), (2, 3));
        assert_eq!(
            check(&b"\n"[..], &Limits::default(), "x").unwrap(),
            Found::default()
        );
    }

    #[test]
    fn one_bad_line_stops_all() {
        let text = format!("{GOOD}\n{{}}\n{GOOD}\n");
        let error = check(text.as_bytes(), &Limits::default(), "x").unwrap_err();
        let expected = "x: 1 of 3 events can't be published; nothing was published";
        assert_eq!(error.to_string(), expected);
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
