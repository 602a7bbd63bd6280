//! The fields of a JSON object as they are written. Pure.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// The fields of an object, in order. Fields without a setter are written as they came: large numbers keep their digits,
/// and values that Rust can't hold, such as half of a surrogate pair or very deep JSON, are kept.
#[derive(Clone, Default)]
pub struct RawFields(Vec<(Box<RawValue>, Box<RawValue>)>);

impl RawFields {
    /// Reads an object. Invalid UTF-8 is replaced, as the qwen CLI does.
    ///
    /// # Errors
    /// The reason why the text is not a JSON object.
    pub fn parse(contents: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_str(&String::from_utf8_lossy(contents))
    }

    /// Returns a field's value; `None` if it is missing or can't be represented. Of several fields the last one counts.
    pub fn get(&self, name: &str) -> Option<Value> {
        let (_, value) = self.0.iter().rev().find(|(raw, _)| is_name(raw, name))?;
        serde_json::from_str(value.get()).ok()
    }

    /// Sets a field in its place, or adds it at the end. `None` removes it.
    ///
    /// # Errors
    /// None in practice: a value can be written.
    pub fn set(&mut self, name: &str, value: Option<&Value>) -> serde_json::Result<()> {
        let at = self.0.iter().position(|(raw, _)| is_name(raw, name)).unwrap_or(self.0.len());
        self.0.retain(|(raw, _)| !is_name(raw, name));
        if let Some(value) = value {
            let field = (serde_json::value::to_raw_value(name)?, serde_json::value::to_raw_value(value)?);
            self.0.insert(at, field);
        }
        Ok(())
    }

    /// Returns the object with an indent of two spaces and no final newline, as the qwen CLI writes it.
    pub fn to_json(&self) -> Vec<u8> {
        let lines: Vec<_> = self.0.iter().map(|(name, value)| format!("  {name}: {value}")).collect();
        format!("{{\n{}\n}}", lines.join(",\n")).into_bytes()
    }
}

fn is_name(raw: &RawValue, name: &str) -> bool {
    serde_json::from_str::<String>(raw.get()).is_ok_and(|read| read == name)
}

impl<'de> Deserialize<'de> for RawFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = RawFields;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawFields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(RawFields(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}
