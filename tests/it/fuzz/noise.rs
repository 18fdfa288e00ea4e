//! Messages that nobody should send, from a seed.

use lapin::{
    BasicProperties,
    types::{AMQPValue, DecimalValue, FieldTable, ShortString},
};
use serde_json::{Value, json};
use uuid::Uuid;

/// Splitmix: the same numbers from the same seed, everywhere.
#[derive(Debug)]
pub(crate) struct Noise(u64);

const OWN_HEADERS: [&str; 9] = [
    "attempt",
    "reason",
    "error",
    "first-failed-at",
    "failed-at",
    "replay-of",
    "traceparent",
    "tracestate",
    "x-death",
];
const CONTENT_TYPES: [&str; 7] = [
    "application/json",
    "application/cloudevents+json",
    "Application/JSON; charset=latin1",
    "text/plain",
    "",
    "application/cloudevents+json;;;",
    "\u{202e}\0",
];
const NUMBERS: [&str; 10] = [
    "0",
    "-1",
    "-0",
    "1e3",
    "1.0",
    "1e400",
    "9223372036854775808",
    "123456789012345678901234567890123456789012345678901234567890",
    "0x10",
    "NaN",
];

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("a length");
        usize::try_from(self.next() % end).expect("below a length")
    }

    fn one_of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    pub(crate) fn uuid(&mut self) -> Uuid {
        Uuid::from_u64_pair(self.next(), self.next())
    }

    fn bytes(&mut self, longest: usize) -> Vec<u8> {
        let length = self.below(longest + 1);
        (0..length).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    fn name(&mut self) -> ShortString {
        let name: String = match self.below(4) {
            0 => (*self.one_of(&OWN_HEADERS)).to_owned(),
            1 => "n".repeat(self.below(256)),
            2 => "é\0\u{202e}\u{1b}[2J".to_owned(),
            _ => format!("header-{}", self.below(50)),
        };
        name.as_str().into()
    }

    fn value(&mut self, depth: usize) -> AMQPValue {
        let number = self.next();
        let low = number.to_le_bytes();
        let few = self.below(4);
        match self.below(if depth == 0 { 15 } else { 17 }) {
            0 => AMQPValue::Boolean(number.is_multiple_of(2)),
            1 => AMQPValue::ShortShortInt(low[0].cast_signed()),
            2 => AMQPValue::ShortShortUInt(low[0]),
            3 => AMQPValue::ShortInt(i16::from_le_bytes([low[0], low[1]])),
            4 => AMQPValue::ShortUInt(u16::from_le_bytes([low[0], low[1]])),
            5 => AMQPValue::LongInt(i32::from_le_bytes([low[0], low[1], low[2], low[3]])),
            6 => AMQPValue::LongUInt(u32::from_le_bytes([low[0], low[1], low[2], low[3]])),
            7 => AMQPValue::LongLongInt(number.cast_signed()),
            // Finite ones: what is no number breaks the broker's own parser, and so comes no further.
            8 => AMQPValue::Float(f32::from(i16::from_le_bytes([low[0], low[1]])) / 7.0),
            9 => AMQPValue::Double(
                Some(f64::from_bits(number))
                    .filter(|n| n.is_finite())
                    .unwrap_or(0.0),
            ),
            10 => AMQPValue::DecimalValue(DecimalValue {
                scale: low[0],
                value: u32::from_le_bytes([low[1], low[2], low[3], low[4]]),
            }),
            11 => AMQPValue::Timestamp(number >> 1),
            12 => AMQPValue::Void,
            13 => AMQPValue::ByteArray(self.bytes(50).into()),
            14 => AMQPValue::LongString(self.text().into()),
            15 => {
                let values: Vec<AMQPValue> = (0..few).map(|_| self.value(depth - 1)).collect();
                AMQPValue::FieldArray(values.into())
            }
            _ => AMQPValue::FieldTable(self.table(few, depth - 1)),
        }
    }

    /// Legal in a long string, whatever it is.
    fn text(&mut self) -> Vec<u8> {
        match self.below(8) {
            0 => Vec::new(),
            1 => vec![b'x'; self.below(20_000)],
            2 => b"2026-11-24T22:00:00Z".to_vec(),
            3 => b"+262142-12-31T23:59:60Z".to_vec(),
            4 => b"insufficient_balance".to_vec(),
            5 => b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_vec(),
            _ => self.bytes(300),
        }
    }

    fn table(&mut self, fields: usize, depth: usize) -> FieldTable {
        let mut table = FieldTable::default();
        for _ in 0..fields {
            let (name, value) = (self.name(), self.value(depth));
            table.insert(name, value);
        }
        table
    }

    /// What looks like the broker's own note of a dead letter.
    fn death(&mut self) -> AMQPValue {
        let mut death = self.table(2, 1);
        death.insert("reason".into(), AMQPValue::LongString(self.text().into()));
        death.insert("queue".into(), AMQPValue::LongString(self.bytes(20).into()));
        death.insert("time".into(), self.value(0));
        death.insert("count".into(), self.value(0));
        AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into())
    }

    /// Any that the broker takes from a publisher.
    pub(crate) fn properties(&mut self) -> BasicProperties {
        let (fields, depth) = (self.below(8), self.below(20));
        let mut headers = self.table(fields, depth);
        if self.below(5) == 0 {
            headers.insert("x-death".into(), self.death());
        }
        let mut properties = BasicProperties::default().with_headers(headers);
        if self.below(3) > 0 {
            properties = properties.with_content_type((*self.one_of(&CONTENT_TYPES)).into());
        }
        if self.below(2) == 0 {
            properties = properties
                .with_delivery_mode(if self.below(2) == 0 { 1 } else { 2 })
                .with_priority(self.next().to_le_bytes()[0])
                .with_timestamp(self.next())
                .with_message_id("m\0\u{7f}".into())
                .with_correlation_id("c".repeat(self.below(256)).as_str().into())
                .with_type("\u{feff}".into())
                .with_app_id("'; drop table dead_letters; --".into())
                .with_content_encoding("gzip".into())
                .with_reply_to("elsewhere".into());
        }
        properties
    }

    /// A body for an event of this company, more or less.
    pub(crate) fn body(&mut self, company: Uuid) -> Vec<u8> {
        let job = self.uuid();
        let good = json!({ "job_id": job, "tokens": 1 + self.below(50), "company_id": company });
        let text = good.to_string();
        match self.below(12) {
            0 => self.bytes(200),
            1 => self.mutated(text.into_bytes()),
            2 => self.mutated(text.into_bytes()),
            3 => {
                let depth = self.below(3_000);
                format!("{{\"metadata\":{}{}", "[".repeat(depth), "]".repeat(depth)).into_bytes()
            }
            4 => text.replacen('{', "{\"tokens\":7,", 1).into_bytes(),
            5 => {
                let number = *self.one_of(&NUMBERS);
                format!(r#"{{"job_id":"{job}","company_id":"{company}","tokens":{number}}}"#)
                    .into_bytes()
            }
            6 => self.with(&good, "company_id", json!(job)),
            7 => self.with(&good, "tokens", json!(9_999_999)),
            8 => {
                let odd = json!({ "a\0": "\u{0}", "b": ["\u{10ffff}", 1e300, null], "": {} });
                self.with(&good, "metadata", odd)
            }
            9 => {
                let envelope = json!({ "specversion": "1.0", "id": job, "source": "/f", "data": good,
                    "type": "article.generation.completed" });
                envelope.to_string().into_bytes()
            }
            _ => text.into_bytes(),
        }
    }

    fn with(&mut self, event: &Value, field: &str, value: Value) -> Vec<u8> {
        let mut event = event.clone();
        event[field] = value;
        // Now and then more than is allowed.
        let padding = if self.below(20) == 0 { 300_000 } else { 0 };
        [event.to_string().into_bytes(), vec![b' '; padding]].concat()
    }

    fn mutated(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            let byte = self.next().to_le_bytes()[0];
            match self.below(4) {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => bytes.truncate(at + 1),
                _ => drop(bytes.remove(at)),
            }
            if bytes.is_empty() {
                bytes.push(byte);
            }
        }
        bytes
    }
}
