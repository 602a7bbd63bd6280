//! Reads keys in `OpenCode`'s `auth.json` and configuration.

use std::path::{Path, PathBuf};

use qwen_base::{KeyPlan, Secret, opaque_debug};
use serde_json::Value;

use super::found::{KeyEntry, names_alibaba, path_text};

/// `OpenCode`'s own providers for these plans.
const PROVIDERS: [(&str, KeyPlan, &str); 6] = [
    ("alibaba-token-plan", KeyPlan::TokenPlan, "intl"),
    ("alibaba-token-plan-cn", KeyPlan::TokenPlan, "cn"),
    ("alibaba-coding-plan", KeyPlan::CodingPlan, "intl"),
    ("alibaba-coding-plan-cn", KeyPlan::CodingPlan, "cn"),
    ("alibaba", KeyPlan::DashScope, "intl"),
    ("alibaba-cn", KeyPlan::DashScope, "cn"),
];
/// Provider names in Alibaba's documentation. They don't tell the region.
const NAMED_BY_PAGES: [(&str, KeyPlan); 3] = [
    ("bailian-token-plan", KeyPlan::TokenPlan),
    ("bailian-token-plan-personal", KeyPlan::TokenPlan),
    ("bailian-coding-plan", KeyPlan::CodingPlan),
];

pub(super) struct Configuration {
    pub path: PathBuf,
    pub contents: Value,
    pub is_of_project: bool,
}

opaque_debug!(Configuration);

impl Configuration {
    fn option(&self, provider: &str, name: &str) -> Option<&str> {
        self.contents.get("provider")?.get(provider)?.get("options")?.get(name)?.as_str()
    }
}

/// Reads `auth.json`. The base URL of a custom provider comes from a configuration.
pub(super) fn of_auth(auth: &Value, path: &Path, configurations: &[Configuration]) -> Vec<KeyEntry> {
    let entries = auth.as_object().into_iter().flatten();
    let keys = entries.filter(|(_, entry)| entry.get("type").and_then(Value::as_str) == Some("api"));
    let entry = |(provider, entry): (&String, &Value)| {
        let key = Secret::new(entry.get("key")?.as_str()?);
        Some(of_provider(provider, key, None, path_text(path), false, configurations))
    };
    keys.filter_map(entry).collect()
}

/// Reads a configuration. `resolve` replaces references in texts.
pub(super) fn of_configuration(
    configuration: &Configuration,
    configurations: &[Configuration],
    resolve: impl Fn(&str) -> Option<Secret>,
) -> Vec<KeyEntry> {
    let providers = configuration.contents.get("provider").and_then(Value::as_object).into_iter().flatten();
    let entry = |(provider, _): (&String, &Value)| {
        let key = resolve(configuration.option(provider, "apiKey")?)?;
        let base_url = configuration.option(provider, "baseURL").and_then(&resolve);
        let base_url = base_url.map(|url| url.expose().to_owned());
        let source = path_text(&configuration.path);
        Some(of_provider(provider, key, base_url, source, configuration.is_of_project, configurations))
    };
    providers.filter_map(entry).collect()
}

/// Makes an entry. Its base URL is its own, then that of a known provider, then that of a configuration. A project's
/// configuration can't redirect the key of a known provider.
fn of_provider(
    provider: &str,
    key: Secret,
    base_url: Option<String>,
    source: String,
    is_of_project: bool,
    configurations: &[Configuration],
) -> KeyEntry {
    let known = PROVIDERS.iter().find(|(name, ..)| *name == provider);
    let by_page = NAMED_BY_PAGES.iter().find(|(name, _)| *name == provider);
    let mut entry = KeyEntry {
        key,
        source,
        provider: provider.to_owned(),
        plan: known.map(|(_, plan, _)| *plan).or_else(|| by_page.map(|(_, plan)| *plan)),
        region: known.map(|(_, _, region)| *region),
        is_of_alibaba: names_alibaba(&[provider, base_url.as_deref().unwrap_or_default()]),
        base_url,
        is_of_project,
    };
    if entry.base_url.is_none() && known.is_none() {
        // The user's own configurations come first. A project's is only used if they have none.
        let mut named: Vec<_> = configurations.iter().collect();
        named.sort_by_key(|configuration| configuration.is_of_project);
        let found = named.into_iter().find_map(|configuration| {
            let url = configuration.option(provider, "baseURL").filter(|url| !url.contains('{'))?;
            Some((url.to_owned(), configuration.is_of_project))
        });
        if let Some((url, is_of_project)) = found {
            entry.is_of_alibaba |= names_alibaba(&[&url]);
            entry.base_url = Some(url);
            entry.is_of_project |= is_of_project;
        }
    }
    entry
}
