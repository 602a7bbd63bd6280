//! The servers' lists of models.

use std::collections::BTreeMap;

use qwen_base::is_unsafe;
use serde::{Deserialize, Serialize};

use super::catalog::is_not_chat;

/// Longest id of a model, in bytes.
pub const MAX_ID: usize = 256;
/// Largest number of ids kept from one list.
pub const MAX_IDS: usize = 5_000;
/// Largest number of unavailable models kept per account.
const MAX_UNAVAILABLE: usize = 100;
/// Time for which a missing model is hidden, in milliseconds.
pub const UNAVAILABLE_MS: u64 = 24 * 60 * 60 * 1000;
/// Age of the last request after which an account is removed, in milliseconds.
const FORGET_MS: u64 = 60 * UNAVAILABLE_MS;

/// The lists by account id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelLists(pub BTreeMap<String, AccountModels>);

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AccountModels {
    /// Base URL that the list comes from. A list of another server is not used.
    pub base_url: String,
    /// Time of the last request for the list, in epoch milliseconds.
    pub asked_at: u64,
    /// Time of the last good list, in epoch milliseconds; 0 if there was none.
    pub listed_at: u64,
    /// Sorted ids of the last good list.
    pub models: Vec<String>,
    /// Missing models, and the time until which they are hidden, in epoch milliseconds.
    pub unavailable: BTreeMap<String, u64>,
}

impl AccountModels {
    /// Returns the last good list if it comes from this server.
    #[must_use]
    pub fn list_of(&self, base_url: &str) -> Option<&[String]> {
        (self.base_url == base_url && !self.models.is_empty()).then_some(&self.models)
    }

    /// True if the model is hidden now.
    #[must_use]
    pub fn is_unavailable(&self, model: &str, now_ms: u64) -> bool {
        self.unavailable.get(model).is_some_and(|until| is_ahead(*until, now_ms))
    }
}

/// True for a time within the next day. A wrong clock must not hide a model for years.
fn is_ahead(until: u64, now_ms: u64) -> bool {
    until > now_ms && until - now_ms <= UNAVAILABLE_MS
}

impl ModelLists {
    /// Hides a model of an account for a day. Ignores impossible names.
    pub fn note_unavailable(&mut self, account: &str, model: &str, now_ms: u64) {
        if !is_usable_id(model) {
            return;
        }
        let unavailable = &mut self.0.entry(account.to_owned()).or_default().unavailable;
        unavailable.retain(|_, until| is_ahead(*until, now_ms));
        if unavailable.len() < MAX_UNAVAILABLE {
            unavailable.insert(model.to_owned(), now_ms + UNAVAILABLE_MS);
        }
    }

    /// Removes entries that are no longer used.
    pub fn prune(&mut self, now_ms: u64) {
        for account in self.0.values_mut() {
            account.unavailable.retain(|_, until| is_ahead(*until, now_ms));
        }
        self.0.retain(|_, account| {
            !account.unavailable.is_empty() || account.asked_at.abs_diff(now_ms) < FORGET_MS
        });
    }
}

/// A server's list of models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerList {
    /// Sorted unique ids.
    pub models: Vec<String>,
    /// Number of entries that can't be used, because their id is missing, too long, or has control characters, or the list
    /// is too long.
    pub left_out: usize,
}

#[derive(Deserialize)]
struct ListAnswer<'a> {
    #[serde(borrow)]
    data: Vec<&'a serde_json::value::RawValue>,
}

#[derive(Deserialize)]
struct ListEntry {
    id: String,
}

/// Parses the answer to `GET /models`. `None` if it has no chat model.
#[must_use]
pub fn read_list(body: &[u8]) -> Option<ServerList> {
    let ListAnswer { data } = serde_json::from_slice(body).ok()?;
    let entries = data.len();
    let ids = data.into_iter().filter_map(|entry| serde_json::from_str::<ListEntry>(entry.get()).ok());
    let mut models: Vec<_> = ids.map(|entry| entry.id).filter(|id| is_usable_id(id)).collect();
    let usable = models.len();
    models.sort_unstable();
    models.dedup();
    let surplus = models.len().saturating_sub(MAX_IDS);
    models.truncate(MAX_IDS);
    let has_chat = models.iter().any(|id| !is_not_chat(id));
    has_chat.then_some(ServerList { models, left_out: entries - usable + surplus })
}

/// True for an id that can be displayed and sent.
fn is_usable_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= MAX_ID && id.trim() == id && !id.chars().any(is_unfit)
}

/// True for characters that affect a terminal, and for those of no width.
fn is_unfit(c: char) -> bool {
    is_unsafe(c) || matches!(c, '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn read(body: &serde_json::Value) -> Option<ServerList> {
        read_list(body.to_string().as_bytes())
    }

    #[test]
    fn ids_are_sorted_and_unique() {
        let body = json!({"object": "list", "data": [
            {"id": "b", "object": "model"}, {"id": "a"}, {"id": "b"}, {"id": "x\u{1b}[2J"}, {"id": 7}, {"id": ""}, "text", null,
            {"id": "wan2.7-image"}, {"id": "m".repeat(MAX_ID + 1)}, {"id": "right\u{202e}left"},
        ]});
        assert_eq!(
            read(&body).unwrap(),
            ServerList { models: vec!["a".into(), "b".into(), "wan2.7-image".into()], left_out: 7 }
        );
    }

    #[test]
    fn an_answer_without_a_chat_model_is_not_a_list() {
        for body in [
            json!({"data": []}),
            json!([]),
            json!({"data": {}}),
            json!({"data": [{"id": "wan2.7-image"}]}),
            json!({"error": {"message": "no"}}),
            json!(null),
        ] {
            assert_eq!(read(&body), None, "{body}");
        }
        for body in ["", "<html>", "{\"data\":[{\"id\":\"a\"}", "\u{0}"] {
            assert_eq!(read_list(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn the_length_of_a_list_is_limited() {
        let data: Vec<_> = (0..MAX_IDS + 10).map(|at| json!({"id": format!("m{at:05}")})).collect();
        let list = read(&json!({"data": data})).unwrap();
        assert_eq!((list.models.len(), list.left_out), (MAX_IDS, 10));
    }

    #[test]
    fn an_unavailable_model_is_hidden_for_a_day() {
        let mut lists = ModelLists::default();
        lists.note_unavailable("acct", "m", NOW);
        lists.note_unavailable("acct", "bad\nname", NOW);
        let account = &lists.0["acct"];
        assert!(account.is_unavailable("m", NOW) && !account.is_unavailable("n", NOW));
        assert!(account.is_unavailable("m", NOW + UNAVAILABLE_MS - 1));
        assert!(!account.is_unavailable("m", NOW + UNAVAILABLE_MS));
        // The clock was a year ahead then.
        assert!(!account.is_unavailable("m", NOW - 365 * UNAVAILABLE_MS));
        assert_eq!(account.unavailable.len(), 1);
        lists.prune(NOW + UNAVAILABLE_MS);
        assert!(lists.0.is_empty());
    }
}
