//! Full, read-only and broken disks, and file systems without locks.
#![cfg(target_os = "linux")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use futures_util::future::join_all;

use crate::support::child::Child;
use crate::support::disks::{SMALL_DISK, may_mount};
use crate::support::fleet::Fleet;
use crate::support::setup::Setup;
use crate::support::time::until;

/// Starts a client whose Qwen directory is a small private disk; `None` where mounting is not allowed.
async fn on_small_disk(setup: &Setup) -> Option<Child> {
    if !may_mount() {
        return None;
    }
    let directory = setup.home.qwen_dir();
    let launcher = ["unshare", "-m", "sh", "-c", SMALL_DISK, directory.to_str().unwrap()];
    Some(Child::start_by(setup, &launcher, &[]).await)
}

struct Disk {
    filler: PathBuf,
    credentials: PathBuf,
    directory: PathBuf,
}

impl Disk {
    fn of(child: &Child, setup: &Setup) -> Self {
        let directory = child.path(&setup.home.qwen_dir());
        Self { filler: directory.join("filler"), credentials: directory.join("oauth_creds.json"), directory }
    }

    fn fill(&self) {
        let mut file = fs::File::create(&self.filler).unwrap();
        while file.write(&[b'x'; 512]).is_ok_and(|written| written > 0) {}
    }

    fn free(&self) {
        fs::remove_file(&self.filler).unwrap();
    }

    fn credentials(&self) -> String {
        fs::read_to_string(&self.credentials).unwrap()
    }

    fn assert_tidy(&self) {
        let entries = fs::read_dir(&self.directory).unwrap();
        let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let known = [
            "oauth_creds.json",
            "oauth_creds.flock",
            "oauth_accounts.json",
            "oauth_accounts.flock",
            "filler",
        ];
        assert!(names.iter().all(|name| known.contains(&name.as_str())), "{names:?}");
    }
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_redeemed_and_nothing_left() {
    let setup = Setup::expired().await;
    let Some(mut child) = on_small_disk(&setup).await else { return };
    let disk = Disk::of(&child, &setup);
    let before = disk.credentials();
    disk.fill();
    for _ in 0..2 {
        assert_eq!(child.token().await, "ERR_QWEN_IO");
        assert_eq!(child.chat().await, "ERR_QWEN_IO");
    }
    assert_eq!((disk.credentials(), setup.server.token_requests()), (before, 0));
    disk.assert_tidy();
    disk.free();
    assert_eq!(child.token().await, "access-1");
    assert!(disk.credentials().contains("refresh-1"));
    disk.assert_tidy();
}

fn remount(child: &Child, setup: &Setup, options: &str) {
    let inside = format!("--mount={}", child.path(Path::new("/")).parent().unwrap().join("ns/mnt").display());
    let directory = setup.home.qwen_dir();
    let mut command = Command::new("nsenter");
    command.args([&inside, "mount", "-o", options]).arg(directory);
    assert!(command.status().unwrap().success());
}

#[tokio::test]
async fn on_a_read_only_disk_a_fresh_token_is_used_and_a_stale_one_waits() {
    for (lifetime, asked, chatted) in
        [(3600, "access-0", "200 qwen-cli"), (-60, "ERR_QWEN_IO", "ERR_QWEN_IO")]
    {
        let setup = Setup::expiring_in(lifetime).await;
        let Some(mut child) = on_small_disk(&setup).await else { return };
        let disk = Disk::of(&child, &setup);
        let before = disk.credentials();
        remount(&child, &setup, "remount,ro");
        assert_eq!(child.token().await, asked);
        assert_eq!(child.chat().await, chatted);
        assert_eq!((disk.credentials(), setup.server.token_requests()), (before, 0));
        remount(&child, &setup, "remount,rw");
        let token = if lifetime > 0 { "access-0" } else { "access-1" };
        assert_eq!(child.token().await, token);
        disk.assert_tidy();
    }
}

/// Compiles one of the tests' C programs.
fn compiled(setup: &Setup, name: &str, arguments: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/c").join(format!("{name}.c"));
    let program = setup.home.path().join(name);
    let status = Command::new("cc").args(arguments).arg("-o").arg(&program).arg(source).status().unwrap();
    assert!(status.success(), "{name}.c");
    program
}

/// Starts a process whose disk fails in the calls that a file names, while that file exists. Returns its path too.
async fn on_a_failing_disk(setup: &Setup) -> (Child, PathBuf) {
    let library = compiled(setup, "failing_calls", &["-shared", "-fPIC"]);
    let failing = setup.home.path().join("failing");
    let variables = [("LD_PRELOAD", library.to_str().unwrap()), ("FAILING_CALLS", failing.to_str().unwrap())];
    (Child::start_by(setup, &[], &variables).await, failing)
}

/// Lets the child refresh its token while a call fails, from the time when the server has the request.
async fn token_while_failing(setup: &Setup, child: &mut Child, failing: &Path, call: &str) -> String {
    setup.server.hold();
    child.ask().await;
    setup.server.until_token_requests(1).await;
    fs::write(failing, call).unwrap();
    setup.server.release();
    child.answer().await
}

#[tokio::test]
async fn a_disk_that_fails_during_a_refresh_loses_no_token() {
    for (call, is_written) in
        [("create", true), ("write", false), ("fsync", true), ("rename", true), ("ftruncate", true)]
    {
        let setup = Setup::expired().await;
        let (mut child, failing) = on_a_failing_disk(&setup).await;
        let before = setup.home.bytes();
        assert_eq!(token_while_failing(&setup, &mut child, &failing, call).await, "access-1", "{call}");
        assert_eq!(setup.home.bytes() != before, is_written, "{call}");
        assert_eq!(child.token().await, "access-1", "{call}");
        setup.home.assert_tidy();
        fs::remove_file(&failing).unwrap();
        assert_eq!(child.token().await, "access-1", "{call}");
        until("the redeemed tokens in the file", || setup.home.access_token() == "access-1").await;
        assert_eq!((setup.server.redemptions(), setup.server.redeemed_again()), (1, 0), "{call}");
    }
}

#[tokio::test]
async fn a_store_whose_write_fails_is_written_again() {
    for call in ["write once", "fsync once", "rename"] {
        let fleet = Fleet::expiring_in(&[3600, -60]).await;
        fleet.edit_store(|store| store["activeAccountId"] = "bob".into());
        let setup = &fleet.setup;
        let (mut child, failing) = on_a_failing_disk(setup).await;
        assert_eq!(token_while_failing(setup, &mut child, &failing, call).await, "access.bob.1", "{call}");
        assert_eq!(failing.exists(), call == "rename", "{call}");
        assert_eq!(fleet.stored("bob")["token"]["refresh_token"], "refresh.bob.1", "{call}");
    }
}

#[tokio::test]
async fn a_disk_that_fails_before_a_refresh_stops_it() {
    for call in ["create", "write", "read"] {
        let setup = Setup::expired().await;
        let (mut child, failing) = on_a_failing_disk(&setup).await;
        let before = (setup.home.bytes(), setup.home.credentials().metadata().unwrap().ino());
        fs::write(&failing, call).unwrap();
        for _ in 0..2 {
            assert_eq!(child.token().await, "ERR_QWEN_IO", "{call}");
        }
        setup.home.assert_tidy();
        assert_eq!(
            (setup.home.bytes(), setup.home.credentials().metadata().unwrap().ino()),
            before,
            "{call}"
        );
        assert_eq!(setup.server.token_requests(), 0, "{call}");
        fs::remove_file(&failing).unwrap();
        assert_eq!(child.token().await, "access-1", "{call}");
    }
}

#[tokio::test]
async fn a_directory_that_can_not_be_synced_stops_nothing_and_is_reported_once() {
    let setup = Setup::expired().await;
    let (mut child, failing) = on_a_failing_disk(&setup).await;
    fs::write(&failing, "fsync of a directory").unwrap();
    for access_token in ["access-1", "access-2"] {
        let mut held = setup.home.document();
        held["expiry_date"] = 1.into();
        setup.home.write(&held);
        assert_eq!(child.token().await, access_token);
        assert_eq!(setup.home.access_token(), access_token);
    }
    assert_eq!(child.told().await, "refreshed config refreshed");
    setup.home.assert_tidy();
}

#[tokio::test]
async fn a_file_system_without_modes_is_reported_once_for_all_processes() {
    use std::os::unix::fs::PermissionsExt as _;
    let setup = Setup::fresh().await;
    let open =
        |mode| fs::set_permissions(setup.home.credentials(), fs::Permissions::from_mode(mode)).unwrap();
    let (mut child, failing) = on_a_failing_disk(&setup).await;
    open(0o644);
    fs::write(&failing, "chmod").unwrap();
    assert_eq!(child.token().await, "access-0");
    assert_eq!(child.told().await.matches("store-repaired").count(), 1);
    let (mut next, failing) = on_a_failing_disk(&setup).await;
    fs::write(&failing, "chmod").unwrap();
    assert_eq!(next.token().await, "access-0");
    assert_eq!(next.told().await, "");
}

#[tokio::test]
async fn without_kernel_locks_the_lock_file_alone_keeps_processes_apart() {
    let setup = Setup::expired().await;
    let launcher = compiled(&setup, "without_flock", &[]);
    let launcher = [launcher.to_str().unwrap()];
    let mut children = join_all((0..6).map(|_| Child::start_by(&setup, &launcher, &[]))).await;
    let answers = join_all(children.iter_mut().map(Child::token)).await;
    assert!(answers.iter().all(|answer| answer == "access-1"), "{answers:?}");
    assert_eq!((setup.server.redemptions(), setup.server.redeemed_again()), (1, 0));
    setup.home.assert_tidy();
}
