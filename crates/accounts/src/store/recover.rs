//! What can be saved of a broken account store. Pure.

use std::io::Read;

use serde_json::{Map, Value};

use super::document::Document;
use super::record::Record;

/// A broken file has few places where an object can begin and does not end.
const MAX_TRIES: usize = 10_000;
/// How many times its own length is read of a file, so that one made to be slow is given up on.
const MAX_READS: usize = 4;

/// What of a broken store still reads as an account. Takes time in proportion to the length of the contents.
#[must_use]
pub fn recover(contents: &[u8]) -> Document {
    let mut document = Document::default();
    for name in ["activeAccountId", "removedTokens", "openCodeLogin"] {
        document.set(name, field_of_broken(contents, name));
    }
    let (mut at, mut left) = (0, contents.len().saturating_mul(MAX_READS));
    for _ in 0..MAX_TRIES {
        let Some(brace) = contents[at..].iter().position(|&byte| byte == b'{') else { break };
        at += brace;
        let mut rest = Counted { rest: &contents[at..], read: 0 };
        let value = serde_json::Deserializer::from_reader(&mut rest).into_iter::<Value>().next();
        let read = rest.read;
        if let Some(Ok(Value::Object(object))) = value {
            take(&mut document, object);
            at += read;
        } else {
            at += 1;
            left = left.saturating_sub(read);
        }
        if left == 0 {
            break;
        }
    }
    document
}

/// Contents that count how much of them was read.
struct Counted<'a> {
    rest: &'a [u8],
    read: usize,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        // The parser asks for a byte at a time, so no more is counted than it looked at.
        let count = self.rest.read(buffer)?;
        self.read += count;
        Ok(count)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_was_made_to_be_slow_is_given_up_on() {
        // Each brace begins a long object that does not end; in quadratic time this takes minutes.
        let link = format!("{{\"a\":[{}", "1,".repeat(2_000));
        let mut contents = br#"{"id":"ann","token":{"access_token":"access-a"}} "#.to_vec();
        contents.extend(link.repeat(16 * 1024 * 1024 / link.len()).bytes());
        assert_eq!(recover(&contents).all().map(Record::id).collect::<Vec<_>>(), ["ann"]);
    }
}
