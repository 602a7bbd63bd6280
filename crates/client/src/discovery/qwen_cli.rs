//! Reads keys in the qwen CLI's settings.

use std::path::Path;

use qwen_base::Secret;
use serde_json::Value;

use super::found::{KeyEntry, names_alibaba, path_text};
use super::variables::{Found, VariableSources, named};

const PROVIDER: &str = "qwen-cli";

pub(super) fn entries(settings: &Value, path: &Path, variables: &VariableSources) -> Vec<KeyEntry> {
    let source = path_text(path);
    let own = |name: &str| settings.get("env")?.get(name)?.as_str().filter(|text| !text.trim().is_empty());
    let lookup = |name: &str| {
        variables
            .get(name)
            .or_else(|| Some(Found { value: own(name)?, source: source.clone(), is_of_project: false }))
    };
    let mut entries = named(|name| own(name).map(str::to_owned), Some(&source), PROVIDER, false);
    let protocols = settings.get("modelProviders").and_then(Value::as_object).into_iter().flatten();
    for model in protocols.flat_map(|(_, models)| models.as_array().map(Vec::as_slice).unwrap_or_default()) {
        let text = |name: &str| model.get(name).and_then(Value::as_str).unwrap_or_default();
        let (variable, base_url) = (text("envKey"), text("baseUrl"));
        let Some(found) = lookup(variable).filter(|_| !variable.is_empty() && !base_url.is_empty()) else {
            continue;
        };
        entries.push(KeyEntry {
            key: Secret::new(found.value),
            source: found.source,
            provider: PROVIDER.to_owned(),
            plan: None,
            region: None,
            base_url: Some(base_url.to_owned()),
            is_of_project: found.is_of_project,
            is_of_alibaba: names_alibaba(&[text("id"), text("name"), variable, base_url]),
        });
    }
    entries.extend(of_login(settings, &source, lookup));
    entries
}

/// Reads the key and base URL from the CLI's own login. Either may refer to a variable, which may be a project's.
fn of_login<'a>(
    settings: &'a Value,
    source: &str,
    lookup: impl Fn(&str) -> Option<Found<'a>>,
) -> Option<KeyEntry> {
    let auth = settings.get("security")?.get("auth")?;
    let value = |name: &str| {
        let text = auth.get(name)?.as_str()?;
        match text.strip_prefix('$') {
            Some(name) => {
                lookup(name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name))
            }
            None => Some(Found { value: text, source: source.to_owned(), is_of_project: false }),
        }
    };
    let (key, base_url) = (value("apiKey")?, value("baseUrl")?);
    Some(KeyEntry {
        key: Secret::new(key.value),
        source: source.to_owned(),
        provider: PROVIDER.to_owned(),
        plan: None,
        region: None,
        is_of_alibaba: names_alibaba(&[base_url.value]),
        base_url: Some(base_url.value.to_owned()),
        is_of_project: key.is_of_project || base_url.is_of_project,
    })
}
