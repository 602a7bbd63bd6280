//! The servers that an account's tokens belong to: their issuer, and the API that accepts them. Pure.
//!
//! A binding is made at the login or at the first use. From then on the refresh token goes to that issuer and the
//! access token to that API, even if the environment of a later process names others.

use qwen_base::{api_base_url, host_url};
use serde_json::{Map, Value, json};
use url::Url;

use super::{Token, fingerprint};

/// Servers that an account's tokens belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    pub token_endpoint: Url,
    pub client_id: String,
    pub base_url: Url,
    /// The `resource_url` of the token when it was bound. If the issuer names another one later, the later one is used.
    pub resource_url: Option<String>,
    /// False if the token may belong to another login, which has no binding of its own yet.
    pub is_certain: bool,
}

impl Binding {
    pub fn to_value(&self) -> Value {
        let mut value = json!({
            "tokenEndpoint": self.token_endpoint.as_str(),
            "clientId": self.client_id,
            "baseUrl": self.base_url.as_str(),
            "resourceUrl": self.resource_url,
        });
        if !self.is_certain {
            value["uncertain"] = true.into();
        }
        value
    }

    /// Returns `None` if a URL names a host that tokens must not be sent to.
    pub fn from_value(value: &Value) -> Option<Self> {
        let fields: &Map<String, Value> = value.as_object()?;
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        Some(Self {
            token_endpoint: host_url(text("tokenEndpoint")?).ok()?,
            client_id: text("clientId")?.to_owned(),
            base_url: api_base_url(text("baseUrl")?).ok()?,
            resource_url: text("resourceUrl").map(str::to_owned),
            is_certain: !fields.get("uncertain").and_then(Value::as_bool).unwrap_or(false),
        })
    }
}

/// Identifies a login while it is the only account and the store has no record of it.
pub fn binding_fingerprint(token: &Token) -> String {
    fingerprint(token.refresh_token.as_ref().unwrap_or(&token.access_token))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn binding(is_certain: bool) -> Binding {
        Binding {
            token_endpoint: Url::parse("https://one.example/token").unwrap(),
            client_id: "client".into(),
            base_url: Url::parse("https://api.one.example/v1").unwrap(),
            resource_url: None,
            is_certain,
        }
    }

    #[test]
    fn a_binding_survives_a_round_trip() {
        for is_certain in [true, false] {
            assert_eq!(Binding::from_value(&binding(is_certain).to_value()), Some(binding(is_certain)));
        }
        let mut insecure = binding(true).to_value();
        insecure["tokenEndpoint"] = "http://one.example/token".into();
        assert_eq!(Binding::from_value(&insecure), None);
    }
}
