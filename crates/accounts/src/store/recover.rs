//! Recovers accounts from a damaged store. Pure.

use serde_json::{Deserializer, Map, Value};

use super::document::Document;
use super::record::Record;
use super::sanitize::sanitized;
use crate::model::fields::Names;

/// Largest number of braces that are tried as the start of an object.
const MAX_TRIES: usize = 10_000;
/// Largest number of bytes read, as a multiple of the file's length, so that a malicious file takes no longer.
const MAX_READS: usize = 4;

/// Returns the accounts that can still be read in a damaged store, in time proportional to its length.
#[must_use]
pub fn recover(contents: &[u8]) -> Document {
    let contents = sanitized(contents);
    let contents = contents.as_bytes();
    let fields = ["activeAccountId", "removedTokens", "openCodeLogin"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), field_of_broken(contents, name)?)));
    let mut document = Document { fields: Names::new().read(fields.collect()).0, ..Document::default() };
    for_each_object(contents, &mut |object| take(&mut document, object));
    document
}

/// Calls `take` with each outermost JSON object that can be read, in time proportional to the length.
pub fn for_each_object(contents: &[u8], take: &mut dyn FnMut(Map<String, Value>)) {
    let (mut at, mut left) = (0, contents.len().saturating_mul(MAX_READS));
    for _ in 0..MAX_TRIES {
        let Some(brace) = contents[at..].iter().position(|&byte| byte == b'{') else { break };
        at += brace;
        let mut values = Deserializer::from_slice(&contents[at..]).into_iter::<Value>();
        match values.next() {
            Some(Ok(Value::Object(object))) => {
                take(object);
                at += values.byte_offset();
            }
            Some(Err(error)) => {
                left = left.saturating_sub(read_before(&error, &contents[at..]));
                at += 1;
            }
            _ => at += 1,
        }
        if left == 0 {
            break;
        }
    }
}

/// Returns the number of bytes that were read before an error.
fn read_before(error: &serde_json::Error, text: &[u8]) -> usize {
    let lines = text.split_inclusive(|&byte| byte == b'\n').take(error.line().saturating_sub(1));
    lines.map(<[u8]>::len).sum::<usize>() + error.column()
}

/// Takes an account, or a whole store with accounts in it.
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

/// Returns the first value of a field in contents that are not valid JSON.
fn field_of_broken(contents: &[u8], name: &str) -> Option<Value> {
    let quoted = format!("\"{name}\"");
    let at = contents.windows(quoted.len()).position(|window| window == quoted.as_bytes())?;
    let rest = contents[at + quoted.len()..].trim_ascii_start().strip_prefix(b":")?;
    Deserializer::from_slice(rest).into_iter::<Value>().next()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malicious_store_is_read_in_linear_time() {
        // Each brace starts a long object without an end. In quadratic time this takes minutes.
        let link = format!("{{\"a\":[{}", "1,".repeat(2_000));
        let mut contents = br#"{"id":"ann","token":{"access_token":"access-a"}} "#.to_vec();
        contents.extend(link.repeat(16 * 1024 * 1024 / link.len()).bytes());
        assert_eq!(recover(&contents).all().map(Record::id).collect::<Vec<_>>(), ["ann"]);
    }
}
