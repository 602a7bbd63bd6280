//! Converts JavaScript values to the core's and back. `lib/validate.js` has checked their types and ranges.

use std::collections::HashMap;

use bytes::Bytes;
use napi::bindgen_prelude::{Array, BufferSlice, Either, Env, Uint8Array, Utf16String};
use napi_derive::napi;
use qwen_accounts::{Availability, Kind, QuotaWindow, Token};
use qwen_base::{Error, Event, KeyPlan, Price, Result, Secret, instant_from_number};
use qwen_client::{
    AccessToken, AccountInfo, AccountUsage, Counts, Estimate, FoundCredential, ImportedKey, OfferedModel,
    Summary, Thinking,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::body::ResponseBody;

pub type Variables = HashMap<String, String>;

/// Reads options, which JavaScript has validated.
///
/// # Errors
/// `ERR_QWEN_INTERNAL` for a value of another type.
pub fn read_options<T: DeserializeOwned>(options: Value) -> Result<T> {
    serde_json::from_value(options).map_err(Error::internal)
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
    pub content: ResponseContent,
}

pub enum ResponseContent {
    /// The complete body.
    Whole(Bytes),
    /// A body that is still arriving.
    Stream(ResponseBody),
}

impl FetchResponse {
    /// Returns the fields as an array, in the order in which lib/native.js takes them.
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
            ResponseContent::Whole(bytes) => fields.set(4, BufferSlice::copy_from(env, bytes)?)?,
            ResponseContent::Stream(body) => fields.set(4, body)?,
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
        "plan": account.kind.plan().map(KeyPlan::as_str),
        "region": account.region,
        "billedByUse": (account.kind.price() == Price::Metered).then_some(true),
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
        "input": model.input,
        "accounts": model.accounts,
        "thinking": (thinking != json!({})).then_some(thinking),
        "host": {
            "reasoning": model.reasoning,
            "interleaved": model.interleaved,
            "temperature": model.temperature,
            "released": model.released,
            "prices": model.prices,
            "levels": model.thinking_levels(),
        },
    }))
}

/// `FoundCredential` in index.d.ts as `credential`, and details for the command line.
pub fn found_value(found: &FoundCredential) -> Value {
    without_null(json!({
        "id": found.id,
        "credential": {
            "source": found.source,
            "provider": found.provider,
            "plan": found.kind.plan().map(KeyPlan::as_str),
            "region": found.region,
            "baseUrl": found.base_url,
            "lastFour": found.last_four,
            "known": found.known,
        },
        "alsoIn": found.also_in,
        "login": found.kind == Kind::OAuth,
        "foreign": found.foreign,
        "takenWithAll": found.taken_with_all,
    }))
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

/// Removes null fields at any depth: missing optional properties are left out.
pub fn without_null(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let given = fields.into_iter().filter(|(_, value)| !value.is_null());
            given.map(|(name, value)| (name, without_null(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(without_null).collect(),
        other => other,
    }
}
