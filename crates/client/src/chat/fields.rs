//! JSON objects with raw values. Pure.

use std::borrow::{Borrow, Cow};
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The fields of a JSON object, in order, with raw values.
pub(super) struct Fields<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

/// The name of a field, and the function that writes its value.
type FieldWriter<'a> = (&'a str, &'a dyn Fn(&mut String));

impl<'a> Fields<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_ref())
    }

    /// Returns the value in the original body; `None` if it was set later.
    pub(super) fn original(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(key, _)| key == name).and_then(|(_, value)| match value {
            Cow::Borrowed(original) => Some(*original),
            Cow::Owned(_) => None,
        })
    }

    pub(super) fn set(&mut self, name: &'static str, value: impl Into<Cow<'a, str>>) {
        match self.0.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => *old = value.into(),
            None => self.0.push((Cow::Borrowed(name), value.into())),
        }
    }

    pub(super) fn to_json(&self) -> String {
        let mut json =
            String::with_capacity(self.0.iter().map(|(key, value)| key.len() + value.len() + 8).sum());
        self.write(&mut json, None);
        json
    }

    /// Writes the object to `json`. `writer` writes the value of one field, which saves a copy of a large one.
    pub(super) fn write(&self, json: &mut String, writer: Option<FieldWriter>) {
        json.push('{');
        for (index, (key, value)) in self.0.iter().enumerate() {
            if index > 0 {
                json.push(',');
            }
            write_key(json, key);
            json.push(':');
            match writer {
                Some((name, write_value)) if name == key => write_value(json),
                _ => json.push_str(value),
            }
        }
        json.push('}');
    }
}

/// Writes a key. A conversation has thousands of keys, and very few need an escape.
fn write_key(json: &mut String, key: &str) {
    if key.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
        json.push_str(&serde_json::Value::from(key).to_string());
    } else {
        json.push('"');
        json.push_str(key);
        json.push('"');
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ChatVisitor { takes_apart: false }).map(|chat| chat.fields)
    }
}

/// A chat body whose messages are split into fields. Messages are most of a body, so it is parsed in a single pass.
pub(super) struct Chat<'a> {
    /// All fields. `messages` is empty if they were split.
    pub(super) fields: Fields<'a>,
    /// The fields of each message, if there are messages.
    pub(super) messages: Option<Vec<Fields<'a>>>,
}

/// The field that holds a chat's messages.
pub(super) const MESSAGES: &str = "messages";

impl<'de> Deserialize<'de> for Chat<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ChatVisitor { takes_apart: true })
    }
}

struct ChatVisitor {
    takes_apart: bool,
}

impl<'de> Visitor<'de> for ChatVisitor {
    type Value = Chat<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields: Vec<(Cow<'de, str>, Cow<'de, str>)> = Vec::new();
        let mut messages = None;
        while let Some(FieldName(key)) = map.next_key()? {
            let value = if self.takes_apart && key == MESSAGES {
                messages = Some(map.next_value()?);
                ""
            } else {
                map.next_value::<&RawValue>()?.get()
            };
            // The last one of duplicate keys wins, as in other JSON parsers.
            fields.retain(|(known, _)| *known != key);
            fields.push((key, Cow::Borrowed(value)));
        }
        Ok(Chat { fields: Fields(fields), messages })
    }
}

/// A key, borrowed unless it is written with escapes.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) struct FieldName<'a>(#[serde(borrow)] Cow<'a, str>);

impl FieldName<'_> {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn is_lowercase(&self) -> bool {
        !self.0.bytes().any(|byte| byte.is_ascii_uppercase())
    }

    pub(crate) fn into_lowercase(self) -> Self {
        Self(Cow::Owned(self.0.to_ascii_lowercase()))
    }
}

impl Borrow<str> for FieldName<'_> {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

/// Joins JSON values to an array.
pub(super) fn array(items: &[Cow<str>]) -> String {
    let mut json = String::with_capacity(items.iter().map(|item| item.len() + 1).sum::<usize>() + 2);
    json.push('[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        json.push_str(item);
    }
    json.push(']');
    json
}
