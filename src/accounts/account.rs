//! One account, as a value that is passed along.

use url::Url;

use crate::base_url::{DEFAULT_API_BASE_URL, api_base_url};
use crate::error::{Code, Error, Result};
use crate::oauth::token::Token;
use crate::store::credentials::CredentialsFile;

/// Where an account is and where its tokens are kept.
#[derive(Debug, Clone)]
pub struct Account {
    /// A stable id.
    pub id: String,
    /// A name for a person.
    pub label: String,
    /// The file that holds its tokens.
    pub credentials: CredentialsFile,
}

impl Account {
    /// The account that is shared with the qwen CLI.
    #[must_use]
    pub fn of_the_cli(credentials: CredentialsFile) -> Self {
        Self { id: "qwen-cli".to_owned(), label: "Qwen".to_owned(), credentials }
    }

    /// The base URL that this account's token is valid on.
    ///
    /// # Errors
    /// `ERR_QWEN_CREDENTIALS_INVALID` where the token names a host that no token may be sent to.
    pub fn base_url(&self, token: &Token, base_url_override: Option<&Url>) -> Result<Url> {
        if let Some(url) = base_url_override {
            return Ok(url.clone());
        }
        let named = token.resource_url.as_deref().unwrap_or(DEFAULT_API_BASE_URL);
        api_base_url(named).map_err(|reason| {
            let path = self.credentials.path();
            let message =
                format!("The resource_url in {} is not usable: it {reason}. Log in again.", path.display());
            Error::new(Code::CredentialsInvalid, message).with_path(path).with_account(&self.id)
        })
    }
}
