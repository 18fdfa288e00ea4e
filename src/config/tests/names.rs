//! The names of all settings.

use serde::de::{Deserialize, Deserializer, Visitor, value};

use crate::config::*;

/// Asks serde for the names of the fields, so that a new setting can't be forgotten here.
pub(super) fn every_key() -> Vec<String> {
    fn keys_of<'de, T: Deserialize<'de>>(section: &str) -> Vec<String> {
        let fields = fields_of::<T>();
        fields
            .iter()
            .map(|field| format!("{section}.{field}"))
            .collect()
    }
    let sections = fields_of::<Settings>();
    let keys = [
        keys_of::<Database>("database"),
        keys_of::<Broker>("broker"),
        keys_of::<Worker>("worker"),
        keys_of::<Archivist>("archivist"),
        keys_of::<Retry>("retry"),
        keys_of::<Reconnect>("reconnect"),
        keys_of::<Sweeper>("sweeper"),
        keys_of::<Audit>("audit"),
        keys_of::<Limits>("limits"),
        keys_of::<Replay>("replay"),
        keys_of::<Refund>("refund"),
        keys_of::<Holds>("holds"),
        keys_of::<Http>("http"),
        keys_of::<Ops>("ops"),
        keys_of::<Upgrade>("upgrade"),
        keys_of::<Log>("log"),
    ];
    assert_eq!(keys.len(), sections.len(), "a section is missing above");
    keys.concat()
}

fn fields_of<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut fields: &[&str] = &[];
    let _ = T::deserialize(FieldNames(&mut fields));
    fields
}

struct FieldNames<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = value::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(serde::de::Error::custom("only the names were wanted"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
