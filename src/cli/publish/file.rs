//! A file of events, or standard input, which can be read only once.

use std::fs::File;
use std::io::{self, Read, Seek, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use tempfile::SpooledTempFile;

use crate::cli::output::{count, note, printable};
use crate::config::Limits;
use crate::operations::EventFile;

/// What can be read only once is kept in memory up to this many bytes, and in a temporary file beyond.
const IN_MEMORY: usize = 32 * 1024 * 1024;

pub(super) trait Twice: Read + Seek {}
impl<T: Read + Seek> Twice for T {}

/// The file, if every line of it can be published. What can't is said.
pub(super) fn checked(path: &Path, limits: &Limits) -> anyhow::Result<EventFile<Box<dyn Twice>>> {
    let name = if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        printable(&path.display().to_string())
    };
    let source = open(path).with_context(|| name.clone())?;
    let checked =
        EventFile::check(name.clone(), source, None, limits).with_context(|| name.clone())?;
    let refused = match checked {
        Ok(file) => return Ok(file),
        Err(refused) => refused,
    };
    for (line, problem) in &refused.first {
        note(&format!(
            "error: {name} line {line}: {}",
            printable(problem)
        ));
    }
    let shown = match refused.first.len() {
        all if all as u64 == refused.refused => String::new(),
        some => format!(" (the first {some} are shown)"),
    };
    bail!(
        "{name}: {} of {} can't be published{shown}; nothing was published",
        refused.refused,
        count(refused.events, "event")
    )
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
