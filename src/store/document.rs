//! `oauth_accounts.json` as a value: version 1 of the original plugin, with whatever else is in it. Pure.

use serde_json::{Map, Value, json};

use crate::accounts::identity::fingerprint;
use crate::clock::instant_from_number;
use crate::error::Error;
use crate::oauth::token::Token;
use crate::secret::Secret;

/// The only version there is.
pub const VERSION: u64 = 1;
/// So many spent refresh tokens of an account are remembered.
const SPENT_TOKENS: usize = 16;
/// So many removed tokens are remembered.
const REMOVED_TOKENS: usize = 500;

/// The whole store.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Document {
    fields: Map<String, Value>,
    /// The accounts, in order.
    pub records: Vec<Record>,
}

/// One account of the store. Fields that are not ours stay.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Record(Map<String, Value>);

/// The last error of an account, as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// Its stable code.
    pub code: String,
    /// Its message.
    pub message: String,
    /// When, in epoch milliseconds.
    pub at: u64,
}

impl LastError {
    /// An error as the store keeps it.
    #[must_use]
    pub fn new(error: &Error, at: u64) -> Self {
        Self { code: error.code().as_str().to_owned(), message: error.message().to_owned(), at }
    }
}

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
        let Some(Value::Array(accounts)) = fields.remove("accounts") else { return Err(Unusable::Corrupt) };
        let records = accounts.into_iter().map(|account| match account {
            Value::Object(record) => Ok(Record(record)),
            _ => Err(Unusable::Corrupt),
        });
        Ok(Self { records: records.collect::<Result<_, _>>()?, fields })
    }

    /// What of a broken store still reads as an account.
    #[must_use]
    pub fn recover(contents: &[u8]) -> Self {
        // A broken file has few places where an object can begin and does not end.
        const MAX_TRIES: usize = 10_000;
        let mut document = Self::default();
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
                    let accounts = object.get("accounts").and_then(Value::as_array).cloned();
                    let found = accounts.unwrap_or_else(|| vec![Value::Object(object)]);
                    let records = found.into_iter().filter_map(|value| match value {
                        Value::Object(record) => {
                            Some(Record(record)).filter(|record| record.token().is_some())
                        }
                        _ => None,
                    });
                    document.records.extend(records);
                    at += values.byte_offset().max(1);
                }
                _ => at += 1,
            }
        }
        document
    }

    /// Whether there is nothing in it that would have to be kept beside the credentials file.
    #[must_use]
    pub fn keeps_nothing(&self) -> bool {
        const FREE: [&str; 4] = ["version", "activeAccountId", "credentialsAccountId", "openCodeLogin"];
        self.records.is_empty() && self.fields.keys().all(|name| FREE.contains(&name.as_str()))
    }

    /// As it is written: two spaces, as the original does.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut document = Map::new();
        document.insert("version".to_owned(), VERSION.into());
        document.insert("activeAccountId".to_owned(), self.active_id().map_or(Value::Null, Value::from));
        let accounts = self.records.iter().map(|record| Value::Object(record.0.clone())).collect();
        document.insert("accounts".to_owned(), Value::Array(accounts));
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

    /// Chooses an account.
    pub fn set_active_id(&mut self, id: Option<&str>) {
        self.set("activeAccountId", id.map(Value::from));
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

    /// Notes that `OpenCode` has an entry of ours.
    pub fn note_host_login(&mut self) {
        self.set("openCodeLogin", Some(true.into()));
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
        self.records.iter().find(|record| record.id() == id)
    }

    /// The account with an id, to be changed.
    pub fn record_mut(&mut self, id: &str) -> Option<&mut Record> {
        self.records.iter_mut().find(|record| record.id() == id)
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
        let at = self.records.iter().position(|record| record.id() == id)?;
        let record = self.records.remove(at);
        let mut removed = strings(self.fields.get("removedTokens"));
        removed.extend(strings(record.0.get("spentTokens")));
        if let Some(token) = record.token() {
            removed.extend(std::iter::once(&token.access_token).chain(&token.refresh_token).map(fingerprint));
        }
        let surplus = removed.len().saturating_sub(REMOVED_TOKENS);
        removed.drain(..surplus);
        self.set("removedTokens", Some(removed.into()));
        if self.active_id() == Some(id) {
            let next = self
                .records
                .iter()
                .find(|record| !record.is_superseded())
                .map(|record| record.id().to_owned());
            self.set_active_id(next.as_deref());
        }
        if self.linked_id() == Some(id) {
            self.set_linked_id(None);
        }
        Some(record)
    }

    fn set(&mut self, name: &str, value: Option<Value>) {
        match value {
            Some(value) => drop(self.fields.insert(name.to_owned(), value)),
            None => drop(self.fields.shift_remove(name)),
        }
    }
}

impl Record {
    /// A new account.
    #[must_use]
    pub fn new(id: &str, label: Option<&str>, token: &Token, now_ms: u64) -> Self {
        let mut record = Self(Map::new());
        record.set("id", Some(id.into()));
        record.set("label", label.map(Value::from));
        record.set("createdAt", Some(now_ms.into()));
        record.set_token(token, now_ms);
        record
    }

    /// Its id; empty where it has none.
    #[must_use]
    pub fn id(&self) -> &str {
        self.0.get("id").and_then(Value::as_str).unwrap_or_default()
    }

    /// Gives it an id.
    pub fn set_id(&mut self, id: &str) {
        self.set("id", Some(id.into()));
    }

    /// The user's name for it.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        self.0.get("label")?.as_str().filter(|label| !label.is_empty())
    }

    /// Names it.
    pub fn set_label(&mut self, label: &str) {
        self.set("label", Some(label.into()));
    }

    /// Its tokens; `None` where it holds none that are usable.
    #[must_use]
    pub fn token(&self) -> Option<Token> {
        let token = self.0.get("token")?.as_object()?;
        let text = |name: &str| token.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let of_record = || self.0.get("resource_url").and_then(Value::as_str).filter(|text| !text.is_empty());
        let access_token = text("access_token").filter(|token| !token.chars().any(char::is_control))?;
        Some(Token {
            access_token: Secret::new(access_token),
            refresh_token: text("refresh_token").map(Secret::new),
            token_type: text("token_type").unwrap_or("Bearer").to_owned(),
            resource_url: text("resource_url").or_else(of_record).map(str::to_owned),
            scope: text("scope").map(str::to_owned),
            expires_at: token.get("expiry_date").and_then(instant).unwrap_or(0),
        })
    }

    /// Replaces its tokens. A refresh token that is replaced counts as spent.
    pub fn set_token(&mut self, token: &Token, now_ms: u64) {
        let old = self.token();
        if let Some(spent) = old.and_then(|old| old.refresh_token)
            && Some(&spent) != token.refresh_token.as_ref()
        {
            let mut known = strings(self.0.get("spentTokens"));
            known.push(fingerprint(&spent));
            let surplus = known.len().saturating_sub(SPENT_TOKENS);
            known.drain(..surplus);
            self.set("spentTokens", Some(known.into()));
        }
        let mut fields = match self.0.get("token") {
            Some(Value::Object(fields)) => fields.clone(),
            _ => Map::new(),
        };
        let values = [
            ("access_token", Some(Value::from(token.access_token.expose()))),
            ("refresh_token", token.refresh_token.as_ref().map(|token| Value::from(token.expose()))),
            ("token_type", Some(Value::from(token.token_type.as_str()))),
            ("expiry_date", Some(Value::from(token.expires_at))),
            ("resource_url", token.resource_url.as_deref().map(Value::from)),
        ];
        for (name, value) in values {
            match value {
                Some(value) => drop(fields.insert(name.to_owned(), value)),
                None => drop(fields.shift_remove(name)),
            }
        }
        self.set("token", Some(Value::Object(fields)));
        self.set("resource_url", token.resource_url.as_deref().map(Value::from));
        // The original kept the refresh token here a second time, in clear.
        let key = token.refresh_token.as_ref().unwrap_or(&token.access_token);
        self.set("accountKey", Some(fingerprint(key).into()));
        self.touch(now_ms);
    }

    /// Whether a refresh token was redeemed for one that this account has, or had.
    #[must_use]
    pub fn has_spent(&self, refresh_token: &Secret) -> bool {
        strings(self.0.get("spentTokens")).contains(&fingerprint(refresh_token))
    }

    /// When it was made, in epoch milliseconds.
    #[must_use]
    pub fn created_at(&self) -> u64 {
        self.0.get("createdAt").and_then(instant).unwrap_or(0)
    }

    /// When it was last changed, in epoch milliseconds.
    #[must_use]
    pub fn updated_at(&self) -> u64 {
        self.0.get("updatedAt").and_then(instant).unwrap_or_else(|| self.created_at())
    }

    /// Until when it is not asked, as it is written.
    #[must_use]
    pub fn exhausted_until(&self) -> u64 {
        self.0.get("exhaustedUntil").and_then(instant).unwrap_or(0)
    }

    /// Lets it cool, 0 for not at all.
    pub fn set_exhausted_until(&mut self, until: u64, code: Option<&str>, now_ms: u64) {
        self.set("exhaustedUntil", Some(until.into()));
        self.set("lastErrorCode", code.map(Value::from));
        self.touch(now_ms);
    }

    /// Whether it cools because of a rate limit, and not for want of quota.
    #[must_use]
    pub fn is_rate_limited(&self) -> bool {
        self.0.get("rateLimited").and_then(Value::as_bool).unwrap_or(false)
    }

    /// Notes why it cools.
    pub fn set_rate_limited(&mut self, rate_limited: bool) {
        self.set("rateLimited", rate_limited.then_some(Value::Bool(true)));
    }

    /// The server's code for its last quota error.
    #[must_use]
    pub fn last_error_code(&self) -> Option<&str> {
        self.0.get("lastErrorCode")?.as_str()
    }

    /// What went wrong last.
    #[must_use]
    pub fn last_error(&self) -> Option<LastError> {
        let error = self.0.get("lastError")?.as_object()?;
        let text = |name: &str| error.get(name)?.as_str().map(str::to_owned);
        Some(LastError {
            code: text("code")?,
            message: text("message")?,
            at: error.get("at").and_then(instant)?,
        })
    }

    /// Notes what went wrong.
    pub fn set_last_error(&mut self, error: Option<&LastError>) {
        let value = error.map(|error| json!({"code": error.code, "message": error.message, "at": error.at}));
        self.set("lastError", value);
    }

    /// When the API refused its access token, a fresh one too; `None` if another token has come since.
    #[must_use]
    pub fn rejected_at(&self) -> Option<u64> {
        let rejected = self.0.get("rejected")?;
        let print = fingerprint(&self.token()?.access_token);
        (rejected.get("token")?.as_str()? == print).then(|| rejected.get("at").and_then(instant).unwrap_or(0))
    }

    /// Notes that the API refused its access token; `None` takes the note away.
    pub fn set_rejected(&mut self, rejection: Option<(&Secret, u64)>) {
        self.set("rejected", rejection.map(|(token, at)| json!({"token": fingerprint(token), "at": at})));
    }

    /// Whether the server refused its refresh token for good.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        let refused = self.0.get("refusedToken").and_then(Value::as_str);
        let print = self.token().and_then(|token| token.refresh_token).map(|token| fingerprint(&token));
        refused.is_some() && refused == print.as_deref()
    }

    /// Notes that the server refused a refresh token for good.
    pub fn set_refused(&mut self, refresh_token: &Secret) {
        self.set("refusedToken", Some(fingerprint(refresh_token).into()));
    }

    /// Whether a newer token took its place in `oauth_creds.json`, so that its refresh token may be spent.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        self.0.get("superseded").and_then(Value::as_bool).unwrap_or(false)
    }

    /// Notes that a newer token took its place, or that the user chose it all the same.
    pub fn set_superseded(&mut self, superseded: bool) {
        self.set("superseded", superseded.then_some(Value::Bool(true)));
    }

    fn touch(&mut self, now_ms: u64) {
        self.set("updatedAt", Some(now_ms.into()));
    }

    fn set(&mut self, name: &str, value: Option<Value>) {
        match value {
            Some(value) => drop(self.0.insert(name.to_owned(), value)),
            None => drop(self.0.shift_remove(name)),
        }
    }
}

/// The first value that a name has in contents that are no JSON as a whole.
fn field_of_broken(contents: &[u8], name: &str) -> Option<Value> {
    let quoted = format!("\"{name}\"");
    let at = contents.windows(quoted.len()).position(|window| window == quoted.as_bytes())?;
    let rest = contents[at + quoted.len()..].trim_ascii_start().strip_prefix(b":")?;
    serde_json::Deserializer::from_slice(rest).into_iter::<Value>().next()?.ok()
}

fn instant(value: &Value) -> Option<u64> {
    instant_from_number(value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())?)
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

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
        let all = Document::recover(text.as_bytes());
        assert_eq!(all.records.iter().map(Record::id).collect::<Vec<_>>(), ["one", "two"]);
        let cut = &text[..text.find("\"two\"").unwrap()];
        assert_eq!(Document::recover(cut.as_bytes()).records.len(), 1);
        assert_eq!(Document::recover(b"\x00\x01{{{{").records.len(), 0);
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

    proptest! {
        #[test]
        fn no_contents_panic(contents in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Document::parse(&contents);
            let _ = Document::recover(&contents);
        }
    }
}
