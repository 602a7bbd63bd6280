//! The private directories and the settings of a CLI run.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use qwen_accounts::atomic;
use qwen_base::{Environment, Error, Paths, Result, private_files, safe_open};
use serde_json::{Value, json};

use super::login::CliLogin;
use super::prompt::SYSTEM_PROMPT;
use crate::user_files::{MAX_FILE, read_settings, read_text};

/// Directory where the CLI looks for an administrator's settings.
const SYSTEM_DIRECTORY: &str = if cfg!(target_os = "macos") {
    "/Library/Application Support/QwenCode"
} else if cfg!(windows) {
    "C:\\ProgramData\\qwen-code"
} else {
    "/etc/qwen-code"
};
/// Limit for a CLI whose host was killed, in seconds. 0.24.4 applies it to the run, other versions to each request.
const MAX_LIFE_S: u64 = 150;
const PREFIX: &str = "qwen-fallback-";
/// File that marks directories as made by this package.
const MARK: (&str, &str) = (".opencode-qwen-cli-auth", "made by opencode-qwen-cli-auth\n");
/// Age after which a directory is no longer in use.
const FORGOTTEN: Duration = Duration::from_secs(3_600);
/// With this marker the CLI keeps the file. Without it, 0.15.10 asks for the system's language.
const OUTPUT_LANGUAGE: &str = "# Output language preference: auto\n<!-- qwen-code:llm-output-language: auto -->\n\n\
    Write in the language of the conversation.\n";

/// The directories of one run. Dropping it removes them.
#[derive(Debug)]
pub struct Workspace {
    root: tempfile::TempDir,
}

impl Workspace {
    /// Creates an empty working directory and a home without memory, hooks, servers, skills and statistics.
    pub fn create(environment: &Environment, login: &CliLogin) -> Result<Self> {
        let base = environment.first(&["TMPDIR", "TEMP", "TMP"]);
        let base = base.map_or_else(std::env::temp_dir, |(_, value)| PathBuf::from(value));
        let base = std::path::absolute(&base).unwrap_or(base);
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let root =
            builder.tempdir_in(&base).map_err(|error| Error::io("create a directory in", &base, error))?;
        remove_forgotten(&base, root.path());
        let workspace = Self { root };
        for directory in [workspace.home(), workspace.work()] {
            atomic::create_private_directory(&directory)?;
        }
        let settings = settings(login).to_string();
        for (name, contents) in [
            // The CLI searches for this file upward, and other users may write to the temporary directory.
            (".env", ""),
            MARK,
            ("home/settings.json", settings.as_str()),
            ("home/defaults.json", "{\"$version\":4}"),
            ("home/system.md", SYSTEM_PROMPT),
            ("home/output-language.md", OUTPUT_LANGUAGE),
        ] {
            write(&workspace.root.path().join(name), contents)?;
        }
        Ok(workspace)
    }

    /// Returns the working directory, which stays empty.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.root.path().join("work")
    }

    fn home(&self) -> PathBuf {
        self.root.path().join("home")
    }

    /// Returns the variables that point the CLI to this home.
    #[must_use]
    pub fn variables(&self) -> Vec<(&'static str, PathBuf)> {
        let home = self.home();
        vec![
            // An administrator's settings would win over a user's, so these are passed as an administrator's.
            ("QWEN_CODE_SYSTEM_SETTINGS_PATH", home.join("settings.json")),
            ("QWEN_CODE_SYSTEM_DEFAULTS_PATH", home.join("defaults.json")),
            ("QWEN_SYSTEM_MD", home.join("system.md")),
            ("QWEN_RUNTIME_DIR", home.clone()),
            ("QWEN_HOME", home),
        ]
    }
}

/// Removes directories of killed hosts, but no links and no other user's directories. `new` was just created and so tells
/// the time and the owner.
fn remove_forgotten(base: &Path, new: &Path) {
    let (Ok(entries), Ok(new)) = (fs::read_dir(base), fs::symlink_metadata(new)) else { return };
    let is_ours = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
    for path in is_ours.map(|entry| entry.path()) {
        let Ok(old) = fs::symlink_metadata(&path) else { continue };
        let age = new.modified().and_then(|now| Ok(now.duration_since(old.modified()?).unwrap_or_default()));
        let is_old = old.is_dir() && same_owner(&old, &new) && age.is_ok_and(|age| age > FORGOTTEN);
        if is_old && is_marked(&path) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

fn is_marked(directory: &Path) -> bool {
    let (name, contents) = MARK;
    safe_open::read_text(&directory.join(name), 1024).is_ok_and(|found| found == contents)
}

#[cfg(unix)]
fn same_owner(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    one.uid() == other.uid()
}

/// On Windows each user has a temporary directory.
#[cfg(not(unix))]
fn same_owner(_one: &fs::Metadata, _other: &fs::Metadata) -> bool {
    true
}

fn write(path: &Path, contents: &str) -> Result<()> {
    private_files::create_file(path, contents.as_bytes()).map_err(|error| Error::io("write", path, error))
}

/// Returns the login settings, with everything else turned off. Names of several versions are set; the CLI ignores unknown
/// ones.
fn settings(login: &CliLogin) -> Value {
    let mut settings = json!({
        "$version": 4,
        "privacy": {"usageStatisticsEnabled": false},
        "telemetry": {"enabled": false, "logPrompts": false},
        "general": {
            "enableAutoUpdate": false, "disableAutoUpdate": true, "disableUpdateNag": true, "chatRecording": false,
            "preventSystemSleep": false, "checkpointing": {"enabled": false},
        },
        "disableAllHooks": true,
        "mcpServers": {},
        "memory": {"enableManagedAutoMemory": false, "enableManagedAutoDream": false, "enableAutoSkill": false},
        "skills": {"disabledLevels": ["project", "user", "extension", "bundled"]},
        "ide": {"enabled": false},
        "ui": {"disableWorkflowKeywordTrigger": true, "enableFollowupSuggestions": false},
        "tools": {"approvalMode": "default", "autoAccept": false, "codeModeOnly": false, "sandbox": false},
        // Files with this name become part of the prompt.
        "context": {"fileName": "no-memory-for-the-fallback.md"},
    });
    for (name, value) in &login.settings {
        settings[name] = value.clone();
    }
    settings["security"]["folderTrust"] = json!({"enabled": false});
    settings["model"]["skipStartupContext"] = true.into();
    settings["model"]["skipNextSpeakerCheck"] = true.into();
    settings["model"]["maxWallTimeSeconds"] = MAX_LIFE_S.into();
    if !settings["model"]["generationConfig"].is_object() {
        settings["model"]["generationConfig"] = json!({});
    }
    settings["model"]["generationConfig"]["timeout"] = (MAX_LIFE_S * 1_000).into();
    settings
}

/// Reads the CLI settings of the user and the system.
#[must_use]
pub fn login(environment: &Environment, paths: &Paths) -> CliLogin {
    let system = environment
        .get("QWEN_CODE_SYSTEM_SETTINGS_PATH")
        .map_or_else(|| Path::new(SYSTEM_DIRECTORY).join("settings.json"), PathBuf::from);
    let defaults = environment
        .get("QWEN_CODE_SYSTEM_DEFAULTS_PATH")
        .map_or_else(|| system.with_file_name("system-defaults.json"), PathBuf::from);
    let user = paths.qwen_dir().join("settings.json");
    let notes = &mut Vec::new();
    let documents: Vec<Value> = [&defaults, &user, &system].map(|path| read_settings(path, notes)).into();
    let env_files = [paths.qwen_dir().to_owned(), paths.home().join(".qwen"), paths.home().to_owned()];
    let env_files: Vec<String> = env_files
        .iter()
        .filter_map(|directory| read_text(&directory.join(".env"), MAX_FILE, notes))
        .collect();
    CliLogin::new(environment, &documents, &env_files)
}

#[cfg(test)]
#[cfg_attr(unix, expect(clippy::disallowed_methods, reason = "tests play the user and other programs"))]
mod tests {
    use super::*;

    #[test]
    fn the_settings_keep_the_login_and_turn_off_the_rest() {
        let user = json!({"security": {"auth": {"selectedType": "openai"}}, "model": {"name": "m"}, "modelProviders": {"openai": []}});
        let settings = settings(&CliLogin::new(&Environment::default(), &[user], &[]));
        assert_eq!(
            settings["security"],
            json!({"auth": {"selectedType": "openai"}, "folderTrust": {"enabled": false}})
        );
        assert_eq!(settings["model"]["name"], "m");
        assert_eq!(settings["modelProviders"], json!({"openai": []}));
        assert_eq!(settings["disableAllHooks"], true);
        let nothing = super::settings(&CliLogin::default());
        assert_eq!(nothing["model"]["skipStartupContext"], true);
    }

    #[test]
    #[cfg(unix)]
    fn the_directories_are_private_and_go_away() {
        use std::os::unix::fs::PermissionsExt as _;
        let temporary = tempfile::tempdir().unwrap();
        let environment = [("TMPDIR", temporary.path().to_str().unwrap())].into_iter().collect();
        let workspace = Workspace::create(&environment, &CliLogin::default()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(workspace.root.path()), 0o700);
        assert_eq!(mode(&workspace.home().join("settings.json")), 0o600);
        assert_eq!(fs::read_dir(workspace.work()).unwrap().count(), 0);
        drop(workspace);
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    }

    #[test]
    #[cfg(unix)]
    fn what_was_forgotten_is_removed() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = |name: &str, age: u64| {
            let path = temporary.path().join(name);
            fs::create_dir_all(path.join("home")).unwrap();
            if !name.ends_with("unmarked") {
                fs::write(path.join(MARK.0), MARK.1).unwrap();
            }
            let file = fs::File::open(&path).unwrap();
            let now = file.metadata().unwrap().modified().unwrap();
            file.set_modified(now - Duration::from_secs(age)).unwrap();
        };
        directory("qwen-fallback-old", 4_000);
        directory("qwen-fallback-new", 60);
        directory("qwen-fallback-of-others-unmarked", 4_000);
        directory("other-old", 4_000);
        std::os::unix::fs::symlink("other-old", temporary.path().join("qwen-fallback-link")).unwrap();
        let environment = [("TMPDIR", temporary.path().to_str().unwrap())].into_iter().collect();
        drop(Workspace::create(&environment, &CliLogin::default()).unwrap());
        let mut left: Vec<_> =
            fs::read_dir(temporary.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(
            left,
            ["other-old", "qwen-fallback-link", "qwen-fallback-new", "qwen-fallback-of-others-unmarked"]
        );
    }
}
