//! Converts JavaScript values to the core's and back. `lib/validate.js` has checked their types and ranges.

use std::collections::HashMap;

use bytes::Bytes;
use napi::bindgen_prelude::{Array, BufferSlice, Either, Env, Uint8Array, Utf16String};
use napi_derive::napi;
use qwen_accounts::{AccountChanges, Availability, DeviceAuthorization, Kind, QuotaWindow, Token};
use qwen_base::{Error, Event, KeyPlan, Result, Secret, Tier, instant_from_number};
use qwen_client::{
    AccessToken, AccountInfo, AccountUsage, Counts, Estimate, Finding, FoundCredential, ImportedKey, Input,
    KeyOptions, LoginOptions, OfferedModel, Prices, Summary, Thinking, ThinkingLevel,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::body::ResponseBody;

pub type Variables = HashMap<String, String>;

/// Reads options, which JavaScript has validated.
///
/// # Errors
/// `ERR_QWEN_INTERNAL` for a value of another type.
pub fn read_options<T: DeserializeOwned>(options: Value) -> Result<T> {
    serde_json::from_value(options).map_err(Error::internal)
}

/// `DeviceAuthorization` of index.d.ts.
#[napi(object, object_to_js = false)]
pub struct Authorization {
    pub device_code: String,
    pub user_code: String,
    pub verification_uri: String,
    pub verification_uri_complete: String,
    pub expires_in: f64,
    pub interval: f64,
    pub code_verifier: String,
}

#[napi(object, object_to_js = false)]
pub struct LoginSettings {
    pub label: Option<String>,
    pub replace: Option<String>,
    pub open_browser: Option<bool>,
}

impl From<LoginSettings> for LoginOptions {
    fn from(settings: LoginSettings) -> Self {
        Self { label: settings.label, replace: settings.replace, open_browser: settings.open_browser }
    }
}

#[napi(object, object_to_js = false)]
pub struct KeySettings {
    pub key: String,
    /// A name of `KeyPlan`.
    pub plan: Option<String>,
    pub region: Option<String>,
    pub base_url: Option<String>,
    pub label: Option<String>,
    /// A name of `Tier`.
    pub tier: Option<String>,
    pub check: Option<bool>,
}

impl From<KeySettings> for KeyOptions {
    fn from(settings: KeySettings) -> Self {
        Self {
            key: Secret::new(settings.key),
            plan: settings.plan.as_deref().and_then(KeyPlan::from_name),
            region: settings.region,
            base_url: settings.base_url,
            label: settings.label,
            tier: settings.tier.as_deref().and_then(Tier::from_name),
            check: settings.check.unwrap_or(true),
        }
    }
}

#[napi(object, object_to_js = false)]
pub struct AccountUpdate {
    pub label: Option<String>,
    pub enabled: Option<bool>,
}

impl From<AccountUpdate> for AccountChanges {
    fn from(update: AccountUpdate) -> Self {
        Self { label: update.label, enabled: update.enabled }
    }
}

/// Tokens in a host's own store.
#[napi(object, object_to_js = false)]
pub struct HostTokens {
    pub access: String,
    pub refresh: String,
    /// Epoch milliseconds.
    pub expires: f64,
}

/// Separates strings that cross the boundary as one, because each crossing costs more than its length. No header or
/// method can contain it.
pub const SEPARATOR: char = '\0';

/// Bytes, or a string in JavaScript's own encoding. Converting it to UTF-8 takes several times as long and can happen
/// off the main thread.
pub type RequestBody = Either<Utf16String, Uint8Array>;

/// A response. JavaScript gets it as an array of its fields.
pub struct FetchResponse {
    pub status: u16,
    pub status_text: &'static str,
    pub url: String,
    /// Names and values in turn, each followed by a [`SEPARATOR`].
    pub headers: String,
    pub content: Content,
}

pub enum Content {
    /// The complete body.
    Whole(Bytes),
    /// A body that is still arriving.
    Stream(ResponseBody),
}

impl FetchResponse {
    ///
    /// # Errors
    /// Errors of the runtime, such as lack of memory.
    pub fn into_array(self, env: &Env) -> napi::Result<Array<'_>> {
        let mut fields = env.create_array(5)?;
        fields.set(0, self.status)?;
        fields.set(1, self.status_text)?;
        fields.set(2, self.url)?;
        fields.set(3, self.headers)?;
        match self.content {
            Content::Whole(bytes) => fields.set(4, BufferSlice::copy_from(env, bytes)?)?,
            Content::Stream(body) => fields.set(4, body)?,
        }
        Ok(fields)
    }
}

impl From<HostTokens> for Token {
    fn from(tokens: HostTokens) -> Self {
        Self {
            access_token: Secret::new(tokens.access),
            refresh_token: Some(Secret::new(tokens.refresh)),
            token_type: "Bearer".to_owned(),
            resource_url: None,
            scope: None,
            expires_at: instant_from_number(tokens.expires).unwrap_or(0),
        }
    }
}

impl From<Authorization> for DeviceAuthorization {
    fn from(authorization: Authorization) -> Self {
        Self {
            device_code: Secret::new(authorization.device_code),
            user_code: authorization.user_code,
            verification_uri: authorization.verification_uri,
            verification_uri_complete: authorization.verification_uri_complete,
            expires_in: authorization.expires_in,
            interval: authorization.interval,
            code_verifier: Secret::new(authorization.code_verifier),
        }
    }
}

impl From<&DeviceAuthorization> for Authorization {
    fn from(authorization: &DeviceAuthorization) -> Self {
        Self {
            device_code: authorization.device_code.expose().to_owned(),
            user_code: authorization.user_code.clone(),
            verification_uri: authorization.verification_uri.clone(),
            verification_uri_complete: authorization.verification_uri_complete.clone(),
            expires_in: authorization.expires_in,
            interval: authorization.interval,
            code_verifier: authorization.code_verifier.expose().to_owned(),
        }
    }
}

impl Authorization {
    pub fn into_value(self) -> Value {
        json!({
            "deviceCode": self.device_code,
            "userCode": self.user_code,
            "verificationUri": self.verification_uri,
            "verificationUriComplete": self.verification_uri_complete,
            "expiresIn": self.expires_in,
            "interval": self.interval,
            "codeVerifier": self.code_verifier,
        })
    }
}

/// `Token` in index.d.ts.
pub fn token_value(token: &Token) -> Value {
    without_null(json!({
        "accessToken": token.access_token.expose(),
        "refreshToken": token.refresh_token.as_ref().map(Secret::expose),
        "tokenType": token.token_type,
        "resourceUrl": token.resource_url,
        "scope": token.scope,
        "expiresAt": token.expires_at,
    }))
}

/// The result of `getAccessToken`.
pub fn access_token_value(token: &AccessToken) -> Value {
    json!({
        "accessToken": token.access_token.expose(),
        "baseUrl": token.base_url,
        "accountId": token.account_id,
        "expiresAt": token.expires_at,
    })
}

/// `Account` in index.d.ts.
pub fn account_value(account: &AccountInfo) -> Value {
    without_null(json!({
        "id": account.id,
        "label": account.label,
        "kind": account.kind.as_str(),
        "plan": account.plan.map(KeyPlan::as_str),
        "region": account.region,
        "active": account.active,
        "enabled": account.enabled,
        "state": match account.availability {
            Availability::Ready => "ready",
            Availability::Cooling(_) => "cooling",
            Availability::Rejected | Availability::Dead => "needs-login",
        },
        "baseUrl": account.base_url,
        "expiresAt": account.expires_at,
        "coolingUntil": match account.availability {
            Availability::Cooling(until) => Some(until),
            _ => None,
        },
        "quotaWindow": account.quota_window.map(QuotaWindow::as_str),
        "createdAt": account.created_at,
        "updatedAt": account.updated_at,
        "lastError": account.last_error.as_ref().map(|error| {
            json!({"code": error.code, "message": error.message, "at": error.at})
        }),
    }))
}

/// `Model` in index.d.ts, and under `host` the settings for `OpenCode`'s configuration.
pub fn model_value(model: &OfferedModel) -> Value {
    let Thinking { toggle, efforts, budget, mandatory } = &model.thinking;
    let thinking = without_null(json!({
        "toggle": toggle.then_some(true),
        "efforts": (!efforts.is_empty()).then_some(efforts),
        "budget": budget,
        "mandatory": mandatory.then_some(true),
    }));
    without_null(json!({
        "id": model.id,
        "name": model.name,
        "context": model.context,
        "output": model.output,
        "input": model.input.iter().map(|input| Input::as_str(*input)).collect::<Vec<_>>(),
        "accounts": model.accounts,
        "thinking": (thinking != json!({})).then_some(thinking),
        "host": without_null(json!({
            "reasoning": model.reasoning,
            "interleaved": model.interleaved,
            "temperature": model.temperature,
            "released": model.released,
            "prices": model.prices.as_ref().map(prices_value),
            "levels": model.thinking_levels().iter().map(level_value).collect::<Vec<_>>(),
        })),
    }))
}

fn prices_value(prices: &Prices) -> Value {
    without_null(json!({
        "input": prices.input,
        "output": prices.output,
        "cache_read": prices.cache_read,
        "cache_write": prices.cache_write,
        "context_over_200k": prices.context_over_200k.as_deref().map(prices_value),
    }))
}

fn level_value(level: &ThinkingLevel) -> Value {
    without_null(json!({
        "name": level.name,
        "enable": level.enable,
        "budget": level.budget,
        "effort": level.effort,
    }))
}

/// `FoundCredential` in index.d.ts as `credential`, and details for the command line.
pub fn found_value(found: &FoundCredential) -> Value {
    let plan = match found.kind {
        Kind::Key(plan) => plan.map(KeyPlan::as_str),
        Kind::OAuth => None,
    };
    let credential = without_null(json!({
        "source": found.source,
        "provider": found.provider,
        "plan": plan,
        "region": found.region,
        "baseUrl": found.base_url,
        "lastFour": found.last_four,
        "known": found.known,
    }));
    json!({
        "id": found.id,
        "credential": credential,
        "alsoIn": found.also_in,
        "login": found.kind == Kind::OAuth,
        "foreign": found.foreign,
        "takenWithAll": found.taken_with_all,
    })
}

pub fn imported_value(imported: &ImportedKey) -> Value {
    let (account, error) = match &imported.outcome {
        Ok(account) => (Some(account_value(account)), None),
        Err(error) => (None, Some(error_value(error))),
    };
    without_null(json!({"found": found_value(&imported.found), "account": account, "error": error}))
}

/// `Usage` in index.d.ts.
pub fn usage_value(usage: &AccountUsage) -> Value {
    let Summary { hour, five_hours, today, week, month, hours, days } = &usage.summary;
    let row = |name: &str, at: Value, counts: &Counts| {
        let mut row = json!(counts);
        row[name] = at;
        row
    };
    let estimate = |estimate: &Estimate| {
        let Estimate { window, requests, limit } = estimate;
        json!({"window": window.as_str(), "requests": requests, "limit": limit, "percent": estimate.percent()})
    };
    without_null(json!({
        "accountId": usage.account_id,
        "label": usage.label,
        "estimates": (!usage.estimates.is_empty()).then(|| usage.estimates.iter().map(estimate).collect::<Vec<_>>()),
        "hour": hour,
        "fiveHours": five_hours,
        "today": today,
        "week": week,
        "month": month,
        "hours": hours.iter().map(|(at, counts)| row("at", json!(at), counts)).collect::<Vec<_>>(),
        "days": days.iter().map(|(date, counts)| row("date", json!(date), counts)).collect::<Vec<_>>(),
    }))
}

/// `QwenEvent` in index.d.ts.
pub fn event_value(event: &Event) -> Value {
    without_null(json!({
        "type": event.kind.as_str(),
        "at": event.at,
        "message": event.message,
        "accountId": event.account_id,
        "label": event.label,
        "fromAccountId": event.from_account_id,
        "until": event.until,
        "code": event.code.map(qwen_base::Code::as_str),
    }))
}

/// `Finding` in index.d.ts.
pub fn finding_value(finding: &Finding) -> Value {
    without_null(json!({
        "id": finding.id,
        "state": finding.state.as_str(),
        "message": finding.message,
        "fix": finding.fix,
    }))
}

/// Returns the fields of a `QwenAuthError`.
pub fn error_value(error: &Error) -> Value {
    without_null(json!({
        "code": error.code().as_str(),
        "message": error.message(),
        "status": error.status(),
        "oauthError": error.oauth_error(),
        "accountId": error.account_id(),
        "path": error.path().map(|path| path.to_string_lossy()),
        "retryAfterMs": error.retry_after_ms(),
        "retryable": error.is_retryable(),
        "cause": error.cause().map(error_value),
    }))
}

/// Removes null fields: missing optional properties are left out.
fn without_null(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            Value::Object(fields.into_iter().filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>())
        }
        other => other,
    }
}
