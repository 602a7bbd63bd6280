//! Where an account's tokens belong: the server that issued them, and the API that takes them. Pure.
//!
//! A binding is made at the first use, or at the login. From then on the account's refresh token goes to that server and its
//! access token to that API, whatever the environment of a later process says.

use qwen_base::{
    Code, Error, Result, api_base_url,
    fault::{self, Safeguard},
    host_url,
};
use serde_json::{Map, Value, json};
use url::Url;

use super::account::Account;
use super::identity::fingerprint;
use crate::oauth::OAuthConfig;
use crate::oauth::token::Token;

/// Where an account's tokens belong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The token endpoint of the issuer.
    pub token_endpoint: Url,
    /// The client that the tokens were issued to.
    pub client_id: String,
    /// The API base URL.
    pub base_url: Url,
    /// The `resource_url` that the token had at that time. If the issuer names another one later, that one counts.
    pub resource_url: Option<String>,
    /// False where the token may be another login's, which then has no binding of its own yet.
    pub is_certain: bool,
}

/// An API base URL that the user has set for logins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrlOverride {
    /// The base URL.
    pub url: Url,
    /// The variable or option that names it.
    pub named_by: String,
    /// The issuer whose accounts it is for.
    pub issuer: Issuer,
}

/// The OAuth server that the settings name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// Its token endpoint.
    pub token_endpoint: Url,
    /// The variable or option that names it; `None` for the default.
    pub named_by: Option<String>,
}

impl Issuer {
    /// The issuer of these settings.
    #[must_use]
    pub fn of(config: &OAuthConfig) -> Self {
        Self { token_endpoint: config.token_endpoint.clone(), named_by: config.named_by.clone() }
    }

    /// Returns the binding that counts where this issuer is set: an uncertain one only counts against an issuer that the
    /// user has named.
    #[must_use]
    pub fn effective<'a>(&self, binding: Option<&'a Binding>) -> Option<&'a Binding> {
        binding.filter(|binding| {
            (binding.is_certain || self.named_by.is_some()) && !fault::omits(Safeguard::Binding)
        })
    }

    /// Checks that an account's tokens may be redeemed while this issuer is set.
    ///
    /// # Errors
    /// `ERR_QWEN_INVALID_CONFIG` if the user has named this issuer and the account belongs to another.
    pub fn expect(&self, account: &Account) -> Result<()> {
        let Some((setting, binding)) = self.named_by.as_ref().zip(self.effective(account.binding.as_ref()))
        else {
            return Ok(());
        };
        if binding.token_endpoint == self.token_endpoint {
            return Ok(());
        }
        Err(other_issuer(setting, &account.label, binding, &self.token_endpoint).with_account(&account.id))
    }

    /// True where an account has to be bound to this issuer before it is used.
    #[must_use]
    pub fn must_bind(&self, binding: Option<&Binding>) -> bool {
        self.effective(binding)
            .is_none_or(|binding| !binding.is_certain && binding.token_endpoint == self.token_endpoint)
    }
}

impl Binding {
    /// Binds a token to the issuer of these settings and to an API base URL.
    #[must_use]
    pub fn new(config: &OAuthConfig, base_url: Url, token: &Token) -> Self {
        Self {
            token_endpoint: config.token_endpoint.clone(),
            client_id: config.client_id.clone(),
            base_url,
            resource_url: token.resource_url.clone(),
            is_certain: true,
        }
    }

    /// As it is written.
    #[must_use]
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

    /// Reads one; `None` where it names no host that a token may be sent to.
    #[must_use]
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

/// The fingerprint by which a login without a store is known.
#[must_use]
pub fn print_of(token: &Token) -> String {
    fingerprint(token.refresh_token.as_ref().unwrap_or(&token.access_token))
}

/// The error for an account of another server than the settings name.
#[must_use]
pub fn other_issuer(setting: &str, label: &str, binding: &Binding, named: &Url) -> Error {
    let host = |url: &Url| {
        let host = url.host_str().unwrap_or_default();
        url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    };
    let (own, named) = (host(&binding.token_endpoint), host(named));
    let message = format!(
        "{setting} is for accounts of {named}, and the Qwen account \"{label}\" belongs to {own}. Nothing was sent. Unset {setting} to use this account, or log in again to have one at {named}."
    );
    Error::new(Code::InvalidConfig, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer(base: &str, named_by: Option<&str>) -> Issuer {
        Issuer { token_endpoint: Url::parse(base).unwrap(), named_by: named_by.map(str::to_owned) }
    }

    fn binding(is_certain: bool) -> Binding {
        Binding {
            token_endpoint: Url::parse("https://one.example/token").unwrap(),
            client_id: "client".into(),
            base_url: Url::parse("https://api.one.example/v1").unwrap(),
            resource_url: None,
            is_certain,
        }
    }

    #[test]
    fn a_binding_is_read_as_it_was_written() {
        for is_certain in [true, false] {
            assert_eq!(Binding::from_value(&binding(is_certain).to_value()), Some(binding(is_certain)));
        }
        let mut insecure = binding(true).to_value();
        insecure["tokenEndpoint"] = "http://one.example/token".into();
        assert_eq!(Binding::from_value(&insecure), None);
    }

    #[test]
    fn an_uncertain_binding_only_counts_against_an_issuer_that_is_named() {
        let (default, named) =
            (issuer("https://two.example/t", None), issuer("https://two.example/t", Some("V")));
        let same = issuer("https://one.example/token", Some("V"));
        for (issuer, is_certain, counts, must_bind) in [
            (&default, true, true, false),
            (&default, false, false, true),
            (&named, false, true, false),
            (&same, false, true, true),
            (&same, true, true, false),
        ] {
            let binding = binding(is_certain);
            assert_eq!(issuer.effective(Some(&binding)).is_some(), counts);
            assert_eq!(issuer.must_bind(Some(&binding)), must_bind);
        }
        assert!(default.must_bind(None));
    }
}
