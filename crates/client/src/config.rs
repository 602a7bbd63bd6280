//! Options and environment variables, made into values that are known to be usable.

use std::path::PathBuf;
use std::time::Duration;

use qwen_accounts::{BaseUrlOverride, Issuer, OAuthConfig, QWEN_CLIENT_ID, place};
use qwen_base::{
    Code, DEFAULT_API_BASE_URL, Environment, Error, HttpConfig, Paths, Result, api_base_url, host_url,
};
use url::Url;

/// Qwen's OAuth server.
pub const DEFAULT_OAUTH_BASE_URL: &str = "https://chat.qwen.ai";
/// Every variable of ours that has this prefix.
pub const VARIABLE_PREFIX: &str = "OPENCODE_QWEN_";
/// What may follow [`VARIABLE_PREFIX`].
pub const VARIABLES: [&str; 8] = [
    "ACCOUNTS_PATH",
    "ALLOW_PAID_FALLBACK",
    "BASE_URL",
    "DEGRADE",
    "ENABLE_CLI_FALLBACK",
    "OAUTH_BASE_URL",
    "QUOTA_COOLDOWN_MS",
    "ROTATION",
];
const DEVICE_AUTHORIZATION_PATH: &str = "api/v1/oauth2/device/code";
const TOKEN_PATH: &str = "api/v1/oauth2/token";
const DEFAULT_SCOPE: &str = "openid profile email model.completion";

const DEFAULT_OAUTH_TIMEOUT: Duration = Duration::from_secs(30);
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_QUOTA_COOLDOWN_MS: u64 = 1_800_000;
/// The longest time that a number in the environment may stand for, as for options: what JavaScript's timers can wait.
const LONGEST_MS: u64 = i32::MAX as u64;
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// How requests are spread over the accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rotation {
    /// The active account until it is exhausted.
    #[default]
    Sequential,
    /// A turn for each request.
    RoundRobin,
    /// Like sequential, with each process starting at another account.
    Hybrid,
}

impl Rotation {
    /// Reads its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "sequential" => Some(Self::Sequential),
            "round-robin" => Some(Self::RoundRobin),
            "hybrid" => Some(Self::Hybrid),
            _ => None,
        }
    }
}

/// OAuth settings as a caller gives them.
#[derive(Debug, Clone, Default)]
pub struct OAuthOptions {
    /// Where the endpoints are, unless they are given themselves.
    pub base_url: Option<String>,
    /// RFC 8628 section 3.1.
    pub device_authorization_endpoint: Option<String>,
    /// RFC 6749 section 3.2.
    pub token_endpoint: Option<String>,
    /// A public client's id.
    pub client_id: Option<String>,
    /// Scopes, separated by spaces.
    pub scope: Option<String>,
    /// Limit of one HTTP request.
    pub timeout: Option<Duration>,
}

/// Client settings as a caller gives them.
#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    /// OAuth settings.
    pub oauth: OAuthOptions,
    /// API base URL for OAuth accounts.
    pub base_url: Option<String>,
    /// The account store.
    pub accounts_path: Option<String>,
    /// How long an exhausted account is left alone.
    pub quota_cooldown: Option<Duration>,
    /// How requests are spread over the accounts.
    pub rotation: Option<Rotation>,
    /// Whether a smaller payload is tried when every account is out of quota.
    pub degrade: Option<bool>,
    /// Whether the qwen CLI is asked when every account is out of quota.
    pub cli_fallback: Option<bool>,
    /// Whether a request may move on to a dearer kind of account.
    pub allow_paid_fallback: Option<bool>,
    /// Whether bodies are shaped as the official CLI shapes them.
    pub qwen_mode: Option<bool>,
    /// Limit of making a connection.
    pub connect_timeout: Option<Duration>,
    /// How long a request may stay silent.
    pub idle_timeout: Option<Duration>,
}

/// Everything a client needs to know, checked.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the user's")]
pub struct ClientConfig {
    /// Where the files are.
    pub paths: Paths,
    /// The OAuth server.
    pub oauth: OAuthConfig,
    /// Proxies and certificates.
    pub http: HttpConfig,
    /// The base URL that callers address, for the client's life.
    pub base_url: Url,
    /// Where OAuth accounts are sent instead of their own host.
    pub base_url_override: Option<BaseUrlOverride>,
    /// The account store, and whether it is where it is by default.
    pub accounts_path: (PathBuf, bool),
    /// How long an exhausted account is left alone.
    pub quota_cooldown: Duration,
    /// How requests are spread over the accounts.
    pub rotation: Rotation,
    /// Whether a smaller payload is tried when every account is out of quota.
    pub degrade: bool,
    /// Whether the qwen CLI is asked when every account is out of quota.
    pub cli_fallback: bool,
    /// Whether a request may move on to a dearer kind of account.
    pub allow_paid_fallback: bool,
    /// Whether bodies are shaped as the official CLI shapes them.
    pub qwen_mode: bool,
    /// How long a request may stay silent.
    pub idle_timeout: Duration,
    /// Whether a debug log is written (`DEBUG_QWEN_PLUGIN`; off by default).
    pub debug_log: bool,
    /// Whether each request is logged to a file of its own (`ENABLE_PLUGIN_REQUEST_LOGGING`; off by default).
    pub request_log: bool,
    /// Settings that could not be read and were replaced by their default, for a person to see.
    pub warnings: Vec<String>,
}

impl ClientConfig {
    /// Reads options and environment; an option wins over the environment, the environment over the default.
    ///
    /// # Errors
    /// `ERR_QWEN_INVALID_ARGUMENT` for an option, `ERR_QWEN_INVALID_CONFIG` for a variable that is not usable.
    pub fn read(options: &ClientOptions, environment: &Environment) -> Result<Self> {
        let mut warnings = Vec::new();
        let oauth = oauth_config(&options.oauth, environment, "oauth.")?;
        let base_url_override = base_url_override(options, environment, &oauth)?;
        let connect_timeout = options.connect_timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT);
        let http = HttpConfig::from_environment(environment, connect_timeout);
        warnings.extend(http.warnings());
        let default_base_url = || api_base_url(DEFAULT_API_BASE_URL).map_err(Error::internal);
        let paths = Paths::from_environment(environment)?;
        let accounts_path = accounts_path(options.accounts_path.as_deref(), environment, &paths)?;
        Ok(Self {
            paths,
            accounts_path,
            quota_cooldown: options.quota_cooldown.unwrap_or_else(|| {
                let ms = number(
                    environment,
                    "OPENCODE_QWEN_QUOTA_COOLDOWN_MS",
                    DEFAULT_QUOTA_COOLDOWN_MS,
                    &mut warnings,
                );
                Duration::from_millis(ms)
            }),
            rotation: options.rotation.unwrap_or_else(|| rotation(environment, &mut warnings)),
            degrade: options
                .degrade
                .unwrap_or_else(|| switch(environment, "OPENCODE_QWEN_DEGRADE", true, &mut warnings)),
            cli_fallback: options.cli_fallback.unwrap_or_else(|| {
                switch(environment, "OPENCODE_QWEN_ENABLE_CLI_FALLBACK", false, &mut warnings)
            }),
            allow_paid_fallback: options.allow_paid_fallback.unwrap_or_else(|| {
                switch(environment, "OPENCODE_QWEN_ALLOW_PAID_FALLBACK", false, &mut warnings)
            }),
            oauth,
            http,
            base_url: base_url_override.as_ref().map_or_else(default_base_url, |set| Ok(set.url.clone()))?,
            base_url_override,
            qwen_mode: options
                .qwen_mode
                .unwrap_or_else(|| switch(environment, "QWEN_MODE", true, &mut warnings)),
            idle_timeout: options.idle_timeout.unwrap_or(DEFAULT_IDLE_TIMEOUT),
            debug_log: switch(environment, "DEBUG_QWEN_PLUGIN", false, &mut warnings),
            request_log: switch(environment, "ENABLE_PLUGIN_REQUEST_LOGGING", false, &mut warnings),
            warnings,
        })
    }
}

/// Where OAuth accounts are sent instead of their own host.
///
/// # Errors
/// As [`ClientConfig::read`].
pub fn base_url_override(
    options: &ClientOptions,
    environment: &Environment,
    oauth: &OAuthConfig,
) -> Result<Option<BaseUrlOverride>> {
    let source = Source::option("baseUrl".to_owned(), options.base_url.as_deref())
        .or_variable(environment, "OPENCODE_QWEN_BASE_URL");
    let Some(source) = source else { return Ok(None) };
    let url = api_base_url(source.value).map_err(|reason| source.unusable(reason))?;
    Ok(Some(BaseUrlOverride { url, named_by: source.name, issuer: Issuer::of(oauth) }))
}

/// The settings of an OAuth client. `prefix` is what the options' names begin with for the caller.
///
/// # Errors
/// As [`ClientConfig::read`].
pub fn oauth_config(options: &OAuthOptions, environment: &Environment, prefix: &str) -> Result<OAuthConfig> {
    let named = |name: &str| format!("{prefix}{name}");
    let given = Source::option(named("baseUrl"), options.base_url.as_deref())
        .or_variable(environment, "OPENCODE_QWEN_OAUTH_BASE_URL");
    let named_by = match &options.token_endpoint {
        Some(_) => Some(named("tokenEndpoint")),
        None => given.as_ref().map(|source| source.name.clone()),
    };
    let base = given.unwrap_or_else(|| Source::new("baseUrl".to_owned(), DEFAULT_OAUTH_BASE_URL));
    let mut base_url = secure_url(&base)?;
    if base_url.query().is_some() || base_url.fragment().is_some() {
        return Err(base.unusable("holds a query or fragment"));
    }
    if !base_url.path().ends_with('/') {
        base_url.set_path(&format!("{}/", base_url.path()));
    }
    let endpoint = |name: &str, given: Option<&str>, path: &str| match Source::option(named(name), given) {
        Some(source) => secure_url(&source),
        None => base_url.join(path).map_err(Error::internal),
    };
    Ok(OAuthConfig {
        device_authorization_endpoint: endpoint(
            "deviceAuthorizationEndpoint",
            options.device_authorization_endpoint.as_deref(),
            DEVICE_AUTHORIZATION_PATH,
        )?,
        token_endpoint: endpoint("tokenEndpoint", options.token_endpoint.as_deref(), TOKEN_PATH)?,
        client_id: options.client_id.clone().unwrap_or_else(|| QWEN_CLIENT_ID.to_owned()),
        scope: options.scope.clone().unwrap_or_else(|| DEFAULT_SCOPE.to_owned()),
        timeout: options.timeout.unwrap_or(DEFAULT_OAUTH_TIMEOUT),
        named_by,
    })
}

/// A setting and where it came from, so that an error can name it.
struct Source<'a> {
    name: String,
    value: &'a str,
    code: Code,
}

trait OrVariable<'a> {
    fn or_variable(self, environment: &'a Environment, name: &str) -> Option<Source<'a>>;
}

impl<'a> Source<'a> {
    fn new(name: String, value: &'a str) -> Self {
        Self { name, value, code: Code::InvalidArgument }
    }

    fn option(name: String, value: Option<&'a str>) -> Option<Self> {
        value.map(|value| Self::new(name, value))
    }

    fn unusable(&self, reason: &str) -> Error {
        Error::new(
            self.code,
            format!(
                "{} is not usable: it {reason}. Set it to a URL such as https://host.example, or leave it out.",
                self.name
            ),
        )
    }
}

impl<'a> OrVariable<'a> for Option<Source<'a>> {
    fn or_variable(self, environment: &'a Environment, name: &str) -> Option<Source<'a>> {
        let from_variable = |value| Source { name: name.to_owned(), value, code: Code::InvalidConfig };
        self.or_else(|| environment.get(name).map(from_variable))
    }
}

fn secure_url(source: &Source) -> Result<Url> {
    let text = source.value.trim();
    if !text.to_ascii_lowercase().starts_with("http") {
        return Err(source.unusable("is not a URL"));
    }
    host_url(text).map_err(|reason| source.unusable(reason))
}

/// Where the account store is, and whether that is its default place: options and variables that name it must name a place
/// that is safe to write.
///
/// # Errors
/// As [`ClientConfig::read`].
pub fn accounts_path(
    option: Option<&str>,
    environment: &Environment,
    paths: &Paths,
) -> Result<(PathBuf, bool)> {
    const VARIABLE: &str = "OPENCODE_QWEN_ACCOUNTS_PATH";
    let given = option
        .map(|value| ("accountsPath", value))
        .or_else(|| environment.get(VARIABLE).map(|value| (VARIABLE, value)));
    let (name, path) = match given {
        Some((name, value)) => (name, paths.from_user(value)),
        None => ("oauth_accounts.json", paths.accounts()),
    };
    let is_default = path == paths.accounts();
    if is_default {
        place::check_default(&path, paths.qwen_dir())?;
    } else {
        place::check(name, &path, paths.qwen_dir())?;
    }
    Ok((path, is_default))
}

fn number(environment: &Environment, name: &str, default: u64, warnings: &mut Vec<String>) -> u64 {
    let Some(value) = environment.get(name) else { return default };
    let number = value.trim().parse().ok().filter(|ms| (1..=LONGEST_MS).contains(ms));
    number.unwrap_or_else(|| {
        warnings.push(format!(
            "{name} is not a whole number of milliseconds from 1 to {LONGEST_MS}; its default ({default}) is used."
        ));
        default
    })
}

fn rotation(environment: &Environment, warnings: &mut Vec<String>) -> Rotation {
    const VARIABLE: &str = "OPENCODE_QWEN_ROTATION";
    let Some(value) = environment.get(VARIABLE) else { return Rotation::default() };
    Rotation::from_name(value.trim()).unwrap_or_else(|| {
        warnings.push(format!(
            "{VARIABLE} is none of sequential, round-robin, hybrid; its default (sequential) is used."
        ));
        Rotation::default()
    })
}

fn switch(environment: &Environment, name: &str, default: bool, warnings: &mut Vec<String>) -> bool {
    let Some(value) = environment.get(name) else { return default };
    match value.trim().to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => true,
        "0" | "false" | "no" | "off" => false,
        _ => {
            let used = if default { "on" } else { "off" };
            warnings.push(format!(
                "{name} is neither 1/true/yes/on nor 0/false/no/off; its default ({used}) is used."
            ));
            default
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &ClientOptions, pairs: &[(&str, &str)]) -> Result<ClientConfig> {
        let environment = pairs.iter().copied().chain([("HOME", "/h"), ("USERPROFILE", "C:\\h")]).collect();
        ClientConfig::read(options, &environment)
    }

    #[test]
    fn an_option_wins_over_the_environment_and_that_over_the_default() {
        let config = read(&ClientOptions::default(), &[]).unwrap();
        assert_eq!(config.base_url.as_str(), DEFAULT_API_BASE_URL);
        assert_eq!(config.base_url_override, None);
        assert_eq!(config.oauth.token_endpoint.as_str(), "https://chat.qwen.ai/api/v1/oauth2/token");
        assert!(config.qwen_mode);

        let variables = [
            ("OPENCODE_QWEN_BASE_URL", "api.example"),
            ("OPENCODE_QWEN_OAUTH_BASE_URL", "https://login.example/sub"),
            ("QWEN_MODE", "off"),
        ];
        let config = read(&ClientOptions::default(), &variables).unwrap();
        assert_eq!(config.base_url.as_str(), "https://api.example/v1");
        assert_eq!(config.oauth.token_endpoint.as_str(), "https://login.example/sub/api/v1/oauth2/token");
        assert!(!config.qwen_mode);

        let options = ClientOptions {
            base_url: Some("https://mine.example/v1".into()),
            qwen_mode: Some(true),
            oauth: OAuthOptions {
                token_endpoint: Some("https://mine.example/token".into()),
                ..OAuthOptions::default()
            },
            ..ClientOptions::default()
        };
        let config = read(&options, &variables).unwrap();
        assert_eq!(config.base_url.as_str(), "https://mine.example/v1");
        assert_eq!(config.oauth.token_endpoint.as_str(), "https://mine.example/token");
        assert!(config.qwen_mode);
    }

    #[test]
    fn a_variable_that_is_not_usable_is_named() {
        for (name, value) in [
            ("OPENCODE_QWEN_BASE_URL", "http://portal.qwen.ai"),
            ("OPENCODE_QWEN_BASE_URL", "https://user:secret@portal.qwen.ai"),
            ("OPENCODE_QWEN_OAUTH_BASE_URL", "chat.qwen.ai"),
            ("OPENCODE_QWEN_OAUTH_BASE_URL", "http://chat.qwen.ai"),
        ] {
            let error = read(&ClientOptions::default(), &[(name, value)]).unwrap_err();
            assert_eq!(error.code(), Code::InvalidConfig);
            assert!(
                error.message().contains(name) && !error.message().contains("secret"),
                "{}",
                error.message()
            );
        }
        let options = ClientOptions { base_url: Some("nonsense://x".into()), ..ClientOptions::default() };
        assert_eq!(read(&options, &[]).unwrap_err().code(), Code::InvalidArgument);
    }

    #[test]
    fn a_switch_that_cannot_be_read_is_told_and_its_default_used() {
        let config = read(&ClientOptions::default(), &[("QWEN_MODE", "maybe")]).unwrap();
        assert!(config.qwen_mode);
        assert!(config.warnings[0].contains("QWEN_MODE"));
    }

    #[test]
    fn every_variable_of_the_readme_is_known() {
        let readme = include_str!("../../../README.md");
        let names = readme.split(VARIABLE_PREFIX).skip(1);
        let names =
            names.filter_map(|rest| rest.split(|c: char| !(c.is_ascii_uppercase() || c == '_')).next());
        let names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
        assert!(names.len() > 5 && names.iter().all(|name| VARIABLES.contains(name)), "{names:?}");
    }

    #[test]
    fn logs_are_off_unless_they_are_turned_on() {
        let config = read(&ClientOptions::default(), &[]).unwrap();
        assert!(!config.debug_log && !config.request_log);
        let variables = [("DEBUG_QWEN_PLUGIN", "1"), ("ENABLE_PLUGIN_REQUEST_LOGGING", "loud")];
        let config = read(&ClientOptions::default(), &variables).unwrap();
        assert!(config.debug_log && !config.request_log);
        assert!(config.warnings[0].contains("ENABLE_PLUGIN_REQUEST_LOGGING"));
    }
}
