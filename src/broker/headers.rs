//! AMQP headers and properties as JSON, for the archive, and back, for a replay.
//!
//! JSON has no bytes, timestamps and decimals, and `jsonb` no NUL. So these are objects with one member,
//! whose name says what it holds:
//!
//! | AMQP | JSON |
//! |---|---|
//! | bytes; text that isn't UTF-8 or has a NUL | `{"hex": "00ff"}`, back as text |
//! | timestamp | `{"timestamp": 1763719200}`, in seconds |
//! | decimal | `{"decimal": [scale, value]}` |
//! | a float that is no number, or very large or small | `{"float": "1e300"}` |
//! | a table that looks like one of these | `{"table": {…}}` |
//! | what is nested too deep | `{"omitted": "nesting deeper than 32"}`, back as this table |

use lapin::{
    BasicProperties,
    types::{AMQPValue, DecimalValue, FieldTable, ShortString},
};
use serde_json::{Map, Value, json};

/// Tables and arrays in one another, as many as the database surely parses.
const MAX_DEPTH: usize = 32;
const TAGS: [&str; 5] = ["hex", "timestamp", "decimal", "float", "table"];
/// Stands for a NUL in names and properties, whose text can't be anything else.
const SYMBOL_FOR_NULL: &str = "\u{2400}";

/// The table as a JSON object without any NUL.
pub(super) fn to_json(table: &FieldTable) -> Map<String, Value> {
    object(table, 1)
}

fn object(table: &FieldTable, depth: usize) -> Map<String, Value> {
    let member = |(name, value): (&ShortString, &AMQPValue)| {
        (without_nul(name.as_str()), json_value(value, depth))
    };
    table.inner().iter().map(member).collect()
}

fn json_value(value: &AMQPValue, depth: usize) -> Value {
    match value {
        AMQPValue::Boolean(value) => json!(value),
        AMQPValue::ShortShortInt(n) => json!(n),
        AMQPValue::ShortShortUInt(n) => json!(n),
        AMQPValue::ShortInt(n) => json!(n),
        AMQPValue::ShortUInt(n) => json!(n),
        AMQPValue::LongInt(n) => json!(n),
        AMQPValue::LongUInt(n) => json!(n),
        AMQPValue::LongLongInt(n) => json!(n),
        AMQPValue::Float(n) => float((*n).into()),
        AMQPValue::Double(n) => float(*n),
        AMQPValue::DecimalValue(decimal) => json!({ "decimal": [decimal.scale, decimal.value] }),
        AMQPValue::ShortString(text) => text_or_hex(text.as_str().as_bytes()),
        AMQPValue::LongString(text) => text_or_hex(text.as_bytes()),
        AMQPValue::ByteArray(bytes) => json!({ "hex": hex(bytes.as_slice()) }),
        AMQPValue::Timestamp(seconds) => json!({ "timestamp": seconds }),
        AMQPValue::Void => Value::Null,
        AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) if depth >= MAX_DEPTH => {
            json!({ "omitted": format!("nesting deeper than {MAX_DEPTH}") })
        }
        AMQPValue::FieldArray(values) => values
            .as_slice()
            .iter()
            .map(|value| json_value(value, depth + 1))
            .collect(),
        AMQPValue::FieldTable(table) => {
            let members = object(table, depth + 1);
            if tagged(&members).is_some() {
                json!({ "table": members })
            } else {
                Value::Object(members)
            }
        }
    }
}

/// The tag and what it holds, if that is what the object is.
fn tagged(members: &Map<String, Value>) -> Option<(&str, &Value)> {
    let (name, value) = members.iter().next().filter(|_| members.len() == 1)?;
    TAGS.contains(&name.as_str())
        .then_some((name.as_str(), value))
}

/// `jsonb` writes numbers without exponents: hundreds of digits, which not every reader takes.
fn float(number: f64) -> Value {
    if number == 0.0 || (1e-9..1e15).contains(&number.abs()) {
        json!(number)
    } else {
        json!({ "float": format!("{number:e}") })
    }
}

fn text_or_hex(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => json!(text),
        _ => json!({ "hex": hex(bytes) }),
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = |pair: &[u8]| match pair {
        [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
        _ => None,
    };
    hex.as_bytes().chunks(2).map(byte).collect()
}

/// `text` as the database can hold it.
pub(super) fn without_nul(text: &str) -> String {
    text.replace('\0', SYMBOL_FOR_NULL)
}

/// The object as a table; what can't be a header (a name over 255 bytes) is left out.
pub(super) fn from_json(members: &Map<String, Value>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in members {
        if let Ok(name) = ShortString::try_new(name.as_str()) {
            table.insert(name, amqp_value(value));
        }
    }
    table
}

fn amqp_value(value: &Value) -> AMQPValue {
    match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(value) => AMQPValue::Boolean(*value),
        Value::Number(number) => match number.as_i64() {
            Some(number) => AMQPValue::LongLongInt(number),
            None => AMQPValue::Double(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => AMQPValue::LongString(text.as_str().into()),
        Value::Array(values) => {
            let values: Vec<AMQPValue> = values.iter().map(amqp_value).collect();
            AMQPValue::FieldArray(values.into())
        }
        Value::Object(members) => tagged(members)
            .and_then(|(tag, value)| untagged(tag, value))
            .unwrap_or_else(|| AMQPValue::FieldTable(from_json(members))),
    }
}

/// `None`: somebody else's object that only looks like ours.
fn untagged(tag: &str, value: &Value) -> Option<AMQPValue> {
    Some(match tag {
        "hex" => AMQPValue::LongString(bytes_of(value.as_str()?)?.into()),
        "timestamp" => AMQPValue::Timestamp(value.as_u64()?),
        "float" => AMQPValue::Double(value.as_str()?.parse().ok()?),
        "table" => AMQPValue::FieldTable(from_json(value.as_object()?)),
        "decimal" => {
            let [scale, number] = value.as_array()?.as_slice() else {
                return None;
            };
            AMQPValue::DecimalValue(DecimalValue {
                scale: scale.as_u64()?.try_into().ok()?,
                value: number.as_u64()?.try_into().ok()?,
            })
        }
        _ => return None,
    })
}

/// Every property but the headers, under the names of AMQP; `timestamp` in seconds.
pub(super) fn properties_to_json(properties: &BasicProperties) -> Map<String, Value> {
    let mut members = Map::new();
    for (name, text) in [
        ("content_type", properties.content_type()),
        ("content_encoding", properties.content_encoding()),
        ("correlation_id", properties.correlation_id()),
        ("reply_to", properties.reply_to()),
        ("expiration", properties.expiration()),
        ("message_id", properties.message_id()),
        ("type", properties.kind()),
        ("user_id", properties.user_id()),
        ("app_id", properties.app_id()),
        ("cluster_id", properties.cluster_id()),
    ] {
        if let Some(text) = text {
            members.insert(name.to_owned(), json!(without_nul(text.as_str())));
        }
    }
    for (name, number) in [
        ("delivery_mode", properties.delivery_mode().map(u64::from)),
        ("priority", properties.priority().map(u64::from)),
        ("timestamp", *properties.timestamp()),
    ] {
        if let Some(number) = number {
            members.insert(name.to_owned(), json!(number));
        }
    }
    members
}

/// The properties that travel on with a message, from what [`properties_to_json`] made of them.
pub(super) fn kept_from_json(members: &Map<String, Value>) -> BasicProperties {
    let text = |name: &str| {
        let text = members.get(name)?.as_str()?;
        ShortString::try_new(text).ok()
    };
    let mut kept = BasicProperties::default();
    if let Some(text) = text("content_type") {
        kept = kept.with_content_type(text);
    }
    if let Some(text) = text("content_encoding") {
        kept = kept.with_content_encoding(text);
    }
    if let Some(text) = text("correlation_id") {
        kept = kept.with_correlation_id(text);
    }
    if let Some(text) = text("message_id") {
        kept = kept.with_message_id(text);
    }
    if let Some(text) = text("app_id") {
        kept = kept.with_app_id(text);
    }
    if let Some(seconds) = members.get("timestamp").and_then(Value::as_u64) {
        kept = kept.with_timestamp(seconds);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(bytes: &[u8]) -> AMQPValue {
        AMQPValue::LongString(bytes.to_vec().into())
    }

    fn table(members: &[(&str, AMQPValue)]) -> FieldTable {
        let mut table = FieldTable::default();
        for (name, value) in members {
            table.insert((*name).into(), value.clone());
        }
        table
    }

    #[test]
    fn what_json_can_hold_comes_back_as_it_was() {
        let decimal = DecimalValue { scale: 2, value: 7 };
        let looks_tagged = table(&[("hex", long(b"00"))]);
        let original = table(&[
            ("text", long("é \u{1}\n\"".as_bytes())),
            ("binary", long(b"\xff\0")),
            ("nul", long(b"a\0b")),
            ("yes", AMQPValue::Boolean(true)),
            ("int", AMQPValue::LongLongInt(i64::MIN)),
            ("double", AMQPValue::Double(3.0)),
            ("huge", AMQPValue::Double(1e300)),
            ("tiny", AMQPValue::Double(-5e-324)),
            ("infinite", AMQPValue::Double(f64::NEG_INFINITY)),
            ("time", AMQPValue::Timestamp(u64::MAX)),
            ("decimal", AMQPValue::DecimalValue(decimal)),
            ("void", AMQPValue::Void),
            ("mine", AMQPValue::FieldTable(looks_tagged.clone())),
            (
                "array",
                AMQPValue::FieldArray(vec![long(b"x"), AMQPValue::FieldTable(looks_tagged)].into()),
            ),
        ]);
        // By way of text, as the archive keeps it.
        let text = serde_json::to_string(&to_json(&original)).unwrap();
        assert!(!text.contains("\\u0000"), "{text}");
        assert_eq!(from_json(&serde_json::from_str(&text).unwrap()), original);
    }

    #[test]
    fn numbers_of_any_width_are_numbers() {
        let widths = table(&[
            ("a", AMQPValue::ShortShortUInt(1)),
            ("b", AMQPValue::LongUInt(u32::MAX)),
            ("c", AMQPValue::ShortInt(-3)),
            ("d", AMQPValue::Float(0.5)),
        ]);
        let json = Value::Object(to_json(&widths));
        assert_eq!(json, json!({ "a": 1, "b": u32::MAX, "c": -3, "d": 0.5 }));
    }

    #[test]
    fn names_have_no_nul_either() {
        let inner = table(&[("in\0ner", AMQPValue::Void)]);
        let outer = table(&[("out\0er", AMQPValue::FieldTable(inner))]);
        let json = Value::Object(to_json(&outer));
        assert_eq!(json, json!({ "out␀er": { "in␀ner": null } }));
        let properties = BasicProperties::default().with_message_id("a\0b".into());
        let json = Value::Object(properties_to_json(&properties));
        assert_eq!(json, json!({ "message_id": "a␀b" }));
    }

    #[test]
    fn nesting_has_an_end() {
        let mut value = long(b"the heart");
        for _ in 0..1000 {
            value = AMQPValue::FieldArray(vec![value].into());
        }
        let json = serde_json::to_string(&to_json(&table(&[("deep", value)]))).unwrap();
        assert!(json.matches('[').count() < MAX_DEPTH, "{json}");
        assert!(json.contains("nesting deeper than 32"), "{json}");
    }

    #[test]
    fn an_object_that_only_looks_like_ours_and_a_name_too_long_do_no_harm() {
        let json = json!({ "a": { "hex": "0g" }, "b": { "hex": "é" }, "c": { "decimal": [1] } });
        let members = json.as_object().unwrap();
        assert!(matches!(
            from_json(members).inner().get("a"),
            Some(AMQPValue::FieldTable(_))
        ));
        let mut members = members.clone();
        members.insert("x".repeat(256), json!(1));
        assert_eq!(from_json(&members).inner().len(), 3);
        let properties = json!({ "content_type": "x".repeat(256), "timestamp": -1 });
        assert_eq!(
            kept_from_json(properties.as_object().unwrap()),
            BasicProperties::default()
        );
    }
}
