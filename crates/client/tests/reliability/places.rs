//! Places in which a refreshed login can't be kept as usual: mounts, links, full disks, a login during the refresh.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::process::Command;

use qwen_base::Clock;

use super::scene::read;
use crate::support::child::Child;
use crate::support::disks::{SMALL_DISK, may_mount};
use crate::support::fleet::Fleet;
use crate::support::home::{document, in_seconds};
use crate::support::setup::{Setup, quiet_login};
use crate::support::skipped;

/// Bind-mounts the credentials file, as a container does with a single file.
const FILE_MOUNT: &str = r#"mount --bind "$0/oauth_creds.json" "$0/oauth_creds.json" && exec "$@""#;
/// Bind-mounts the store.
const STORE_MOUNT: &str = r#"mount --bind "$0/oauth_accounts.json" "$0/oauth_accounts.json" && exec "$@""#;
/// The same, for reading only.
const READ_ONLY_STORE_MOUNT: &str = r#"
    mount --bind "$0/oauth_accounts.json" "$0/oauth_accounts.json" &&
    mount -o remount,bind,ro "$0/oauth_accounts.json" && exec "$@"
"#;
/// Marks the credentials file as immutable.
const IMMUTABLE_FILE: &str = r#"chattr +i "$0/oauth_creds.json" && exec "$@""#;
/// Makes the link's target directory read-only, as a Nix store is.
const READ_ONLY_TARGET: &str =
    r#"mount --bind "$0/../nix" "$0/../nix" && mount -o remount,bind,ro "$0/../nix" && exec "$@""#;

fn may_make_immutable() -> bool {
    let file = tempfile::NamedTempFile::new().unwrap();
    let chattr = |flag: &str| {
        Command::new("chattr").arg(flag).arg(file.path()).output().is_ok_and(|output| output.status.success())
    };
    let may = chattr("+i") && chattr("-i");
    if !may {
        skipped("an immutable file takes root, chattr and a file system with that mark");
    }
    may
}

async fn behind(setup: &Setup, mount: &str, omitted: &str) -> Child {
    let directory = setup.home.qwen_dir();
    let launcher = ["unshare", "-m", "sh", "-c", mount, directory.to_str().unwrap()];
    Child::start_under(setup, &launcher, omitted).await
}

fn refresh_token(path: &Path) -> String {
    read(path).unwrap()["refresh_token"].as_str().unwrap().to_owned()
}

/// Refreshes a mounted file. Returns the refresh token that the CLI finds there, and the one in the store.
async fn refreshed_on_a_mount(omitted: &str) -> (String, String) {
    let setup = Setup::expired().await;
    let mut child = behind(&setup, FILE_MOUNT, omitted).await;
    assert_eq!(child.token().await, "access-1");
    assert!(!child.told().await.contains("needs-attention"));
    child.kill().await;
    let store = read(&setup.home.store()).unwrap();
    assert_eq!(setup.client().access_token(None).await.unwrap().access_token.expose(), "access-1");
    let kept = store["accounts"][0]["token"]["refresh_token"].as_str().unwrap().to_owned();
    assert_eq!((setup.server.redemptions(), setup.server.redeemed_again()), (1, 0));
    (refresh_token(&setup.home.credentials()), kept)
}

#[tokio::test]
async fn a_mounted_file_is_written_in_place_once_the_store_has_the_login() {
    if !may_mount() {
        return;
    }
    assert_eq!(refreshed_on_a_mount("").await, ("refresh-1".to_owned(), "refresh-1".to_owned()));
}

/// Refreshes a file that can't be replaced, while the store can't be locked. Returns the number of redemptions.
async fn redemptions_without_a_store(place: &str, omitted: &str) -> usize {
    let setup = Setup::expired().await;
    fs::create_dir(setup.home.qwen_dir().join("oauth_accounts.flock")).unwrap();
    let mut child = behind(&setup, place, omitted).await;
    let answer = child.token().await;
    assert_eq!(answer == "ERR_QWEN_IO", omitted.is_empty(), "{answer}");
    make_mutable(&setup);
    setup.server.redemptions()
}

#[tokio::test]
async fn a_refresh_token_is_not_sent_if_neither_file_can_take_its_successor() {
    if !may_mount() {
        return;
    }
    assert_eq!(redemptions_without_a_store(FILE_MOUNT, "").await, 0);
    assert_eq!(redemptions_without_a_store(FILE_MOUNT, "omit Preparation").await, 1);
    if may_make_immutable() {
        assert_eq!(redemptions_without_a_store(IMMUTABLE_FILE, "").await, 0);
    }
}

fn make_mutable(setup: &Setup) {
    let _ = Command::new("chattr").arg("-i").arg(setup.home.credentials()).output();
}

#[tokio::test]
async fn a_login_is_kept_in_a_file_that_is_a_mount() {
    if !may_mount() {
        return;
    }
    for before in ["", "{", r#"{"access_token":"old","refresh_token":"old","expiry_date":1}"#] {
        let setup = Setup::logged_out().await;
        fs::write(setup.home.credentials(), before).unwrap();
        let mut child = behind(&setup, FILE_MOUNT, "").await;
        let id = child.login().await;
        assert!(!id.starts_with("ERR_"), "{before}: {id}");
        child.kill().await;
        let token = setup.client().access_token(None).await.unwrap();
        assert_eq!(token.access_token.expose(), setup.home.access_token(), "{before}");
        assert_ne!(refresh_token(&setup.home.credentials()), "old");
    }
}

#[tokio::test]
async fn a_login_is_kept_in_the_store_if_its_file_can_not_be_written() {
    if !may_mount() || !may_make_immutable() {
        return;
    }
    let setup = Setup::expired().await;
    let mut child = behind(&setup, IMMUTABLE_FILE, "").await;
    let id = child.login().await;
    let told = child.told().await;
    child.kill().await;
    make_mutable(&setup);
    assert!(!id.starts_with("ERR_"), "{id}");
    assert_eq!(told.matches("needs-attention").count(), 1);
    assert_eq!(refresh_token(&setup.home.credentials()), "refresh-0");
    assert_ne!(setup.client().access_token(None).await.unwrap().access_token.expose(), "access-0");
    assert_eq!(setup.server.redemptions(), 0);
}

#[tokio::test]
async fn a_choice_reaches_the_cli_in_a_mounted_file_or_is_not_made() {
    if !may_mount() {
        return;
    }
    for (place, is_possible) in [(FILE_MOUNT, true), (IMMUTABLE_FILE, false)] {
        if place == IMMUTABLE_FILE && !may_make_immutable() {
            continue;
        }
        let setup = Setup::fresh().await;
        let client = setup.client();
        let second = client.login(quiet_login(), |_| {}).await.unwrap().id;
        let first = client.accounts().await.unwrap().into_iter().find(|account| account.id != second);
        let mut child = behind(&setup, place, "").await;
        let answer = child.choose(&first.unwrap().id).await;
        child.kill().await;
        make_mutable(&setup);
        assert_eq!(!answer.starts_with("ERR_"), is_possible, "{answer}");
        let token = setup.client().access_token(None).await.unwrap();
        assert_eq!(token.account_id != second, is_possible);
        assert_eq!(token.access_token.expose(), setup.home.access_token());
    }
}

/// Returns the refresh token that the qwen CLI finds in a mounted file while the process lives.
async fn clis_token_on_a_mount(omitted: &str) -> String {
    let setup = Setup::expired().await;
    let mut child = behind(&setup, FILE_MOUNT, omitted).await;
    assert_eq!(child.token().await, "access-1");
    refresh_token(&child.path(&setup.home.credentials()))
}

#[tokio::test]
async fn the_cli_goes_on_behind_a_mount_thanks_to_writing_in_place() {
    if !may_mount() {
        return;
    }
    assert_eq!(clis_token_on_a_mount("").await, "refresh-1");
    assert_eq!(clis_token_on_a_mount("omit InPlace").await, "refresh-0");
}

#[tokio::test]
async fn a_file_that_can_not_be_written_to_at_all_needs_attention_and_loses_no_login() {
    if !may_mount() {
        return;
    }
    let setup = Setup::expired().await;
    let nix = setup.home.path().join("nix");
    fs::create_dir(&nix).unwrap();
    fs::rename(setup.home.credentials(), nix.join("creds.json")).unwrap();
    std::os::unix::fs::symlink(nix.join("creds.json"), setup.home.credentials()).unwrap();
    let mut child = behind(&setup, READ_ONLY_TARGET, "").await;
    assert_eq!(child.token().await, "access-1");
    assert!(child.chat().await.starts_with("200 "));
    assert_eq!(child.told().await.matches("needs-attention").count(), 1);
    child.kill().await;
    assert_eq!(refresh_token(&nix.join("creds.json")), "refresh-0");
    // The next process finds the token in the store, and repairs the file if it can.
    assert_eq!(setup.client().access_token(None).await.unwrap().access_token.expose(), "access-1");
    assert_eq!((setup.server.redemptions(), setup.server.redeemed_again()), (1, 0));
}

fn fill(directory: &Path) {
    let mut filler = fs::File::create(directory.join("filler")).unwrap();
    while std::io::Write::write(&mut filler, &[b'x'; 512]).is_ok_and(|written| written > 0) {}
}

/// Lets the child refresh its token, and fills the disk before the answer arrives. Returns the child's answer.
async fn refresh_while_the_disk_fills(child: &mut Child, setup: &Setup, directory: &Path) -> String {
    setup.server.hold();
    child.ask().await;
    setup.server.until_token_requests(1).await;
    fill(directory);
    setup.server.release();
    child.answer().await
}

/// Returns true if the login is lost with the process.
async fn is_lost_on_a_full_disk(omitted: &str) -> bool {
    let setup = Setup::expired().await;
    // A shorter answer would find space in the old file's block.
    setup.server.issue_with("token_type", "x".repeat(8 * 1024).into());
    let mut child = behind(&setup, SMALL_DISK, omitted).await;
    let directory = child.path(&setup.home.qwen_dir());
    assert_eq!(refresh_while_the_disk_fills(&mut child, &setup, &directory).await, "access-1");
    assert!(child.chat().await.starts_with("200 "));
    assert_eq!((setup.server.redemptions(), setup.server.redeemed_again()), (1, 0));
    refresh_token(&directory.join("oauth_creds.json")) != "refresh-1"
}

#[tokio::test]
async fn a_disk_that_fills_up_loses_no_login_thanks_to_making_room_before() {
    if !may_mount() {
        return;
    }
    assert!(!is_lost_on_a_full_disk("").await);
    assert!(is_lost_on_a_full_disk("omit Preparation").await);
}

/// Returns true if the login, which only the store can take, is lost with the process.
async fn is_lost_in_the_store_of_a_full_disk(omitted: &str) -> bool {
    let fleet = Fleet::expiring_in(&[3600, -60]).await;
    fleet.edit_store(|store| store["activeAccountId"] = "bob".into());
    let setup = &fleet.setup;
    let mut child = behind(setup, SMALL_DISK, omitted).await;
    let directory = child.path(&setup.home.qwen_dir());
    assert_eq!(refresh_while_the_disk_fills(&mut child, setup, &directory).await, "access.bob.1");
    let store = read(&directory.join("oauth_accounts.json")).unwrap();
    store["accounts"][1]["token"]["refresh_token"] != "refresh.bob.1"
}

#[tokio::test]
async fn a_full_disk_has_room_for_the_stores_lock_and_for_the_store() {
    if !may_mount() {
        return;
    }
    assert!(!is_lost_in_the_store_of_a_full_disk("").await);
    assert!(is_lost_in_the_store_of_a_full_disk("omit Preparation").await);
}

#[tokio::test]
async fn a_store_that_is_a_mount_is_written_in_place() {
    if !may_mount() {
        return;
    }
    let fleet = Fleet::expiring_in(&[3600, -60]).await;
    fleet.edit_store(|store| store["activeAccountId"] = "bob".into());
    let setup = &fleet.setup;
    let mut child = behind(setup, STORE_MOUNT, "").await;
    assert_eq!(child.token().await, "access.bob.1");
    assert!(!child.told().await.contains("needs-attention"));
    child.kill().await;
    assert_eq!(fleet.stored("bob")["token"]["refresh_token"], "refresh.bob.1");
    let mut child = behind(setup, READ_ONLY_STORE_MOUNT, "").await;
    fleet.edit_store(|store| store["accounts"][1]["token"]["expiry_date"] = 1.into());
    assert_eq!(child.token().await, "ERR_QWEN_IO");
    assert_eq!(setup.server.redemptions(), 1);
}

/// Logs in with the CLI during a refresh, with no store there. Returns true if the refreshed login is lost.
async fn is_lost_to_another_login(omitted: &str) -> bool {
    let setup = Setup::expired().await;
    setup.server.hold();
    let mut client = Child::start_with(&setup, omitted).await;
    client.ask().await;
    setup.server.until_token_requests(1).await;
    setup.server.know("access-login", "refresh-login");
    let login = document("access-login", "refresh-login", in_seconds(3600), &setup.server.url());
    setup.home.write(&login);
    setup.server.release();
    assert_eq!(client.answer().await, "access-1");
    assert_eq!(setup.home.document(), login);
    let accounts = setup.client().accounts().await.unwrap();
    let Some(kept) = accounts.iter().find(|account| !account.active) else { return true };
    let token = setup.client().access_token(Some(&kept.id)).await.unwrap();
    assert!(token.expires_at > Clock::system().now_ms());
    token.access_token.expose() != "access-1"
}

#[tokio::test]
async fn a_login_that_is_replaced_while_it_is_refreshed_is_kept_beside_the_other() {
    assert!(!is_lost_to_another_login("").await);
    assert!(is_lost_to_another_login("omit KeepingBeside").await);
}
