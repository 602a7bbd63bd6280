//! OAuth client: device authorization (RFC 8628) with PKCE (RFC 7636), and refresh (RFC 6749 section 6).

pub mod device;
pub mod error_response;
mod gated_body;
pub mod pkce;
pub mod poll;
pub mod redemption;
pub mod retries;
pub mod revoke;

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method};
use qwen_base::{Clock, Code, Error, Http, Result, Secret, TransportError, retry_after_of};
use tokio::time::{Instant, sleep};
use url::{Url, form_urlencoded};

use self::device::DeviceAuthorization;
use self::error_response::{OAuthAnswer, OAuthBody};
use self::gated_body::GatedBody;
use self::poll::{Next, PollReply, Polling};
use self::redemption::Redemption;
use self::retries::RefreshRetries;
use crate::model::Token;

/// Largest answer that is read.
const MAX_BODY: usize = 1024 * 1024;

/// Time limit of the last poll, which may exceed the code's lifetime a little.
const LAST_POLL: Duration = Duration::from_secs(1);

const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// An OAuth server, and the client to log in as.
#[derive(Debug, Clone)]
pub struct OAuthConfig {
    /// RFC 8628 section 3.1.
    pub device_authorization_endpoint: Url,
    /// RFC 6749 section 3.2.
    pub token_endpoint: Url,
    /// Id of a public client.
    pub client_id: String,
    /// Scopes, separated by spaces.
    pub scope: String,
    /// Limit of one HTTP request, answer included.
    pub timeout: Duration,
    /// Variable or option that sets the server; `None` for Qwen's own.
    pub named_by: Option<String>,
}

/// Client of one OAuth server.
#[derive(Debug, Clone)]
pub struct OAuthClient {
    http: Arc<Http>,
    config: OAuthConfig,
    clock: Clock,
}

impl OAuthClient {
    /// Creates a client. It sends nothing yet.
    #[must_use]
    pub fn new(http: Arc<Http>, config: OAuthConfig, clock: Clock) -> Self {
        Self { http, config, clock }
    }

    /// The server and the client id.
    #[must_use]
    pub const fn config(&self) -> &OAuthConfig {
        &self.config
    }

    /// Returns the same client for tokens of another server.
    #[must_use]
    pub fn at(&self, token_endpoint: Url, client_id: String) -> Self {
        let config = OAuthConfig { token_endpoint, client_id, ..self.config.clone() };
        Self { config, ..self.clone() }
    }

    /// Starts a login (RFC 8628 section 3.1).
    ///
    /// # Errors
    /// `ERR_QWEN_DEVICE_AUTHORIZATION_FAILED`, `ERR_QWEN_INVALID_RESPONSE`, `ERR_QWEN_NETWORK`, `ERR_QWEN_TIMEOUT`.
    pub async fn request_device_authorization(&self) -> Result<DeviceAuthorization> {
        let verifier = pkce::code_verifier()?;
        let challenge = pkce::code_challenge(&verifier);
        let form = [
            ("client_id", self.config.client_id.as_str()),
            ("scope", &self.config.scope),
            ("code_challenge", &challenge),
            ("code_challenge_method", pkce::CODE_CHALLENGE_METHOD),
        ];
        // Qwen expects a request id here, and on no other request.
        let request_id = uuid::Uuid::new_v4().to_string();
        let endpoint = &self.config.device_authorization_endpoint;
        let answer = self.post(endpoint, &form, Some(&request_id), self.config.timeout).await?;
        device::read_device_authorization(&answer, &self.config.client_id, verifier)
    }

    /// Polls until the user has decided or the code has expired (RFC 8628 sections 3.4 and 3.5).
    ///
    /// # Errors
    /// `ERR_QWEN_ACCESS_DENIED`, `ERR_QWEN_DEVICE_CODE_EXPIRED`, `ERR_QWEN_OAUTH_ERROR`, `ERR_QWEN_INVALID_RESPONSE`.
    pub async fn poll_device_token(&self, authorization: &DeviceAuthorization) -> Result<Token> {
        let form = [
            ("grant_type", DEVICE_GRANT),
            ("client_id", self.config.client_id.as_str()),
            ("device_code", authorization.device_code.expose()),
            ("code_verifier", authorization.code_verifier.expose()),
        ];
        let started = Instant::now();
        let mut polling = Polling::new(authorization.interval, authorization.expires_in);
        let mut last_trouble = None;
        loop {
            match polling.next(started.elapsed()) {
                Next::AskAfter(wait) => sleep(wait).await,
                Next::ExpireAfter(left) => {
                    sleep(left).await;
                    let error = poll::expired_error();
                    return Err(match last_trouble {
                        Some(cause) => error.with_source(cause),
                        None => error,
                    });
                }
            }
            let left = polling.left(started.elapsed()).max(LAST_POLL);
            let limit = self.config.timeout.min(left);
            let reply = match self.post(&self.config.token_endpoint, &form, None, limit).await {
                Ok(answer) => poll::read_poll(&answer, self.clock.now_ms()),
                // An unreadable certificate file stays unreadable, so waiting is useless.
                Err(error) if !error.is_retryable() => PollReply::Failed(error),
                Err(error) => PollReply::Trouble(error),
            };
            polling.note(&reply);
            match reply {
                PollReply::Approved(token) => return Ok(token),
                PollReply::Failed(error) => return Err(error),
                PollReply::Trouble(error) => last_trouble = Some(error),
                PollReply::Pending | PollReply::SlowDown => last_trouble = None,
            }
        }
    }

    /// Redeems a refresh token, with up to two retries while the server gives no verdict on it. Changes no file.
    ///
    /// # Errors
    /// `ERR_QWEN_REFRESH_TOKEN_INVALID`, `ERR_QWEN_REFRESH_UNAVAILABLE`, `ERR_QWEN_INVALID_RESPONSE`.
    pub async fn refresh_access_token(&self, refresh_token: &Secret) -> Result<Token> {
        let mut retries = RefreshRetries::new(2);
        loop {
            match self.redeem(refresh_token, self.config.timeout).await {
                Redemption::Redeemed(token) => return Ok(token),
                Redemption::Refused(error) | Redemption::Unusable(error) => return Err(error),
                Redemption::Unavailable { cause, in_doubt } => match retries.next_delay(&cause, in_doubt) {
                    Some(delay) => sleep(delay).await,
                    None => return Err(refresh_unavailable(cause)),
                },
            }
        }
    }

    /// Sends one refresh request, limited by `limit` and the configured timeout (RFC 6749 section 6).
    pub async fn redeem(&self, refresh_token: &Secret, limit: Duration) -> Redemption {
        let sent = self.redeem_if(refresh_token, limit, || true).await;
        // `may_send` is always true here, so `None` means that the deadline passed.
        sent.unwrap_or_else(|| {
            let late = TransportError::no_answer("the OAuth server", limit);
            Redemption::Unavailable { cause: late.error, in_doubt: false }
        })
    }

    /// As [`OAuthClient::redeem`], if `may_send` returns true; `None` otherwise. It is called when the connection is
    /// open, just before the token is sent: connecting can take seconds, and the process can sleep meanwhile. After the
    /// deadline the token is not sent either, since its answer would be lost.
    pub async fn redeem_if(
        &self,
        refresh_token: &Secret,
        limit: Duration,
        may_send: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Option<Redemption> {
        let form = [
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh_token.expose()),
            ("client_id", self.config.client_id.as_str()),
        ];
        let limit = limit.min(self.config.timeout);
        let started = Instant::now();
        let may_send = move || may_send() && started.elapsed() < limit;
        let (body, send_state) = GatedBody::new(encoded(&form), Box::new(may_send));
        let outcome = self.post_body(&self.config.token_endpoint, body.into(), None, limit).await;
        if send_state.was_withheld() {
            return None;
        }
        Some(match outcome {
            Ok(answer) => redemption::read_refresh(&answer, self.clock.now_ms()),
            Err(error) if !error.is_retryable() => Redemption::Unusable(error),
            Err(cause) => Redemption::Unavailable { cause, in_doubt: !send_state.withhold() },
        })
    }

    async fn post(
        &self,
        endpoint: &Url,
        form: &[(&str, &str)],
        request_id: Option<&str>,
        limit: Duration,
    ) -> Result<OAuthAnswer> {
        self.post_body(endpoint, encoded(form).into(), request_id, limit).await
    }

    async fn post_body(
        &self,
        endpoint: &Url,
        body: reqwest::Body,
        request_id: Option<&str>,
        limit: Duration,
    ) -> Result<OAuthAnswer> {
        let mut request = reqwest::Request::new(Method::POST, endpoint.clone());
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(id) = request_id {
            headers.insert("x-request-id", HeaderValue::from_str(id).map_err(Error::internal)?);
        }
        *request.body_mut() = Some(body);
        let answer = self.http.exchange(request, limit, MAX_BODY).await?;
        Ok(OAuthAnswer {
            status: answer.status.as_u16(),
            retry_after_ms: retry_after_of(&answer.headers, self.clock.now_ms()),
            body: OAuthBody::read(answer.body?.as_deref()),
        })
    }
}

fn encoded(form: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish()
}

/// The error of a refresh without a verdict: the login is kept, and a later try may succeed.
pub fn refresh_unavailable(cause: Error) -> Error {
    let message = format!(
        "The Qwen token could not be refreshed now: {} The login is kept; try again when the server can be reached.",
        cause.message()
    );
    let mut error =
        Error::new(Code::RefreshUnavailable, message).retryable().with_retry_after_ms(cause.retry_after_ms());
    if let Some(status) = cause.status() {
        error = error.with_status(status);
    }
    error.with_oauth_error(cause.oauth_error().map(str::to_owned)).with_source(cause)
}
