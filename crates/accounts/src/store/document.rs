//! `oauth_accounts.json` as a value: version 1 of the original plugin, with whatever else is in it. Pure.

use std::path::Path;

use qwen_base::{Price, opaque_debug};
use serde_json::{Map, Value};

use super::record::{Record, instant, strings};
use crate::accounts::binding::{Binding, print_of};
use crate::accounts::identity::fingerprint;
use crate::oauth::token::Token;

/// The only version there is.
pub const VERSION: u64 = 1;
/// So many removed tokens are remembered.
const REMOVED_TOKENS: usize = 500;

/// Where the keys are. Versions that know nothing of keys leave it as it is.
const KEYS: &str = "apiKeys";

/// Where the login in `oauth_creds.json` belongs while it is the only account.
const LONE_BINDING: &str = "credentialsBinding";
/// The files that a person was told of as open to other users.
const OPEN_TO_OTHERS: &str = "openToOthers";

/// The whole store.
#[derive(Clone, PartialEq, Default)]
pub struct Document {
    fields: Map<String, Value>,
    /// The logins, in order.
    pub records: Vec<Record>,
    /// The keys, in order.
    pub keys: Vec<Record>,
}

opaque_debug!(Document);

/// Why a store can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// Not what any version writes.
    Corrupt,
    /// Of a version that is not known.
    Unsupported,
}

impl Document {
    /// Reads a store.
    ///
    /// # Errors
    /// Why it can't be used.
    pub fn parse(contents: &[u8]) -> Result<Self, Unusable> {
        let Ok(Value::Object(mut fields)) = serde_json::from_slice(contents) else {
            return Err(Unusable::Corrupt);
        };
        match fields.get("version").and_then(Value::as_u64) {
            Some(VERSION) => {}
            Some(_) => return Err(Unusable::Unsupported),
            None => return Err(Unusable::Corrupt),
        }
        let Some(Value::Array(accounts)) = fields.shift_remove("accounts") else {
            return Err(Unusable::Corrupt);
        };
        let keys = match fields.shift_remove(KEYS) {
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
        Ok(Self { records: read(accounts, false)?, keys: read(keys, true)?, fields })
    }

    /// All accounts, logins and keys.
    pub fn all(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().chain(&self.keys)
    }

    /// Whether there is no account.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.keys.is_empty()
    }

    /// Whether there is nothing in it that would have to be kept beside the credentials file.
    #[must_use]
    pub fn keeps_nothing(&self) -> bool {
        const FREE: [&str; 6] = [
            "version",
            "activeAccountId",
            "credentialsAccountId",
            "openCodeLogin",
            LONE_BINDING,
            OPEN_TO_OTHERS,
        ];
        self.is_empty() && self.fields.keys().all(|name| FREE.contains(&name.as_str()))
    }

    /// As it is written: two spaces, as the original does.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut document = Map::new();
        document.insert("version".to_owned(), VERSION.into());
        document.insert("activeAccountId".to_owned(), self.active_id().map_or(Value::Null, Value::from));
        let array = |records: &[Record]| {
            Value::Array(records.iter().map(|record| Value::Object(record.fields().clone())).collect())
        };
        document.insert("accounts".to_owned(), array(&self.records));
        if !self.keys.is_empty() {
            document.insert(KEYS.to_owned(), array(&self.keys));
        }
        for (name, value) in &self.fields {
            if !document.contains_key(name) {
                document.insert(name.clone(), value.clone());
            }
        }
        serde_json::to_vec_pretty(&document).unwrap_or_default()
    }

    /// The account that the user has chosen.
    #[must_use]
    pub fn active_id(&self) -> Option<&str> {
        self.fields.get("activeAccountId")?.as_str()
    }

    /// The account to begin with where the user has chosen none: one of the cheapest, an enabled one if there is any.
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
        self.set("activeAccountId", id.map(Value::from));
    }

    /// Makes the cheapest enabled account the active one where the active one is disabled. Returns its id. One that is billed
    /// by use takes the place only of another such account: nobody gets a bill for disabling an account. Where there is no
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

    /// The account that `oauth_creds.json` held when it was last looked at.
    #[must_use]
    pub fn linked_id(&self) -> Option<&str> {
        self.fields.get("credentialsAccountId")?.as_str()
    }

    /// Notes which account `oauth_creds.json` holds.
    pub fn set_linked_id(&mut self, id: Option<&str>) {
        self.set("credentialsAccountId", id.map(Value::from));
    }

    /// Whether `OpenCode` has had an entry of ours since the last login.
    #[must_use]
    pub fn had_host_login(&self) -> bool {
        self.fields.get("openCodeLogin").and_then(Value::as_bool).unwrap_or(false)
    }

    /// True if a person was told that a file is open to other users and can't be closed to them.
    #[must_use]
    pub fn was_told_of_open(&self, path: &Path) -> bool {
        let told = self.fields.get(OPEN_TO_OTHERS).and_then(Value::as_array);
        told.is_some_and(|told| told.iter().any(|one| one.as_str() == path.to_str()))
    }

    /// Notes that a person was told of it.
    pub fn note_told_of_open(&mut self, path: &Path) {
        let told = self.fields.get(OPEN_TO_OTHERS).and_then(Value::as_array);
        let mut told = told.cloned().unwrap_or_default();
        told.push(path.display().to_string().into());
        self.set(OPEN_TO_OTHERS, Some(told.into()));
    }

    /// Notes that `OpenCode` has an entry of ours, or that the user has chosen anew since it had one.
    pub fn set_host_login(&mut self, had_one: bool) {
        self.set("openCodeLogin", had_one.then_some(Value::Bool(true)));
    }

    /// Where the login in `oauth_creds.json` belongs while it is the only account. It is uncertain for another token than the
    /// one that was bound.
    #[must_use]
    pub fn lone_binding(&self, token: &Token) -> Option<Binding> {
        let value = self.fields.get(LONE_BINDING)?;
        let binding = Binding::from_value(value)?;
        let is_certain = value.get("token").and_then(Value::as_str) == Some(&print_of(token));
        Some(Binding { is_certain, ..binding })
    }

    /// Notes where the login in `oauth_creds.json` belongs.
    pub fn set_lone_binding(&mut self, binding: Option<(&Binding, &Token)>) {
        let value = binding.map(|(binding, token)| {
            let mut value = binding.to_value();
            value["token"] = print_of(token).into();
            value
        });
        self.set(LONE_BINDING, value);
    }

    /// When a degraded payload was last tried because every account was cooling, in epoch milliseconds.
    #[must_use]
    pub fn degraded_at(&self) -> u64 {
        self.fields.get("degradedAt").and_then(instant).unwrap_or(0)
    }

    /// Notes a degraded try.
    pub fn set_degraded_at(&mut self, now_ms: u64) {
        self.set("degradedAt", Some(now_ms.into()));
    }

    /// Whether the original's old token file was looked at while it held this token.
    #[must_use]
    pub fn knows_legacy(&self, token: &Token) -> bool {
        self.fields.get("legacyToken").and_then(Value::as_str) == Some(&fingerprint(&token.access_token))
    }

    /// Notes the token of the original's old file.
    pub fn note_legacy(&mut self, token: &Token) {
        self.set("legacyToken", Some(fingerprint(&token.access_token).into()));
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

    /// Whether a token was removed by the user.
    #[must_use]
    pub fn was_removed(&self, token: &Token) -> bool {
        let removed = strings(self.fields.get("removedTokens"));
        let mut secrets = std::iter::once(&token.access_token).chain(&token.refresh_token);
        secrets.any(|secret| removed.contains(&fingerprint(secret)))
    }

    /// Takes an account out, and remembers its tokens so that they don't come back.
    pub fn remove(&mut self, id: &str) -> Option<Record> {
        let record = match self.records.iter().position(|record| record.id() == id) {
            Some(at) => self.records.remove(at),
            None => self.keys.remove(self.keys.iter().position(|record| record.id() == id)?),
        };
        let mut removed = strings(self.fields.get("removedTokens"));
        removed.extend(strings(record.fields().get("spentTokens")));
        if let Some(token) = record.token() {
            removed.extend(std::iter::once(&token.access_token).chain(&token.refresh_token).map(fingerprint));
        }
        let surplus = removed.len().saturating_sub(REMOVED_TOKENS);
        removed.drain(..surplus);
        self.set("removedTokens", Some(removed.into()));
        if self.active_id() == Some(id) {
            let next = self.first_choice().map(str::to_owned);
            self.set_active_id(next.as_deref());
        }
        if self.linked_id() == Some(id) {
            self.set_linked_id(None);
        }
        Some(record)
    }

    pub(super) fn set(&mut self, name: &str, value: Option<Value>) {
        match value {
            Some(value) => drop(self.fields.insert(name.to_owned(), value)),
            None => drop(self.fields.shift_remove(name)),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use url::Url;

    use qwen_base::{KeyPlan, Secret, Tier};
    use serde_json::json;

    use super::*;
    use crate::accounts::kind::Kind;
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
    fn what_is_not_ours_survives() {
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
    fn the_key_that_held_a_token_in_clear_is_replaced() {
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
    fn whole_accounts_of_a_cut_store_are_recovered() {
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
    fn removed_tokens_are_known_again() {
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
    fn keys_stand_apart_from_logins_and_survive() {
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
        assert!(record.is_enabled() && !record.fields().contains_key("enabled"));
    }

    #[test]
    fn the_cheapest_enabled_account_takes_the_place_of_a_disabled_one() {
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
    fn a_login_that_has_a_field_called_key_is_a_login() {
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
    fn the_first_choice_costs_the_least() {
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
