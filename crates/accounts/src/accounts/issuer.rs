//! The OAuth server of the settings, and the accounts that it may serve.

use qwen_base::{
    Code, Error, Result,
    fault::{self, Safeguard},
};
use url::Url;

use super::account::Account;
use crate::model::Binding;
use crate::oauth::OAuthConfig;

/// Base URL of the API that the user has set for logins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrlOverride {
    /// The base URL.
    pub url: Url,
    /// Variable or option that sets it.
    pub named_by: String,
    /// The URL applies to accounts of this issuer.
    pub issuer: Issuer,
}

/// The OAuth server of the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// Token endpoint.
    pub token_endpoint: Url,
    /// Variable or option that sets it; `None` for the default.
    pub named_by: Option<String>,
}

impl Issuer {
    /// Returns the issuer of these settings.
    #[must_use]
    pub fn of(config: &OAuthConfig) -> Self {
        Self { token_endpoint: config.token_endpoint.clone(), named_by: config.named_by.clone() }
    }

    /// Returns the binding that counts with this issuer. An uncertain binding counts only if the user has set the
    /// issuer.
    #[must_use]
    pub fn effective<'a>(&self, binding: Option<&'a Binding>) -> Option<&'a Binding> {
        binding.filter(|binding| {
            (binding.is_certain || self.named_by.is_some()) && !fault::omits(Safeguard::Binding)
        })
    }

    /// Checks that an account's tokens may be redeemed with this issuer.
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

    /// True if an account has to be bound to this issuer before it is used.
    #[must_use]
    pub fn must_bind(&self, binding: Option<&Binding>) -> bool {
        self.effective(binding)
            .is_none_or(|binding| !binding.is_certain && binding.token_endpoint == self.token_endpoint)
    }
}

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
    use crate::model::binding::tests::binding;

    fn issuer(base: &str, named_by: Option<&str>) -> Issuer {
        Issuer { token_endpoint: Url::parse(base).unwrap(), named_by: named_by.map(str::to_owned) }
    }

    #[test]
    fn an_uncertain_binding_counts_only_against_a_configured_issuer() {
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
