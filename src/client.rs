//! A client: one set of settings, and all that is done with them.

use std::sync::Arc;

use url::Url;

use crate::accounts::account::Account;
use crate::accounts::health::{Health, LastError};
use crate::base_url::display;
use crate::browser;
use crate::busy::Busy;
use crate::clock::Clock;
use crate::config::{ClientConfig, ClientOptions};
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::events::{Event, EventKind, Events};
use crate::http::Http;
use crate::oauth::OAuthClient;
use crate::oauth::device::DeviceAuthorization;
use crate::oauth::token::Token;
use crate::request::answer::Answer;
use crate::request::fetch::{Pipeline, Request, Settings};
use crate::secret::Secret;
use crate::store::credentials::{Credentials, CredentialsFile};
use crate::token_manager::TokenManager;

/// What a client is given by whoever runs it.
#[derive(Debug, Clone)]
pub struct Context {
    /// Whether errors are made final for `OpenCode`.
    pub for_host: bool,
    /// The time.
    pub clock: Clock,
    /// Who is told what happens.
    pub events: Events,
    /// Counts the work that must reach its end.
    pub busy: Busy,
}

/// Whether requests can be sent with an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountState {
    /// As far as is known, yes.
    Ready,
    /// Not before a new login.
    NeedsLogin,
}

/// An account as a person sees it: no secret is in it.
#[derive(Debug, Clone)]
pub struct AccountInfo {
    /// A stable id.
    pub id: String,
    /// A name for a person.
    pub label: String,
    /// Whether requests can be sent with it.
    pub state: AccountState,
    /// Where they go.
    pub base_url: String,
    /// When the access token expires, in epoch milliseconds.
    pub expires_at: u64,
    /// When its credentials were last written, in epoch milliseconds.
    pub updated_at: u64,
    /// What went wrong last.
    pub last_error: Option<LastError>,
}

/// A token for someone who sends requests without us.
#[derive(Debug, Clone)]
pub struct AccessToken {
    /// The token.
    pub access_token: Secret,
    /// The only host it may be sent to.
    pub base_url: String,
    /// Whose it is.
    pub account_id: String,
    /// When it expires, in epoch milliseconds.
    pub expires_at: u64,
}

/// One client.
#[derive(Debug)]
pub struct Client {
    base_url: String,
    base_url_override: Option<Url>,
    environment: Environment,
    oauth: OAuthClient,
    tokens: TokenManager,
    pipeline: Pipeline,
    health: Arc<Health>,
    account: Account,
}

impl Client {
    /// Reads the settings; opens nothing.
    ///
    /// # Errors
    /// As [`ClientConfig::read`].
    pub fn new(options: &ClientOptions, environment: Environment, context: Context) -> Result<Self> {
        let Context { for_host, clock, events, busy } = context;
        let config = ClientConfig::read(options, &environment)?;
        for message in &config.warnings {
            let at = clock.now_ms();
            events.emit(Event {
                kind: EventKind::Config,
                at,
                message: message.clone(),
                account_id: None,
                code: None,
            });
        }
        let http = Arc::new(Http::new(config.http));
        let oauth = OAuthClient::new(Arc::clone(&http), config.oauth, clock.clone());
        let tokens = TokenManager::new(oauth.clone(), clock.clone(), events.clone(), busy);
        let health = Arc::new(Health::default());
        let settings = Settings {
            base_url: config.base_url.clone(),
            base_url_override: config.base_url_override.clone(),
            qwen_mode: config.qwen_mode,
            idle_timeout: config.idle_timeout,
            for_host,
        };
        let pipeline = Pipeline::new(settings, http, tokens.clone(), Arc::clone(&health), clock, events);
        Ok(Self {
            base_url: display(&config.base_url),
            base_url_override: config.base_url_override,
            environment,
            oauth,
            tokens,
            pipeline,
            health,
            account: Account::of_the_cli(CredentialsFile::new(config.paths.credentials())),
        })
    }

    /// What callers build their URLs from.
    #[must_use]
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Sends a request; see [`Pipeline::fetch`].
    ///
    /// # Errors
    /// As [`Pipeline::fetch`].
    pub async fn fetch(&self, request: Request) -> Result<Answer> {
        self.pipeline.fetch(&self.account, request).await
    }

    /// Logs in: starts a device authorization, hands it to `on_authorization`, waits for the user, and keeps the tokens.
    ///
    /// # Errors
    /// Those of [`OAuthClient::request_device_authorization`], [`OAuthClient::poll_device_token`] and
    /// [`TokenManager::store_login`].
    pub async fn login(
        &self,
        open_browser: Option<bool>,
        on_authorization: impl FnOnce(&DeviceAuthorization) + Send,
    ) -> Result<AccountInfo> {
        let authorization = self.oauth.request_device_authorization().await?;
        on_authorization(&authorization);
        if open_browser.unwrap_or_else(|| browser::has_display(&self.environment)) {
            let address = authorization.verification_uri_complete.clone();
            // Starting a program can take a while, and the user may be faster by hand.
            drop(tokio::task::spawn_blocking(move || browser::open(&address)));
        }
        let token = self.oauth.poll_device_token(&authorization).await?;
        self.tokens.store_login(&self.account, token).await?;
        self.health.recovered(&self.account.id);
        let stored = self.tokens.credentials(&self.account).await?;
        let stored = stored.ok_or_else(|| Error::internal("the login was stored and is not there"))?;
        Ok(self.describe(&stored))
    }

    /// Takes tokens over that a host kept, if there is no credentials file. Says whether it did.
    ///
    /// # Errors
    /// Those of [`TokenManager::adopt`].
    pub async fn adopt(&self, token: Token) -> Result<bool> {
        self.tokens.adopt(&self.account, token).await
    }

    /// All accounts.
    ///
    /// # Errors
    /// `ERR_QWEN_CREDENTIALS_INVALID`, `ERR_QWEN_IO`.
    pub async fn accounts(&self) -> Result<Vec<AccountInfo>> {
        let credentials = self.tokens.credentials(&self.account).await?;
        Ok(credentials.iter().map(|credentials| self.describe(credentials)).collect())
    }

    /// A token that is fresh for 30 s at the least; see [`TokenManager::token`].
    ///
    /// # Errors
    /// `ERR_QWEN_INVALID_ARGUMENT` for an id that no account has, and those of [`TokenManager::token`].
    pub async fn access_token(&self, account_id: Option<&str>) -> Result<AccessToken> {
        if account_id.is_some_and(|id| id != self.account.id) {
            return Err(Error::invalid_argument(
                "accountId",
                "is not the id of an account; accounts() lists them",
            ));
        }
        let token = self.tokens.token(&self.account, None).await?;
        let base_url = self.account.base_url(&token, self.base_url_override.as_ref())?;
        Ok(AccessToken {
            access_token: token.access_token.clone(),
            base_url: display(&base_url),
            account_id: self.account.id.clone(),
            expires_at: token.expires_at,
        })
    }

    fn describe(&self, credentials: &Credentials) -> AccountInfo {
        let token = &credentials.token;
        let refusal = self.tokens.refusal(&self.account, credentials);
        let last = self.health.last(&self.account.id, &token.access_token);
        let needs_login = refusal.is_some() || last.as_ref().is_some_and(|(_, needs_login)| *needs_login);
        let base_url = self.account.base_url(token, self.base_url_override.as_ref());
        AccountInfo {
            id: self.account.id.clone(),
            label: self.account.label.clone(),
            state: if needs_login { AccountState::NeedsLogin } else { AccountState::Ready },
            base_url: base_url.map_or_else(|_| self.base_url.clone(), |url| display(&url)),
            expires_at: token.expires_at,
            updated_at: credentials.modified_at,
            last_error: last.map(|(error, _)| error),
        }
    }
}
