//! JSON objects of which some fields are known: the others survive a rewrite.

use std::marker::PhantomData;

use qwen_base::instant_from_number;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// A string field that is present and not empty.
pub fn text<'a>(object: &'a Map<String, Value>, field: &str) -> Option<&'a str> {
    object.get(field)?.as_str().filter(|text| !text.is_empty())
}

/// An instant in epoch milliseconds: a number, or a string that holds one.
pub fn instant(value: &Value) -> Option<u64> {
    instant_from_number(value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())?)
}

/// Reads [`instant`] as a struct's field.
pub fn read_instant<'de, D: Deserializer<'de>, T: From<u64>>(value: D) -> Result<T, D::Error> {
    let read = instant(&Value::deserialize(value)?);
    read.map(T::from).ok_or_else(|| D::Error::custom("not an instant"))
}

/// Reads the strings of an array. Other items are skipped, since one bad item must not hide the others.
pub fn read_strings<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Vec<String>>, D::Error> {
    let items = Vec::<Value>::deserialize(value)?;
    Ok(Some(items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()))
}

/// The names of the known fields of `T`.
pub struct Names<T>(Map<String, Value>, PhantomData<fn() -> T>);

impl<T: Serialize + DeserializeOwned + Default> Names<T> {
    pub fn new() -> Self {
        Self(object(&T::default()), PhantomData)
    }

    /// Reads the known fields of an object. Returns also the others, which must be kept: unknown fields, and those whose value
    /// has an unexpected type, which count as missing.
    pub fn read(&self, fields: Map<String, Value>) -> (T, Map<String, Value>) {
        let (known, mut others): (Map<_, _>, Map<_, _>) =
            fields.into_iter().partition(|(name, _)| self.0.contains_key(name));
        // Nearly all objects have values of the expected types alone.
        if let Ok(read) = T::deserialize(&known) {
            return (read, others);
        }
        let fits = |(name, value): &(String, Value)| {
            T::deserialize(&Map::from_iter([(name.clone(), value.clone())])).is_ok()
        };
        let (known, unexpected): (Map<_, _>, Map<_, _>) = known.into_iter().partition(fits);
        others.extend(unexpected);
        (T::deserialize(&known).unwrap_or_default(), others)
    }
}

/// Returns the object to write: the known fields that have a value, then the others.
pub fn write(known: &impl Serialize, others: &Map<String, Value>) -> Map<String, Value> {
    let mut fields = object(known);
    fields.retain(|_, value| !value.is_null());
    for (name, value) in others {
        fields.entry(name.as_str()).or_insert_with(|| value.clone());
    }
    fields
}

fn object(known: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(known) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}
