//! `oauth_accounts.json` as a value: version 1 of the original plugin, with everything else that is in it. Pure.

use std::path::Path;

use qwen_base::{Price, opaque_debug};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::record::Record;
use super::sanitize::sanitized;
use crate::model::fields::{self, Names, read_instant, read_strings};
use crate::model::{Binding, Token, binding_fingerprint, fingerprint};

const VERSION: u64 = 1;
/// Number of removed tokens that are kept.
const REMOVED_TOKENS: usize = 500;

/// The whole store.
#[derive(Clone, PartialEq, Default)]
pub struct Document {
    pub(super) fields: StoreFields,
    /// The logins, in order.
    pub records: Vec<Record>,
    /// The keys, in order. They have an array of their own, which versions without keys leave as it is.
    pub keys: Vec<Record>,
}

/// Everything in the store but the accounts.
#[derive(Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct StoreFields {
    pub active_account_id: Option<String>,
    /// The account that `oauth_creds.json` held when it was last read.
    credentials_account_id: Option<String>,
    /// True if `OpenCode` has had an entry of ours since the last login.
    pub open_code_login: Option<bool>,
    /// Binding of the login in `oauth_creds.json` while it is the only account.
    credentials_binding: Option<Value>,
    /// Files that the user was told of: other users can open them, and that can't be changed.
    #[serde(deserialize_with = "read_strings")]
    open_to_others: Option<Vec<String>>,
    #[serde(deserialize_with = "read_instant")]
    degraded_at: Option<u64>,
    legacy_token: Option<String>,
    #[serde(deserialize_with = "read_strings")]
    pub removed_tokens: Option<Vec<String>>,
    #[serde(skip)]
    others: Map<String, Value>,
}

opaque_debug!(Document);

/// Reason why a store can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// No version writes this.
    Corrupt,
    /// The version is unknown.
    Unsupported,
}

impl Document {
    /// Reads a store.
    ///
    /// # Errors
    /// The reason why it can't be used.
    pub fn parse(contents: &[u8]) -> Result<Self, Unusable> {
        let read = serde_json::from_slice(contents).or_else(|_| serde_json::from_str(&sanitized(contents)));
        let Ok(Value::Object(mut fields)) = read else {
            return Err(Unusable::Corrupt);
        };
        match fields.shift_remove("version").as_ref().and_then(Value::as_f64) {
            // Some programs write whole numbers as floats.
            Some(1.0) => {}
            Some(_) => return Err(Unusable::Unsupported),
            None => return Err(Unusable::Corrupt),
        }
        let Some(Value::Array(accounts)) = fields.shift_remove("accounts") else {
            return Err(Unusable::Corrupt);
        };
        let keys = match fields.shift_remove("apiKeys") {
            None => Vec::new(),
            Some(Value::Array(keys)) => keys,
            Some(_) => return Err(Unusable::Corrupt),
        };
        let read = |values: Vec<Value>, is_key| {
            let records = values.into_iter().map(|value| match value {
                Value::Object(record) => Ok(Record::from_fields(record, is_key)),
                _ => Err(Unusable::Corrupt),
            });
            records.collect::<Result<Vec<_>, _>>()
        };
        let (records, keys) = (read(accounts, false)?, read(keys, true)?);
        let (fields, others) = Names::<StoreFields>::new().read(fields);
        Ok(Self { fields: StoreFields { others, ..fields }, records, keys })
    }

    /// All accounts, logins and keys.
    pub fn all(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().chain(&self.keys)
    }

    /// True if there is no account.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.keys.is_empty()
    }

    /// True if nothing in the store has to be kept beside the credentials file.
    #[must_use]
    pub fn keeps_nothing(&self) -> bool {
        let StoreFields { degraded_at, legacy_token, removed_tokens, others, .. } = &self.fields;
        let has_notes = degraded_at.is_some() || legacy_token.is_some() || removed_tokens.is_some();
        self.is_empty() && !has_notes && others.is_empty()
    }

    /// Returns the contents of the file, indented by two spaces as the original does.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let array = |records: &[Record]| {
            Value::Array(records.iter().map(|record| Value::Object(record.to_fields())).collect())
        };
        let mut document = Map::new();
        document.insert("version".to_owned(), VERSION.into());
        document.insert("activeAccountId".to_owned(), self.active_id().into());
        document.insert("accounts".to_owned(), array(&self.records));
        if !self.keys.is_empty() {
            document.insert("apiKeys".to_owned(), array(&self.keys));
        }
        document.extend(fields::write(&self.fields, &self.fields.others));
        serde_json::to_vec_pretty(&document).unwrap_or_default()
    }

    /// The account that the user has chosen.
    #[must_use]
    pub fn active_id(&self) -> Option<&str> {
        self.fields.active_account_id.as_deref()
    }

    /// The account to begin with if the user has chosen none: one of the cheapest, an enabled one if there is any.
    #[must_use]
    pub fn first_choice(&self) -> Option<&str> {
        let price = |record: &&Record| record.kind().price();
        let enabled = self.all().filter(|record| record.is_enabled() && !record.is_superseded());
        let current = || self.all().filter(|record| !record.is_superseded());
        let found = enabled.min_by_key(price).or_else(|| current().min_by_key(price));
        found.or(self.records.first()).map(Record::id)
    }

    /// Chooses an account.
    pub fn set_active_id(&mut self, id: Option<&str>) {
        self.fields.active_account_id = id.map(str::to_owned);
    }

    /// Makes the cheapest enabled account active if the active one is disabled, and returns its id. An account that is
    /// billed by use replaces only another such account: disabling an account must not lead to a bill. If there is no
    /// such account, the choice stays.
    pub fn leave_disabled(&mut self) -> Option<String> {
        let active = self.active_id().and_then(|id| self.record(id));
        if active.is_some_and(Record::is_enabled) {
            return None;
        }
        let limit = active.map_or(Price::Free, |record| record.kind().price()).max(Price::Subscription);
        let next = self.first_choice().and_then(|id| self.record(id))?;
        if !next.is_enabled() || next.kind().price() > limit {
            return None;
        }
        let next = next.id().to_owned();
        self.set_active_id(Some(&next));
        Some(next)
    }

    /// The account that `oauth_creds.json` held when it was last read.
    #[must_use]
    pub fn linked_id(&self) -> Option<&str> {
        self.fields.credentials_account_id.as_deref()
    }

    /// Notes which account `oauth_creds.json` holds.
    pub fn set_linked_id(&mut self, id: Option<&str>) {
        self.fields.credentials_account_id = id.map(str::to_owned);
    }

    /// True if `OpenCode` has had an entry of ours since the last login.
    #[must_use]
    pub fn had_host_login(&self) -> bool {
        self.fields.open_code_login.unwrap_or(false)
    }

    pub(crate) fn set_host_login(&mut self, had_one: bool) {
        self.fields.open_code_login = had_one.then_some(true);
    }

    /// True if the user was told that other users can open a file, and that this can't be changed.
    pub(crate) fn was_told_of_open(&self, path: &Path) -> bool {
        let told = self.fields.open_to_others.as_ref();
        told.is_some_and(|told| told.iter().any(|one| Some(one.as_str()) == path.to_str()))
    }

    pub(crate) fn note_told_of_open(&mut self, path: &Path) {
        self.fields.open_to_others.get_or_insert_default().push(path.display().to_string());
    }

    /// Binding of the login in `oauth_creds.json` while it is the only account. For another token than the bound one it
    /// is uncertain.
    pub(crate) fn single_binding(&self, token: &Token) -> Option<Binding> {
        let value = self.fields.credentials_binding.as_ref()?;
        let binding = Binding::from_value(value)?;
        let is_certain = value.get("token").and_then(Value::as_str) == Some(&binding_fingerprint(token));
        Some(Binding { is_certain, ..binding })
    }

    pub(crate) fn set_single_binding(&mut self, binding: Option<(&Binding, &Token)>) {
        self.fields.credentials_binding = binding.map(|(binding, token)| {
            let mut value = binding.to_value();
            value["token"] = binding_fingerprint(token).into();
            value
        });
    }

    /// Time of the last shorter request, sent while every account was cooling; in epoch milliseconds.
    pub(crate) fn degraded_at(&self) -> u64 {
        self.fields.degraded_at.unwrap_or(0)
    }

    pub(crate) fn set_degraded_at(&mut self, now_ms: u64) {
        self.fields.degraded_at = Some(now_ms);
    }

    /// True if this token of the original plugin's first token file was handled before.
    pub(crate) fn knows_legacy(&self, token: &Token) -> bool {
        self.fields.legacy_token.as_ref() == Some(&fingerprint(&token.access_token))
    }

    pub(crate) fn note_legacy(&mut self, token: &Token) {
        self.fields.legacy_token = Some(fingerprint(&token.access_token));
    }

    /// The account with an id.
    #[must_use]
    pub fn record(&self, id: &str) -> Option<&Record> {
        self.all().find(|record| record.id() == id)
    }

    /// The account with an id, to be changed.
    pub fn record_mut(&mut self, id: &str) -> Option<&mut Record> {
        self.records.iter_mut().chain(&mut self.keys).find(|record| record.id() == id)
    }

    /// True if the user removed an account that had this token.
    #[must_use]
    pub fn was_removed(&self, token: &Token) -> bool {
        let removed = self.fields.removed_tokens.as_deref().unwrap_or_default();
        token.secrets().any(|secret| removed.contains(&fingerprint(secret)))
    }

    /// Removes an account. Fingerprints of its tokens are kept, so that they are not added again.
    pub fn remove(&mut self, id: &str) -> Option<Record> {
        let record = match self.records.iter().position(|record| record.id() == id) {
            Some(at) => self.records.remove(at),
            None => self.keys.remove(self.keys.iter().position(|record| record.id() == id)?),
        };
        let removed = self.fields.removed_tokens.get_or_insert_default();
        removed.extend(record.spent_tokens.iter().flatten().cloned());
        if let Some(token) = record.token() {
            removed.extend(token.secrets().map(fingerprint));
        }
        removed.drain(..removed.len().saturating_sub(REMOVED_TOKENS));
        if self.active_id() == Some(id) {
            let next = self.first_choice().map(str::to_owned);
            self.set_active_id(next.as_deref());
        }
        if self.linked_id() == Some(id) {
            self.set_linked_id(None);
        }
        Some(record)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use url::Url;

    use qwen_base::{KeyPlan, Secret, Tier};
    use serde_json::json;

    use super::*;
    use crate::model::Kind;
    use crate::store::record::Key;
    use crate::store::recover::recover;

    pub(crate) fn token(name: &str, expires_at: u64) -> Token {
        Token {
            access_token: Secret::new(format!("access-{name}")),
            refresh_token: Some(Secret::new(format!("refresh-{name}"))),
            token_type: "Bearer".into(),
            resource_url: Some("portal.qwen.ai".into()),
            scope: None,
            expires_at,
        }
    }

    fn store() -> Value {
        json!({"version": 1, "activeAccountId": "one", "accounts": [
            {"id": "one", "token": {"access_token": "access-a", "refresh_token": "refresh-a", "expiry_date": 9, "extra": 1},
             "exhaustedUntil": 0, "accountKey": "refresh:refresh-a", "createdAt": 1, "updatedAt": 2, "theirs": [1]},
        ], "addedLater": {"x": 1}})
    }

    fn parse(value: &Value) -> Result<Document, Unusable> {
        Document::parse(value.to_string().as_bytes())
    }

    #[test]
    fn unknown_fields_survive() {
        let mut document = parse(&store()).unwrap();
        document.records[0].set_token(&token("b", 10), 5);
        let written: Value = serde_json::from_slice(&document.to_json()).unwrap();
        assert_eq!(written["addedLater"], json!({"x": 1}));
        assert_eq!(written["accounts"][0]["theirs"], json!([1]));
        assert_eq!(written["accounts"][0]["token"]["extra"], 1);
        assert_eq!(written["accounts"][0]["token"]["access_token"], "access-b");
        assert_eq!(written["accounts"][0]["updatedAt"], 5);
        assert_eq!(parse(&written).unwrap(), document);
    }

    #[test]
    fn a_version_may_be_a_whole_float() {
        let text = store().to_string().replace("\"version\":1,", "\"version\":1.0,");
        assert!(
            text.contains("1.0")
                && Document::parse(text.as_bytes()).is_ok_and(|read| read == parse(&store()).unwrap())
        );
    }

    #[test]
    fn a_value_that_rust_can_not_hold_costs_no_account() {
        let deep = format!("{}\"]\\\"\",1e400{}", "[{\"a\":[".repeat(500), "]}]".repeat(500));
        for odd in
            ["1e400", "-1e999", "NaN", "-Infinity", r#""a\ud800b""#, r#""\\\"\udc00\ud83d\ude00""#, &deep]
        {
            let text = store().to_string();
            for text in
                [text.replace(":9,", &format!(":{odd},")), text.replace("[1]", &format!("[{odd},\"1e400\"]"))]
            {
                let document = Document::parse(text.as_bytes()).unwrap();
                assert_eq!(document.records[0].token().unwrap().access_token.expose(), "access-a", "{text}");
                let torn = recover(&text.as_bytes()[..text.len() - 1]);
                assert_eq!(torn.records.len(), 1, "{text}");
                assert!(
                    !text.contains("1e400\"")
                        || String::from_utf8(document.to_json()).unwrap().contains("\"1e400\"")
                );
            }
        }
    }

    #[test]
    fn fields_of_an_unexpected_type_survive_and_count_as_missing() {
        let mut value = store();
        value["legacyToken"] = json!({"odd": 1});
        let account = value["accounts"][0].as_object_mut().unwrap();
        for (name, odd) in
            [("label", json!(7)), ("pause", json!("x")), ("lastError", json!([1])), ("enabled", json!("no"))]
        {
            account.insert(name.to_owned(), odd);
        }
        account.insert("exhaustedUntil".to_owned(), json!("1893456000000"));
        let document = parse(&value).unwrap();
        let record = &document.records[0];
        assert_eq!((record.label(), record.pause, record.is_enabled()), (None, None, true));
        assert_eq!((record.exhausted_until(), record.last_error()), (1_893_456_000_000, None));
        assert_eq!(record.token().unwrap().access_token.expose(), "access-a");
        value["accounts"][0]["exhaustedUntil"] = json!(1_893_456_000_000_u64);
        assert_eq!(serde_json::from_slice::<Value>(&document.to_json()).unwrap(), value);
    }

    #[test]
    fn an_account_key_with_a_token_in_clear_is_replaced() {
        let mut document = parse(&store()).unwrap();
        document.records[0].set_token(&token("b", 10), 5);
        let text = String::from_utf8(document.to_json()).unwrap();
        assert!(!text.contains("refresh:refresh-a") && text.matches("refresh-b").count() == 1);
        assert!(document.records[0].has_spent(&Secret::new("refresh-a")));
    }

    #[test]
    fn a_store_is_usable_corrupt_or_of_another_version() {
        for corrupt in [
            json!([]),
            json!({}),
            json!({"version": "1", "accounts": []}),
            json!({"version": 1}),
            json!({"version": 1, "accounts": [1]}),
        ] {
            assert_eq!(parse(&corrupt), Err(Unusable::Corrupt), "{corrupt}");
        }
        assert_eq!(parse(&json!({"version": 2, "accounts": []})), Err(Unusable::Unsupported));
        assert_eq!(Document::parse(b""), Err(Unusable::Corrupt));
    }

    #[test]
    fn whole_accounts_of_a_truncated_store_are_recovered() {
        let mut value = store();
        value["accounts"] =
            json!([value["accounts"][0], {"id": "two", "token": {"access_token": "b"}}, {"id": "three"}]);
        let text = serde_json::to_string_pretty(&value).unwrap();
        let all = recover(text.as_bytes());
        assert_eq!(all.records.iter().map(Record::id).collect::<Vec<_>>(), ["one", "two"]);
        let cut = &text[..text.find("\"two\"").unwrap()];
        assert_eq!(recover(cut.as_bytes()).records.len(), 1);
        assert_eq!(recover(b"\x00\x01{{{{").records.len(), 0);
    }

    #[test]
    fn removed_tokens_are_recognized() {
        let mut document = parse(&store()).unwrap();
        document.records[0].set_token(&token("b", 10), 5);
        document.remove("one").unwrap();
        assert!(document.was_removed(&token("b", 0)));
        assert!(document.was_removed(&Token { access_token: Secret::new("x"), ..token("a", 0) }));
        assert!(!document.was_removed(&token("c", 0)));
        assert_eq!(document.active_id(), None);
        assert!(!String::from_utf8(document.to_json()).unwrap().contains("refresh-"));
    }

    fn key(secret: &str) -> Key {
        let base_url = Url::parse("https://coding-intl.dashscope.aliyuncs.com/v1").unwrap();
        let (plan, region) = (Some(KeyPlan::CodingPlan), Some("intl".to_owned()));
        Key { secret: Secret::new(secret), plan, region, base_url, tier: None }
    }

    #[test]
    fn keys_have_their_own_array_and_survive() {
        let mut document = parse(&store()).unwrap();
        document.keys.push(Record::of_key("k", Some("Mine"), &key("sk-sp-1"), 5));
        let written: Value = serde_json::from_slice(&document.to_json()).unwrap();
        assert_eq!(written["accounts"].as_array().unwrap().len(), 1);
        assert_eq!(written["apiKeys"][0]["key"], "sk-sp-1");
        let read = parse(&written).unwrap();
        assert_eq!(read, document);
        let record = read.record("k").unwrap();
        assert_eq!(record.kind(), Kind::Key(Some(KeyPlan::CodingPlan)));
        assert_eq!(record.place().unwrap().region, "intl");
        assert_eq!(record.token().unwrap().access_token.expose(), "sk-sp-1");
        let cut = document.to_json();
        assert_eq!(recover(&cut[..cut.len() - 3]).keys, document.keys);
        assert_eq!(recover(&cut).records, document.records);
        document.remove("k").unwrap();
        let text = String::from_utf8(document.to_json()).unwrap();
        assert!(!text.contains("sk-sp-1") && !text.contains("apiKeys"));
    }

    #[test]
    fn an_account_is_enabled_until_it_is_disabled() {
        let mut document = parse(&store()).unwrap();
        document.keys.push(Record::of_key("k", None, &Key { tier: Some(Tier::Lite), ..key("sk-sp-1") }, 5));
        assert!(document.all().all(Record::is_enabled));
        for id in ["one", "k"] {
            document.record_mut(id).unwrap().set_enabled(false, 6);
        }
        let mut read = Document::parse(&document.to_json()).unwrap();
        assert!(read.all().all(|record| !record.is_enabled()));
        let record = read.record_mut("k").unwrap();
        record.set_key(&key("sk-sp-1"), 7);
        assert_eq!((record.tier(), record.region()), (Some(Tier::Lite), Some("intl")));
        record.set_enabled(true, 8);
        assert!(record.is_enabled() && !record.to_fields().contains_key("enabled"));
    }

    #[test]
    fn the_cheapest_enabled_account_replaces_a_disabled_one() {
        let mut document = parse(&store()).unwrap();
        assert_eq!(document.leave_disabled(), None);
        let metered = Key { plan: Some(KeyPlan::DashScope), ..key("sk-1") };
        document.keys.push(Record::of_key("metered", None, &metered, 1));
        document.keys.push(Record::of_key("plan", None, &key("sk-sp-1"), 1));
        document.keys.push(Record::of_key("other", None, &metered, 1));
        for (disabled, next) in [("one", Some("plan")), ("plan", None)] {
            document.record_mut(disabled).unwrap().set_enabled(false, 2);
            assert_eq!(document.leave_disabled().as_deref(), next, "{disabled}");
        }
        assert_eq!(document.active_id(), Some("plan"), "nothing is billed without the user's choice");
        document.set_active_id(Some("metered"));
        for (disabled, next) in [("metered", Some("other")), ("other", None)] {
            document.record_mut(disabled).unwrap().set_enabled(false, 2);
            assert_eq!(document.leave_disabled().as_deref(), next, "{disabled}");
        }
        assert_eq!(document.active_id(), Some("other"));
    }

    #[test]
    fn a_login_with_a_key_field_is_a_login() {
        let mut value = store();
        value["accounts"][0]["key"] = json!("sk-sp-1");
        let document = parse(&value).unwrap();
        assert_eq!(document.records[0].kind(), Kind::OAuth);
        assert_eq!(document.records[0].token().unwrap().access_token.expose(), "access-a");
        for broken in [json!({}), json!([1])] {
            value["apiKeys"] = broken;
            assert_eq!(parse(&value), Err(Unusable::Corrupt));
        }
    }

    #[test]
    fn the_first_choice_is_the_cheapest() {
        let mut document = Document::default();
        assert_eq!(document.first_choice(), None);
        let metered = Key { plan: Some(KeyPlan::DashScope), ..key("sk-1") };
        document.keys.push(Record::of_key("metered", None, &metered, 1));
        assert_eq!(document.first_choice(), Some("metered"));
        document.keys.push(Record::of_key("plan", None, &key("sk-sp-1"), 1));
        assert_eq!(document.first_choice(), Some("plan"));
        document.records.push(Record::new("login", None, &token("a", 1), 1));
        assert_eq!(document.first_choice(), Some("login"));
    }

    proptest! {
        #[test]
        fn no_contents_panic(contents in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Document::parse(&contents);
            let _ = recover(&contents);
        }
    }
}
