//! A JSON reader that is stricter than most, for bodies that become money.
//!
//! It reads RFC 8259 in one pass and without a tree: a value is handed out as its slice of the text,
//! whole objects and arrays included, which is how `metadata` keeps its exact bytes. Beyond the
//! grammar it refuses, at any depth, what readers disagree on or `PostgreSQL`'s `jsonb` can't hold:
//! a key that appears twice in one object, U+0000 and half surrogate pairs in strings, and numbers
//! out of range. An error carries the path of the value it is about.

pub mod layout;
mod scalars;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use super::excerpt::{cut, quoted};

/// Bytes of a path that an error shows.
const PATH_BYTES: usize = 256;

/// One value, already checked to its end.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    /// As it was written.
    Number(&'a str),
    /// With its escapes resolved.
    String(Cow<'a, str>),
    /// As it was written, brackets included.
    Array(&'a str),
    /// As it was written, braces included.
    Object(&'a str),
}

impl Value<'_> {
    /// The kind of value and, for scalars, the value: `the string "15000"`, `an array`.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => format!("the boolean {value}"),
            Self::Number(text) if text.contains(['e', 'E']) => {
                format!("the number {} with an exponent", cut(text, 64))
            }
            Self::Number(text) if text.contains('.') => {
                format!("the fractional number {}", cut(text, 64))
            }
            Self::Number(text) => format!("the number {}", cut(text, 64)),
            Self::String(text) => format!("the string {}", quoted(text)),
            Self::Array(_) => "an array".to_owned(),
            Self::Object(_) => "an object".to_owned(),
        }
    }
}

/// Why a text was refused: which value, and what is wrong with it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct JsonError {
    /// The way to the value, outermost first; `None` if it is the text as a whole that is wrong.
    path: Option<String>,
    problem: String,
}

impl JsonError {
    fn of_text(problem: String) -> Box<Self> {
        Box::new(Self {
            path: None,
            problem,
        })
    }

    fn of_value(path: String, problem: String) -> Box<Self> {
        let path = Some(path);
        Box::new(Self { path, problem })
    }

    /// The same error seen from one level further out. A fault of the text as a whole stays one.
    pub(super) fn inside(mut self: Box<Self>, outer: &str) -> Box<Self> {
        self.path = self.path.map(|path| match path.as_bytes() {
            [] => outer.to_owned(),
            [b'[', ..] => format!("{outer}{path}"),
            _ => format!("{outer}.{path}"),
        });
        self
    }

    /// `metadata.tags[2]: the problem`; `text` names the text where there is no path.
    pub(super) fn message(&self, text: &str) -> String {
        let path = self.path.as_deref().filter(|path| !path.is_empty());
        format!(
            "{}: {}",
            cut(path.unwrap_or(text), PATH_BYTES),
            self.problem
        )
    }
}

/// A key as part of a path: as it is if that is unmistakable, else quoted.
fn path_of_key(key: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if (1..=64).contains(&key.len()) && key.bytes().all(plain) {
        key.to_owned()
    } else {
        quoted(key)
    }
}

type Result<T> = std::result::Result<T, Box<JsonError>>;

/// A position in a text.
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    max_depth: usize,
    /// The keys seen so far of every object that is open, innermost last.
    keys: Vec<Cow<'a, str>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str, max_depth: usize) -> Self {
        let keys = Vec::with_capacity(16);
        Self {
            text,
            at: 0,
            depth: 0,
            max_depth,
            keys,
        }
    }

    /// Reads the whole text as one value.
    pub(super) fn document(mut self) -> Result<Value<'a>> {
        self.skip_space();
        let value = self.value()?;
        self.end()?;
        Ok(value)
    }

    /// Reads the whole text as one object and hands out its members. What is not an object is
    /// returned instead.
    pub(super) fn members(
        mut self,
        mut member: impl FnMut(&str, Value<'a>),
    ) -> Result<Option<Value<'a>>> {
        self.skip_space();
        if self.peek() != Some(b'{') {
            return self.document().map(Some);
        }
        self.object(&mut member)?;
        self.end()?;
        Ok(None)
    }

    fn end(&mut self) -> Result<()> {
        self.skip_space();
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.unexpected("nothing more")),
        }
    }

    fn value(&mut self) -> Result<Value<'a>> {
        let start = self.at;
        match self.peek() {
            Some(b'{') => {
                self.object(&mut |_, _| {})?;
                Ok(Value::Object(&self.text[start..self.at]))
            }
            Some(b'[') => {
                self.array()?;
                Ok(Value::Array(&self.text[start..self.at]))
            }
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.number().map(Value::Number),
            Some(b't') => self.literal("true", Value::Bool(true)),
            Some(b'f') => self.literal("false", Value::Bool(false)),
            Some(b'n') => self.literal("null", Value::Null),
            _ => Err(self.unexpected("a value")),
        }
    }

    fn object(&mut self, member: &mut dyn FnMut(&str, Value<'a>)) -> Result<()> {
        self.enter()?;
        let first_key = self.keys.len();
        if !self.closes(b'}') {
            loop {
                if self.peek() != Some(b'"') {
                    return Err(self.unexpected("a key in double quotes"));
                }
                let key = self.string()?;
                self.skip_space();
                self.expect(b':', "a colon after the key")?;
                self.skip_space();
                let value = self
                    .value()
                    .map_err(|error| error.inside(&path_of_key(&key)))?;
                member(&key, value);
                self.keys.push(key);
                if self.closes(b'}') {
                    break;
                }
                self.expect(b',', "a comma or the end of the object")?;
                self.skip_space();
            }
        }
        self.depth -= 1;
        self.refuse_twins(first_key)
    }

    /// Sorting keeps a body of very many keys from costing the square of their number.
    fn refuse_twins(&mut self, first_key: usize) -> Result<()> {
        let keys = &mut self.keys[first_key..];
        keys.sort_unstable();
        if let Some([key, _]) = keys.array_windows().find(|[one, next]| one == next) {
            let problem = "the key appears twice".to_owned();
            return Err(JsonError::of_value(path_of_key(key), problem));
        }
        self.keys.truncate(first_key);
        Ok(())
    }

    fn array(&mut self) -> Result<()> {
        self.enter()?;
        if !self.closes(b']') {
            let mut index = 0_usize;
            loop {
                self.value()
                    .map_err(|error| error.inside(&format!("[{index}]")))?;
                index += 1;
                if self.closes(b']') {
                    break;
                }
                self.expect(b',', "a comma or the end of the array")?;
                self.skip_space();
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Steps over an opening brace or bracket and the space after it.
    fn enter(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > self.max_depth {
            let problem = format!("nesting deeper than {}", self.max_depth);
            return Err(JsonError::of_text(problem));
        }
        self.at += 1;
        self.skip_space();
        Ok(())
    }

    /// Steps over `bracket`, if that is what comes after any space.
    fn closes(&mut self, bracket: u8) -> bool {
        self.skip_space();
        let closes = self.peek() == Some(bracket);
        self.at += usize::from(closes);
        closes
    }

    fn literal(&mut self, word: &str, value: Value<'a>) -> Result<Value<'a>> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.unexpected("a value"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8, name: &str) -> Result<()> {
        if self.peek() != Some(byte) {
            return Err(self.unexpected(name));
        }
        self.at += 1;
        Ok(())
    }

    /// A syntax error here: line and column count characters, from 1.
    fn unexpected(&self, expected: &str) -> Box<JsonError> {
        let before = &self.text[..self.at];
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = before
            .chars()
            .rev()
            .take_while(|character| *character != '\n')
            .count()
            + 1;
        let got = match self.text[self.at..].chars().next() {
            None => "the end".to_owned(),
            Some(character) => quoted(character.encode_utf8(&mut [0; 4])),
        };
        let problem = format!("line {line}, column {column}: expected {expected}, got {got}");
        JsonError::of_text(problem)
    }
}
