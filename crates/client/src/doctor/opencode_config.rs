//! Checks the parts of `OpenCode`'s configuration that concern this plugin. The only files that it opens are
//! `package.json` files, for the names of packages.

use std::path::{Path, PathBuf};

use qwen_base::shell::path as quoted;
use qwen_base::{DEFAULT_API_BASE_URL, api_base_url, one_line, safe_open};
use serde_json::Value;
use url::Url;

use super::finding::Finding;
use super::opencode::ID;
use super::programs::{MAX_MANIFEST_SIZE, numbers};

pub const PACKAGE: &str = "opencode-qwen-cli-auth";
pub const PROVIDER: &str = "qwen-code";
/// Plugins that use the same logins, and true for those that are harmless beside this one.
const OTHERS: [(&str, bool); 3] =
    [("opencode-qwencode-auth", false), ("opencode-qwen-oauth", false), ("opencode-qwen-auth", true)];
/// Last version that refuses `["name", {…}]`.
const LAST_WITHOUT_OPTIONS: [u64; 3] = [1, 3, 2];
const SDK: &str = "@ai-sdk/openai-compatible";

/// Options that the plugin takes from `OpenCode`'s configuration.
const PLUGIN_OPTIONS: [&str; 7] = [
    "quotaCooldownMs",
    "rotation",
    "degrade",
    "allowPaidFallback",
    "qwenMode",
    "connectTimeoutMs",
    "idleTimeoutMs",
];

#[derive(Debug)]
pub struct File {
    pub path: PathBuf,
    pub contents: Value,
}

#[derive(Debug, Clone, Copy)]
pub struct Plugin<'a> {
    pub spec: &'a str,
    pub options: Option<&'a Value>,
}

impl File {
    pub fn plugins(&self) -> impl Iterator<Item = Plugin<'_>> {
        let entries = self.contents["plugin"].as_array().map(Vec::as_slice).unwrap_or_default();
        entries.iter().filter_map(|entry| match entry {
            Value::String(spec) => Some(Plugin { spec, options: None }),
            Value::Array(parts) => Some(Plugin {
                spec: parts.first()?.as_str()?,
                options: Some(parts.get(1).unwrap_or(&Value::Null)),
            }),
            _ => None,
        })
    }

    fn shown(&self) -> String {
        self.path.display().to_string()
    }
}

/// True if the file gives options to this plugin.
pub fn takes_options(file: &File) -> bool {
    file.plugins().any(|plugin| plugin.options.is_some() && is_ours(plugin.spec, file))
}

/// Returns the package name in a plugin entry; `None` for a path.
pub fn package_of(spec: &str) -> Option<&str> {
    if spec.contains("://") || spec.starts_with(['.', '/', '\\', '~']) || spec.get(1..3) == Some(":\\") {
        return None;
    }
    match spec.get(1..).and_then(|rest| rest.rfind('@')) {
        Some(at) => Some(&spec[..=at]),
        None => Some(spec),
    }
}

fn is_ours(spec: &str, file: &File) -> bool {
    match package_of(spec) {
        Some(name) => name == PACKAGE,
        None => path_of(spec, file).is_some_and(|path| belongs_to(&path, PACKAGE)),
    }
}

fn path_of(spec: &str, file: &File) -> Option<PathBuf> {
    if spec.contains("://") {
        return Url::parse(spec).ok()?.to_file_path().ok();
    }
    Some(file.path.parent()?.join(spec))
}

/// True if a path is part of a package.
fn belongs_to(path: &Path, name: &str) -> bool {
    path.ancestors().take(4).any(|directory| {
        let manifest = safe_open::read_text(&directory.join("package.json"), MAX_MANIFEST_SIZE).ok();
        let manifest = manifest.and_then(|text| serde_json::from_str::<Value>(&text).ok());
        manifest.is_some_and(|manifest| manifest["name"] == name)
    })
}

/// Returns all findings. `copies` are plugin files that load this one.
pub fn configuration_findings(
    files: &[File],
    copies: &[PathBuf],
    version: Option<&str>,
    own_hosts: &[Url],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(listed(files, copies));
    for file in files {
        findings.extend(options(file, version));
        findings.extend(ignored_options(file));
        findings.extend(others(file));
        findings.extend(provider(file, own_hosts));
        findings.extend(turned_off(file));
        findings.extend(model(file));
    }
    findings
}

fn listed(files: &[File], copies: &[PathBuf]) -> Option<Finding> {
    let mut places: Vec<(String, String)> = Vec::new();
    for file in files {
        for plugin in file.plugins().filter(|plugin| is_ours(plugin.spec, file)) {
            // OpenCode loads an identical entry only once.
            if places.iter().all(|(spec, _)| spec != plugin.spec) {
                places.push((plugin.spec.to_owned(), file.shown()));
            }
        }
    }
    places.extend(copies.iter().map(|path| (path.display().to_string(), "the plugin directory".to_owned())));
    match places.as_slice() {
        [] => {
            let file = files.first().map(|file| quoted(&file.path)).unwrap_or_default();
            Some(Finding::warning(
                ID,
                "OpenCode's configuration does not list the plugin.",
                format!("Add \"{PACKAGE}\" to \"plugin\" in {file}"),
            ))
        }
        [_] => None,
        [.., (spec, place)] => {
            let all: Vec<_> = places.iter().map(|(spec, place)| format!("{spec} in {place}")).collect();
            Some(Finding::broken(
                ID,
                format!("The plugin is loaded {} times: {}.", places.len(), all.join(", ")),
                format!("Remove \"{spec}\" from {place}"),
            ))
        }
    }
}

fn options(file: &File, version: Option<&str>) -> Option<Finding> {
    let plugin = file.plugins().find(|plugin| plugin.options.is_some() && is_ours(plugin.spec, file))?;
    let (spec, shown) = (plugin.spec, file.shown());
    let without = format!(
        "Write \"{spec}\" instead in {}, and set options with environment variables",
        quoted(&file.path)
    );
    if plugin.options.is_some_and(|options| !options.is_object()) {
        let message = format!("The options of the plugin in {shown} are not an object.");
        return Some(Finding::broken(
            ID,
            message,
            format!("Write [\"{spec}\", {{ … }}] in {}", quoted(&file.path)),
        ));
    }
    let version =
        version.filter(|version| numbers(version).is_some_and(|numbers| numbers <= LAST_WITHOUT_OPTIONS))?;
    let message = format!(
        "OpenCode {version} does not take options for a plugin ([\"{spec}\", {{…}}] in {shown}), and does not start."
    );
    Some(Finding::broken(ID, message, without))
}

/// Reports options that only work in code. Through a configuration, a project could choose a server, a file or a program.
fn ignored_options(file: &File) -> Option<Finding> {
    const SHOWN: usize = 10;
    let plugin = file.plugins().find(|plugin| plugin.options.is_some() && is_ours(plugin.spec, file))?;
    let given = plugin.options?.as_object()?.keys();
    let ignored = given.filter(|name| !PLUGIN_OPTIONS.contains(&name.as_str()));
    let names: Vec<_> = ignored.take(SHOWN).map(|name| one_line(name, 40)).collect();
    (!names.is_empty()).then(|| {
        let message = format!(
            "{} gives the plugin options that it ignores: {}. Servers, files and programs can only be set with environment variables.",
            file.shown(),
            names.join(", ")
        );
        let fix = format!("Remove them from {}, and set environment variables instead", quoted(&file.path));
        Finding::warning(ID, message, fix)
    })
}

fn others(file: &File) -> Vec<Finding> {
    let finding = |plugin: Plugin| {
        let (name, is_harmless) = OTHERS.into_iter().find(|(name, _)| match package_of(plugin.spec) {
            Some(package) => package == *name,
            None => path_of(plugin.spec, file).is_some_and(|path| belongs_to(&path, name)),
        })?;
        let fix = format!("Remove \"{}\" from \"plugin\" in {}", plugin.spec, quoted(&file.path));
        let shown = file.shown();
        Some(if is_harmless {
            Finding::warning(ID, format!("{shown} lists {name} too. Do not use one login in both."), fix)
        } else {
            Finding::broken(
                ID,
                format!(
                    "{shown} lists {name} too. It writes oauth_creds.json without a lock, so that each can log the other out."
                ),
                fix,
            )
        })
    };
    file.plugins().filter_map(finding).collect()
}

/// Reports provider settings, because they win over the plugin's.
fn provider(file: &File, own_hosts: &[Url]) -> Vec<Finding> {
    let settings = &file.contents["provider"][PROVIDER];
    let (shown, at) = (file.shown(), quoted(&file.path));
    let mut findings = Vec::new();
    let take_out = |name: &str| format!("Remove \"{name}\" from provider[\"{PROVIDER}\"] in {at}");
    if let Some(base) = settings["options"]["baseURL"].as_str() {
        let known = [DEFAULT_API_BASE_URL, "https://portal.qwen.ai/v1"]
            .into_iter()
            .filter_map(|url| api_base_url(url).ok());
        let is_known = api_base_url(base)
            .is_ok_and(|base| known.chain(own_hosts.iter().cloned()).any(|url| url == base));
        let message = format!("{shown} sets its own baseURL for {PROVIDER}, which wins over the account's.");
        findings.push(if is_known {
            Finding::warning(ID, message, take_out("baseURL"))
        } else {
            Finding::broken(ID, message, take_out("baseURL"))
        });
    }
    if settings["options"].get("apiKey").is_some() {
        let message = format!(
            "{shown} sets an apiKey for {PROVIDER}. It is not used: add the key as an account instead."
        );
        findings.push(Finding::warning(ID, message, take_out("apiKey")));
    }
    if let Some(npm) = settings["npm"].as_str().filter(|npm| *npm != SDK) {
        let message = format!("{shown} sets another SDK for {PROVIDER} ({npm}), which sends other requests.");
        findings.push(Finding::broken(ID, message, take_out("npm")));
    }
    findings
}

fn turned_off(file: &File) -> Option<Finding> {
    let names =
        |field: &str| file.contents[field].as_array().map(|list| list.iter().any(|name| name == PROVIDER));
    let at = quoted(&file.path);
    if names("disabled_providers") == Some(true) {
        let message = format!("{} disables the provider {PROVIDER}.", file.shown());
        return Some(Finding::broken(
            ID,
            message,
            format!("Remove \"{PROVIDER}\" from \"disabled_providers\" in {at}"),
        ));
    }
    if names("enabled_providers") == Some(false) {
        let message = format!("{} doesn't list {PROVIDER} in enabled_providers.", file.shown());
        return Some(Finding::broken(
            ID,
            message,
            format!("Add \"{PROVIDER}\" to \"enabled_providers\" in {at}"),
        ));
    }
    None
}

/// Reports provider names of other plugins.
fn model(file: &File) -> Option<Finding> {
    let model = file.contents["model"].as_str()?;
    let has_provider = file.contents["provider"]["qwen"].is_object();
    let is_old = ["alibaba/coder-model", "alibaba/vision-model"].contains(&model)
        || model.starts_with("qwen/") && !has_provider;
    is_old.then(|| {
        Finding::warning(
            ID,
            format!("{} selects \"{model}\", a model of another plugin.", file.shown()),
            format!("Write \"model\": \"{PROVIDER}/qwen3.7-plus\" in {}", quoted(&file.path)),
        )
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::finding::FindingState;
    use super::*;

    /// The plugin checks its options before there is a core, so both have the list.
    #[test]
    fn the_plugin_takes_the_same_options() {
        let source = include_str!("../../../../lib/validate.js");
        let (_, list) = source.split_once("const PLUGIN_FIELDS = [").unwrap();
        let (list, _) = list.split_once("];").unwrap();
        let names: Vec<_> = list.split('"').skip(1).step_by(2).collect();
        assert_eq!(names, PLUGIN_OPTIONS);
    }

    fn file(contents: Value) -> File {
        File { path: PathBuf::from("/h/opencode.json"), contents }
    }

    fn states(contents: Value, version: Option<&str>) -> Vec<(FindingState, String)> {
        let findings = configuration_findings(&[file(contents)], &[], version, &[]);
        findings.into_iter().map(|finding| (finding.state, finding.message)).collect()
    }

    fn only(contents: Value, version: Option<&str>) -> (FindingState, String) {
        let [found] = &states(contents, version)[..] else { panic!("not one finding") };
        found.clone()
    }

    #[test]
    fn package_names_are_told_from_paths() {
        for (spec, expected) in [
            (PACKAGE, Some(PACKAGE)),
            ("opencode-qwen-cli-auth@0.1.0", Some(PACKAGE)),
            ("@scope/name@1", Some("@scope/name")),
            ("@scope/name", Some("@scope/name")),
            ("file:///x/index.js", None),
            ("./plugin.js", None),
            ("C:\\x.js", None),
        ] {
            assert_eq!(package_of(spec), expected, "{spec}");
        }
    }

    #[test]
    fn two_entries_of_the_plugin_give_a_warning() {
        assert!(states(json!({"plugin": ["opencode-qwen-cli-auth@latest"]}), None).is_empty());
        assert!(states(json!({"plugin": [[PACKAGE, {"degrade": false}]]}), Some("1.18.33")).is_empty());
        let (state, message) = only(json!({"plugin": [PACKAGE, "opencode-qwen-cli-auth@0.1.0"]}), None);
        assert_eq!(state, FindingState::Broken);
        assert!(message.contains("2 times") && message.contains("0.1.0"), "{message}");
        assert_eq!(only(json!({"plugin": ["something-else"]}), None).0, FindingState::Warning);
        let twice = [file(json!({"plugin": [PACKAGE]})), file(json!({"plugin": [PACKAGE]}))];
        assert!(configuration_findings(&twice, &[], None, &[]).is_empty());
        let copy = PathBuf::from("/h/.config/opencode/plugin/qwen.js");
        assert_eq!(configuration_findings(&twice, &[copy], None, &[])[0].state, FindingState::Broken);
    }

    #[test]
    fn options_need_a_supporting_version() {
        let (state, message) = only(json!({"plugin": [[PACKAGE, {}]]}), Some("1.3.2"));
        assert_eq!(state, FindingState::Broken);
        assert!(message.contains("1.3.2"));
        assert_eq!(only(json!({"plugin": [[PACKAGE, "x"]]}), None).0, FindingState::Broken);
    }

    #[test]
    fn ignored_options_are_reported() {
        let options =
            json!({"baseUrl": "https://x.example", "env": {"HOME": "/x"}, "degrade": false, "\u{1b}[2J": 1});
        let (state, message) = only(json!({"plugin": [[PACKAGE, options]]}), Some("1.18.33"));
        assert_eq!(state, FindingState::Warning);
        assert!(message.contains("baseUrl") && message.contains("env"), "{message}");
        assert!(
            !message.contains("degrade") && !message.contains("x.example") && !message.contains('\u{1b}')
        );
    }

    #[test]
    fn conflicting_plugins_and_settings_are_reported() {
        for (contents, expected) in [
            (json!({"plugin": [PACKAGE, "opencode-qwencode-auth@1.3.0"]}), FindingState::Broken),
            (json!({"plugin": [PACKAGE, "opencode-qwen-auth"]}), FindingState::Warning),
            (
                json!({"plugin": [PACKAGE], "provider": {"qwen-code": {"options": {"baseURL": "https://x.example/v1"}}}}),
                FindingState::Broken,
            ),
            (
                json!({"plugin": [PACKAGE], "provider": {"qwen-code": {"options": {"baseURL": "https://portal.qwen.ai/v1"}}}}),
                FindingState::Warning,
            ),
            (
                json!({"plugin": [PACKAGE], "provider": {"qwen-code": {"options": {"apiKey": "sk-secret"}}}}),
                FindingState::Warning,
            ),
            (
                json!({"plugin": [PACKAGE], "provider": {"qwen-code": {"npm": "@ai-sdk/openai"}}}),
                FindingState::Broken,
            ),
            (json!({"plugin": [PACKAGE], "disabled_providers": ["qwen-code"]}), FindingState::Broken),
            (json!({"plugin": [PACKAGE], "enabled_providers": ["anthropic"]}), FindingState::Broken),
            (json!({"plugin": [PACKAGE], "model": "alibaba/coder-model"}), FindingState::Warning),
        ] {
            let (state, message) = only(contents.clone(), None);
            assert_eq!(state, expected, "{contents}");
            assert!(!message.contains("secret"));
        }
        let fine = json!({"plugin": [PACKAGE], "model": "qwen-code/coder-model", "enabled_providers": ["qwen-code"],
            "provider": {"qwen-code": {"npm": SDK, "options": {"timeout": 5}}}});
        assert!(states(fine, None).is_empty());
    }

    proptest! {
        #[test]
        fn any_configuration_is_handled(text in ".{0,30}", shape in 0..4_usize) {
            let contents = match shape {
                0 => json!({"plugin": [text, [text], [[text]], 7]}),
                1 => json!({"plugin": text, "provider": [text]}),
                2 => json!({"provider": {"qwen-code": text}, "disabled_providers": text, "model": [text]}),
                _ => json!({"provider": {"qwen-code": {"options": {"baseURL": text}}}}),
            };
            let _ = configuration_findings(&[file(contents)], &[], Some(&text), &[]);
            let _ = package_of(&text);
        }
    }
}
