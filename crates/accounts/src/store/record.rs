//! One account of the store. Pure.

use std::sync::LazyLock;

use qwen_base::{
    Endpoint, Error, KeyPlan, MAX_LABEL, MAX_SHOWN, NEVER, Secret, Tier, endpoint_of, one_line, opaque_debug,
    shows_nothing,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use crate::model::fields::{self, Names, read_instant, read_strings};
use crate::model::{
    Binding, Cooldown, CoolingReason, Kind, Pause, QuotaWindow, Token, cooling_until, fingerprint,
};

/// Number of spent refresh tokens that are kept per account.
const SPENT_TOKENS: usize = 16;

/// One account of the store, a login or a key.
///
/// Fields of other programs, and fields whose value has an unexpected type, survive in `others`.
#[derive(Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    id: Option<String>,
    label: Option<String>,
    token: Option<Map<String, Value>>,
    #[serde(rename = "resource_url")]
    resource_url: Option<String>,
    plan: Option<String>,
    region: Option<String>,
    base_url: Option<String>,
    key: Option<String>,
    tier: Option<String>,
    enabled: Option<bool>,
    #[serde(deserialize_with = "read_instant")]
    exhausted_until: Option<u64>,
    last_error_code: Option<String>,
    cooling_reason: Option<String>,
    quota_window: Option<String>,
    /// The last of the growing pauses since the last success.
    pub(crate) pause: Option<Pause>,
    last_error: Option<LastError>,
    rejected: Option<Rejected>,
    /// Fingerprint of the refresh token that the server refused for good.
    refused_token: Option<String>,
    superseded: Option<bool>,
    /// Fingerprints of redeemed refresh tokens, the newest last.
    #[serde(deserialize_with = "read_strings")]
    pub(super) spent_tokens: Option<Vec<String>>,
    binding: Option<Value>,
    account_key: Option<String>,
    #[serde(deserialize_with = "read_instant")]
    created_at: Option<u64>,
    #[serde(deserialize_with = "read_instant")]
    updated_at: Option<u64>,
    #[serde(skip)]
    others: Map<String, Value>,
    /// True if the record is in the array of keys.
    #[serde(skip)]
    is_key: bool,
}

opaque_debug!(Record);

static NAMES: LazyLock<Names<Record>> = LazyLock::new(Names::new);

/// An access token that the API refused.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Rejected {
    /// Fingerprint of the token.
    token: String,
    #[serde(default, deserialize_with = "read_instant")]
    at: u64,
}

/// A key and its plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The key itself.
    pub secret: Secret,
    /// The plan; `None` for a key of an unknown server.
    pub plan: Option<KeyPlan>,
    /// The region of the plan, if it is known.
    pub region: Option<String>,
    /// Base URL of the requests.
    pub base_url: Url,
    /// Tier of the subscription, if the user named it. It is used for estimates of usage alone.
    pub tier: Option<Tier>,
}

/// The last error of an account, as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// A stable code.
    pub code: String,
    /// The message for the user.
    pub message: String,
    /// Time of the error, in epoch milliseconds.
    #[serde(deserialize_with = "read_instant")]
    pub at: u64,
}

impl LastError {
    /// Returns an error as the store keeps it.
    #[must_use]
    pub fn new(error: &Error, at: u64) -> Self {
        Self { code: error.code().as_str().to_owned(), message: error.message().to_owned(), at }
    }
}

impl Record {
    /// Returns the record of a new login.
    #[must_use]
    pub fn new(id: &str, label: Option<&str>, token: &Token, now_ms: u64) -> Self {
        let mut record = Self::named(id, label, now_ms);
        record.set_token(token, now_ms);
        record
    }

    /// Returns the record of a new key.
    #[must_use]
    pub fn of_key(id: &str, label: Option<&str>, key: &Key, now_ms: u64) -> Self {
        let mut record = Self { is_key: true, ..Self::named(id, label, now_ms) };
        record.set_key(key, now_ms);
        record
    }

    fn named(id: &str, label: Option<&str>, now_ms: u64) -> Self {
        let label = label.map(|label| one_line(label, MAX_LABEL));
        Self { id: Some(id.to_owned()), label, created_at: Some(now_ms), ..Self::default() }
    }

    /// Reads a record from the array of logins or of keys. Texts that may be shown are cleaned.
    #[must_use]
    pub fn from_fields(fields: Map<String, Value>, is_key: bool) -> Self {
        let (mut record, others): (Self, _) = NAMES.read(fields);
        (record.others, record.is_key) = (others, is_key);
        record.label = record.label.map(|label| one_line(&label, MAX_LABEL));
        record.last_error = record.last_error.map(|LastError { code, message, at }| LastError {
            code: one_line(&code, MAX_LABEL),
            message: one_line(&message, MAX_SHOWN),
            at,
        });
        record
    }

    pub(super) fn to_fields(&self) -> Map<String, Value> {
        fields::write(self, &self.others)
    }

    /// How the account authenticates.
    #[must_use]
    pub fn kind(&self) -> Kind {
        if self.is_key { Kind::Key(self.plan.as_deref().and_then(KeyPlan::from_name)) } else { Kind::OAuth }
    }

    /// The endpoint of a key's plan; `None` for a login, and for a key of another server.
    #[must_use]
    pub fn place(&self) -> Option<Endpoint> {
        self.key_base_url().and_then(|url| endpoint_of(&Url::parse(url).ok()?))
    }

    /// Base URL of a key's requests; `None` for a login.
    #[must_use]
    pub fn key_base_url(&self) -> Option<&str> {
        filled(self.base_url.as_ref()).filter(|_| self.is_key)
    }

    /// Replaces the key and its plan.
    pub fn set_key(&mut self, key: &Key, now_ms: u64) {
        self.plan = key.plan.map(|plan| plan.as_str().to_owned());
        self.region.clone_from(&key.region);
        self.base_url = Some(key.base_url.as_str().to_owned());
        self.key = Some(key.secret.expose().to_owned());
        if key.tier.is_some() {
            self.tier = key.tier.map(|tier| tier.as_str().to_owned());
        }
        self.updated_at = Some(now_ms);
    }

    /// Tier of the subscription, if the user named it.
    #[must_use]
    pub fn tier(&self) -> Option<Tier> {
        Tier::from_name(self.tier.as_ref()?)
    }

    /// The region of a key's plan; `None` for a login, and if no region is known.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        filled(self.region.as_ref()).filter(|_| self.is_key)
    }

    /// False if the user has disabled the account: no request is sent with it.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled.unwrap_or(true)
    }

    /// Enables or disables the account. Enabled is the default, and is not written.
    pub fn set_enabled(&mut self, enabled: bool, now_ms: u64) {
        self.enabled = (!enabled).then_some(false);
        self.updated_at = Some(now_ms);
    }

    /// The account's id; empty if it has none.
    #[must_use]
    pub fn id(&self) -> &str {
        self.id.as_deref().unwrap_or_default()
    }

    pub(crate) fn set_id(&mut self, id: String) {
        self.id = Some(id);
    }

    /// The user's name for the account; `None` if it shows nothing.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref().filter(|label| !shows_nothing(label))
    }

    /// Names the account.
    pub fn set_label(&mut self, label: &str) {
        self.label = Some(one_line(label, MAX_LABEL));
    }

    /// Servers that the tokens belong to; `None` before the first use, and for a key.
    #[must_use]
    pub fn binding(&self) -> Option<Binding> {
        Binding::from_value(self.binding.as_ref().filter(|_| !self.is_key)?)
    }

    pub(crate) fn set_binding(&mut self, binding: &Binding) {
        self.binding = Some(binding.to_value());
    }

    /// The account's tokens; `None` if it has no usable ones. A key is a token that never expires.
    #[must_use]
    pub fn token(&self) -> Option<Token> {
        if self.is_key {
            let key =
                filled(self.key.as_ref()).filter(|key| key.bytes().all(|byte| byte.is_ascii_graphic()))?;
            return Some(Token {
                access_token: Secret::new(key),
                refresh_token: None,
                token_type: "Bearer".to_owned(),
                resource_url: self.key_base_url().map(str::to_owned),
                scope: None,
                expires_at: NEVER,
            });
        }
        let mut token = Token::read(self.token.as_ref()?)?;
        token.resource_url =
            token.resource_url.or_else(|| filled(self.resource_url.as_ref()).map(str::to_owned));
        Some(token)
    }

    /// Replaces the tokens. A refresh token that is replaced counts as spent.
    pub fn set_token(&mut self, token: &Token, now_ms: u64) {
        let spent = self.token().and_then(|old| old.refresh_token);
        if let Some(spent) = spent.filter(|spent| Some(spent) != token.refresh_token.as_ref()) {
            let known = self.spent_tokens.get_or_insert_default();
            known.push(fingerprint(&spent));
            known.drain(..known.len().saturating_sub(SPENT_TOKENS));
        }
        token.write(self.token.get_or_insert_default());
        self.resource_url.clone_from(&token.resource_url);
        // The original plugin keeps the refresh token here a second time, in clear.
        self.account_key = Some(fingerprint(token.refresh_token.as_ref().unwrap_or(&token.access_token)));
        self.updated_at = Some(now_ms);
    }

    /// True if the refresh token was replaced by a later one of this account.
    #[must_use]
    pub fn has_spent(&self, refresh_token: &Secret) -> bool {
        self.spent_tokens.as_ref().is_some_and(|spent| spent.contains(&fingerprint(refresh_token)))
    }

    /// Time of creation, in epoch milliseconds.
    #[must_use]
    pub fn created_at(&self) -> u64 {
        self.created_at.unwrap_or(0)
    }

    /// Time of the last change, in epoch milliseconds.
    #[must_use]
    pub fn updated_at(&self) -> u64 {
        self.updated_at.or(self.created_at).unwrap_or(0)
    }

    /// End of the cooldown as the store has it, in epoch milliseconds. It may be in the past.
    #[must_use]
    pub fn exhausted_until(&self) -> u64 {
        self.exhausted_until.unwrap_or(0)
    }

    /// The cooldown at `now_ms`; `None` if the account is not cooling.
    #[must_use]
    pub fn cooldown(&self, now_ms: u64) -> Option<Cooldown> {
        let until = cooling_until(self.exhausted_until(), now_ms)?;
        Some(Cooldown {
            until,
            reason: self.cooling_reason(),
            code: self.last_error_code.clone().unwrap_or_default(),
            window: self.quota_window.as_deref().and_then(QuotaWindow::from_name),
        })
    }

    /// Reason of the last cooldown.
    #[must_use]
    pub fn cooling_reason(&self) -> CoolingReason {
        CoolingReason::from_name(self.cooling_reason.as_deref().unwrap_or_default())
    }

    /// Starts a cooldown.
    pub fn start_cooling(&mut self, cooldown: &Cooldown, now_ms: u64) {
        let Cooldown { until, reason, code, window } = cooldown;
        self.exhausted_until = Some(*until);
        self.last_error_code = Some(code.clone());
        self.cooling_reason = Some(reason.as_str().to_owned());
        self.quota_window = window.map(|window| window.as_str().to_owned());
        self.updated_at = Some(now_ms);
    }

    pub(crate) fn stop_cooling(&mut self, now_ms: u64) {
        self.exhausted_until = Some(0);
        (self.last_error_code, self.cooling_reason, self.quota_window, self.pause) = (None, None, None, None);
        self.updated_at = Some(now_ms);
    }

    /// Clears errors and cooldowns after a new login.
    pub(crate) fn start_afresh(&mut self, now_ms: u64) {
        self.set_rejected(None);
        self.set_last_error(None);
        self.stop_cooling(now_ms);
    }

    /// The last of the growing pauses since the last success.
    #[must_use]
    pub fn pause(&self) -> Option<Pause> {
        self.pause
    }

    /// The last error.
    #[must_use]
    pub fn last_error(&self) -> Option<LastError> {
        self.last_error.clone()
    }

    pub(crate) fn set_last_error(&mut self, error: Option<LastError>) {
        self.last_error = error;
    }

    /// Time at which the API refused the current access token, in epoch milliseconds.
    #[must_use]
    pub fn rejected_at(&self) -> Option<u64> {
        let rejected = self.rejected.as_ref()?;
        (rejected.token == fingerprint(&self.token()?.access_token)).then_some(rejected.at)
    }

    /// Notes that the API refused an access token; `None` removes the note.
    pub fn set_rejected(&mut self, rejection: Option<(&Secret, u64)>) {
        self.rejected = rejection.map(|(token, at)| Rejected { token: fingerprint(token), at });
    }

    /// True if the server refused the current refresh token for good.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        let own = self.token().and_then(|token| token.refresh_token).map(|token| fingerprint(&token));
        self.refused_token.is_some() && self.refused_token == own
    }

    /// Notes that the server refused a refresh token for good.
    pub fn set_refused(&mut self, refresh_token: &Secret) {
        self.refused_token = Some(fingerprint(refresh_token));
    }

    /// True if a newer token replaced this one in `oauth_creds.json`: its refresh token may be spent.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        self.superseded.unwrap_or(false)
    }

    /// Notes that a newer token replaced this one, or that the user chose this one anyway.
    pub fn set_superseded(&mut self, superseded: bool) {
        self.superseded = superseded.then_some(true);
    }
}

fn filled(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}
