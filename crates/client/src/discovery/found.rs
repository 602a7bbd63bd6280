//! Merges the entries of other tools into keys.

use std::path::Path;

use qwen_accounts::fingerprint;
use qwen_base::{ENDPOINTS, KeyPlan, Secret, api_base_url, display_url, endpoint_on_host, is_plan_host};
use url::Url;

use crate::keys::KeyOptions;
use crate::keys::paste::read_key;

/// Words in provider, model and variable names of Alibaba's plans.
const NAMES: [&str; 7] = ["alibaba", "aliyun", "bailian", "dashscope", "modelstudio", "qwen", "token-plan"];
/// Path of Anthropic's protocol on Alibaba's hosts.
const ANTHROPIC_PATH: &str = "/apps/anthropic";
/// Number of a key's last characters that are shown.
const SHOWN: usize = 4;
/// Length of the shortest key of which characters are shown.
const SHORTEST_SHOWN: usize = 12;

/// One tool's entry for a key.
#[derive(Debug)]
pub(super) struct KeyEntry {
    /// The key as written.
    pub key: Secret,
    /// The file or variable.
    pub source: String,
    /// The tool's name for the provider.
    pub provider: String,
    /// Plan, if the entry's name tells it.
    pub plan: Option<KeyPlan>,
    /// Region, if the entry's name tells it.
    pub region: Option<&'static str>,
    /// Base URL, if the entry has one.
    pub base_url: Option<String>,
    /// True if it is in a project's file, which someone else may have written.
    pub is_of_project: bool,
    /// True if a name or the base URL shows that the key is Alibaba's.
    pub is_of_alibaba: bool,
}

#[derive(Debug, Clone)]
pub struct FoundKey {
    pub secret: Secret,
    /// The file or variable that holds it.
    pub source: String,
    /// Other files and variables that hold it.
    pub also_in: Vec<String>,
    /// The tool's name for the provider.
    pub provider: String,
    pub plan: Option<KeyPlan>,
    pub region: Option<String>,
    /// Base URL of its requests, if known.
    pub base_url: Option<Url>,
    /// True if its requests go to a server that is not an API host of a plan.
    pub is_foreign: bool,
    /// True if it is in a project's file, which someone else may have written.
    pub is_of_project: bool,
}

/// Returns the last four characters of a secret; empty if it is too short to show a part of it.
#[must_use]
pub fn last_four(secret: &Secret) -> &str {
    let secret = secret.expose();
    if secret.len() < SHORTEST_SHOWN { "" } else { secret.get(secret.len() - SHOWN..).unwrap_or_default() }
}

impl FoundKey {
    /// Returns an id that doesn't reveal the key.
    #[must_use]
    pub fn id(&self) -> String {
        let server = self.base_url.as_ref().filter(|_| self.is_foreign).map(display_url).unwrap_or_default();
        fingerprint(&Secret::new(format!("{}\n{server}", self.secret.expose())))
    }

    #[must_use]
    pub fn last_four(&self) -> &str {
        last_four(&self.secret)
    }

    /// True if it is imported without being selected. A project's file with its own server could be a trap for the key.
    #[must_use]
    pub const fn is_taken_with_all(&self) -> bool {
        !(self.is_foreign && self.is_of_project)
    }

    /// Returns a description such as "A Token Plan key".
    #[must_use]
    pub fn title(&self) -> String {
        match (self.plan, &self.base_url) {
            (Some(plan), _) => format!("A {} key", plan.title()),
            (None, Some(url)) if self.is_foreign => format!("A key for {}", display_url(url)),
            (None, _) => "A key of Alibaba Cloud".to_owned(),
        }
    }

    /// Returns a sentence such as "A Token Plan key is in /home/ann/.qwen/settings.json."
    #[must_use]
    pub fn sentence(&self) -> String {
        let is_variable = !self.source.contains(['/', '\\']);
        let kind = if is_variable { "the variable " } else { "" };
        format!("{} is in {kind}{}", self.title(), self.source)
    }

    /// Returns the input for adding the key. The entry's plan and server are trusted.
    #[must_use]
    pub fn options(&self) -> KeyOptions {
        // A plan and a region select a listed server. A workspace needs its own base URL.
        let is_listed = |url: &&Url| ENDPOINTS.iter().any(|place| place.base_url == display_url(url));
        KeyOptions {
            key: self.secret.clone(),
            plan: self.plan,
            region: self.region.clone(),
            base_url: self.base_url.as_ref().filter(|url| !is_listed(url)).map(display_url),
            label: None,
            tier: None,
            check: true,
        }
    }
}

/// True if a name belongs to Alibaba or its models.
pub(super) fn names_alibaba(names: &[&str]) -> bool {
    names.iter().any(|name| {
        let name = name.to_ascii_lowercase().replace('_', "-");
        NAMES.iter().any(|word| name.contains(word))
    })
}

/// True for a base URL on an API host of a plan.
pub(super) fn is_of_plan(base_url: &str) -> bool {
    api_base_url(base_url.trim()).is_ok_and(|url| url.host_str().is_some_and(is_plan_host))
}

pub(super) fn path_text(path: &Path) -> String {
    path.display().to_string()
}

/// Merges entries into keys, in their order. An entry with a server completes one without. An entry with a foreign server
/// stays separate.
pub(super) fn collect(entries: Vec<KeyEntry>, notes: &mut Vec<String>) -> Vec<FoundKey> {
    let mut keys: Vec<FoundKey> = Vec::new();
    for found in entries.into_iter().filter_map(|entry| read_entry(entry, notes)) {
        let is_same = |known: &&mut FoundKey| known.id() == found.id();
        match keys.iter_mut().find(is_same) {
            Some(known) => merge(known, found),
            None => keys.push(found),
        }
    }
    keys
}

fn read_entry(entry: KeyEntry, notes: &mut Vec<String>) -> Option<FoundKey> {
    let secret = read_key(entry.key.expose(), &mut Vec::new()).ok()?;
    let mut found = FoundKey {
        secret,
        source: entry.source,
        also_in: Vec::new(),
        provider: entry.provider,
        plan: entry.plan,
        region: entry.region.map(str::to_owned),
        base_url: None,
        is_foreign: false,
        is_of_project: entry.is_of_project,
    };
    if let Some(text) = &entry.base_url
        && !locate(&mut found, text, entry.is_of_alibaba)
    {
        if entry.is_of_alibaba {
            let (source, provider) = (&found.source, &found.provider);
            notes.push(format!(
                "The base URL of \"{provider}\" in {source} can't be used, so its key was left out."
            ));
        }
        return None;
    }
    let mut places = found.plan.into_iter().flat_map(KeyPlan::endpoints);
    if found.base_url.is_none()
        && let Some(place) = places.find(|place| Some(place.region.as_ref()) == found.region.as_deref())
    {
        found.base_url = Url::parse(&place.base_url).ok();
    }
    let is_wanted = found.is_foreign || (entry.is_of_alibaba && found.secret.expose().starts_with("sk-"));
    is_wanted.then_some(found)
}

/// Sets the server of a key from a base URL. False for a URL that keys are not sent to.
fn locate(found: &mut FoundKey, base_url: &str, is_of_alibaba: bool) -> bool {
    let Ok(mut url) = api_base_url(base_url.trim()) else { return false };
    let host = url.host_str().unwrap_or_default().to_owned();
    if let Some(place) = endpoint_on_host(&host) {
        found.plan = Some(place.plan);
        found.region = Some(place.region.to_string());
        found.base_url = Url::parse(&place.base_url).ok();
        return true;
    }
    found.is_foreign = !is_plan_host(&host);
    if !found.is_foreign && url.path().starts_with(ANTHROPIC_PATH) {
        url.set_path("/compatible-mode/v1");
    }
    (found.plan, found.region, found.base_url) = (None, None, Some(url));
    is_of_alibaba || !found.is_foreign
}

fn merge(known: &mut FoundKey, mut found: FoundKey) {
    if known.is_of_project && !found.is_of_project {
        std::mem::swap(known, &mut found);
    }
    for source in std::iter::once(found.source).chain(found.also_in) {
        if source != known.source && !known.also_in.contains(&source) {
            known.also_in.push(source);
        }
    }
    // A project's entry doesn't change the server of the user's own.
    if found.is_of_project && !known.is_of_project && known.base_url.is_some() {
        return;
    }
    if known.base_url.is_none()
        && (found.base_url.is_some() || (known.region.is_none() && found.region.is_some()))
    {
        (known.plan, known.region, known.base_url) = (found.plan, found.region, found.base_url);
    } else if found.region.is_some() && (found.plan, &found.region) != (known.plan, &known.region) {
        // The entries disagree, so the servers are asked.
        known.plan = known.plan.filter(|plan| found.plan == Some(*plan));
        (known.region, known.base_url) = (None, None);
    } else if known.plan.is_none() && known.base_url.is_none() {
        known.plan = found.plan;
    }
}
