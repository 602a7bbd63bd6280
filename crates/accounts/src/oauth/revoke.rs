//! Token revocation (RFC 7009), if the server's metadata (RFC 8414) offers it. Qwen's server does not, as far as is
//! known.

use http::header::ACCEPT;
use http::{HeaderValue, Method};
use qwen_base::{Code, Error, Result, Secret, host_url};
use serde_json::Value;
use url::Url;

use super::OAuthClient;

/// Largest metadata that is read.
const MAX_METADATA: usize = 64 * 1024;
const METADATA_PATH: &str = "/.well-known/oauth-authorization-server";

/// Result of a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// The server revoked the token.
    Revoked,
    /// The server offers no revocation.
    NotOffered,
}

impl OAuthClient {
    /// Asks the issuer to revoke a refresh token.
    ///
    /// # Errors
    /// `ERR_QWEN_NETWORK`, `ERR_QWEN_TIMEOUT`, `ERR_QWEN_OAUTH_ERROR` if the server refused.
    pub async fn revoke(&self, refresh_token: &Secret) -> Result<Revocation> {
        let Some(endpoint) = self.revocation_endpoint().await? else { return Ok(Revocation::NotOffered) };
        let form = [
            ("token", refresh_token.expose()),
            ("token_type_hint", "refresh_token"),
            ("client_id", self.config().client_id.as_str()),
        ];
        let status = self.post(&endpoint, &form, None, self.config().timeout).await?.status;
        if (200..300).contains(&status) {
            return Ok(Revocation::Revoked);
        }
        let message = format!("The OAuth server did not revoke the login (status {status}).");
        Err(Error::new(Code::OAuthError, message).with_status(status))
    }

    /// Returns the revocation endpoint in the server's metadata, if it has the server's own origin.
    async fn revocation_endpoint(&self) -> Result<Option<Url>> {
        let issuer = &self.config().token_endpoint;
        let mut url = issuer.clone();
        url.set_path(METADATA_PATH);
        url.set_query(None);
        let mut request = reqwest::Request::new(Method::GET, url);
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        let answer = self.http.exchange(request, self.config().timeout, MAX_METADATA).await?;
        if !answer.status.is_success() {
            return Ok(None);
        }
        let metadata = answer.body?.and_then(|body| serde_json::from_slice::<Value>(&body).ok());
        let named = metadata.as_ref().and_then(|metadata| metadata.get("revocation_endpoint")?.as_str());
        let endpoint = named.and_then(|named| host_url(named).ok());
        Ok(endpoint.filter(|endpoint| endpoint.origin() == issuer.origin()))
    }
}
