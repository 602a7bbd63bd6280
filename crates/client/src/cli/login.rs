//! Takes the CLI's login from the user's settings, and nothing else.
//!
//! Keys go to the CLI in its environment, and its settings refer to them, so that a crash leaves no key in a temporary
//! directory. OAuth tokens are never passed on: if a copy were redeemed, the user would be logged out.

use qwen_base::{Environment, opaque_debug};
use serde_json::{Map, Value};

use crate::dotenv;

/// Prefix of the variables for keys that the user's settings contain as text.
const SECRET_VARIABLE: &str = "CLI_FALLBACK_SECRET_";
/// Variables of the CLI that configure the login. Its other variables are left out: they control tools, hooks and
/// telemetry.
const OWN_VARIABLES: [&str; 5] =
    ["QWEN_API_KEY", "QWEN_BASE_URL", "QWEN_MODEL", "QWEN_DEFAULT_AUTH_TYPE", "QWEN_TLS_INSECURE"];
/// Prefixes of variables that are not passed on.
const WITHHELD: [&str; 8] = [
    "QWEN_",
    "OPENCODE",
    "OTEL_",
    "SANDBOX",
    "BUILD_SANDBOX",
    "CLOUD_SHELL",
    "NODE_CHANNEL",
    "NODE_UNIQUE_ID",
];

#[derive(Clone, Default)]
pub struct CliLogin {
    /// Login and model settings.
    pub settings: Map<String, Value>,
    /// Variables that come from the user.
    pub variables: Vec<(String, String)>,
}

opaque_debug!(CliLogin);

impl CliLogin {
    /// Reads the settings files of the system's defaults, the user and the system, in this order. Later ones win, as in the
    /// CLI. Variables of the process win over the user's `.env` files, and those over the settings' `env`.
    #[must_use]
    pub fn new(environment: &Environment, documents: &[Value], env_files: &[String]) -> Self {
        let mut settings = Map::new();
        let mut variables: Vec<(String, String)> = Vec::new();
        for document in documents {
            overlay(&mut settings, document);
        }
        for (name, value) in environment.iter().filter(|(name, _)| is_handed_on(name)) {
            variables.push((name.to_owned(), value.to_owned()));
        }
        let providers = settings.get("modelProviders").cloned().unwrap_or_default();
        let files = env_files.iter().flat_map(|file| dotenv::variables(file));
        let own = documents.iter().rev().filter_map(|document| document["env"].as_object()).flatten();
        let own = own.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
        for (name, value) in files.chain(own) {
            if logs_in(&name, &providers) && variables.iter().all(|(known, _)| *known != name) {
                variables.push((name, value));
            }
        }
        hide_secrets(&mut settings, false, &mut variables);
        Self { settings, variables }
    }

    /// True if the CLI uses OAuth, which it refuses since the free tier ended.
    #[must_use]
    pub fn is_oauth(&self) -> bool {
        let auth = self.settings.get("security").map(|security| &security["auth"]);
        auth.and_then(|auth| auth["selectedType"].as_str()) == Some("qwen-oauth")
    }

    /// Returns the texts that must not be shown.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        let secret = self.variables.iter().filter(|(name, _)| is_secret(name));
        secret.map(|(_, value)| value.clone()).collect()
    }
}

/// Copies the login settings, including their older names.
fn overlay(settings: &mut Map<String, Value>, document: &Value) {
    let mut auth = document["security"]["auth"].as_object().cloned().unwrap_or_default();
    if let Some(old) = document.get("selectedAuthType") {
        auth.entry("selectedType").or_insert_with(|| old.clone());
    }
    merge(&mut settings.entry("security").or_insert_with(|| Value::Object(Map::new()))["auth"], auth);
    let model = match &document["model"] {
        Value::String(name) => Map::from_iter([("name".to_owned(), name.as_str().into())]),
        Value::Object(model) => {
            let kept = ["name", "baseUrl", "reasoningEffort", "generationConfig"];
            model
                .iter()
                .filter(|(key, _)| kept.contains(&key.as_str()))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect()
        }
        _ => Map::new(),
    };
    merge(settings.entry("model").or_insert(Value::Null), model);
    for name in ["modelProviders", "providerProtocol"] {
        if let Some(fields) = document[name].as_object() {
            merge(settings.entry(name).or_insert(Value::Null), fields.clone());
        }
    }
    if let Some(proxy) = document["proxy"].as_str() {
        settings.insert("proxy".to_owned(), proxy.into());
    }
}

fn merge(target: &mut Value, fields: Map<String, Value>) {
    match target.as_object_mut() {
        Some(known) => known.extend(fields),
        None => *target = Value::Object(fields),
    }
}

/// Moves keys into variables. A reference to a variable stays.
fn hide_secrets(fields: &mut Map<String, Value>, are_secret: bool, variables: &mut Vec<(String, String)>) {
    for (name, value) in fields {
        let is_secret = name != "envKey" && (is_secret(name) || name == "proxy" || name == "customHeaders");
        hide_secret(value, are_secret || is_secret, variables);
    }
}

fn hide_secret(value: &mut Value, is_secret: bool, variables: &mut Vec<(String, String)>) {
    match value {
        Value::String(text) if is_secret && !text.is_empty() && !text.starts_with('$') => {
            let name = format!("{SECRET_VARIABLE}{}", variables.len());
            let secret = std::mem::replace(text, format!("${name}"));
            variables.push((name, secret));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| hide_secret(item, is_secret, variables)),
        Value::Object(fields) => hide_secrets(fields, is_secret, variables),
        _ => {}
    }
}

/// True for the name of a secret.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["KEY", "TOKEN", "SECRET", "PASSWORD", "AUTHORIZATION"].iter().any(|word| name.contains(word))
}

fn is_handed_on(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    OWN_VARIABLES.contains(&name.as_str()) || !WITHHELD.iter().any(|prefix| name.starts_with(prefix))
}

/// True for a variable that configures the login: a key, a model or a base URL.
fn logs_in(name: &str, providers: &Value) -> bool {
    let is_plain = is_handed_on(name)
        && ["_API_KEY", "_AUTH_TOKEN", "_BASE_URL", "_MODEL", "_PROXY", "_proxy", "EXTRA_CA_CERTS"]
            .iter()
            .any(|end| name.ends_with(end));
    is_plain || name.starts_with("GOOGLE_") || names_key(providers, name)
}

fn names_key(providers: &Value, name: &str) -> bool {
    match providers {
        Value::Array(items) => items.iter().any(|item| names_key(item, name)),
        Value::Object(fields) => {
            fields.get("envKey").and_then(Value::as_str) == Some(name)
                || fields.values().any(|field| names_key(field, name))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn value<'a>(login: &'a CliLogin, name: &str) -> Option<&'a str> {
        login.variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn only_the_login_is_copied_and_keys_become_variables() {
        let user = json!({
            "$version": 4, "mcpServers": {"a": {"command": "x"}}, "hooks": {"Stop": []}, "tools": {"approvalMode": "yolo"},
            "permissions": {"allow": ["run_shell_command"]}, "proxy": "http://u:p@proxy:1",
            "security": {"auth": {"selectedType": "openai", "apiKey": "sk-user-1", "baseUrl": "https://x/v1"}, "folderTrust": {"enabled": true}},
            "model": {"name": "qwen3-coder-plus", "chatCompression": {}, "generationConfig": {"timeout": 5, "customHeaders": {"X-Team": "t-1"}}},
            "modelProviders": {"openai": [{"id": "m", "envKey": "MY_PLAN", "baseUrl": "https://y/v1", "apiKey": "$MY_PLAN"}]},
            "env": {"MY_PLAN": "sk-plan-2", "QWEN_SANDBOX": "1", "LD_PRELOAD": "x"},
        });
        let login = CliLogin::new(&Environment::default(), &[user], &[]);
        assert_eq!(login.settings["security"]["auth"]["apiKey"], "$CLI_FALLBACK_SECRET_1");
        assert_eq!(value(&login, "CLI_FALLBACK_SECRET_1"), Some("sk-user-1"));
        assert_eq!(value(&login, "MY_PLAN"), Some("sk-plan-2"));
        assert_eq!((value(&login, "QWEN_SANDBOX"), value(&login, "LD_PRELOAD")), (None, None));
        assert_eq!(login.settings["modelProviders"]["openai"][0]["envKey"], "MY_PLAN");
        assert_eq!(login.settings["modelProviders"]["openai"][0]["apiKey"], "$MY_PLAN");
        assert_eq!(login.settings["security"].as_object().unwrap().len(), 1);
        let keys: Vec<_> = login.settings.keys().map(String::as_str).collect();
        assert_eq!(keys, ["security", "model", "modelProviders", "proxy"]);
        let text = Value::Object(login.settings.clone()).to_string();
        for secret in ["sk-user-1", "sk-plan-2", "u:p", "t-1", "chatCompression"] {
            assert!(!text.contains(secret), "{text}");
        }
        assert!(login.secrets().contains(&"http://u:p@proxy:1".to_owned()));
        assert!(!login.is_oauth());
    }

    #[test]
    fn variables_win_over_env_files_and_env_files_over_settings() {
        let environment =
            [("OPENAI_API_KEY", "a"), ("QWEN_SANDBOX", "docker"), ("QWEN_MODEL", "m"), ("EMPTY", "")]
                .into_iter()
                .collect();
        let files = ["# c\nexport OPENAI_API_KEY=b\nOPENAI_BASE_URL=\"http://f\" # c\nOPENAI_MODEL = x # c\nBAD NAME=1\nPATH=/evil\nQWEN_RUNTIME_DIR=/x".to_owned(), "OPENAI_MODEL=later".to_owned()];
        let settings =
            json!({"env": {"OPENAI_BASE_URL": "s", "DASHSCOPE_API_KEY": "d", "ANTHROPIC_MODEL": 1}});
        let login = CliLogin::new(&environment, &[settings], &files);
        let mut pairs = login.variables.clone();
        pairs.sort();
        let expected = [
            ("DASHSCOPE_API_KEY", "d"),
            ("EMPTY", ""),
            ("OPENAI_API_KEY", "a"),
            ("OPENAI_BASE_URL", "http://f"),
            ("OPENAI_MODEL", "x"),
            ("QWEN_MODEL", "m"),
        ];
        assert_eq!(pairs, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn the_systems_settings_win_and_old_names_are_read() {
        let user = json!({"selectedAuthType": "qwen-oauth", "model": "old"});
        assert!(CliLogin::new(&Environment::default(), std::slice::from_ref(&user), &[]).is_oauth());
        let system = json!({"security": {"auth": {"selectedType": "openai"}}, "model": {"name": "new"}});
        let login = CliLogin::new(&Environment::default(), &[user, system], &[]);
        assert!(!login.is_oauth());
        assert_eq!(login.settings["model"]["name"], "new");
    }

    proptest! {
        #[test]
        fn any_settings_are_handled_and_keep_no_key_as_text(text in "[a-z]{12}", shape in 0..4_usize, file in ".{0,80}") {
            let document = match shape {
                0 => json!({"security": {"auth": {"apiKey": text}}}),
                1 => json!({"security": text, "model": [text], "modelProviders": text, "env": [text]}),
                2 => json!({"modelProviders": {"openai": [{"headers": {"Authorization": [text]}}]}}),
                _ => json!([text]),
            };
            let login = CliLogin::new(&Environment::default(), &[document], &[file]);
            prop_assert!(!Value::Object(login.settings).to_string().contains(&text));
        }
    }
}
