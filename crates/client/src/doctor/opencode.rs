//! Checks `OpenCode`: its configuration, its copies of this plugin, and its logins.

use std::fs;
use std::path::{Path, PathBuf};

use qwen_base::shell::path as quoted;
use qwen_base::{Environment, safe_open};
use serde_json::Value;
use url::Url;

use super::finding::Finding;
use super::opencode_config::{File, PACKAGE, PROVIDER, configuration_findings, package_of, takes_options};
use super::removal::{free_name, move_to, remove};
use super::settings::CheckedSettings;
use super::{Doctor, programs};
use crate::opencode_files::{OpenCodeFiles, read_configuration};
use crate::user_files::MAX_FILE;

pub const ID: &str = "opencode";
const VERSION: &str = env!("CARGO_PKG_VERSION");

pub async fn check(doctor: &Doctor, settings: &CheckedSettings, had_host_login: bool) -> Vec<Finding> {
    let Some(paths) = &settings.paths else { return Vec::new() };
    let places = OpenCodeFiles::new(&doctor.environment, paths.home(), Some(&doctor.working_directory));
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
    let copies = copies(&places);
    let own_hosts: Vec<Url> = settings.base_url_override.iter().map(|set| set.url.clone()).collect();
    let needs_version = files.iter().any(takes_options);
    let version = if needs_version { version(&doctor.environment, paths.home()).await } else { None };
    findings.extend(configuration_findings(&files, &copies, version.as_deref(), &own_hosts));
    findings.extend(installed(&places, &files));
    findings.extend(logins(&places, had_host_login));
    if findings.is_empty() {
        let names: Vec<_> = files.iter().map(|file| file.path.display().to_string()).collect();
        findings.push(Finding::ok(ID, format!("OpenCode loads the plugin once ({}).", names.join(", "))));
    }
    findings
}

/// Returns plugin files of the user that load this plugin.
fn copies(places: &OpenCodeFiles) -> Vec<PathBuf> {
    let directories = places
        .configuration_directories
        .iter()
        .flat_map(|directory| ["plugin", "plugins"].map(|name| directory.join(name)));
    let entries = directories.filter_map(|directory| fs::read_dir(directory).ok()).flatten().flatten();
    let mut copies: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "js" || extension == "ts"))
        .filter(|path| safe_open::read_text(path, MAX_FILE).is_ok_and(|text| text.contains(PACKAGE)))
        .collect();
    copies.sort();
    copies.dedup();
    copies
}

/// Reports installed versions, which `OpenCode` doesn't update on its own.
fn installed(places: &OpenCodeFiles, files: &[File]) -> Vec<Finding> {
    let is_by_name =
        files.iter().flat_map(File::plugins).any(|plugin| package_of(plugin.spec) == Some(PACKAGE));
    if !is_by_name {
        return Vec::new();
    }
    let packages = fs::read_dir(places.cache.join("packages")).into_iter().flatten().flatten();
    let own = packages
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!("{PACKAGE}@")))
        .map(|entry| (entry.path(), entry.path()));
    let shared = places.cache.join("node_modules");
    let all = own.chain([(shared.join(PACKAGE), places.cache.clone())]);
    all.filter_map(|(directory, root)| {
        let manifest = root.join("node_modules").join(PACKAGE).join("package.json");
        let manifest: Value = serde_json::from_str(&safe_open::read_text(&manifest, MAX_FILE).ok()?).ok()?;
        let version = manifest["version"].as_str().filter(|version| *version != VERSION)?.to_owned();
        let message = format!("OpenCode has version {version} of the plugin; this is {VERSION}. OpenCode doesn't update it on its own.");
        Some(Finding::warning("version", message, remove(&directory)))
    })
    .collect()
}

/// Reports a logout in `OpenCode`: it sends no requests then, even if other files hold a login.
fn logins(places: &OpenCodeFiles, had_host_login: bool) -> Option<Finding> {
    let path = places.auth();
    let entries = safe_open::read(&path, MAX_FILE).ok().flatten();
    let entries = entries.map(|bytes| serde_json::from_slice::<Value>(&bytes));
    match entries {
        Some(Err(_)) => Some(Finding::broken(
            ID,
            format!("{} is not JSON: OpenCode can't read its logins.", path.display()),
            format!("{} && opencode auth login", move_to(&path, &free_name(&path, ".broken"))),
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

async fn version(environment: &Environment, home: &Path) -> Option<String> {
    let name = if cfg!(windows) { "opencode.exe" } else { "opencode" };
    let program = environment
        .program_directories()
        .chain([home.join(".opencode/bin")])
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())?;
    let packaged = programs::packaged_version(&program, "opencode-ai");
    if packaged.is_some() { packaged } else { programs::printed_version(&program, &[], environment).await }
}
