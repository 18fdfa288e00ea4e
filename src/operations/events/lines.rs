//! Lines of a file, numbered, in bounded memory.

use std::io::{self, BufRead, Seek};

/// A line that is not blank, without the white space around it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// From 1, blank lines counted.
    pub(super) number: u64,
    /// The bytes, as far as they were kept.
    pub(super) bytes: Vec<u8>,
    /// How many bytes it really has.
    pub(super) len: u64,
}

/// Reads lines, keeping no more of one than `max` bytes and one.
pub(super) struct Lines<R> {
    source: R,
    max: usize,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(source: R, max: usize) -> Self {
        Self {
            source,
            max,
            number: 0,
        }
    }

    /// From the first line again.
    pub(super) fn rewind(&mut self) -> io::Result<()>
    where
        R: Seek,
    {
        self.number = 0;
        self.source.rewind()
    }

    /// The next line that is not blank; `None` at the end.
    pub(super) fn next_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            let Some(line) = self.any_line()? else {
                return Ok(None);
            };
            if line.len > 0 {
                return Ok(Some(line));
            }
        }
    }

    fn any_line(&mut self) -> io::Result<Option<Line>> {
        self.number += 1;
        let mut line = Line {
            number: self.number,
            bytes: Vec::new(),
            len: 0,
        };
        // White space after the last other byte, which belongs to the line only if more comes.
        let mut trailing = 0;
        let mut is_first = true;
        loop {
            let chunk = match self.source.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if chunk.is_empty() {
                return Ok((!is_first).then(|| self.finish(line)));
            }
            is_first = false;
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let part = &chunk[..end.unwrap_or(chunk.len())];
            let part = if line.len + trailing == 0 {
                part.trim_ascii_start()
            } else {
                part
            };
            let room = (self.max + 1).saturating_sub(line.bytes.len());
            line.bytes.extend_from_slice(&part[..part.len().min(room)]);
            let solid = part.trim_ascii_end().len();
            if solid > 0 {
                line.len += trailing + solid as u64;
                trailing = (part.len() - solid) as u64;
            } else {
                trailing += part.len() as u64;
            }
            let used = end.map_or(chunk.len(), |end| end + 1);
            self.source.consume(used);
            if end.is_some() {
                return Ok(Some(self.finish(line)));
            }
        }
    }

    fn finish(&self, mut line: Line) -> Line {
        let kept = usize::try_from(line.len).unwrap_or(usize::MAX);
        line.bytes.truncate(kept.min(self.max + 1));
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, max: usize, buffer: usize) -> Vec<(u64, String, u64)> {
        let source = io::BufReader::with_capacity(buffer, text.as_bytes());
        let mut lines = Lines::new(source, max);
        let mut all = Vec::new();
        while let Some(line) = lines.next_line().unwrap() {
            all.push((
                line.number,
                String::from_utf8(line.bytes).unwrap(),
                line.len,
            ));
        }
        all
    }

    #[test]
    fn lines_are_numbered_as_an_editor_does_and_trimmed() {
        for buffer in 1..20 {
            assert_eq!(
                read("a b\r\n\n  \t \n c \n\nlast", 100, buffer),
                [
                    (1, "a b".to_owned(), 3),
                    (4, "c".to_owned(), 1),
                    (6, "last".to_owned(), 4)
                ],
                "{buffer}"
            );
            assert_eq!(read("", 100, buffer), []);
            assert_eq!(read(" \n", 100, buffer), []);
        }
    }

    #[test]
    fn a_line_beyond_the_limit_is_cut_and_its_length_known() {
        for buffer in 1..20 {
            assert_eq!(
                read("  12345  \n123456 \n12345678\n", 5, buffer),
                [
                    (1, "12345".to_owned(), 5),
                    (2, "123456".to_owned(), 6),
                    (3, "123456".to_owned(), 8)
                ],
                "{buffer}"
            );
        }
    }
}
