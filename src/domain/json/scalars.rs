//! Numbers and strings.

use std::borrow::Cow;

use super::{JsonError, Reader, Result};
use crate::domain::excerpt::cut;

/// No publisher means a number beyond a double's 1e308 or below its 1e-324, and a few such digits
/// would become hundreds of thousands when `PostgreSQL` writes them out.
const MAX_EXPONENT: i32 = 400;
/// Digits before and after the point that a `PostgreSQL` `numeric` can have.
const MAX_INTEGER_DIGITS: i64 = 131_072;
const MAX_FRACTION_DIGITS: i64 = 16_383;

impl<'a> Reader<'a> {
    pub(super) fn number(&mut self) -> Result<&'a str> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        let integer = if self.peek() == Some(b'0') {
            self.at += 1;
            "0"
        } else {
            self.digits()?
        };
        let mut fraction = "";
        if self.peek() == Some(b'.') {
            self.at += 1;
            fraction = self.digits()?;
        }
        let mut exponent = Some(0_i32);
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            let sign = self.at;
            self.at += usize::from(matches!(self.peek(), Some(b'-' | b'+')));
            self.digits()?;
            exponent = self.text[sign..self.at].parse().ok();
        }
        let text = &self.text[start..self.at];
        let in_range = exponent.is_some_and(|exponent| {
            let shift = i64::from(exponent);
            exponent.abs() <= MAX_EXPONENT
                && integer.len() as i64 + shift <= MAX_INTEGER_DIGITS
                && fraction.len() as i64 - shift <= MAX_FRACTION_DIGITS
        });
        if in_range {
            Ok(text)
        } else {
            let problem = format!("the number {} is out of range", cut(text, 64));
            Err(JsonError::of_value(String::new(), problem))
        }
    }

    /// Steps over one or more digits.
    fn digits(&mut self) -> Result<&'a str> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start {
            return Err(self.unexpected("a digit"));
        }
        Ok(&self.text[start..self.at])
    }

    /// Reads a string from its opening quote on; without escapes it is borrowed.
    pub(super) fn string(&mut self) -> Result<Cow<'a, str>> {
        self.at += 1;
        let mut resolved: Option<String> = None;
        loop {
            let start = self.at;
            while self
                .peek()
                .is_some_and(|byte| byte >= b' ' && byte != b'"' && byte != b'\\')
            {
                self.at += 1;
            }
            let plain = &self.text[start..self.at];
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(match resolved {
                        None => Cow::Borrowed(plain),
                        Some(text) => Cow::Owned(text + plain),
                    });
                }
                Some(b'\\') => {
                    let text = resolved.get_or_insert_default();
                    text.push_str(plain);
                    text.push(self.escape()?);
                }
                Some(_) => return Err(self.unexpected("control characters to be escaped")),
                None => return Err(self.unexpected("the string to be closed")),
            }
        }
    }

    fn escape(&mut self) -> Result<char> {
        self.at += 1;
        let character = match self.peek() {
            Some(same @ (b'"' | b'\\' | b'/')) => char::from(same),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            _ => return Err(self.unexpected("an escape such as \\n or \\u00e9")),
        };
        self.at += 1;
        Ok(character)
    }

    fn unicode_escape(&mut self) -> Result<char> {
        let mut code = self.hex4()?;
        if code == 0 {
            let problem = "a string holds U+0000, which can't be stored".to_owned();
            return Err(JsonError::of_value(String::new(), problem));
        }
        if (0xD800..0xDC00).contains(&code) && self.text[self.at..].starts_with("\\u") {
            self.at += 1;
            let low = self.hex4()?;
            if (0xDC00..0xE000).contains(&low) {
                code = 0x1_0000 + ((code - 0xD800) << 10) + (low - 0xDC00);
            }
        }
        char::from_u32(code).ok_or_else(|| {
            let problem = "a string holds half of a surrogate pair".to_owned();
            JsonError::of_value(String::new(), problem)
        })
    }

    /// Steps over the `u` of an escape and its four digits.
    fn hex4(&mut self) -> Result<u32> {
        let digits = self.text.get(self.at + 1..self.at + 5);
        let code = digits
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let Some(code) = code else {
            return Err(self.unexpected("four hexadecimal digits after \\u"));
        };
        self.at += 5;
        Ok(code)
    }
}
