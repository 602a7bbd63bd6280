//! The order in which data reaches the disk, as strace sees it.
//!
//! After a power cut a file system may have done any part of the writes that were not synced. So the new contents are
//! synced before the rename. The rename is synced before the refresh replaces its next file, gives the lock back, or
//! uses the token.

use std::path::Path;
use std::process::Command;

use super::scene::Scene;
use crate::support::child::Child;
use crate::support::skipped;

const CALLS: &str = "trace=openat,write,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat";

#[derive(Debug, PartialEq, Eq)]
enum Call {
    Wrote(String),
    Synced(String),
    Renamed(String, String),
    Removed(String),
    Answered,
}

fn is(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == extension)
}

/// Lists the missing syncs; empty if a power cut is harmless.
fn faults(calls: &[Call], directory: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut unsynced_names: Vec<&str> = Vec::new();
    for (index, call) in calls.iter().enumerate() {
        match call {
            Call::Renamed(from, to) if is(to, "json") => {
                let last_write = calls[..index].iter().rposition(|call| *call == Call::Wrote(from.clone()));
                let synced = calls[last_write.unwrap()..index].contains(&Call::Synced(from.clone()));
                if !synced {
                    faults.push(format!("{to} is renamed before its contents is synced"));
                }
                faults.extend(unsynced_names.iter().map(|name| format!("{name} is not synced before {to}")));
                unsynced_names.push(to);
            }
            Call::Synced(path) if path == directory => unsynced_names.clear(),
            Call::Removed(path) if is(path, "lock") => {
                faults.extend(
                    unsynced_names
                        .iter()
                        .map(|name| format!("{name} is not synced before its lock is given back")),
                );
            }
            Call::Answered => {
                faults.extend(
                    unsynced_names
                        .iter()
                        .map(|name| format!("{name} is not synced before its token is used")),
                );
            }
            _ => {}
        }
    }
    faults
}

/// Parses strace's lines: `[pid] call(arguments) = result`, with the paths of descriptors in angle brackets.
fn parse(log: &str, directory: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    for line in log.lines().filter(|line| !line.contains(" = -1 ")) {
        let described = |line: &str| Some(line.split_once('<')?.1.split_once('>')?.0.to_owned());
        let quoted: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
        let Some(name) = line.split_once('(').and_then(|(head, _)| head.split_whitespace().last()) else {
            continue;
        };
        let call = match name {
            "write" if line.contains("answer: access") => Some(Call::Answered),
            "write" => described(line).map(Call::Wrote),
            "fsync" | "fdatasync" => described(line).map(Call::Synced),
            "rename" | "renameat" | "renameat2" => match quoted[..] {
                [from, to] => Some(Call::Renamed(from.to_owned(), to.to_owned())),
                _ => None,
            },
            "unlink" | "unlinkat" => quoted.first().map(|path| Call::Removed((*path).to_owned())),
            _ => None,
        };
        let concerns = |path: &str| path.starts_with(directory);
        calls.extend(call.filter(|call| match call {
            Call::Wrote(path) | Call::Synced(path) | Call::Removed(path) => concerns(path),
            Call::Renamed(from, to) => concerns(from) && concerns(to),
            Call::Answered => true,
        }));
    }
    calls
}

/// Lists the damage that a power cut could do during a refresh.
async fn dangers(scene: &Scene, omitted: &str) -> Vec<String> {
    // Outside the home, which may hold tokens in its stores alone.
    let traces = tempfile::tempdir().unwrap();
    let log = traces.path().join("strace");
    let log_path = log.to_str().unwrap();
    // Unbuffered: each line is one call.
    let runner = ["/usr/bin/strace", "-f", "-y", "-s", "64", "-e", CALLS, "-o", log_path];
    let mut client = Child::start_under(scene.setup(), &runner, omitted).await;
    assert_eq!(client.token().await, scene.new_token());
    client.end().await;
    let directory = scene.home().qwen_dir();
    let directory = directory.to_str().unwrap();
    let calls = parse(&std::fs::read_to_string(log).unwrap(), directory);
    let replaced = |name: &str| {
        let is_it = |call: &&Call| matches!(call, Call::Renamed(_, to) if to.ends_with(name));
        calls.iter().filter(is_it).count()
    };
    assert_eq!(replaced("oauth_creds.json"), 1, "{calls:?}");
    // A store without accounts still notes the server of the login.
    assert!(replaced("oauth_accounts.json") >= 1, "{calls:?}");
    assert_eq!(calls.last(), Some(&Call::Answered), "{calls:?}");
    faults(&calls, directory)
}

/// Says why nothing is tested, if strace can't be used.
fn can_trace() -> bool {
    let traced = Command::new("/usr/bin/strace").args(["-o", "/dev/null", "/bin/true"]).status();
    let can = traced.is_ok_and(|status| status.success());
    if !can {
        skipped("no strace here, or no right to use it. On Debian: apt-get install strace.");
    }
    can
}

#[tokio::test]
async fn a_power_cut_finds_the_old_token_or_the_new_one_thanks_to_syncing() {
    if !can_trace() {
        return;
    }
    for omitted in ["", "omit DataSync", "omit DirectorySync"] {
        for scene in [Scene::one().await, Scene::two().await] {
            let dangers = dangers(&scene, omitted).await;
            assert_eq!(dangers.is_empty(), omitted.is_empty(), "{omitted}: {dangers:?}");
            let about = if omitted == "omit DataSync" { "contents" } else { "is not synced before" };
            assert!(dangers.iter().all(|danger| danger.contains(about)), "{omitted}: {dangers:?}");
        }
    }
}
