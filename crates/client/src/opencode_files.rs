//! Locations of `OpenCode`'s configuration, logins and installed plugins.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use qwen_base::{Environment, safe_open};
use serde_json::Value;

use crate::user_files::{MAX_FILE, parse_settings};

/// Reads a configuration file. `None` if there is no such file. The error completes "… can't be read: ".
pub fn read_configuration(path: &Path) -> Result<Option<Value>, String> {
    let Ok(metadata) = fs::metadata(path) else { return Ok(None) };
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Ok(None);
    }
    let text = safe_open::read_text(path, MAX_FILE).map_err(|error| error.to_string())?;
    parse_configuration(text).map(Some)
}

/// Parses a configuration.
pub fn parse_configuration(text: String) -> Result<Value, String> {
    parse_settings(text)
        .and_then(|value| if value.is_object() { Ok(value) } else { Err("it is not an object".to_owned()) })
}

#[derive(Debug)]
pub struct OpenCodeFiles {
    /// Directories with configuration and plugins. The user's own comes first.
    pub configuration_directories: Vec<PathBuf>,
    /// Directories and files that belong to the user and not to a project.
    of_user: Vec<PathBuf>,
    named: Option<PathBuf>,
    projects: Vec<PathBuf>,
    /// Directory of the installed plugins.
    pub cache: PathBuf,
    /// Directory of logins and sessions.
    pub data: PathBuf,
}

impl OpenCodeFiles {
    /// Searches projects from the working directory upward.
    #[must_use]
    pub fn new(environment: &Environment, home: &Path, working_directory: Option<&Path>) -> Self {
        let base = |name: &str, otherwise: &str| {
            environment.get(name).map_or_else(|| home.join(otherwise), PathBuf::from).join("opencode")
        };
        let mut projects: Vec<PathBuf> = Vec::new();
        for directory in working_directory.into_iter().flat_map(Path::ancestors) {
            projects.push(directory.to_owned());
            if directory.join(".git").exists() {
                break;
            }
        }
        projects.reverse();
        let mut configuration_directories = vec![base("XDG_CONFIG_HOME", ".config"), home.join(".opencode")];
        configuration_directories.extend(projects.iter().map(|project| project.join(".opencode")));
        let named_directory = environment.get("OPENCODE_CONFIG_DIR").map(PathBuf::from);
        configuration_directories.extend(named_directory.clone());
        let named = environment.get("OPENCODE_CONFIG").map(PathBuf::from);
        let of_user = configuration_directories.iter().take(2).cloned();
        let of_user = of_user.chain([home.to_owned()]).chain(named_directory).chain(named.clone()).collect();
        Self {
            configuration_directories,
            of_user,
            named,
            projects,
            cache: base("XDG_CACHE_HOME", ".cache"),
            data: base("XDG_DATA_HOME", ".local/share"),
        }
    }

    /// Returns the paths of possible configuration files, projects last.
    #[must_use]
    pub fn configurations(&self) -> Vec<PathBuf> {
        const NAMES: [&str; 2] = ["opencode.json", "opencode.jsonc"];
        let global = &self.configuration_directories[0];
        let mut paths = vec![global.join("config.json")];
        let (global, own) = self.configuration_directories.split_at(1);
        let directories = global.iter().chain(&self.projects).chain(own);
        paths.extend(directories.flat_map(|directory| NAMES.map(|name| directory.join(name))));
        paths.extend(self.named.clone());
        let mut known = HashSet::new();
        paths.retain(|path| known.insert(path.clone()));
        paths
    }

    /// True for a configuration file of the user, false for one of a project.
    #[must_use]
    pub fn is_of_user(&self, configuration: &Path) -> bool {
        let is_own = |path: &Path| self.of_user.iter().any(|own| own == path);
        is_own(configuration) || configuration.parent().is_some_and(is_own)
    }

    #[must_use]
    pub fn auth(&self) -> PathBuf {
        self.data.join("auth.json")
    }
}
