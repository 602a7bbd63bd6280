//! The tokens of one login.

use qwen_base::Secret;
use serde_json::{Map, Value};

use super::fields::{instant, text};

/// The fields that the qwen CLI writes, in its order.
pub const FIELDS: [&str; 6] =
    ["access_token", "refresh_token", "token_type", "resource_url", "scope", "expiry_date"];
/// A token is refreshed this long before it expires.
const FRESHNESS_MARGIN_MS: u64 = 30_000;

/// The tokens of one login, as a server issued them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Authorizes API requests.
    pub access_token: Secret,
    /// Redeemed for the next access token. A refresh answer may leave it out: the old one stays valid then.
    pub refresh_token: Option<Secret>,
    /// `Bearer`, in practice.
    pub token_type: String,
    /// The API host that the token is valid on, in Qwen's dialect.
    pub resource_url: Option<String>,
    /// The granted scope.
    pub scope: Option<String>,
    /// Expiry of the access token, in epoch milliseconds.
    pub expires_at: u64,
}

impl Token {
    /// Reads the fields that the qwen CLI writes. An optional field of the wrong type counts as missing, and a token
    /// without a usable expiry as expired. Returns `None` without a usable `access_token`.
    #[must_use]
    pub fn read(fields: &Map<String, Value>) -> Option<Self> {
        let access_token =
            text(fields, "access_token").filter(|token| !token.chars().any(char::is_control))?;
        Some(Self {
            access_token: Secret::new(access_token),
            refresh_token: text(fields, "refresh_token").map(Secret::new),
            token_type: text(fields, "token_type").unwrap_or("Bearer").to_owned(),
            resource_url: text(fields, "resource_url").map(str::to_owned),
            scope: text(fields, "scope").map(str::to_owned),
            expires_at: fields.get("expiry_date").and_then(instant).unwrap_or(0),
        })
    }

    /// Writes the token into an object. Other fields stay.
    pub fn write(&self, fields: &mut Map<String, Value>) {
        let mut set = |field: &str, value: Option<&str>| match value {
            Some(value) => drop(fields.insert(field.to_owned(), value.into())),
            None => drop(fields.shift_remove(field)),
        };
        set("access_token", Some(self.access_token.expose()));
        set("refresh_token", self.refresh_token.as_ref().map(Secret::expose));
        set("token_type", Some(&self.token_type));
        set("resource_url", self.resource_url.as_deref());
        fields.insert("expiry_date".to_owned(), self.expires_at.into());
    }

    /// The access token, then the refresh token.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        std::iter::once(&self.access_token).chain(&self.refresh_token)
    }

    /// True if the token doesn't expire in the next 30 s.
    #[must_use]
    pub fn is_fresh(&self, now_ms: u64) -> bool {
        self.expires_at > now_ms.saturating_add(FRESHNESS_MARGIN_MS)
    }

    /// Fills the fields that a refresh answer left out from the old token.
    #[must_use]
    pub fn or_else_from(mut self, old: &Self) -> Self {
        self.refresh_token = self.refresh_token.or_else(|| old.refresh_token.clone());
        self.resource_url = self.resource_url.or_else(|| old.resource_url.clone());
        self.scope = self.scope.or_else(|| old.scope.clone());
        self
    }
}
