//! Checks options and environment variables. Reports all problems at once.

use std::path::PathBuf;

use qwen_accounts::{BaseUrlOverride, CredentialsFile, OAuthConfig, StoreFile};
use qwen_base::{Environment, Error, HttpConfig, Paths, UnreadableProxy};

use super::finding::{Finding, unset};
use super::removal::remove;
use super::{Doctor, PATIENCE};
use crate::config::{self, LenientSettings};

const ID: &str = "settings";

/// The usable settings.
#[derive(Debug, Default)]
pub struct CheckedSettings {
    pub paths: Option<Paths>,
    pub store: Option<(PathBuf, bool)>,
    pub oauth: Option<OAuthConfig>,
    pub http: Option<HttpConfig>,
    pub base_url_override: Option<BaseUrlOverride>,
    pub cli_fallback: bool,
}

impl CheckedSettings {
    pub fn store_file(&self) -> Option<StoreFile> {
        self.store.as_ref().map(|(path, is_default)| StoreFile::new(path.clone(), *is_default))
    }

    pub fn credentials_file(&self) -> Option<CredentialsFile> {
        self.paths.as_ref().map(|paths| CredentialsFile::new(paths.credentials()))
    }
}

pub fn check(doctor: &Doctor) -> (CheckedSettings, Vec<Finding>) {
    let Doctor { options, environment, .. } = doctor;
    let mut findings = Vec::new();
    let mut keep = |error: Error| findings.push(unusable(&error, environment));
    let paths = Paths::from_environment(environment).map_err(&mut keep).ok();
    let store = paths.as_ref().and_then(|paths| {
        config::accounts_path(options.accounts_path.as_deref(), environment, paths).map_err(&mut keep).ok()
    });
    let oauth = config::oauth_config(&options.oauth, environment, "oauth.").map_err(&mut keep).ok();
    let base_url_override = oauth
        .as_ref()
        .and_then(|oauth| config::base_url_override(options, environment, oauth).map_err(&mut keep).ok());
    let http = HttpConfig::from_environment(environment, PATIENCE);
    for UnreadableProxy { variable, message, stops_requests } in http.proxies().warnings() {
        let find = if *stops_requests { Finding::broken } else { Finding::warning };
        findings.push(find(ID, message.clone(), unset(variable)));
    }
    let lenient = LenientSettings::read(options, environment);
    for message in &lenient.warnings {
        findings.push(Finding::broken(ID, message, unset(first_word(message))));
    }
    findings.extend(environment.iter().filter_map(|(name, _)| unknown(name)));
    if findings.is_empty() {
        findings.push(Finding::ok(ID, "All options and environment variables can be read."));
    }
    let settings = CheckedSettings {
        paths,
        store,
        oauth,
        http: Some(http),
        base_url_override: base_url_override.flatten(),
        cli_fallback: lenient.cli_fallback,
    };
    (settings, findings)
}

/// Messages begin with the name of the setting, or with the path of a link that no setting names.
fn unusable(error: &Error, environment: &Environment) -> Finding {
    if let Some(path) = error.path().filter(|path| error.message().starts_with(&*path.to_string_lossy())) {
        return Finding::broken(ID, error.message(), remove(path));
    }
    let name = first_word(error.message());
    let fix = if environment.get(name).is_some() {
        unset(name)
    } else {
        format!("Correct the option {name}, or leave it out")
    };
    Finding::broken(ID, error.message(), fix)
}

/// Reports a misspelled variable, which would have no effect.
fn unknown(name: &str) -> Option<Finding> {
    let rest = name.strip_prefix(config::VARIABLE_PREFIX)?;
    (!config::VARIABLES.contains(&rest)).then(|| {
        Finding::warning(
            ID,
            format!("{name} is not a setting of this version and has no effect."),
            unset(name),
        )
    })
}

fn first_word(message: &str) -> &str {
    message.split(' ').next().unwrap_or_default()
}
