//! The JSON of bodies that become charges: `serde_json`'s grammar, and stricter than it.
//!
//! A value is handed out as its slice of the text, whole objects and arrays included, which is how
//! `metadata` keeps its exact bytes. Beyond the grammar [`read`] refuses, at any depth, what readers
//! disagree on or `PostgreSQL`'s `jsonb` can't hold: a key that appears twice in one object, U+0000 and
//! half surrogate pairs in strings, and numbers out of range. `serde_json` alone would take the first two
//! and round the last. An error carries the path of the value it is about.

mod error;
pub mod layout;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::excerpt::{cut, quoted};
pub(super) use error::JsonError;
use error::path_of_key;
use layout::{SPACE, tokens};

/// No publisher means a number beyond a double's 1e308 or below its 1e-324, and a few such digits
/// would become hundreds of thousands when `PostgreSQL` writes them out.
const MAX_EXPONENT: i32 = 400;
/// Digits before and after the point that a `PostgreSQL` `numeric` can have.
const MAX_INTEGER_DIGITS: i64 = 131_072;
const MAX_FRACTION_DIGITS: i64 = 16_383;

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

type Result<T> = std::result::Result<T, JsonError>;

/// Reads the whole text as one value; if it is an object, `member` gets what is in it.
pub(super) fn read<'a>(
    text: &'a str,
    max_depth: usize,
    member: impl FnMut(&str, Value<'a>),
) -> Result<Value<'a>> {
    let of_syntax = |error| JsonError::of_syntax(text, &error);
    let whole = text.trim_matches(SPACE);
    if !whole.starts_with('{') {
        serde_json::from_str::<&RawValue>(text).map_err(of_syntax)?;
        check(whole, max_depth)?;
        return value(whole);
    }
    let members = members(text).map_err(of_syntax)?;
    check(whole, max_depth)?;
    hand_out(members, member)?;
    Ok(Value::Object(whole))
}

/// What is in an object that was read as part of a text, where all faults have been found.
pub(super) fn read_again<'a>(object: &'a str, member: impl FnMut(&str, Value<'a>)) -> Result<()> {
    let members = members(object).map_err(|error| JsonError::of_syntax(object, &error))?;
    hand_out(members, member)
}

fn hand_out<'a>(
    members: Vec<(&'a str, &'a str)>,
    mut member: impl FnMut(&str, Value<'a>),
) -> Result<()> {
    for (key, text) in members {
        member(&string(key)?, value(text)?);
    }
    Ok(())
}

/// `text` is known to be a value, and nothing around it.
fn value(text: &str) -> Result<Value<'_>> {
    Ok(match text.as_bytes() {
        [b'{', ..] => Value::Object(text),
        [b'[', ..] => Value::Array(text),
        [b'"', ..] => Value::String(string(text)?),
        b"null" => Value::Null,
        b"true" => Value::Bool(true),
        b"false" => Value::Bool(false),
        _ => Value::Number(number(text)?),
    })
}

/// What is open around a token: the keys so far of an object, or the place in an array.
enum Open<'a> {
    Object(Vec<Cow<'a, str>>),
    Array(usize),
}

impl Open<'_> {
    fn path(&self) -> String {
        match self {
            Self::Object(keys) => keys.last().map_or_else(String::new, |key| path_of_key(key)),
            Self::Array(index) => format!("[{index}]"),
        }
    }
}

/// The rules beyond the grammar, which `text` is known to obey. Its tokens are enough for them, and unlike
/// visitors they cost no more in the depth and have the numbers as they are written.
fn check(text: &str, max_depth: usize) -> Result<()> {
    let mut open = Vec::with_capacity(4);
    let mut last = "";
    for token in tokens(text) {
        if let Err(error) = check_token(token, last, &mut open) {
            let outer = open.iter().rev().map(Open::path);
            return Err(outer.fold(error, |error, outer| error.inside(&outer)));
        }
        if open.len() > max_depth {
            return Err(JsonError::of_text(format!(
                "nesting deeper than {max_depth}"
            )));
        }
        last = token;
    }
    Ok(())
}

fn check_token<'a>(token: &'a str, last: &str, open: &mut Vec<Open<'a>>) -> Result<()> {
    match token.as_bytes()[0] {
        b'{' => open.push(Open::Object(Vec::new())),
        b'[' => open.push(Open::Array(0)),
        b'}' | b']' => {
            if let Some(Open::Object(keys)) = open.pop() {
                no_key_twice(keys)?;
            }
        }
        b',' => {
            if let Some(Open::Array(index)) = open.last_mut() {
                *index += 1;
            }
        }
        b'"' => match open.last_mut() {
            Some(Open::Object(keys)) if last != ":" => match string(token) {
                Ok(key) => keys.push(key),
                Err(error) => {
                    // It is the object that has such a key, and not the member before.
                    open.pop();
                    return Err(error);
                }
            },
            _ => drop(string(token)?),
        },
        b'-' | b'0'..=b'9' => drop(number(token)?),
        _ => {}
    }
    Ok(())
}

/// Sorting keeps a body of very many keys from costing the square of their number.
fn no_key_twice(mut keys: Vec<Cow<'_, str>>) -> Result<()> {
    keys.sort_unstable();
    match keys.array_windows().find(|[one, next]| one == next) {
        None => Ok(()),
        Some([key, _]) => {
            Err(JsonError::of_value("the key appears twice").inside(&path_of_key(key)))
        }
    }
}

fn number(text: &str) -> Result<&str> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let in_range = exponent.parse().is_ok_and(|exponent: i32| {
        let shift = i64::from(exponent);
        exponent.abs() <= MAX_EXPONENT
            && integer.trim_start_matches('-').len() as i64 + shift <= MAX_INTEGER_DIGITS
            && fraction.len() as i64 - shift <= MAX_FRACTION_DIGITS
    });
    if in_range {
        return Ok(text);
    }
    let problem = format!("the number {} is out of range", cut(text, 64));
    Err(JsonError::of_value(problem))
}

/// A string with its quotes; without escapes it is borrowed.
fn string(text: &str) -> Result<Cow<'_, str>> {
    if !text.contains('\\') {
        return Ok(Cow::Borrowed(&text[1..text.len() - 1]));
    }
    // The grammar has been seen to: only a character can be wrong.
    let resolved: String = serde_json::from_str(text)
        .map_err(|_| JsonError::of_value("a string holds half of a surrogate pair"))?;
    if resolved.contains('\0') {
        let problem = "a string holds U+0000, which can't be stored";
        return Err(JsonError::of_value(problem));
    }
    Ok(Cow::Owned(resolved))
}

/// Key and value of each member of an object, each as it is written.
fn members(text: &str) -> serde_json::Result<Vec<(&str, &str)>> {
    let mut found = Vec::with_capacity(8);
    members_into(text, &mut found).map(|()| found)
}

fn members_into<'t>(text: &'t str, found: &mut Vec<(&'t str, &'t str)>) -> serde_json::Result<()> {
    struct Members<'f, 't>(&'f mut Vec<(&'t str, &'t str)>);
    impl<'t> Visitor<'t> for Members<'_, 't> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> std::result::Result<(), A::Error> {
            while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
                self.0.push((key.get(), value.get()));
            }
            Ok(())
        }
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.deserialize_map(Members(found))?;
    reader.end()
}

/// Key and value of each member of an object in a text that nobody has checked, and whether there was
/// nothing wrong with its grammar: else they are those before the place where it breaks off. A key that is
/// no text stays as it is written, quotes and all.
pub(super) fn seen(text: &str) -> (Vec<(Cow<'_, str>, &str)>, bool) {
    let mut found = Vec::new();
    let whole = members_into(text, &mut found).is_ok();
    let named = |(key, value)| (string(key).unwrap_or(Cow::Borrowed(key)), value);
    (found.into_iter().map(named).collect(), whole)
}
