//! One account of the store. Pure.

use qwen_base::{
    Endpoint, Error, KeyPlan, MAX_LABEL, MAX_SHOWN, NEVER, Secret, Tier, endpoint_of, instant_from_number,
    one_line, opaque_debug,
};
use serde_json::{Map, Value, json};
use url::Url;

use crate::accounts::binding::Binding;
use crate::accounts::cooldown::{Cooldown, CoolingReason, Pause, QuotaWindow, cooling_until};
use crate::accounts::identity::fingerprint;
use crate::accounts::kind::Kind;
use crate::oauth::token::Token;

/// So many spent refresh tokens of an account are remembered.
const SPENT_TOKENS: usize = 16;

/// One account of the store, a login or a key. Fields that are not ours stay.
#[derive(Clone, PartialEq, Default)]
pub struct Record {
    fields: Map<String, Value>,
    /// Whether it stands among the keys.
    is_key: bool,
}

opaque_debug!(Record);

/// A key and where it belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The key itself.
    pub secret: Secret,
    /// Its plan; `None` for a key of a server that is not known.
    pub plan: Option<KeyPlan>,
    /// The region of its plan, where that is known.
    pub region: Option<String>,
    /// Where its requests go.
    pub base_url: Url,
    /// The tier of its subscription, where the user named it. Only estimates of usage read it.
    pub tier: Option<Tier>,
}

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

impl Record {
    /// A new account.
    #[must_use]
    pub fn new(id: &str, label: Option<&str>, token: &Token, now_ms: u64) -> Self {
        let mut record = Self::default();
        record.set("id", Some(id.into()));
        record.set("label", label.map(|label| one_line(label, MAX_LABEL).into()));
        record.set("createdAt", Some(now_ms.into()));
        record.set_token(token, now_ms);
        record
    }

    /// A key as an account.
    #[must_use]
    pub fn of_key(id: &str, label: Option<&str>, key: &Key, now_ms: u64) -> Self {
        let mut record = Self { is_key: true, fields: Map::new() };
        record.set("id", Some(id.into()));
        record.set("label", label.map(|label| one_line(label, MAX_LABEL).into()));
        record.set("createdAt", Some(now_ms.into()));
        record.set_key(key, now_ms);
        record
    }

    /// A record as it was read, among the logins or among the keys. Its label is made fit to be shown, once for all.
    pub(super) fn from_fields(mut fields: Map<String, Value>, is_key: bool) -> Self {
        if let Some(Value::String(label)) = fields.get_mut("label") {
            *label = one_line(label, MAX_LABEL);
        }
        Self { fields, is_key }
    }

    /// As it is written.
    pub(super) fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// How it authenticates.
    #[must_use]
    pub fn kind(&self) -> Kind {
        if self.is_key { Kind::Key(self.text("plan").and_then(KeyPlan::from_name)) } else { Kind::OAuth }
    }

    /// The place of its plan where it is served; `None` for a login, and for a key of another server.
    #[must_use]
    pub fn place(&self) -> Option<Endpoint> {
        self.text("baseUrl").filter(|_| self.is_key).and_then(|url| endpoint_of(&Url::parse(url).ok()?))
    }

    /// Where the requests of a key go; `None` for a login.
    #[must_use]
    pub fn key_base_url(&self) -> Option<&str> {
        self.text("baseUrl").filter(|_| self.is_key)
    }

    /// Replaces its key, and where that belongs.
    pub fn set_key(&mut self, key: &Key, now_ms: u64) {
        self.set("plan", key.plan.map(|plan| plan.as_str().into()));
        self.set("region", key.region.as_deref().map(Value::from));
        self.set("baseUrl", Some(key.base_url.as_str().into()));
        self.set("key", Some(key.secret.expose().into()));
        if key.tier.is_some() {
            self.set_tier(key.tier);
        }
        self.touch(now_ms);
    }

    /// The tier of its subscription, where the user named it.
    #[must_use]
    pub fn tier(&self) -> Option<Tier> {
        Tier::from_name(self.text("tier")?)
    }

    /// Notes the tier of its subscription.
    pub fn set_tier(&mut self, tier: Option<Tier>) {
        self.set("tier", tier.map(|tier| tier.as_str().into()));
    }

    /// The region of its plan; `None` for a login, and where no region is known.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.text("region").filter(|_| self.is_key)
    }

    /// False where the user has disabled it: then no request is sent with it.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.fields.get("enabled").and_then(Value::as_bool).unwrap_or(true)
    }

    /// Enables or disables it. Enabled is the default, and is not written.
    pub fn set_enabled(&mut self, enabled: bool, now_ms: u64) {
        self.set("enabled", (!enabled).then_some(Value::Bool(false)));
        self.touch(now_ms);
    }

    /// Its id; empty where it has none.
    #[must_use]
    pub fn id(&self) -> &str {
        self.fields.get("id").and_then(Value::as_str).unwrap_or_default()
    }

    /// Gives it an id.
    pub fn set_id(&mut self, id: &str) {
        self.set("id", Some(id.into()));
    }

    /// The user's name for it.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        self.fields.get("label")?.as_str().filter(|label| !label.is_empty())
    }

    /// Names it.
    pub fn set_label(&mut self, label: &str) {
        self.set("label", Some(one_line(label, MAX_LABEL).into()));
    }

    /// Where its tokens belong; `None` before its first use.
    #[must_use]
    pub fn binding(&self) -> Option<Binding> {
        Binding::from_value(self.fields.get("binding").filter(|_| !self.is_key)?)
    }

    /// Notes where its tokens belong.
    pub fn set_binding(&mut self, binding: &Binding) {
        self.set("binding", Some(binding.to_value()));
    }

    /// Its tokens; `None` where it holds none that are usable. A key is a token that never expires.
    #[must_use]
    pub fn token(&self) -> Option<Token> {
        if self.is_key {
            let key = self.text("key").filter(|key| key.bytes().all(|byte| byte.is_ascii_graphic()))?;
            return Some(Token {
                access_token: Secret::new(key),
                refresh_token: None,
                token_type: "Bearer".to_owned(),
                resource_url: self.text("baseUrl").map(str::to_owned),
                scope: None,
                expires_at: NEVER,
            });
        }
        let token = self.fields.get("token")?.as_object()?;
        let text = |name: &str| token.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let of_record =
            || self.fields.get("resource_url").and_then(Value::as_str).filter(|text| !text.is_empty());
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
            let mut known = strings(self.fields.get("spentTokens"));
            known.push(fingerprint(&spent));
            let surplus = known.len().saturating_sub(SPENT_TOKENS);
            known.drain(..surplus);
            self.set("spentTokens", Some(known.into()));
        }
        let mut fields = match self.fields.get("token") {
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
        strings(self.fields.get("spentTokens")).contains(&fingerprint(refresh_token))
    }

    /// When it was made, in epoch milliseconds.
    #[must_use]
    pub fn created_at(&self) -> u64 {
        self.fields.get("createdAt").and_then(instant).unwrap_or(0)
    }

    /// When it was last changed, in epoch milliseconds.
    #[must_use]
    pub fn updated_at(&self) -> u64 {
        self.fields.get("updatedAt").and_then(instant).unwrap_or_else(|| self.created_at())
    }

    /// Until when it is not asked, as it is written.
    #[must_use]
    pub fn exhausted_until(&self) -> u64 {
        self.fields.get("exhaustedUntil").and_then(instant).unwrap_or(0)
    }

    /// Why and until when it is left alone; `None` where it can be asked at `now_ms`.
    #[must_use]
    pub fn cooldown(&self, now_ms: u64) -> Option<Cooldown> {
        let until = cooling_until(self.exhausted_until(), now_ms)?;
        let text = |name: &str| self.text(name).unwrap_or_default();
        Some(Cooldown {
            until,
            reason: self.cooling_reason(),
            code: text("lastErrorCode").to_owned(),
            window: QuotaWindow::from_name(text("quotaWindow")),
        })
    }

    /// Why it was left alone last.
    #[must_use]
    pub fn cooling_reason(&self) -> CoolingReason {
        CoolingReason::from_name(self.text("coolingReason").unwrap_or_default())
    }

    /// Leaves it alone for a time.
    pub fn start_cooling(&mut self, cooldown: &Cooldown, now_ms: u64) {
        let Cooldown { until, reason, code, window } = cooldown;
        self.set("exhaustedUntil", Some((*until).into()));
        self.set("lastErrorCode", Some(code.as_str().into()));
        self.set("coolingReason", Some(reason.as_str().into()));
        self.set("quotaWindow", window.map(|window| window.as_str().into()));
        self.touch(now_ms);
    }

    /// Lets it cool no more.
    pub fn stop_cooling(&mut self, now_ms: u64) {
        self.set("exhaustedUntil", Some(0.into()));
        for name in ["lastErrorCode", "coolingReason", "quotaWindow", "pause"] {
            self.set(name, None);
        }
        self.touch(now_ms);
    }

    /// The last of the growing pauses since its last success.
    #[must_use]
    pub fn pause(&self) -> Option<Pause> {
        let pause = self.fields.get("pause")?;
        let number = |name: &str| pause.get(name).and_then(instant);
        Some(Pause { started_at: number("at")?, length_ms: number("ms")? })
    }

    /// Remembers a pause, so that the next one is longer.
    pub fn set_pause(&mut self, pause: Pause) {
        self.set("pause", Some(json!({"at": pause.started_at, "ms": pause.length_ms})));
    }

    /// Forgets what spoke against it: it has just been obtained anew.
    pub fn start_afresh(&mut self, now_ms: u64) {
        self.set_rejected(None);
        self.set_last_error(None);
        self.stop_cooling(now_ms);
    }

    /// What went wrong last.
    #[must_use]
    pub fn last_error(&self) -> Option<LastError> {
        let error = self.fields.get("lastError")?.as_object()?;
        let text = |name: &str| error.get(name)?.as_str().map(str::to_owned);
        Some(LastError {
            code: one_line(&text("code")?, MAX_LABEL),
            message: one_line(&text("message")?, MAX_SHOWN),
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
        let rejected = self.fields.get("rejected")?;
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
        let refused = self.fields.get("refusedToken").and_then(Value::as_str);
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
        self.fields.get("superseded").and_then(Value::as_bool).unwrap_or(false)
    }

    /// Notes that a newer token took its place, or that the user chose it all the same.
    pub fn set_superseded(&mut self, superseded: bool) {
        self.set("superseded", superseded.then_some(Value::Bool(true)));
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.as_str().filter(|text| !text.is_empty())
    }

    fn touch(&mut self, now_ms: u64) {
        self.set("updatedAt", Some(now_ms.into()));
    }

    fn set(&mut self, name: &str, value: Option<Value>) {
        match value {
            Some(value) => drop(self.fields.insert(name.to_owned(), value)),
            None => drop(self.fields.shift_remove(name)),
        }
    }
}

pub(super) fn instant(value: &Value) -> Option<u64> {
    instant_from_number(value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())?)
}

pub(super) fn strings(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}
