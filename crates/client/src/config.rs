//! Reads and checks options and environment variables.

use std::path::PathBuf;
use std::time::Duration;

use qwen_accounts::{
    BaseUrlOverride, Issuer, OAuthConfig, QWEN_CLIENT_ID, check_default_store_path, check_store_path,
};
use qwen_base::{
    Code, DEFAULT_API_BASE_URL, Environment, Error, HttpConfig, Paths, Result, api_base_url, host_url,
};
use serde::{
    Deserialize, Deserializer,
    de::{IntoDeserializer as _, value::StrDeserializer},
};
use url::Url;

pub const DEFAULT_OAUTH_BASE_URL: &str = "https://chat.qwen.ai";
/// Prefix of this package's own variables.
pub const VARIABLE_PREFIX: &str = "OPENCODE_QWEN_";
/// Names of the variables, without [`VARIABLE_PREFIX`].
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
/// Largest number of milliseconds that a setting may have. JavaScript's timers can't wait longer.
const LONGEST_MS: u64 = i32::MAX as u64;
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// Rule that spreads requests over the accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rotation {
    /// Use the active account until its quota is used up.
    #[default]
    Sequential,
    /// Use the next account for each request.
    RoundRobin,
    /// Like sequential, but each process starts with a different account.
    Hybrid,
}

/// OAuth settings from the caller. Each may be left out.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OAuthOptions {
    /// Base URL of the OAuth server, from which the endpoints follow if they are not given.
    pub base_url: Option<String>,
    /// Device authorization endpoint (RFC 8628 section 3.1).
    pub device_authorization_endpoint: Option<String>,
    /// Token endpoint (RFC 6749 section 3.2).
    pub token_endpoint: Option<String>,
    /// Id of the public OAuth client.
    pub client_id: Option<String>,
    /// Scopes, separated by spaces.
    pub scope: Option<String>,
    /// Time limit for one HTTP request. Default: 30 s.
    #[serde(rename = "timeoutMs", deserialize_with = "milliseconds")]
    pub timeout: Option<Duration>,
}

/// Client settings from the caller. Each may be left out, and then comes from the environment or has its default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientOptions {
    /// OAuth settings.
    pub oauth: OAuthOptions,
    /// API base URL for OAuth accounts, instead of the one that belongs to their token.
    pub base_url: Option<String>,
    /// Path of the account store.
    pub accounts_path: Option<String>,
    /// Time for which an account without quota is not asked. Default: 30 min.
    #[serde(rename = "quotaCooldownMs", deserialize_with = "milliseconds")]
    pub quota_cooldown: Option<Duration>,
    /// Rule that spreads requests over the accounts.
    pub rotation: Option<Rotation>,
    /// True to send a shorter request when all accounts are out of quota. Default: true.
    pub degrade: Option<bool>,
    /// True to ask the qwen CLI when all accounts are out of quota. Default: false.
    pub cli_fallback: Option<bool>,
    /// True to let a request move on to a more expensive kind of account. Default: false.
    pub allow_paid_fallback: Option<bool>,
    /// True to shape request bodies as the qwen CLI does. Default: true.
    pub qwen_mode: Option<bool>,
    /// Time limit for connecting. Default: 10 s.
    #[serde(rename = "connectTimeoutMs", deserialize_with = "milliseconds")]
    pub connect_timeout: Option<Duration>,
    /// Longest time without a byte from the server. Default: 300 s.
    #[serde(rename = "idleTimeoutMs", deserialize_with = "milliseconds")]
    pub idle_timeout: Option<Duration>,
}

fn milliseconds<'de, D: Deserializer<'de>>(value: D) -> std::result::Result<Option<Duration>, D::Error> {
    Ok(Option::<u64>::deserialize(value)?.map(Duration::from_millis))
}

/// Checked settings of the request path.
#[derive(Debug, Clone, Copy)]
pub struct RequestOptions {
    /// Time for which an account without quota is not asked, in milliseconds.
    pub quota_cooldown_ms: u64,
    pub rotation: Rotation,
    pub degrade: bool,
    pub allow_paid_fallback: bool,
    pub qwen_mode: bool,
}

/// Checked settings of a client.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Locations of the files.
    pub paths: Paths,
    /// The OAuth server.
    pub oauth: OAuthConfig,
    /// Proxies and certificates.
    pub http: HttpConfig,
    /// Base URL that callers send requests to. It never changes during the client's life.
    pub base_url: Url,
    /// Base URL for OAuth accounts, instead of the one that belongs to their token.
    pub base_url_override: Option<BaseUrlOverride>,
    /// Path of the account store, and true if that is the default path.
    pub accounts_path: (PathBuf, bool),
    /// Longest time without a byte from the server.
    pub idle_timeout: Duration,
    /// Settings with a default.
    pub lenient: LenientSettings,
}

/// Settings that have their default if they can't be read.
#[derive(Debug, Clone)]
pub struct LenientSettings {
    /// Settings of the request path.
    pub request: RequestOptions,
    /// True to ask the qwen CLI when all accounts are out of quota.
    pub cli_fallback: bool,
    /// True to write a debug log (`DEBUG_QWEN_PLUGIN`).
    pub debug_log: bool,
    /// True to log each request to its own file (`ENABLE_PLUGIN_REQUEST_LOGGING`).
    pub request_log: bool,
    /// Messages about settings that can't be read.
    pub warnings: Vec<String>,
}

impl ClientConfig {
    /// Reads options and environment. An option wins over a variable, and a variable over the default.
    ///
    /// # Errors
    /// `ERR_QWEN_INVALID_ARGUMENT` for an option that can't be used, `ERR_QWEN_INVALID_CONFIG` for such a variable.
    pub fn read(options: &ClientOptions, environment: &Environment) -> Result<Self> {
        let oauth = oauth_config(&options.oauth, environment, "oauth.")?;
        let base_url_override = base_url_override(options, environment, &oauth)?;
        let connect_timeout = options.connect_timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT);
        let http = HttpConfig::from_environment(environment, connect_timeout);
        let default_base_url = || api_base_url(DEFAULT_API_BASE_URL).map_err(Error::internal);
        let paths = Paths::from_environment(environment)?;
        let accounts_path = accounts_path(options.accounts_path.as_deref(), environment, &paths)?;
        Ok(Self {
            paths,
            oauth,
            http,
            base_url: base_url_override.as_ref().map_or_else(default_base_url, |set| Ok(set.url.clone()))?,
            base_url_override,
            accounts_path,
            idle_timeout: options.idle_timeout.unwrap_or(DEFAULT_IDLE_TIMEOUT),
            lenient: LenientSettings::read(options, environment),
        })
    }
}

impl LenientSettings {
    /// Reads options and environment, as [`ClientConfig::read`].
    #[must_use]
    pub fn read(options: &ClientOptions, environment: &Environment) -> Self {
        let mut warnings = Vec::new();
        let quota_cooldown = options.quota_cooldown.map(|cooldown| cooldown.as_millis());
        let quota_cooldown_ms = match quota_cooldown {
            Some(ms) => u64::try_from(ms).unwrap_or(u64::MAX),
            None => number(
                environment,
                "OPENCODE_QWEN_QUOTA_COOLDOWN_MS",
                DEFAULT_QUOTA_COOLDOWN_MS,
                &mut warnings,
            ),
        };
        let rotation = options.rotation.unwrap_or_else(|| rotation(environment, &mut warnings));
        let mut is_on = |option: Option<bool>, name: &str, default: bool| {
            option.unwrap_or_else(|| switch(environment, name, default, &mut warnings))
        };
        let degrade = is_on(options.degrade, "OPENCODE_QWEN_DEGRADE", true);
        let cli_fallback = is_on(options.cli_fallback, "OPENCODE_QWEN_ENABLE_CLI_FALLBACK", false);
        let allow_paid_fallback =
            is_on(options.allow_paid_fallback, "OPENCODE_QWEN_ALLOW_PAID_FALLBACK", false);
        let qwen_mode = is_on(options.qwen_mode, "QWEN_MODE", true);
        let debug_log = is_on(None, "DEBUG_QWEN_PLUGIN", false);
        let request_log = is_on(None, "ENABLE_PLUGIN_REQUEST_LOGGING", false);
        let request = RequestOptions { quota_cooldown_ms, rotation, degrade, allow_paid_fallback, qwen_mode };
        Self { request, cli_fallback, debug_log, request_log, warnings }
    }
}

pub fn base_url_override(
    options: &ClientOptions,
    environment: &Environment,
    oauth: &OAuthConfig,
) -> Result<Option<BaseUrlOverride>> {
    let source = UrlSource::option("baseUrl".to_owned(), options.base_url.as_deref())
        .or_variable(environment, "OPENCODE_QWEN_BASE_URL");
    let Some(source) = source else { return Ok(None) };
    let url = api_base_url(source.value).map_err(|reason| source.unusable(reason))?;
    Ok(Some(BaseUrlOverride { url, named_by: source.name, issuer: Issuer::of(oauth) }))
}

/// Reads the settings of an OAuth client. Errors name an option with `prefix` in front.
///
/// # Errors
/// As [`ClientConfig::read`].
pub fn oauth_config(options: &OAuthOptions, environment: &Environment, prefix: &str) -> Result<OAuthConfig> {
    let named = |name: &str| format!("{prefix}{name}");
    let given = UrlSource::option(named("baseUrl"), options.base_url.as_deref())
        .or_variable(environment, "OPENCODE_QWEN_OAUTH_BASE_URL");
    let named_by = match &options.token_endpoint {
        Some(_) => Some(named("tokenEndpoint")),
        None => given.as_ref().map(|source| source.name.clone()),
    };
    let base = given.unwrap_or_else(|| UrlSource::new("baseUrl".to_owned(), DEFAULT_OAUTH_BASE_URL));
    let mut base_url = secure_url(&base)?;
    if base_url.query().is_some() || base_url.fragment().is_some() {
        return Err(base.unusable("has a query or fragment"));
    }
    if !base_url.path().ends_with('/') {
        base_url.set_path(&format!("{}/", base_url.path()));
    }
    let endpoint = |name: &str, given: Option<&str>, path: &str| match UrlSource::option(named(name), given) {
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

/// A URL setting and the name that errors give it.
struct UrlSource<'a> {
    name: String,
    value: &'a str,
    code: Code,
}

trait OrVariable<'a> {
    fn or_variable(self, environment: &'a Environment, name: &str) -> Option<UrlSource<'a>>;
}

impl<'a> UrlSource<'a> {
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

impl<'a> OrVariable<'a> for Option<UrlSource<'a>> {
    fn or_variable(self, environment: &'a Environment, name: &str) -> Option<UrlSource<'a>> {
        let from_variable = |value| UrlSource { name: name.to_owned(), value, code: Code::InvalidConfig };
        self.or_else(|| environment.get(name).map(from_variable))
    }
}

fn secure_url(source: &UrlSource) -> Result<Url> {
    let text = source.value.trim();
    if !text.to_ascii_lowercase().starts_with("http") {
        return Err(source.unusable("is not a URL"));
    }
    host_url(text).map_err(|reason| source.unusable(reason))
}

/// Returns the path of the account store, and true if it is the default path. Fails if the path is not safe to write.
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
        check_default_store_path(&path, paths.qwen_dir())?;
    } else {
        check_store_path(name, &path, paths.qwen_dir())?;
    }
    Ok((path, is_default))
}

fn number(environment: &Environment, name: &str, default: u64, warnings: &mut Vec<String>) -> u64 {
    let Some(value) = environment.get(name) else { return default };
    let number = value.trim().parse().ok().filter(|ms| (1..=LONGEST_MS).contains(ms));
    number.unwrap_or_else(|| {
        warnings.push(format!(
            "{name} is not a whole number of milliseconds from 1 to {LONGEST_MS}; the default ({default}) is used."
        ));
        default
    })
}

fn rotation(environment: &Environment, warnings: &mut Vec<String>) -> Rotation {
    const VARIABLE: &str = "OPENCODE_QWEN_ROTATION";
    let Some(value) = environment.get(VARIABLE) else { return Rotation::default() };
    let name: StrDeserializer<'_, serde::de::value::Error> = value.trim().into_deserializer();
    Rotation::deserialize(name).unwrap_or_else(|_| {
        warnings.push(format!(
            "{VARIABLE} is not sequential, round-robin or hybrid; the default (sequential) is used."
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
                "{name} is neither 1/true/yes/on nor 0/false/no/off; the default ({used}) is used."
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

    fn lenient(options: &ClientOptions, pairs: &[(&str, &str)]) -> LenientSettings {
        LenientSettings::read(options, &pairs.iter().copied().collect())
    }

    #[test]
    fn options_win_over_variables_and_variables_over_defaults() {
        let config = read(&ClientOptions::default(), &[]).unwrap();
        assert_eq!(config.base_url.as_str(), DEFAULT_API_BASE_URL);
        assert_eq!(config.base_url_override, None);
        assert_eq!(config.oauth.token_endpoint.as_str(), "https://chat.qwen.ai/api/v1/oauth2/token");
        assert!(config.lenient.request.qwen_mode);

        let variables = [
            ("OPENCODE_QWEN_BASE_URL", "api.example"),
            ("OPENCODE_QWEN_OAUTH_BASE_URL", "https://login.example/sub"),
            ("QWEN_MODE", "off"),
        ];
        let config = read(&ClientOptions::default(), &variables).unwrap();
        assert_eq!(config.base_url.as_str(), "https://api.example/v1");
        assert_eq!(config.oauth.token_endpoint.as_str(), "https://login.example/sub/api/v1/oauth2/token");
        assert!(!config.lenient.request.qwen_mode);

        let options = ClientOptions {
            base_url: Some("https://mine.example/v1".into()),
            qwen_mode: Some(true),
            oauth: OAuthOptions {
                device_authorization_endpoint: Some("https://mine.example/device".into()),
                token_endpoint: Some("https://mine.example/token".into()),
                ..OAuthOptions::default()
            },
            ..ClientOptions::default()
        };
        let config = read(&options, &variables).unwrap();
        assert_eq!(config.base_url.as_str(), "https://mine.example/v1");
        assert_eq!(config.oauth.token_endpoint.as_str(), "https://mine.example/token");
        assert_eq!(config.oauth.device_authorization_endpoint.as_str(), "https://mine.example/device");
        assert!(config.lenient.request.qwen_mode);
    }

    #[test]
    fn errors_name_the_unusable_variable() {
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
    fn an_unreadable_value_gives_a_warning_and_its_default() {
        let cooldown = "OPENCODE_QWEN_QUOTA_COOLDOWN_MS";
        for (name, value) in [
            ("QWEN_MODE", "maybe"),
            ("OPENCODE_QWEN_ENABLE_CLI_FALLBACK", "perhaps"),
            (cooldown, "0"),
            (cooldown, "1.5"),
            (cooldown, "0x10"),
            (cooldown, "99999999999999999999999999"),
            ("OPENCODE_QWEN_ROTATION", "random"),
        ] {
            let config = lenient(&ClientOptions::default(), &[(name, value)]);
            assert!(config.warnings.len() == 1 && config.warnings[0].contains(name), "{name}={value}");
            let request = &config.request;
            assert!(request.qwen_mode && !config.cli_fallback && request.rotation == Rotation::Sequential);
            assert_eq!(request.quota_cooldown_ms, DEFAULT_QUOTA_COOLDOWN_MS);
        }
    }

    #[test]
    fn the_cli_fallback_is_off_by_default() {
        for (option, variable, is_on) in
            [(None, "", false), (None, "0", false), (Some(false), "1", false), (None, "1", true)]
        {
            let options = ClientOptions { cli_fallback: option, ..ClientOptions::default() };
            let config = lenient(&options, &[("OPENCODE_QWEN_ENABLE_CLI_FALLBACK", variable)]);
            assert_eq!(config.cli_fallback, is_on, "{option:?} {variable}");
        }
    }

    #[test]
    fn a_switch_has_several_spellings() {
        for (value, is_on) in [
            ("", true),
            ("1", true),
            ("true", true),
            ("YES", true),
            ("on", true),
            ("0", false),
            ("false", false),
            ("No", false),
            ("OFF", false),
        ] {
            let config = lenient(&ClientOptions::default(), &[("QWEN_MODE", value)]);
            assert_eq!((config.request.qwen_mode, config.warnings.len()), (is_on, 0), "{value}");
        }
    }

    #[test]
    fn all_variables_in_the_readme_are_known() {
        let readme = include_str!("../../../README.md");
        let names = readme.split(VARIABLE_PREFIX).skip(1);
        let names =
            names.filter_map(|rest| rest.split(|c: char| !(c.is_ascii_uppercase() || c == '_')).next());
        let names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
        assert!(names.len() > 5 && names.iter().all(|name| VARIABLES.contains(name)), "{names:?}");
    }

    #[test]
    fn logs_are_off_by_default() {
        let config = lenient(&ClientOptions::default(), &[]);
        assert!(!config.debug_log && !config.request_log);
        let variables = [("DEBUG_QWEN_PLUGIN", "1"), ("ENABLE_PLUGIN_REQUEST_LOGGING", "loud")];
        let config = lenient(&ClientOptions::default(), &variables);
        assert!(config.debug_log && !config.request_log);
        assert!(config.warnings[0].contains("ENABLE_PLUGIN_REQUEST_LOGGING"));
    }
}
