//! Reads keys in variables of the process and of `.env` files.

use std::path::PathBuf;

use qwen_base::{Environment, KeyPlan, SUBSCRIPTION_PREFIX, Secret, opaque_debug};

use super::found::{KeyEntry, is_of_plan, path_text};

/// Variables with a key, and the plan that their name tells.
const KEYS: [(&str, KeyPlan); 5] = [
    ("BAILIAN_TOKEN_PLAN_API_KEY", KeyPlan::TokenPlan),
    ("BAILIAN_CODING_PLAN_API_KEY", KeyPlan::CodingPlan),
    ("ALIBABA_TOKEN_PLAN_API_KEY", KeyPlan::TokenPlan),
    ("ALIBABA_CODING_PLAN_API_KEY", KeyPlan::CodingPlan),
    ("DASHSCOPE_API_KEY", KeyPlan::DashScope),
];
/// General `OpenAI` variables, used if the URL is a plan's.
const OPENAI: (&str, &str) = ("OPENAI_API_KEY", "OPENAI_BASE_URL");

pub(super) struct EnvFile {
    pub path: PathBuf,
    pub variables: Vec<(String, String)>,
    pub is_of_project: bool,
}

opaque_debug!(EnvFile);

/// Variables in the qwen CLI's order: the process first, then `.env` files.
#[derive(Debug)]
pub(super) struct VariableSources<'a> {
    pub environment: &'a Environment,
    pub env_files: &'a [EnvFile],
}

pub(super) struct Found<'a> {
    pub value: &'a str,
    pub source: String,
    pub is_of_project: bool,
}

impl VariableSources<'_> {
    pub fn get(&self, name: &str) -> Option<Found<'_>> {
        if let Some(value) = self.environment.get(name) {
            return Some(Found { value, source: name.to_owned(), is_of_project: false });
        }
        self.env_files.iter().find_map(|file| {
            let (_, value) =
                file.variables.iter().find(|(known, value)| known == name && !value.is_empty())?;
            Some(Found { value, source: path_text(&file.path), is_of_project: file.is_of_project })
        })
    }

    /// Returns the keys in variables with known names.
    pub fn entries(&self) -> Vec<KeyEntry> {
        let of_process = |name: &str| self.environment.get(name).map(str::to_owned);
        let mut entries = named(of_process, None, "environment", false);
        for file in self.env_files {
            let of_file = |name: &str| {
                file.variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
            };
            entries.extend(named(of_file, Some(&path_text(&file.path)), "environment", file.is_of_project));
        }
        entries
    }
}

/// Returns the keys in one set of variables. Without `source`, the variable is the source.
pub(super) fn named(
    get: impl Fn(&str) -> Option<String>,
    source: Option<&str>,
    provider: &str,
    is_of_project: bool,
) -> Vec<KeyEntry> {
    let entry = |name: &str, key: String, plan, base_url| KeyEntry {
        key: Secret::new(key),
        source: source.unwrap_or(name).to_owned(),
        provider: provider.to_owned(),
        plan,
        region: None,
        is_of_alibaba: plan.is_some(),
        base_url,
        is_of_project,
    };
    let mut entries = Vec::new();
    for (name, plan) in KEYS {
        let Some(key) = get(name) else { continue };
        let is_of_other_plan = plan == KeyPlan::DashScope && key.trim().starts_with(SUBSCRIPTION_PREFIX);
        let found = entry(name, key, Some(plan), None);
        entries.push(KeyEntry { plan: Some(plan).filter(|_| !is_of_other_plan), ..found });
    }
    let (key, base_url) = OPENAI;
    if let (Some(text), Some(url)) = (get(key), get(base_url).filter(|url| is_of_plan(url))) {
        let found = entry(key, text, None, Some(url));
        entries.push(KeyEntry { is_of_alibaba: true, ..found });
    }
    entries
}
