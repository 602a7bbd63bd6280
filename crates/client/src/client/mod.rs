//! A client: one set of settings and all operations on them.

mod credentials;
mod info;
mod models;
mod usage;

use std::path::PathBuf;
use std::sync::Arc;

use qwen_accounts::{
    Account, AccountChanges, BaseUrlOverride, CredentialsFile, DeviceAuthorization, Kind, LegacyFile,
    OAuthClient, Record, Registry, Revocation, StoreFile, Token, TokenManager, disabled_account,
    expect_login, unknown_account,
};
use qwen_base::{
    Busy, Clock, Code, Environment, Error, Event, EventKind, Events, Http, KnownSecrets, Logger, Paths,
    Price, Result, Secret, display_url,
};
use serde::Deserialize;
use url::Url;

pub use self::credentials::{FoundCredential, ImportedKey};
pub use self::info::{AccessToken, AccountInfo};
use self::models::ListReader;
pub use self::usage::AccountUsage;
use crate::browser;
use crate::cli::CliFallback;
use crate::config::{ClientConfig, ClientOptions};
use crate::discovery::Discovery;
use crate::keys::{self, KeyOptions, Recognised};
use crate::models::book::ModelBook;
use crate::request::answer::Answer;
use crate::request::attempt::Sender;
use crate::request::pipeline::{Journal, Pipeline, Settings};
use crate::request::prepare::Request;
use crate::request_log::RequestLog;
use crate::usage::{UsageBook, usage_file};

/// Things that the host hands to a client.
#[derive(Debug, Clone)]
pub struct Context {
    /// True to make errors final, so that `OpenCode` doesn't retry them.
    pub for_opencode: bool,
    /// Source of the time.
    pub clock: Clock,
    /// Listener for events.
    pub events: Events,
    /// Counts the work that must finish before the process ends.
    pub busy: Busy,
}

/// Settings of a login.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoginOptions {
    /// Name for the account.
    pub label: Option<String>,
    /// Id of the account to renew.
    pub replace: Option<String>,
    /// True to open the browser. Default: true if there is a display.
    pub open_browser: Option<bool>,
}

/// Sends requests and manages accounts, with one set of settings.
#[derive(Debug)]
pub struct Client {
    http: Arc<Http>,
    base_url: Url,
    base_url_override: Option<BaseUrlOverride>,
    environment: Environment,
    clock: Clock,
    events: Events,
    paths: Paths,
    oauth: OAuthClient,
    tokens: TokenManager,
    pipeline: Pipeline,
    usage: UsageBook,
    lists: ListReader,
    account_files: [PathBuf; 3],
}

impl Client {
    /// Reads the settings. Opens no file and no connection.
    ///
    /// # Errors
    /// As [`ClientConfig::read`].
    pub fn new(options: &ClientOptions, environment: Environment, context: Context) -> Result<Self> {
        let Context { for_opencode, clock, events, busy } = context;
        let config = ClientConfig::read(options, &environment)?;
        let secrets = KnownSecrets::default();
        let (logger, request_log) = open_logs(&config, &clock, &secrets);
        let events = logged(events, logger.clone());
        let cli = || CliFallback::new(environment.clone(), config.paths.clone(), clock.clone());
        let fallback = config.lenient.cli_fallback.then(|| Arc::new(cli().with_busy(busy.clone())));
        for message in config.http.warnings().chain(config.lenient.warnings) {
            events.emit(Event::new(EventKind::Config, clock.now_ms(), message));
        }
        let (paths, base_url, base_url_override) = (config.paths, config.base_url, config.base_url_override);
        let account_files = [paths.credentials(), config.accounts_path.0.clone(), paths.models()];
        let http = Arc::new(Http::new(config.http).telling(events.clone(), clock.clone()));
        let oauth = OAuthClient::new(Arc::clone(&http), config.oauth, clock.clone());
        let usage = UsageBook::new(usage_file(paths.usage()), clock.clone(), events.clone(), logger.clone());
        let book = ModelBook::new(paths.models(), clock.clone(), events.clone(), logger.clone());
        let tokens = TokenManager::new(
            oauth.clone(),
            Arc::new(open_registry(&paths, config.accounts_path, &clock, &events)),
            clock.clone(),
            events.clone(),
            busy,
            secrets,
            base_url_override.clone(),
        );
        let sender = Sender {
            http: Arc::clone(&http),
            base_url_override: base_url_override.clone(),
            idle_timeout: config.idle_timeout,
            for_opencode,
            clock: clock.clone(),
        };
        let settings = Settings {
            base_url: base_url.clone(),
            for_opencode,
            options: config.lenient.request,
            fallback,
            discovery: Discovery {
                environment: environment.clone(),
                paths: paths.clone(),
                working_directory: None,
            },
            models: book.clone(),
        };
        let lists = ListReader::new(&http, &tokens, book, &clock, &events, &logger);
        let journal = Journal {
            clock: clock.clone(),
            events: events.clone(),
            logger,
            request_log,
            usage: usage.clone(),
        };
        let pipeline = Pipeline::new(settings, sender, tokens.clone(), journal);
        Ok(Self {
            http,
            base_url,
            base_url_override,
            environment,
            clock,
            events,
            paths,
            oauth,
            tokens,
            pipeline,
            usage,
            lists,
            account_files,
        })
    }

    /// Closes idle connections.
    pub fn close(&self) {
        self.http.close();
    }

    /// Returns the base URL that callers build their URLs from.
    #[must_use]
    pub fn base_url(&self) -> String {
        display_url(&self.base_url)
    }

    /// Returns the paths of the files that hold accounts and models. A file may be missing.
    #[must_use]
    pub fn account_files(&self) -> &[PathBuf] {
        &self.account_files
    }

    /// Keeps a secret out of the logs.
    pub fn keep_secret(&self, secret: &Secret) {
        self.tokens.keep_secret(secret);
    }

    /// Returns the ids of the models that the accounts can be asked for.
    ///
    /// # Errors
    /// Those of [`Registry::snapshot`].
    pub async fn model_ids(&self) -> Result<Vec<String>> {
        let models = self.models(false).await?;
        Ok(models.into_iter().filter(|model| !model.accounts.is_empty()).map(|model| model.id).collect())
    }

    /// Sends a request; see [`Pipeline::fetch`].
    ///
    /// # Errors
    /// As [`Pipeline::fetch`].
    pub async fn fetch(&self, request: Request) -> Result<Answer> {
        self.lists.check_now_and_then();
        self.pipeline.fetch(request).await
    }

    /// Logs in with the device flow: gets a code, passes it to `on_authorization`, waits for the user's approval, and
    /// stores the tokens.
    ///
    /// # Errors
    /// `ERR_QWEN_INVALID_ARGUMENT` if `replace` is not an account; those of [`OAuthClient::request_device_authorization`],
    /// [`OAuthClient::poll_device_token`] and [`Registry::add_login`].
    pub async fn login(
        &self,
        options: LoginOptions,
        on_authorization: impl FnOnce(&DeviceAuthorization) + Send,
    ) -> Result<AccountInfo> {
        let LoginOptions { label, replace, open_browser } = options;
        if let Some(id) = replace.as_deref() {
            expect_login(&*self.tokens.snapshot().await?, id)?;
        }
        self.tokens.with_registry(Registry::prepare_login).await?;
        let authorization = self.oauth.request_device_authorization().await?;
        on_authorization(&authorization);
        if open_browser.unwrap_or_else(|| browser::has_display(&self.environment)) {
            let address = authorization.verification_uri_complete.clone();
            // Starting a program can be slow, and the user may open the address by hand before.
            let environment = self.environment.clone();
            drop(std::thread::Builder::new().name("qwen-browser".to_owned()).spawn(move || {
                browser::open(&environment, &address);
            }));
        }
        let token = self.oauth.poll_device_token(&authorization).await?;
        // The process must not end between the user's approval and the write of the tokens.
        let section = self.tokens.hold_end();
        let binding = self.tokens.binding_for(&token);
        let added = move |registry: &Registry| {
            let id = registry.add_login(&token, label.as_deref(), replace.as_deref())?;
            if let Some(binding) = binding {
                registry.rebind(&id, &binding)?;
            }
            registry.forget_host_login()?;
            Ok(id)
        };
        let id = self.tokens.with_registry(added).await?;
        drop(section);
        self.account(&id).await
    }

    /// Adds a key as an account after its server has accepted it, and reads the list of its models.
    ///
    /// # Errors
    /// Those of [`keys::recognise`] and [`Registry::add_key`].
    pub async fn add_api_key(&self, options: KeyOptions) -> Result<AccountInfo> {
        self.tokens.keep_secret(&options.key);
        let Recognised { key, notes } = keys::recognise(&self.http, &options).await?;
        self.tokens.keep_secret(&key.secret);
        let (label, is_checked) = (options.label, options.check);
        let add = move |registry: &Registry| {
            let active = registry.snapshot()?.document.active_id().map(str::to_owned);
            let id = registry.add_key(&key, label.as_deref())?;
            registry.forget_host_login()?;
            Ok((id, active))
        };
        let (id, active_before) = self.tokens.with_registry(add).await?;
        for note in notes {
            self.events.emit(Event::new(EventKind::Config, self.clock.now_ms(), note));
        }
        if is_checked {
            self.learn_models(&id).await;
        }
        let account = self.account(&id).await?;
        let is_new_choice = account.active && active_before.as_deref() != Some(&*account.id);
        if is_new_choice && account.kind.price() == Price::Metered {
            self.tell_active(&account, active_before, ".");
        }
        Ok(account)
    }

    /// Reports that another account became active. `why` ends the sentence.
    fn tell_active(&self, account: &AccountInfo, from_account_id: Option<String>, why: &str) {
        let price = account.kind.price().describe();
        let message = format!("The Qwen account \"{}\" is now the active one ({price}){why}", account.label);
        let now = self.clock.now_ms();
        let event = Event::of_account(EventKind::Switched, now, &account.id, &account.label, message);
        self.events.emit(Event { from_account_id, ..event });
    }

    /// Takes over tokens that a host has kept, if there is no account yet. Returns true if it did.
    ///
    /// # Errors
    /// Those of [`Registry::add_login`].
    pub async fn adopt(&self, token: Token) -> Result<bool> {
        let take_over = move |registry: &Registry| {
            let snapshot = registry.snapshot()?;
            let is_wanted = snapshot.document.records.is_empty()
                && snapshot.problem.is_none()
                && !snapshot.document.was_removed(&token);
            if is_wanted {
                registry.add_login(&token, None, None)?;
            }
            Ok(is_wanted)
        };
        self.tokens.with_registry(take_over).await
    }

    /// Records that `OpenCode` has an entry for this provider.
    ///
    /// # Errors
    /// Those of [`Registry::with_store`].
    pub async fn note_host_login(&self) -> Result<()> {
        let is_known = self.tokens.snapshot().await?.document.had_host_login();
        if is_known {
            return Ok(());
        }
        self.tokens.with_registry(Registry::note_host_login).await
    }

    /// True if `OpenCode` has ever had an entry for this provider.
    ///
    /// # Errors
    /// Those of [`Registry::snapshot`].
    pub async fn had_host_login(&self) -> Result<bool> {
        Ok(self.tokens.snapshot().await?.document.had_host_login())
    }

    /// Returns all accounts.
    ///
    /// # Errors
    /// `ERR_QWEN_CREDENTIALS_INVALID` if there is no account and the credentials file is damaged; those of
    /// [`Registry::snapshot`].
    pub async fn accounts(&self) -> Result<Vec<AccountInfo>> {
        let snapshot = self.tokens.snapshot().await?;
        match &snapshot.problem {
            Some(problem) if snapshot.document.is_empty() => Err(problem.clone()),
            _ => Ok(snapshot
                .listed(self.clock.now_ms())
                .map(|record| self.describe(&snapshot, record))
                .collect()),
        }
    }

    /// Makes an account the active one, here and for the qwen CLI. A login is refreshed first (see [`TokenManager::prove`]).
    /// If the server gives no verdict, the account is still chosen, and an event says so.
    ///
    /// # Errors
    /// Those of [`Registry::activate`]; those of [`TokenManager::prove`], such as `ERR_QWEN_REFRESH_TOKEN_INVALID`, for a
    /// login that no longer works. Nothing is changed then.
    pub async fn set_active_account(&self, id: &str) -> Result<AccountInfo> {
        let unchanged = |error: Error| error.with_advice("Nothing was changed.");
        let chosen = id.to_owned();
        let expected = self.tokens.with_registry(move |registry| registry.expect_choice(&chosen)).await;
        expected.map_err(unchanged)?;
        match self.tokens.prove(id).await {
            Ok(()) => {}
            Err(error) if error.code() == Code::RefreshUnavailable => {
                let message = format!("{} The account was chosen without a test.", error.message());
                let event = Event::new(EventKind::Config, self.clock.now_ms(), message);
                let account_id = Some(id.to_owned());
                self.events.emit(Event { account_id, code: Some(error.code()), ..event });
            }
            Err(error) => return Err(unchanged(error)),
        }
        let chosen = id.to_owned();
        let choose = move |registry: &Registry| {
            registry.activate(&chosen)?;
            registry.forget_host_login()
        };
        self.tokens.with_registry(choose).await?;
        self.account(id).await
    }

    /// Renames, enables or disables an account. If this disables the active account, the cheapest enabled one becomes
    /// active, and an event says so.
    ///
    /// # Errors
    /// Those of [`Registry::update`].
    pub async fn update_account(&self, id: &str, changes: AccountChanges) -> Result<AccountInfo> {
        let updated = id.to_owned();
        let before = self.tokens.snapshot().await?.document.active_id().map(str::to_owned);
        let active = self.tokens.with_registry(move |registry| registry.update(&updated, &changes)).await?;
        if let Some(active) = active {
            self.tell_active(&self.account(&active).await?, before, ": the previous one is disabled.");
        }
        self.account(id).await
    }

    /// Removes an account. With `revoke`, its login is also revoked at the server, if the server offers that; an event has
    /// the result. Returns the files that still contain a token of the account.
    ///
    /// # Errors
    /// Those of [`Registry::remove`].
    pub async fn remove_account(&self, id: &str, revoke: bool) -> Result<Vec<PathBuf>> {
        let snapshot = self.tokens.snapshot().await?;
        let record = snapshot.record(id);
        let account = record.map(|record| (snapshot.account(record), record.token()));
        let (removed, models) = (id.to_owned(), self.lists.book.clone());
        let remove = move |registry: &Registry| {
            let left_behind = registry.remove(&removed)?;
            models.forget(&removed);
            Ok(left_behind)
        };
        let left_behind = self.tokens.with_registry(remove).await?;
        if let Some((account, token)) = account.filter(|_| revoke) {
            let message = self.revoke(&account, token).await;
            let event = Event::of_account(
                EventKind::Config,
                self.clock.now_ms(),
                &account.id,
                &account.label,
                message,
            );
            self.events.emit(event);
        }
        Ok(left_behind)
    }

    /// Revokes a login's token and describes the result.
    async fn revoke(&self, account: &Account, token: Option<Token>) -> String {
        if account.kind != Kind::OAuth {
            return "A key can't be revoked from here: delete it in Alibaba's console.".to_owned();
        }
        let Some(refresh_token) = token.and_then(|token| token.refresh_token) else {
            return "The login has no refresh token to revoke.".to_owned();
        };
        match self.tokens.revoke(account, &refresh_token).await {
            Ok(Revocation::Revoked) => "The server has revoked the login.".to_owned(),
            Ok(Revocation::NotOffered) => {
                "The server doesn't support revocation. The login was removed here, but stays valid there until it expires."
                    .to_owned()
            }
            Err(error) => format!("The login was removed here, but not revoked: {}", error.message()),
        }
    }

    /// Returns a token that stays valid for at least 30 s; see [`TokenManager::token`].
    ///
    /// # Errors
    /// `ERR_QWEN_NOT_LOGGED_IN`; those of [`TokenManager::token`].
    pub async fn access_token(&self, account_id: Option<&str>) -> Result<AccessToken> {
        let snapshot = self.tokens.snapshot().await?;
        let Some(id) = account_id.or(snapshot.document.active_id()) else {
            return Err(self.discovery(None).explain(snapshot.no_account(), &snapshot.document).await);
        };
        if let Some(disabled) = snapshot.record(id).filter(|record| !record.is_enabled()) {
            let is_any_enabled = snapshot.document.all().any(Record::is_enabled);
            return Err(if account_id.is_some() || is_any_enabled {
                disabled_account("accountId", &snapshot.account(disabled))
            } else {
                snapshot.no_account()
            });
        }
        let token = self.tokens.token(id, None).await?;
        let record = snapshot.record(id).ok_or_else(|| unknown_account("accountId", id))?;
        let base_url = snapshot.account(record).base_url(&token, self.base_url_override.as_ref())?;
        Ok(AccessToken {
            access_token: token.access_token.clone(),
            base_url: display_url(&base_url),
            account_id: id.to_owned(),
            expires_at: token.expires_at,
        })
    }

    async fn account(&self, id: &str) -> Result<AccountInfo> {
        let snapshot = self.tokens.snapshot().await?;
        let record = snapshot.record(id).ok_or_else(|| unknown_account("id", id))?;
        Ok(self.describe(&snapshot, record))
    }
}

fn open_registry(
    paths: &Paths,
    (store, is_default): (PathBuf, bool),
    clock: &Clock,
    events: &Events,
) -> Registry {
    Registry::new(
        CredentialsFile::new(paths.credentials()),
        StoreFile::new(store, is_default),
        LegacyFile::new(paths.legacy_token()),
        clock.clone(),
        events.clone(),
    )
}

fn open_logs(config: &ClientConfig, clock: &Clock, secrets: &KnownSecrets) -> (Logger, RequestLog) {
    let logs = config.paths.logs();
    let logger = if config.lenient.debug_log {
        Logger::in_directory(&logs, clock.clone(), secrets.clone())
    } else {
        Logger::off()
    };
    let request_log = if config.lenient.request_log {
        RequestLog::in_directory(&logs, clock.clone(), secrets.clone(), logger.clone())
    } else {
        RequestLog::off()
    };
    (logger, request_log)
}

/// Sends events to the debug log too.
fn logged(events: Events, logger: Logger) -> Events {
    if !logger.is_on() {
        return events;
    }
    Events::new(move |event| {
        let account = event.account_id.as_deref().unwrap_or_default();
        logger.info(event.kind.as_str(), &[("account", &account), ("message", &event.message)]);
        events.emit(event);
    })
}
