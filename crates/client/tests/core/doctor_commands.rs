//! Commands of the doctor about files, run in a shell.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use qwen_client::{Finding, FindingState};

use crate::doctor::tidy;
use crate::support::disks::may_mount;
use crate::support::setup::Setup;
use crate::support::time::soon;

/// Scripts that spoil a Qwen directory, the worst state of the findings, and their number.
const SPOILED: [(&str, FindingState, usize); 40] = [
    ("touch oauth_creds.flock && chmod 0 oauth_creds.flock", FindingState::Broken, 1),
    (
        "touch oauth_creds.flock && chmod 444 oauth_creds.flock && chown 54321 oauth_creds.flock",
        FindingState::Broken,
        2,
    ),
    ("touch oauth_creds.flock && chattr +i oauth_creds.flock", FindingState::Broken, 1),
    (
        "chmod 644 oauth_creds.json && chown 54321 oauth_creds.json && chattr +i oauth_creds.json",
        FindingState::Broken,
        3,
    ),
    ("chmod 777 $PWD && chattr +i $PWD", FindingState::Broken, 2),
    ("touch oauth_accounts.flock && chattr +i oauth_accounts.flock", FindingState::Broken, 1),
    ("touch oauth_creds.flock && read_only oauth_creds.flock", FindingState::Broken, 1),
    ("read_only $PWD", FindingState::Broken, 1),
    ("read_only oauth_creds.json", FindingState::Broken, 1),
    ("chattr +i $PWD", FindingState::Broken, 1),
    ("chattr +i oauth_creds.json", FindingState::Broken, 1),
    (
        "mkdir ../target && mv oauth_creds.json ../target && ln -s ../target/oauth_creds.json . && chattr +i ../target",
        FindingState::Warning,
        1,
    ),
    (
        "echo 1 > oauth_creds.lock && touch -d '1 hour ago' oauth_creds.lock && chattr +i oauth_creds.lock",
        FindingState::Broken,
        1,
    ),
    (
        "echo 1 > oauth_creds.lock && touch -d '1 hour ago' oauth_creds.lock && mount --bind oauth_creds.lock oauth_creds.lock",
        FindingState::Broken,
        1,
    ),
    ("mkdir oauth_accounts.json && mount -t tmpfs test oauth_accounts.json", FindingState::Broken, 1),
    (
        "mkdir -p oauth_accounts.json/a && mount -t tmpfs 1 oauth_accounts.json/a && mount -t tmpfs 2 oauth_accounts.json/a",
        FindingState::Broken,
        1,
    ),
    (
        "mkdir -p oauth_accounts.json/a && touch oauth_accounts.json/a/b && chattr +i oauth_accounts.json/a/b",
        FindingState::Broken,
        1,
    ),
    ("mkfifo oauth_accounts.json && chattr +i $PWD", FindingState::Broken, 2),
    ("ln -s oauth_creds.json oauth_accounts.json", FindingState::Broken, 1),
    ("ln oauth_creds.json oauth_accounts.json", FindingState::Broken, 1),
    ("mkfifo ../.opencode", FindingState::Broken, 1),
    ("mkdir ../.opencode && mknod ../.opencode/logs c 1 3", FindingState::Broken, 1),
    (
        "mkdir -p ../.opencode/logs && ln -s qwen-plugin ../.opencode/logs/qwen-plugin",
        FindingState::Broken,
        1,
    ),
    (
        "truncate -s 17M oauth_accounts.json && chmod 600 oauth_accounts.json && echo > oauth_accounts.json.large && chmod 600 *.large",
        FindingState::Broken,
        1,
    ),
    ("rm -r $PWD && ln -s \"$(printf 'a\\033b\\nc')\" $PWD", FindingState::Broken, 1),
    // Files of root, to which links of another user lead.
    (
        "echo > ../precious && chmod 600 ../precious && ln -s ../precious oauth_x.json && chown -hR 12345 .",
        FindingState::Broken,
        1,
    ),
    (
        "mkdir -p ../.opencode/logs/qwen-plugin && touch ../precious && ln -s ../../../precious ../.opencode/logs/qwen-plugin/a.log && chown -hR 12345 . ../.opencode",
        FindingState::Broken,
        1,
    ),
    (
        "mkdir -p ../.opencode/logs ../precious && touch ../precious/a && ln -s ../../precious ../.opencode/logs/qwen-plugin && chown -hR 12345 . ../.opencode",
        FindingState::Broken,
        1,
    ),
    (
        "chown -R 12345 . && touch ../precious && chmod 600 ../precious && ln ../precious oauth_x.json",
        FindingState::Broken,
        1,
    ),
    ("chown -R 12345 . && chown 12346 oauth_creds.json", FindingState::Broken, 1),
    (
        "chown 12346 oauth_creds.json && mkdir ../nix && mv oauth_creds.json ../nix && ln -s ../nix/oauth_creds.json .",
        FindingState::Broken,
        1,
    ),
    (
        "mkdir ../nix && mv oauth_creds.json ../nix && chmod 644 ../nix/oauth_creds.json && read_only ../nix && ln -s ../nix/oauth_creds.json .",
        FindingState::Broken,
        2,
    ),
    (
        "mkdir ../nix && mv oauth_creds.json ../nix && store ../nix/s && ln -s ../nix/oauth_creds.json . && ln -s ../nix/s oauth_accounts.json && read_only ../nix",
        FindingState::Broken,
        2,
    ),
    (
        "mkdir ../nix && store ../nix/s && ln -s ../nix/s oauth_accounts.json && read_only ../nix",
        FindingState::Broken,
        1,
    ),
    (
        "mkdir ../nix && mv $PWD ../nix/q && ln -s nix/q $PWD && cd ../nix && read_only $PWD",
        FindingState::Broken,
        1,
    ),
    (
        "rm oauth_creds.json && mkdir ../nix && ln -s ../nix/c oauth_creds.json && read_only ../nix",
        FindingState::Broken,
        1,
    ),
    (
        "mkdir ../nix && rm -r $PWD && ln -s nix/q $PWD && cd ../nix && read_only $PWD",
        FindingState::Broken,
        1,
    ),
    ("rm -r $PWD && echo > $PWD", FindingState::Broken, 1),
    ("rm -r $PWD && mkfifo $PWD", FindingState::Broken, 1),
    ("rm -r $PWD && ln -s .qwen $PWD", FindingState::Broken, 1),
];

/// Runs a script in a directory and returns its output; `None` if it fails.
fn run(script: &str, directory: &Path) -> Option<String> {
    let helpers = r#"read_only() { mount --bind $1 $1 && mount -o remount,bind,ro $1; }
        store() { echo '{"version":1,"accounts":[{"id":"b","token":{"access_token":"x"}}]}' > $1; chmod 600 $1; }
        cd $0"#;
    let ran =
        Command::new("bash").args(["-c", &format!("{helpers} && {script}")]).arg(directory).output().unwrap();
    ran.status.success().then(|| String::from_utf8(ran.stdout).unwrap())
}

/// Removes marks and mounts from a home at the end.
struct Cleaned<'a>(&'a Setup);

impl Drop for Cleaned<'_> {
    fn drop(&mut self) {
        run("umount -l .qwen/*/a .qwen/* .qwen nix; chattr -R -i . || true", self.0.home.path()).unwrap();
    }
}

/// Returns the problems of files that a command can fix.
async fn about_files(setup: &Setup) -> Vec<Finding> {
    let list = || run("find . | sort", setup.home.path()).unwrap();
    let before = list();
    let mut findings = soon("the doctor's findings", setup.doctor(&[]).examine()).await.unwrap();
    assert_eq!(list(), before, "the doctor leaves nothing behind");
    findings.retain(|finding| {
        let is_about_files =
            ["files", "file-system", "locks", "settings", "credentials", "store"].contains(&finding.id);
        let is_mount = finding.fix.as_deref() == Some("Mount its directory instead of the file");
        let is_ours = finding.fix.as_ref().is_some_and(|fix| fix.starts_with("npx"));
        is_about_files && !is_ours && finding.state != FindingState::Ok && !is_mount
    });
    findings
}

#[tokio::test]
async fn each_command_about_a_file_works() {
    if !may_mount() {
        return;
    }
    for (script, state, count) in SPOILED {
        let setup = Setup::expired().await;
        tidy(&setup);
        let cleaned = Cleaned(&setup);
        run(script, &setup.home.qwen_dir()).unwrap_or_else(|| panic!("{script}"));
        let findings = about_files(&setup).await;
        let worst = findings.iter().map(|finding| finding.state).max();
        assert_eq!((worst, findings.len()), (Some(state), count), "{script}: {findings:?}");
        for finding in findings {
            assert!(run(finding.fix.as_ref().unwrap(), setup.home.path()).is_some(), "{script}: {finding:?}");
        }
        let kept = fs::read(setup.home.qwen_dir().join("oauth_accounts.json.large"));
        assert!(kept.is_err() || kept.is_ok_and(|kept| kept == b"\n"), "{script}");
        let precious = fs::metadata(setup.home.path().join("precious"));
        assert!(precious.is_err() || precious.is_ok_and(|found| found.uid() == 0), "{script}");
        let left = about_files(&setup).await;
        assert!(left.is_empty(), "{script}: {left:?}");
        drop(cleaned);
    }
}

#[tokio::test]
async fn a_disk_without_room_for_a_refresh_is_found() {
    if !may_mount() {
        return;
    }
    for (options, is_enough) in [
        ("size=8k", false),
        ("size=12k", false),
        ("size=24k", true),
        ("size=64k", true),
        ("nr_inodes=4", false),
        ("nr_inodes=7", true),
    ] {
        let setup = Setup::expired().await;
        let cleaned = Cleaned(&setup);
        let mount = format!(
            "cp $PWD/oauth_creds.json .. && mount -t tmpfs -o {options},mode=700 small $PWD && cp -p ../oauth_creds.json $PWD"
        );
        run(&mount, &setup.home.qwen_dir()).unwrap();
        tidy(&setup);
        let mut found = about_files(&setup).await;
        assert!(found.iter().all(|finding| finding.fix.as_ref().unwrap().contains("Free some disk space")));
        found.retain(|finding| finding.state == FindingState::Broken);
        assert_eq!(found.is_empty(), is_enough, "{options}: {found:?}");
        let refreshed = setup.client().access_token(None).await;
        assert_eq!(
            (refreshed.is_ok(), setup.server.token_requests() > 0),
            (is_enough, is_enough),
            "{options}"
        );
        drop(cleaned);
    }
}
