//! One account, as a value that is passed along.

use std::path::PathBuf;

use qwen_base::{
    Code, DEFAULT_API_BASE_URL, Error, MAX_LABEL, Redactor, Result, api_base_url, one_line, shell,
};
use url::Url;

use super::issuer::{BaseUrlOverride, other_issuer};
use crate::model::{Binding, Kind, Token};

/// An account that requests can be sent with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Stable id.
    pub id: String,
    /// Name for the user.
    pub label: String,
    /// Kind of the account.
    pub kind: Kind,
    /// File that holds the tokens.
    pub path: PathBuf,
    /// Servers that the tokens belong to; `None` before the first use, and for a key, which has a base URL of its own.
    pub binding: Option<Binding>,
}

impl Account {
    /// The id, made safe to show: ids in a file can hold any characters.
    #[must_use]
    pub fn shown_id(&self) -> String {
        one_line(&self.id, MAX_LABEL)
    }

    /// Base URL of the API that accepts the account's token. `base_url_override` applies only to logins of its issuer.
    ///
    /// # Errors
    /// `ERR_QWEN_CREDENTIALS_INVALID` if the token names a host that tokens must not be sent to,
    /// `ERR_QWEN_INVALID_CONFIG` if the override is for accounts of another issuer.
    pub fn base_url(&self, token: &Token, base_url_override: Option<&BaseUrlOverride>) -> Result<Url> {
        if let Some(set) = base_url_override.filter(|_| self.kind == Kind::OAuth) {
            let binding = set.issuer.effective(self.binding.as_ref());
            return match binding.filter(|binding| binding.token_endpoint != set.issuer.token_endpoint) {
                None => Ok(set.url.clone()),
                Some(binding) => {
                    let named = &set.issuer.token_endpoint;
                    Err(other_issuer(&set.named_by, &self.label, binding, named).with_account(&self.id))
                }
            };
        }
        let bound = self.binding.as_ref().filter(|binding| binding.is_certain);
        if let Some(binding) = bound.filter(|binding| binding.resource_url == token.resource_url) {
            return Ok(binding.base_url.clone());
        }
        let named = token.resource_url.as_deref().unwrap_or(DEFAULT_API_BASE_URL);
        api_base_url(named).map_err(|reason| {
            let path = self.path.display();
            let (field, advice) = match self.kind {
                Kind::OAuth => ("resource_url", "Log in again."),
                Kind::Key(_) => ("baseUrl", "Add the key again."),
            };
            let message = format!(
                "The {field} of the Qwen account \"{}\" in {path} is not usable: it {reason}. {advice}",
                self.label
            );
            self.error(Code::CredentialsInvalid, message)
        })
    }

    /// Returns an error that names this account and its file.
    #[must_use]
    pub fn error(&self, code: Code, message: impl Into<String>) -> Error {
        Error::new(code, message).with_account(&self.id).with_path(&self.path)
    }
}

/// The error for a disabled account in a place that needs an enabled one.
#[must_use]
pub fn disabled_account(field: &str, account: &Account) -> Error {
    let label = &account.label;
    let expected = format!(
        "is the account \"{label}\", which is disabled. Enable it first: npx opencode-qwen-cli-auth enable {}",
        shell::operand(label)
    );
    Error::invalid_argument(field, &expected).with_account(&account.id)
}

/// The error for an unknown id.
#[must_use]
pub fn unknown_account(field: &str, id: &str) -> Error {
    let shown = Redactor::default().text(&one_line(id, 64));
    Error::new(
        Code::InvalidArgument,
        format!("{field} is not an account: {shown}. The list of accounts has their ids."),
    )
}
