//! Finds the keys of the qwen CLI, `OpenCode` and the environment.
//!
//! It only reads files and asks no server. Unreadable files become notes and never stop the search.

mod found;
mod opencode;
mod qwen_cli;
mod variables;

use std::path::{Path, PathBuf};

use qwen_accounts::{Document, Token};
use qwen_base::{Code, Environment, Error, Paths, Secret, blocking};

pub use self::found::{FoundKey, last_four};
use self::found::{KeyEntry, collect};
use self::opencode::Configuration;
use self::variables::{EnvFile, VariableSources};
use crate::opencode_files::{OpenCodeFiles, parse_configuration, read_configuration};
use crate::user_files::{MAX_FILE, parse_settings, read_settings, read_text};

/// Largest key file that a configuration refers to, in bytes.
const MAX_KEY_FILE: u64 = 64 * 1024;

/// Variable with a configuration for `OpenCode`. Its paths are relative to the working directory.
const INLINE_CONFIGURATION: &str = "OPENCODE_CONFIG_CONTENT";

/// Places that are searched for keys.
#[derive(Debug, Clone)]
pub struct Discovery {
    pub environment: Environment,
    pub paths: Paths,
    /// Directory where the search for project files starts. `None` reads no project files.
    pub working_directory: Option<PathBuf>,
}

#[derive(Debug, Default)]
pub struct Discovered {
    /// Keys, one for each server that they are for.
    pub keys: Vec<FoundKey>,
    /// Sentences about files and entries that can't be read.
    pub notes: Vec<String>,
}

impl Discovery {
    /// Searches all places. Blocks, usually for a few milliseconds.
    #[must_use]
    pub fn look(&self) -> Discovered {
        let mut notes = Vec::new();
        let settings = read_settings(&self.settings_path(), &mut notes);
        let env_files = self.env_files(&mut notes);
        let variables = VariableSources { environment: &self.environment, env_files: &env_files };
        let mut entries = variables.entries();
        entries.extend(qwen_cli::entries(&settings, &self.settings_path(), &variables));
        entries.extend(self.opencode(&mut notes));
        let keys = collect(entries, &mut notes);
        notes.dedup();
        Discovered { keys, notes }
    }

    /// Adds a hint about unused keys to an error that says that no account works.
    pub async fn explain(&self, error: Error, accounts: &Document) -> Error {
        let is_of_user = match error.code() {
            Code::NotLoggedIn => true,
            Code::FreeTierDiscontinued => accounts.keys.is_empty(),
            _ => false,
        };
        if !is_of_user {
            return error;
        }
        let discovery = self.clone();
        let found = blocking(move || discovery.look().keys).await.unwrap_or_default();
        match found.iter().find(|key| !is_known(key, accounts)) {
            Some(key) => {
                error.with_advice(&format!("{}: run `npx opencode-qwen-cli-auth import`.", key.sentence()))
            }
            None => error,
        }
    }

    /// Returns the keys in a file that the user names: `OpenCode`'s `auth.json` or configuration, the qwen CLI's settings,
    /// or a `.env` file.
    #[must_use]
    pub fn in_file(&self, path: &Path) -> Vec<FoundKey> {
        let notes = &mut Vec::new();
        let Some(text) = read_text(path, MAX_FILE, notes) else { return Vec::new() };
        let entries = match parse_settings(text.clone()) {
            Ok(contents) if contents.get("provider").is_some() => {
                let configuration = Configuration { path: path.to_owned(), contents, is_of_project: false };
                let resolve = |text: &str| self.resolve(text, path);
                opencode::of_configuration(&configuration, &[], resolve)
            }
            Ok(settings)
                if ["env", "modelProviders", "security"].iter().any(|name| settings.get(name).is_some()) =>
            {
                let variables = VariableSources { environment: &self.environment, env_files: &[] };
                qwen_cli::entries(&settings, path, &variables)
            }
            Ok(auth) => opencode::of_auth(&auth, path, &[]),
            Err(_) => {
                let variables = crate::dotenv::variables(&text).collect();
                let file = EnvFile { path: path.to_owned(), variables, is_of_project: false };
                VariableSources { environment: &Environment::default(), env_files: &[file] }.entries()
            }
        };
        collect(entries, notes)
    }

    fn settings_path(&self) -> PathBuf {
        self.paths.qwen_dir().join("settings.json")
    }

    /// Returns the first `.env` file from the working directory upward, and those of the user.
    fn env_files(&self, notes: &mut Vec<String>) -> Vec<EnvFile> {
        const IN_DIRECTORY: [&str; 2] = [".qwen/.env", ".env"];
        let home = self.paths.home();
        let of_user = [self.paths.qwen_dir().join(".env"), home.join(".qwen/.env"), home.join(".env")];
        let directories = self.working_directory.iter().flat_map(|directory| directory.ancestors());
        let directories = directories.take_while(|directory| *directory != home);
        let upward = directories
            .flat_map(|directory| IN_DIRECTORY.map(|name| directory.join(name)))
            .find(|path| !of_user.contains(path) && path.symlink_metadata().is_ok());
        let mut paths: Vec<_> = upward.into_iter().map(|path| (path, true)).collect();
        for path in of_user {
            if paths.iter().all(|(known, _)| *known != path) {
                paths.push((path, false));
            }
        }
        let read = |(path, is_of_project): (PathBuf, bool)| {
            let text = read_text(&path, MAX_FILE, notes)?;
            Some(EnvFile { variables: crate::dotenv::variables(&text).collect(), path, is_of_project })
        };
        paths.into_iter().filter_map(read).collect()
    }

    fn opencode(&self, notes: &mut Vec<String>) -> Vec<KeyEntry> {
        let files =
            OpenCodeFiles::new(&self.environment, self.paths.home(), self.working_directory.as_deref());
        let mut configurations = Vec::new();
        for path in files.configurations() {
            match read_configuration(&path) {
                Ok(Some(contents)) => {
                    let is_of_project = !files.is_of_user(&path);
                    configurations.push(Configuration { path, contents, is_of_project });
                }
                Ok(None) => {}
                Err(why) => notes.push(format!("{} can't be read: {why}.", path.display())),
            }
        }
        if let Some(text) = self.environment.get(INLINE_CONFIGURATION) {
            match parse_configuration(text.to_owned()) {
                Ok(contents) => configurations.push(Configuration {
                    path: INLINE_CONFIGURATION.into(),
                    contents,
                    is_of_project: false,
                }),
                Err(why) => notes.push(format!("{INLINE_CONFIGURATION} can't be read: {why}.")),
            }
        }
        let path = files.auth();
        let mut entries = opencode::of_auth(&read_settings(&path, notes), &path, &configurations);
        for configuration in &configurations {
            let resolve = |text: &str| self.resolve(text, &configuration.path);
            entries.extend(opencode::of_configuration(configuration, &configurations, resolve));
        }
        entries
    }

    /// Replaces `{env:NAME}` and `{file:path}` as `OpenCode` does. `None` if a value is missing.
    fn resolve(&self, text: &str, configuration: &Path) -> Option<Secret> {
        let mut resolved = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (reference, after) = after.split_once('}')?;
            resolved.push_str(before);
            if let Some(name) = reference.strip_prefix("env:") {
                resolved.push_str(self.environment.get(name.trim())?);
            } else {
                let path = qwen_base::expand_home(reference.strip_prefix("file:")?.trim(), self.paths.home());
                let directory = configuration.parent().filter(|directory| directory.is_absolute());
                let path = directory.or(self.working_directory.as_deref())?.join(path);
                resolved.push_str(read_text(&path, MAX_KEY_FILE, &mut Vec::new())?.trim());
            }
            rest = after;
        }
        resolved.push_str(rest);
        Some(Secret::new(resolved))
    }
}

/// True if an account has the key.
#[must_use]
pub fn is_known(key: &FoundKey, accounts: &Document) -> bool {
    let has_key = |token: Token| token.access_token == key.secret;
    accounts.keys.iter().any(|record| record.token().is_some_and(has_key))
}

/// Reads a text file. `None` if there is none. A note gives the reason if the file can't be read.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the files are other tools'")]
mod tests {
    use std::fs;

    use proptest::prelude::*;
    use qwen_base::KeyPlan;
    use serde_json::{Value, json};

    use super::*;

    const TOKEN_PLAN: &str = "https://token-plan.ap-southeast-1.maas.aliyuncs.com/compatible-mode/v1";

    /// A home directory with a project.
    struct Home {
        directory: tempfile::TempDir,
        variables: Vec<(String, String)>,
    }

    impl Home {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            fs::create_dir_all(directory.path().join("code/project/src")).unwrap();
            let home = directory.path().to_string_lossy().into_owned();
            let variables = ["HOME", "USERPROFILE"].map(|name| (name.to_owned(), home.clone())).to_vec();
            Self { directory, variables }
        }

        fn set(&mut self, name: &str, value: &str) {
            self.variables.push((name.to_owned(), value.to_owned()));
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn write(&self, name: &str, contents: &str) {
            let path = self.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }

        fn look(&self) -> Discovered {
            let environment: Environment = self.variables.iter().cloned().collect();
            let paths = Paths::from_environment(&environment).unwrap();
            let working_directory = Some(self.path("code/project/src"));
            Discovery { environment, paths, working_directory }.look()
        }

        /// Returns source, server and last four characters of each key.
        fn found(&self) -> Vec<String> {
            let home = format!("{}/", self.directory.path().display());
            let describe = |key: &FoundKey| {
                let place = match (key.plan, &key.region, &key.base_url) {
                    (None, _, Some(url)) => url.to_string(),
                    (plan, region, _) => {
                        format!("{} {}", plan.map_or("?", KeyPlan::as_str), region.as_deref().unwrap_or("?"))
                    }
                };
                format!("{}: {place} {}", key.source.replace(&home, ""), key.last_four())
            };
            self.look().keys.iter().map(describe).collect()
        }
    }

    fn key(end: &str) -> String {
        format!("sk-sp-0123456789abcdef{end}")
    }

    #[test]
    fn the_configuration_in_the_environment_is_searched() {
        let mut home = Home::new();
        home.write("code/project/src/key.txt", &key("bbbb"));
        let provider = |key: &str| json!({"options": {"apiKey": key, "baseURL": TOKEN_PLAN}});
        let providers = json!({"one": provider(&key("aaaa")), "two": provider("{file:key.txt}")});
        home.set("OPENCODE_CONFIG_CONTENT", &format!("// inline\n{}", json!({"provider": providers})));
        let source = "OPENCODE_CONFIG_CONTENT: token-plan intl";
        assert_eq!(home.found(), [format!("{source} aaaa"), format!("{source} bbbb")]);
        assert!(home.look().keys[0].sentence().contains("the variable OPENCODE_CONFIG_CONTENT"));
        let mut home = Home::new();
        home.set("OPENCODE_CONFIG_CONTENT", "{\"provider\":");
        let found = home.look();
        assert!(
            found.keys.is_empty() && found.notes.concat().contains("OPENCODE_CONFIG_CONTENT can't be read")
        );
    }

    #[test]
    fn qwen_cli_settings_give_a_keys_server() {
        let home = Home::new();
        let settings = json!({
            "env": {"BAILIAN_TOKEN_PLAN_API_KEY": key("aaaa"), "BAILIAN_CODING_PLAN_API_KEY": key("bbbb"), "MINE": key("cccc"), "OTHER": "sk-other-0123456789dddd"},
            "modelProviders": {
                "openai": [
                    {"id": "qwen3.7-plus", "baseUrl": TOKEN_PLAN, "envKey": "BAILIAN_TOKEN_PLAN_API_KEY"},
                    {"id": "gpt", "baseUrl": "https://api.example/v1", "envKey": "OTHER"},
                ],
                "anthropic": [{"id": "glm", "baseUrl": "https://coding.dashscope.aliyuncs.com/apps/anthropic/v1", "envKey": "MINE"}],
            },
            "security": {"auth": {"apiKey": "$MINE", "baseUrl": "https://coding.dashscope.aliyuncs.com/v1"}},
        });
        home.write(".qwen/settings.json", &format!("// mine\n{settings}"));
        let source = ".qwen/settings.json";
        assert_eq!(
            home.found(),
            [
                format!("{source}: token-plan intl aaaa"),
                format!("{source}: coding-plan ? bbbb"),
                format!("{source}: coding-plan cn cccc")
            ]
        );
    }

    #[test]
    fn variables_and_env_files_are_searched_upward_and_the_first_wins() {
        let mut home = Home::new();
        home.set("ALIBABA_TOKEN_PLAN_API_KEY", &key("aaaa"));
        home.set("DASHSCOPE_API_KEY", &key("bbbb"));
        home.write("code/project/.env", "DASHSCOPE_API_KEY='sk-0123456789abcdefcccc'\n");
        home.write("code/.env", "DASHSCOPE_API_KEY=sk-0123456789abcdef-not-the-first");
        home.write(".qwen/.env", &format!("BAILIAN_TOKEN_PLAN_API_KEY={}\nOPENAI_API_KEY=sk-0123456789abcdefdddd\nOPENAI_BASE_URL=https://dashscope-us.aliyuncs.com/compatible-mode/v1", key("aaaa")));
        assert_eq!(
            home.found(),
            [
                "ALIBABA_TOKEN_PLAN_API_KEY: token-plan ? aaaa",
                "DASHSCOPE_API_KEY: ? ? bbbb",
                "code/project/.env: dashscope ? cccc",
                ".qwen/.env: dashscope us dddd",
            ]
        );
        assert_eq!(home.look().keys[0].also_in.len(), 1);
    }

    #[test]
    fn opencode_entries_give_plan_and_region() {
        let mut home = Home::new();
        home.set("MY_KEY", &key("dddd"));
        home.write("keys/mine", &format!("{}\n", key("eeee")));
        let auth = json!({
            "alibaba-token-plan": {"type": "api", "key": key("aaaa")},
            "alibaba-coding-plan-cn": {"type": "api", "key": key("bbbb")},
            "bailian-token-plan-personal": {"type": "api", "key": key("cccc")},
            "anthropic": {"type": "api", "key": "sk-ant-0123456789"},
            "alibaba-cn": {"type": "oauth", "access": "x"},
        });
        home.write(".local/share/opencode/auth.json", &auth.to_string());
        let configuration = json!({"provider": {
            "bailian-token-plan": {"options": {"baseURL": "https://token-plan.cn-beijing.maas.aliyuncs.com/apps/anthropic/v1", "apiKey": "{env:MY_KEY}"}},
            "bailian-coding-plan": {"options": {"baseURL": "https://coding-intl.dashscope.aliyuncs.com/v1", "apiKey": "{file:~/keys/mine}"}},
            "bailian-token-plan-personal": {"options": {"baseURL": TOKEN_PLAN}},
            "gone": {"options": {"baseURL": TOKEN_PLAN, "apiKey": "{env:NOT_SET}"}},
        }});
        home.write(".config/opencode/opencode.jsonc", &format!("{configuration}// the end"));
        let (auth, configuration) = (".local/share/opencode/auth.json", ".config/opencode/opencode.jsonc");
        assert_eq!(
            home.found(),
            [
                format!("{auth}: token-plan intl aaaa"),
                format!("{auth}: coding-plan cn bbbb"),
                format!("{auth}: token-plan intl cccc"),
                format!("{configuration}: token-plan cn dddd"),
                format!("{configuration}: coding-plan intl eeee"),
            ]
        );
    }

    #[test]
    fn a_project_file_cannot_silently_redirect_a_key() {
        let mut home = Home::new();
        home.set("DASHSCOPE_API_KEY", &key("aaaa"));
        let auth = json!({"alibaba-token-plan": {"type": "api", "key": key("bbbb")}});
        home.write(".local/share/opencode/auth.json", &auth.to_string());
        let evil = "https://evil.example/v1";
        let configuration = json!({"provider": {
            "alibaba-token-plan": {"options": {"baseURL": evil}},
            "qwen": {"options": {"baseURL": evil, "apiKey": "{env:DASHSCOPE_API_KEY}"}},
            "dashscope": {"options": {"baseURL": "http://evil.example/v1", "apiKey": "{env:DASHSCOPE_API_KEY}"}},
        }});
        home.write("code/project/opencode.json", &configuration.to_string());
        let found = home.look();
        let keys: Vec<_> =
            found.keys.iter().map(|key| (key.is_foreign, key.is_taken_with_all(), key.last_four())).collect();
        assert_eq!(keys, [(false, true, "aaaa"), (false, true, "bbbb"), (true, false, "aaaa")]);
        assert_eq!(found.keys[1].region.as_deref(), Some("intl"));
        assert!(found.notes[0].contains("\"dashscope\""), "{:?}", found.notes);
    }

    #[test]
    fn a_project_file_cannot_change_the_server_of_the_users_own_entry() {
        const OWN: &str = "DASHSCOPE_API_KEY: dashscope ? aaaa";
        for (url, expected) in [
            (
                "https://1.cn-hangzhou.fc.aliyuncs.com/v1",
                vec![OWN, "https://1.cn-hangzhou.fc.aliyuncs.com/v1"],
            ),
            ("https://x.pai-eas.aliyuncs.com/api", vec![OWN, "https://x.pai-eas.aliyuncs.com/api/v1"]),
            ("https://oss.aliyuncs.com/v1", vec![OWN, "https://oss.aliyuncs.com/v1"]),
            ("https://dashscope-us.aliyuncs.com/v1", vec!["DASHSCOPE_API_KEY: dashscope us aaaa"]),
        ] {
            let mut home = Home::new();
            let secret = "sk-0123456789abcdefaaaa";
            home.set("DASHSCOPE_API_KEY", secret);
            let options = json!({"baseURL": url, "apiKey": "{env:DASHSCOPE_API_KEY}"});
            let configuration = json!({"provider": {"x": {"options": options}, "y": {"options": options}}});
            home.write("code/project/opencode.json", &configuration.to_string());
            let found = home.found();
            let is_expected = found.iter().zip(&expected).all(|(found, expected)| found.contains(expected));
            assert!(found.len() == expected.len() && is_expected, "{url}: {found:?}");
            assert!(home.look().keys.iter().skip(1).all(|key| !key.is_taken_with_all()), "{url}");
        }
        // The user's own server stays, even if the project names several.
        let home = Home::new();
        home.write("code/project/.env", &format!("DASHSCOPE_API_KEY={}", key("aaaa")));
        let auth = json!({"alibaba-token-plan": {"type": "api", "key": key("aaaa")}});
        home.write(".local/share/opencode/auth.json", &auth.to_string());
        let options = |url: &str| json!({"options": {"baseURL": url, "apiKey": key("aaaa")}});
        let configuration = json!({"provider": {
            "x": options("https://ws.eu-central-1.maas.aliyuncs.com/v1"),
            "y": options("https://dashscope-finance.aliyuncs.com/v1"),
        }});
        home.write("code/project/opencode.json", &configuration.to_string());
        assert_eq!(home.found(), [".local/share/opencode/auth.json: token-plan intl aaaa"]);
    }

    #[test]
    fn a_projects_variable_cannot_silently_give_the_server_of_the_clis_key() {
        let home = Home::new();
        let login = json!({"auth": {"apiKey": key("aaaa"), "baseUrl": "$SERVER"}});
        home.write(".qwen/settings.json", &json!({"security": login}).to_string());
        home.write("code/project/.env", "SERVER=https://qwen.evil.example/v1");
        let keys = home.look().keys;
        assert!(keys.len() == 1 && !keys[0].is_taken_with_all(), "{keys:?}");
    }

    #[test]
    fn entries_that_disagree_leave_the_server_open() {
        let home = Home::new();
        let auth = json!({
            "alibaba-token-plan": {"type": "api", "key": key("aaaa")},
            "alibaba-token-plan-cn": {"type": "api", "key": key("aaaa")},
        });
        home.write(".local/share/opencode/auth.json", &auth.to_string());
        assert_eq!(home.found(), [".local/share/opencode/auth.json: token-plan ? aaaa"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_path_that_is_not_a_file_gives_a_note() {
        let home = Home::new();
        for name in [".env", ".qwen/settings.json", ".local/share/opencode/auth.json"] {
            let path = home.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        }
        home.write(".qwen/.env", &format!("BAILIAN_TOKEN_PLAN_API_KEY={}", key("aaaa")));
        home.write("code/project/.env", &"#".repeat(2 * 1024 * 1024));
        let found = home.look();
        assert_eq!(found.keys.len(), 1);
        assert_eq!(found.notes.len(), 4, "{:?}", found.notes);
    }

    #[test]
    fn the_format_of_a_named_file_is_detected() {
        let home = Home::new();
        let environment: Environment = home.variables.iter().cloned().collect();
        let paths = Paths::from_environment(&environment).unwrap();
        let discovery = Discovery { environment, paths, working_directory: None };
        for contents in [
            json!({"alibaba-token-plan": {"type": "api", "key": key("aaaa")}}).to_string(),
            json!({"env": {"BAILIAN_TOKEN_PLAN_API_KEY": key("aaaa")}}).to_string(),
            json!({"provider": {"qwen": {"options": {"baseURL": TOKEN_PLAN, "apiKey": key("aaaa")}}}})
                .to_string(),
            format!("ALIBABA_TOKEN_PLAN_API_KEY={}", key("aaaa")),
        ] {
            home.write("file", &contents);
            let found = discovery.in_file(&home.path("file"));
            assert_eq!(found.len(), 1, "{contents}");
            assert_eq!(found[0].plan, Some(KeyPlan::TokenPlan), "{contents}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        const NAMES: &str = "env|modelProviders|openai|security|auth|apiKey|baseUrl|envKey|provider|options|baseURL|type|key|alibaba|DASHSCOPE_API_KEY";
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "(sk-sp-[a-z]{4,20}|api|https://[a-z.]{0,20}|\\{(env|file):[a-z/]{0,9}\\}?|\\$\\{?MINE\\}?|.{0,12})".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((NAMES, inner), 0..5)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_json_is_handled(settings in any_json(), auth in any_json(), configuration in any_json(), env_file in ".{0,60}") {
            let home = Home::new();
            home.write(".qwen/settings.json", &settings.to_string());
            home.write(".local/share/opencode/auth.json", &auth.to_string());
            home.write("code/project/opencode.json", &configuration.to_string());
            home.write(".env", &env_file);
            for found in home.look().keys {
                prop_assert!(!found.secret.expose().is_empty() && found.last_four().len() <= 4);
                prop_assert!(found.is_foreign || found.secret.expose().starts_with("sk-"));
            }
        }
    }
}
