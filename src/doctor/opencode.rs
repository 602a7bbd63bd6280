//! `OpenCode`: its configuration files, what it has installed of this plugin, and its own file of logins.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use url::Url;

use super::finding::{Finding, quoted};
use super::opencode_config::{File, PACKAGE, PROVIDER, judge, package_of, takes_options};
use super::settings::Settings;
use super::{Doctor, programs};
use crate::environment::Environment;
use crate::safe_open;

pub const ID: &str = "opencode";
const VERSION: &str = env!("CARGO_PKG_VERSION");
const MAX_SIZE: u64 = 1024 * 1024;

pub async fn check(doctor: &Doctor, settings: &Settings, had_host_login: bool) -> Vec<Finding> {
    let Some(paths) = &settings.paths else { return Vec::new() };
    let places = Places::new(&doctor.environment, paths.home(), &doctor.working_directory);
    let (mut files, mut findings) = (Vec::new(), Vec::new());
    for path in places.configurations() {
        match read_configuration(&path) {
            Ok(Some(contents)) => files.push(File { path, contents }),
            Ok(None) => {}
            Err(why) => findings.push(Finding::broken(
                ID,
                format!("{} can't be read: {why}. OpenCode does not start with it.", path.display()),
                format!("Correct {}", quoted(&path)),
            )),
        }
    }
    if files.is_empty() && findings.is_empty() {
        return vec![Finding::ok(ID, "OpenCode has no configuration here.")];
    }
    let copies = places.copies();
    let own_hosts: Vec<Url> = settings.base_url_override.iter().map(|set| set.url.clone()).collect();
    let needs_version = files.iter().any(takes_options);
    let version = if needs_version { version(&doctor.environment, paths.home()).await } else { None };
    findings.extend(judge(&files, &copies, version.as_deref(), &own_hosts));
    findings.extend(places.installed(&files));
    findings.extend(places.logins(had_host_login));
    if findings.is_empty() {
        let names: Vec<_> = files.iter().map(|file| file.path.display().to_string()).collect();
        findings.push(Finding::ok(ID, format!("OpenCode loads the plugin once ({}).", names.join(", "))));
    }
    findings
}

/// A configuration file, which may have comments and trailing commas.
fn read_configuration(path: &Path) -> Result<Option<Value>, String> {
    let Ok(metadata) = fs::metadata(path) else { return Ok(None) };
    if !metadata.is_file() || metadata.len() > MAX_SIZE {
        return Ok(None);
    }
    let mut text = safe_open::read_text(path, MAX_SIZE).map_err(|error| error.to_string())?;
    json_strip_comments::strip(&mut text).map_err(|error| error.to_string())?;
    match serde_json::from_str(&text) {
        Ok(value @ Value::Object(_)) => Ok(Some(value)),
        Ok(_) => Err("it is no object".to_owned()),
        Err(error) => Err(format!("line {}, column {} is no JSON", error.line(), error.column())),
    }
}

/// Where `OpenCode` keeps its things.
struct Places {
    configuration_directories: Vec<PathBuf>,
    named: Option<PathBuf>,
    projects: Vec<PathBuf>,
    cache: PathBuf,
    data: PathBuf,
}

impl Places {
    fn new(environment: &Environment, home: &Path, working_directory: &Path) -> Self {
        let base = |name: &str, otherwise: &str| {
            environment.get(name).map_or_else(|| home.join(otherwise), PathBuf::from).join("opencode")
        };
        let mut projects: Vec<PathBuf> = Vec::new();
        for directory in working_directory.ancestors() {
            projects.push(directory.to_owned());
            if directory.join(".git").exists() {
                break;
            }
        }
        projects.reverse();
        let mut configuration_directories = vec![base("XDG_CONFIG_HOME", ".config"), home.join(".opencode")];
        configuration_directories.extend(projects.iter().map(|project| project.join(".opencode")));
        configuration_directories.extend(environment.get("OPENCODE_CONFIG_DIR").map(PathBuf::from));
        Self {
            configuration_directories,
            named: environment.get("OPENCODE_CONFIG").map(PathBuf::from),
            projects,
            cache: base("XDG_CACHE_HOME", ".cache"),
            data: base("XDG_DATA_HOME", ".local/share"),
        }
    }

    /// The files that may be there, those of projects last.
    fn configurations(&self) -> Vec<PathBuf> {
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

    /// Plugins that are files of the user's own and load this one.
    fn copies(&self) -> Vec<PathBuf> {
        let directories = self
            .configuration_directories
            .iter()
            .flat_map(|directory| ["plugin", "plugins"].map(|name| directory.join(name)));
        let entries = directories.filter_map(|directory| fs::read_dir(directory).ok()).flatten().flatten();
        let mut copies: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "js" || extension == "ts"))
            .filter(|path| safe_open::read_text(path, MAX_SIZE).is_ok_and(|text| text.contains(PACKAGE)))
            .collect();
        copies.sort();
        copies.dedup();
        copies
    }

    /// Versions that `OpenCode` has installed, and does not update by itself.
    fn installed(&self, files: &[File]) -> Vec<Finding> {
        let is_by_name =
            files.iter().flat_map(File::plugins).any(|plugin| package_of(plugin.spec) == Some(PACKAGE));
        if !is_by_name {
            return Vec::new();
        }
        let packages = fs::read_dir(self.cache.join("packages")).into_iter().flatten().flatten();
        let own = packages
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!("{PACKAGE}@")))
            .map(|entry| (entry.path(), entry.path()));
        let shared = self.cache.join("node_modules");
        let all = own.chain([(shared.join(PACKAGE), self.cache.clone())]);
        all.filter_map(|(directory, root)| {
            let manifest = root.join("node_modules").join(PACKAGE).join("package.json");
            let manifest: Value = serde_json::from_str(&safe_open::read_text(&manifest, MAX_SIZE).ok()?).ok()?;
            let version = manifest["version"].as_str().filter(|version| *version != VERSION)?.to_owned();
            let message = format!("OpenCode has version {version} of the plugin; this is {VERSION}. It does not update it by itself.");
            Some(Finding::warning("version", message, format!("rm -r {}", quoted(&directory))))
        })
        .collect()
    }

    /// Whoever has logged out in `OpenCode` is not served there, whatever other files hold.
    fn logins(&self, had_host_login: bool) -> Option<Finding> {
        let path = self.data.join("auth.json");
        let entries = safe_open::read(&path, MAX_SIZE).ok().flatten();
        let entries = entries.map(|bytes| serde_json::from_slice::<Value>(&bytes));
        match entries {
            Some(Err(_)) => Some(Finding::broken(
                ID,
                format!("{} is no JSON: OpenCode can't read its logins.", path.display()),
                format!("mv {0} {0}.broken && opencode auth login", quoted(&path)),
            )),
            Some(Ok(entries)) if entries.get(PROVIDER).is_some() => None,
            _ => had_host_login.then(|| {
                Finding::broken(
                    ID,
                    "You have logged out of Qwen in OpenCode; it sends no requests until you log in there.",
                    "opencode auth login",
                )
            }),
        }
    }
}

async fn version(environment: &Environment, home: &Path) -> Option<String> {
    let name = if cfg!(windows) { "opencode.exe" } else { "opencode" };
    let on_path = std::env::split_paths(environment.get("PATH").unwrap_or(""));
    let program = on_path
        .filter(|directory| directory.is_absolute())
        .chain([home.join(".opencode/bin")])
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())?;
    let packaged = programs::packaged(&program, "opencode-ai");
    if packaged.is_some() { packaged } else { programs::told(&program, &[], environment).await }
}
