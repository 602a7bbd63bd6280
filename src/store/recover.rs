//! What can be saved of a broken account store. Pure.

use serde_json::{Map, Value};

use super::document::Document;
use super::record::Record;

/// A broken file has few places where an object can begin and does not end.
const MAX_TRIES: usize = 10_000;

/// What of a broken store still reads as an account.
#[must_use]
pub fn recover(contents: &[u8]) -> Document {
    let mut document = Document::default();
    for name in ["activeAccountId", "removedTokens", "openCodeLogin"] {
        document.set(name, field_of_broken(contents, name));
    }
    let mut at = 0;
    for _ in 0..MAX_TRIES {
        let Some(brace) = contents[at..].iter().position(|&byte| byte == b'{') else { break };
        at += brace;
        let mut values = serde_json::Deserializer::from_slice(&contents[at..]).into_iter::<Value>();
        match values.next() {
            Some(Ok(Value::Object(object))) => {
                take(&mut document, object);
                at += values.byte_offset().max(1);
            }
            _ => at += 1,
        }
    }
    document
}

/// An account, or a whole store with accounts in it.
fn take(document: &mut Document, mut object: Map<String, Value>) {
    let mut nested = |name: &str| match object.get(name) {
        Some(Value::Array(_)) => object.remove(name).and_then(|value| value.as_array().cloned()),
        _ => None,
    };
    let (logins, keys) = (nested("accounts"), nested("apiKeys"));
    if logins.is_none() && keys.is_none() {
        keep(document, object);
        return;
    }
    for value in logins.into_iter().chain(keys).flatten() {
        if let Value::Object(object) = value {
            keep(document, object);
        }
    }
}

fn keep(document: &mut Document, object: Map<String, Value>) {
    let is_key = object.get("token").is_none() && object.contains_key("key");
    let record = Record::from_fields(object, is_key);
    if record.token().is_none() {
        return;
    }
    if is_key { document.keys.push(record) } else { document.records.push(record) }
}

/// The first value that a name has in contents that are no JSON as a whole.
fn field_of_broken(contents: &[u8], name: &str) -> Option<Value> {
    let quoted = format!("\"{name}\"");
    let at = contents.windows(quoted.len()).position(|window| window == quoted.as_bytes())?;
    let rest = contents[at + quoted.len()..].trim_ascii_start().strip_prefix(b":")?;
    serde_json::Deserializer::from_slice(rest).into_iter::<Value>().next()?.ok()
}
