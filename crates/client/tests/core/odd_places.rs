//! Files as other programs leave them: other encodings, links, and other kinds of file in their place.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use qwen_base::{Code, EventKind};
use qwen_client::LoginOptions;

use crate::support::fleet::Fleet;
use crate::support::home::{document, in_seconds, make_pipe};
use crate::support::reply::Reply;
use crate::support::setup::{Setup, chat, quiet_login};
use crate::support::skipped;
use crate::support::time::soon;

fn utf16(text: &str, mark: [u8; 2], unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
    mark.into_iter().chain(text.encode_utf16().flat_map(unit)).collect()
}

#[tokio::test]
async fn files_with_a_byte_order_mark_are_read_and_written_as_utf_8() {
    type Encode = fn(&str) -> Vec<u8>;
    let encodings: [Encode; 3] = [
        |text| format!("\u{feff}{text}").into_bytes(),
        |text| utf16(text, [0xFF, 0xFE], u16::to_le_bytes),
        |text| utf16(text, [0xFE, 0xFF], u16::to_be_bytes),
    ];
    for encode in encodings {
        let setup = Setup::expired().await;
        let text = fs::read_to_string(setup.home.credentials()).unwrap();
        fs::write(setup.home.credentials(), encode(&text)).unwrap();
        assert_eq!(setup.client().access_token(None).await.unwrap().access_token.expose(), "access-1");
        assert_eq!(setup.home.access_token(), "access-1");

        let fleet = Fleet::of(2).await;
        let store = fleet.setup.home.store();
        let text = fs::read_to_string(&store).unwrap();
        fs::write(&store, encode(&text)).unwrap();
        assert_eq!(fleet.client().accounts().await.unwrap().len(), 2);
        assert_eq!(fleet.setup.events.count(EventKind::StoreRepaired), 0);
    }
}

#[tokio::test]
async fn the_default_store_may_be_a_link_of_the_users_own() {
    let fleet = Fleet::of(2).await;
    let (store, real) = (fleet.setup.home.store(), fleet.setup.home.path().join("dotfiles/accounts.json"));
    fs::create_dir(real.parent().unwrap()).unwrap();
    fs::rename(&store, &real).unwrap();
    symlink("../dotfiles/accounts.json", &store).unwrap();
    let client = fleet.client();
    client.set_active_account("bob").await.unwrap();
    assert!(store.symlink_metadata().unwrap().is_symlink());
    assert!(fs::read_to_string(&real).unwrap().contains("\"activeAccountId\": \"bob\""));
    assert_eq!(client.accounts().await.unwrap().len(), 2);

    let setup = Setup::fresh().await;
    symlink("oauth_creds.json", setup.home.store()).unwrap();
    let refused = setup.try_client(&[], false, setup.events.events());
    assert_eq!(refused.map(drop).unwrap_err().code(), Code::PathNotAllowed);
}

#[tokio::test]
async fn credentials_that_can_not_be_examined_stop_no_other_account() {
    let loops = |path: &Path| {
        fs::remove_file(path).unwrap();
        symlink(path.file_name().unwrap(), path).unwrap();
    };
    let fleet = Fleet::of(2).await;
    loops(&fleet.setup.home.credentials());
    let client = fleet.client();
    assert_eq!(client.accounts().await.unwrap().len(), 2);
    assert_eq!(client.fetch(chat(false)).await.unwrap().status, 200);
    assert_eq!(fleet.full_requests(), [1, 0]);
    // Without another account the error is the reason.
    let setup = Setup::fresh().await;
    let client = setup.client();
    client.access_token(None).await.unwrap();
    loops(&setup.home.credentials());
    let error = client.access_token(None).await.unwrap_err();
    assert_eq!((error.code(), error.path()), (Code::Io, Some(setup.home.credentials().as_path())));
    // A store that can't be examined may hold the account that the user chose.
    let fleet = Fleet::of(2).await;
    loops(&fleet.setup.home.store());
    assert_eq!(fleet.client().accounts().await.unwrap_err().code(), Code::Io);
}

#[tokio::test]
async fn a_damaged_credentials_file_that_is_a_link_stays_one() {
    let setup = Setup::logged_out().await;
    let target = setup.home.path().join("dotfiles/creds.json");
    fs::create_dir(target.parent().unwrap()).unwrap();
    fs::write(&target, "{torn").unwrap();
    symlink("../dotfiles/creds.json", setup.home.credentials()).unwrap();
    setup.client().login(quiet_login(), |_| {}).await.unwrap();
    assert!(setup.home.credentials().is_symlink());
    assert!(fs::read_to_string(&target).unwrap().contains(&setup.home.access_token()));
    let names = setup.home.files();
    let copies: Vec<_> = names.iter().filter(|name| name.starts_with("oauth_creds.json.corrupt-")).collect();
    let [copy] = copies[..] else { panic!("{names:?}") };
    let copy = setup.home.qwen_dir().join(copy);
    assert!(!copy.is_symlink());
    assert_eq!(fs::read_to_string(copy).unwrap(), "{torn");
}

fn put(path: &Path, kind: &str) {
    let _ = fs::remove_file(path);
    match kind {
        "fifo" => make_pipe(path),
        "loop" => symlink(path.file_name().unwrap(), path).unwrap(),
        _ => fs::create_dir_all(path.join("child")).unwrap(),
    }
}

#[tokio::test]
async fn something_else_in_a_files_place_blocks_nothing_and_doctor_removes_it() {
    let names = [
        "oauth_creds.flock",
        "oauth_creds.lock",
        "oauth_accounts.flock",
        "oauth_accounts.lock",
        "opencode_qwen_usage.json",
        "opencode_qwen_usage.flock",
        "opencode_qwen_usage.lock",
        "opencode_qwen_models.json",
        "opencode_qwen_models.flock",
        "opencode_qwen_models.lock",
    ];
    let log = "debug.log";
    let kinds = ["fifo", "directory", "loop"];
    for (name, kind) in names.into_iter().chain([log]).flat_map(|name| kinds.map(|kind| (name, kind))) {
        let setup = Setup::fresh().await;
        let log_directory = setup.home.path().join(".opencode/logs/qwen-plugin");
        let path =
            if name == log { log_directory.join("debug.log") } else { setup.home.qwen_dir().join(name) };
        fs::create_dir_all(log_directory).unwrap();
        put(&path, kind);
        let client = setup.client();
        assert_eq!(soon(name, client.fetch(chat(false))).await.unwrap().status, 200, "{name}");
        client.flush();
        let findings = soon(name, setup.doctor(&[]).examine()).await.unwrap();
        let shown = format!("{} ", path.display());
        let Some(found) = findings.iter().find(|found| found.message.starts_with(&shown)) else {
            // A write has set it aside.
            assert!(name == "opencode_qwen_usage.json" && path.is_file(), "{name}: {findings:?}");
            continue;
        };
        let fix = found.fix.as_ref().unwrap();
        assert!(Command::new("sh").args(["-c", fix]).status().unwrap().success(), "{fix}");
        assert!(path.symlink_metadata().is_err(), "{fix}");
    }
}

fn make_huge(path: &Path) {
    fs::File::create(path).unwrap().set_len(10 << 30).unwrap();
}

#[tokio::test]
async fn a_huge_file_is_refused_and_named() {
    for name in ["oauth_accounts.json", "opencode_qwen_usage.json"] {
        let fleet = Fleet::of(2).await;
        let path = fleet.setup.home.qwen_dir().join(name);
        make_huge(&path);
        let findings = fleet.setup.doctor(&[]).examine().await.unwrap();
        let named = format!("{} is larger than", path.display());
        let found = findings.iter().find(|found| found.message.starts_with(&named));
        let fix = found.unwrap_or_else(|| panic!("{name}: {findings:?}")).fix.clone().unwrap();
        let client = fleet.client();
        assert_eq!(client.fetch(chat(false)).await.unwrap().status, 200, "{name}");
        client.flush();
        // A write moves the usage aside. The store may hold accounts.
        if name == "oauth_accounts.json" {
            assert!(Command::new("sh").args(["-c", &fix]).status().unwrap().success(), "{fix}");
            assert!(!path.exists(), "{fix}");
        }
        // The home's end reads all files.
        let files = fs::read_dir(fleet.setup.home.qwen_dir()).unwrap().map(|entry| entry.unwrap().path());
        let huge: Vec<_> = files.filter(|path| fs::metadata(path).unwrap().len() == 10 << 30).collect();
        assert_eq!(huge.len(), 1, "{name}");
        fs::remove_file(&huge[0]).unwrap();
    }
    let setup = Setup::logged_out().await;
    make_huge(&setup.home.credentials());
    let client = setup.client();
    let error = client.access_token(None).await.map(drop).unwrap_err();
    assert!(error.code() == Code::CredentialsInvalid && error.message().contains("larger than"), "{error}");
    client.login(quiet_login(), |_| {}).await.unwrap();
    client.access_token(None).await.unwrap();
    let copy = setup.home.files().into_iter().find(|name| name.starts_with("oauth_creds.json.corrupt-"));
    fs::remove_file(setup.home.qwen_dir().join(copy.unwrap())).unwrap();
}

#[tokio::test]
async fn something_else_in_a_locks_place_spends_no_token_and_is_named_at_once() {
    for name in ["oauth_creds.flock", "oauth_creds.lock", "oauth_accounts.flock", "oauth_accounts.lock"] {
        for kind in ["fifo", "directory"] {
            let fleet = Fleet::expiring_in(&[3600, -60]).await;
            let path = fleet.setup.home.qwen_dir().join(name);
            put(&path, kind);
            let client = fleet.client();
            // The store is the only place for the tokens of this account.
            let error = client.access_token(Some("bob")).await.map(drop).unwrap_err();
            assert_eq!((error.code(), error.path()), (Code::Io, Some(path.as_path())), "{name}: {error}");
            let error = client.set_active_account("bob").await.unwrap_err();
            assert_eq!(error.code(), Code::Io);
            assert_eq!(error.message().matches("Nothing was changed.").count(), 1, "{error}");
            assert_eq!(fleet.setup.server.token_requests(), 0, "{name}");
        }
    }
}

/// A file or directory that can't be changed while this lives.
pub struct Unchangeable(PathBuf, &'static str);

impl Unchangeable {
    pub fn make(path: PathBuf, attribute: &'static str) -> Option<Self> {
        let made = Command::new("chattr").arg(format!("+{attribute}")).arg(&path).output();
        if made.is_ok_and(|output| output.status.success()) {
            return Some(Self(path, attribute));
        }
        skipped("immutable files take root, chattr and a file system that has them");
        None
    }
}

impl Drop for Unchangeable {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg(format!("-{}", self.1)).arg(&self.0).output();
    }
}

#[tokio::test]
async fn a_login_that_the_store_could_not_take_is_not_taken_for_another_login() {
    let fleet = Fleet::expiring_in(&[-60, 3600]).await;
    let setup = &fleet.setup;
    let Some(unchangeable) = Unchangeable::make(setup.home.store(), "i") else { return };
    for access_token in ["access.ann.1", "access.ann.2"] {
        let token = fleet.client().access_token(None).await.unwrap();
        assert_eq!(token.access_token.expose(), access_token);
        let mut held = setup.home.document();
        held["expiry_date"] = 1.into();
        setup.home.write(&held);
    }
    drop(unchangeable);
    let client = fleet.client();
    client.set_active_account("ann").await.unwrap();
    let accounts = client.accounts().await.unwrap();
    assert_eq!(accounts.iter().map(|account| account.id.as_str()).collect::<Vec<_>>(), ["ann", "bob"]);
    assert_eq!((setup.server.redemptions(), setup.server.redeemed_again()), (3, 0));
    assert_eq!(fleet.stored("ann")["token"]["refresh_token"], "refresh.ann.3");
    assert_eq!(setup.home.document().as_object().unwrap().len(), 5, "the CLI's fields alone");
}

/// Names `path` in the findings, and removes its mark as they advise.
async fn remove_mark(setup: &Setup, path: &Path, row: &str) {
    let findings = setup.doctor(&[]).examine().await.unwrap();
    let named = ["immutable", "append-only"].map(|mark| format!("{} is {mark}", path.display()));
    let found = findings.iter().find(|found| named.iter().any(|named| found.message.starts_with(named)));
    let fix = found.unwrap_or_else(|| panic!("{row}: {findings:?}")).fix.clone().unwrap();
    let fix = fix.trim_start_matches("sudo ");
    assert!(Command::new("sh").args(["-c", fix]).status().unwrap().success(), "{fix}");
}

#[tokio::test]
async fn a_file_that_can_not_be_changed_loses_no_login_and_doctor_names_it() {
    for (is_file, attribute) in [(true, "i"), (true, "a"), (false, "i"), (false, "a")] {
        let row = format!("{is_file} {attribute}");
        let setup = Setup::expired().await;
        let path = if is_file { setup.home.credentials() } else { setup.home.qwen_dir() };
        let Some(unchangeable) = Unchangeable::make(path.clone(), attribute) else { return };
        let files = setup.home.files();
        let outcome = setup.client().access_token(None).await;
        if is_file {
            assert_eq!(outcome.unwrap().access_token.expose(), "access-1", "{row}");
            assert_eq!(setup.events.count(EventKind::NeedsAttention), 1, "{row}");
            // The next process finds it in the store.
            let next = setup.client().access_token(None).await.unwrap();
            assert_eq!(next.access_token.expose(), "access-1", "{row}");
        } else {
            let error = outcome.unwrap_err();
            assert_eq!((error.code(), setup.server.token_requests()), (Code::Io, 0), "{row}");
            let client = setup.client();
            let login = client.login(LoginOptions::default(), |_| panic!("the user is asked"));
            assert_eq!(login.await.unwrap_err().code(), Code::Io, "{row}");
            assert_eq!(setup.home.files(), files, "{row}");
        }
        remove_mark(&setup, &path, &row).await;
        let client = setup.client();
        assert_eq!(client.access_token(None).await.unwrap().access_token.expose(), "access-1", "{row}");
        assert_eq!((setup.server.redemptions(), setup.server.redeemed_again()), (1, 0), "{row}");
        drop(unchangeable);
    }
}

#[tokio::test]
async fn a_link_into_a_directory_that_can_not_be_changed_is_written_through() {
    for attribute in ["i", "a"] {
        let setup = Setup::expired().await;
        let target = setup.home.path().join("target");
        fs::create_dir(&target).unwrap();
        fs::rename(setup.home.credentials(), target.join("creds.json")).unwrap();
        symlink(target.join("creds.json"), setup.home.credentials()).unwrap();
        let Some(unchangeable) = Unchangeable::make(target.clone(), attribute) else { return };
        assert_eq!(setup.client().access_token(None).await.unwrap().access_token.expose(), "access-1");
        assert_eq!(setup.home.access_token(), "access-1", "{attribute}");
        assert!(setup.home.credentials().is_symlink());
        assert_eq!(setup.events.count(EventKind::NeedsAttention), 0, "{attribute}");
        let names: Vec<_> = fs::read_dir(&target)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(names.iter().all(|name| !name.contains(".tmp")), "{attribute}: {names:?}");
        drop(unchangeable);
    }
}

#[tokio::test]
async fn a_store_that_can_not_be_changed_spends_no_token_that_only_it_could_take() {
    for attribute in ["i", "a"] {
        let fleet = Fleet::expiring_in(&[-60, -60]).await;
        let (setup, store) = (&fleet.setup, fleet.setup.home.store());
        let client = fleet.client();
        client.accounts().await.unwrap();
        let Some(unchangeable) = Unchangeable::make(store.clone(), attribute) else { return };
        let error = client.access_token(Some("bob")).await.map(drop).unwrap_err();
        assert_eq!((error.code(), error.path()), (Code::Io, Some(store.as_path())), "{error}");
        assert_eq!(setup.server.token_requests(), 0, "{attribute}");
        let login = client.login(LoginOptions::default(), |_| panic!("the user is asked"));
        assert_eq!(login.await.unwrap_err().code(), Code::Io, "{attribute}");
        // The credentials file can take the other one's, and the user hears of the store.
        assert_eq!(client.access_token(Some("ann")).await.unwrap().access_token.expose(), "access.ann.1");
        assert_eq!(setup.home.access_token(), "access.ann.1");
        assert_eq!(setup.events.count(EventKind::NeedsAttention), 1, "{:?}", setup.events.all());
        remove_mark(setup, &store, attribute).await;
        assert_eq!(client.access_token(Some("bob")).await.unwrap().access_token.expose(), "access.bob.1");
        drop(unchangeable);
    }
}

#[tokio::test]
async fn the_choice_of_a_dead_login_changes_nothing() {
    // The second is in the file already. A token that has not expired may be dead too, if it replaces another.
    for (lifetimes, id) in [([3600, -60], "bob"), ([-60, 3600], "ann"), ([3600, 3600], "bob")] {
        let fleet = Fleet::expiring_in(&lifetimes).await;
        let before = fleet.setup.home.bytes();
        fleet.setup.server.on_every_token(Reply::oauth_error(400, "invalid_grant"));
        let error = fleet.client().set_active_account(id).await.unwrap_err();
        assert_eq!(error.code(), Code::RefreshTokenInvalid);
        assert!(error.message().contains("Nothing was changed"), "{}", error.message());
        assert_eq!(fleet.setup.home.bytes(), before);
        let accounts = fleet.client().accounts().await.unwrap();
        assert!(accounts.iter().any(|account| account.id == "ann" && account.active));
    }

    // Without a verdict from the server, the user's choice counts.
    let fleet = Fleet::expiring_in(&[3600, -60]).await;
    fleet.setup.server.on_every_token(Reply::empty(503));
    let chosen = fleet.client().set_active_account("bob").await.unwrap();
    assert!(chosen.active);
    let events = fleet.setup.events.all();
    assert!(events.iter().any(|event| event.message.contains("without a test")), "{events:?}");

    let fleet = Fleet::of(2).await;
    fleet.edit_store(|store| drop(store["accounts"][1]["token"]["refresh_token"].take()));
    let before = fleet.setup.home.bytes();
    fleet.client().set_active_account("bob").await.unwrap_err();
    assert_eq!(fleet.setup.home.bytes(), before);

    // A login that needs no proof fails at the store's lock.
    let fleet = Fleet::of(2).await;
    let client = fleet.client();
    client.accounts().await.unwrap();
    put(&fleet.setup.home.cli_lock(), "directory");
    let error = client.set_active_account("ann").await.unwrap_err();
    assert_eq!(error.message().matches("Nothing was changed.").count(), 1, "{error}");
}

#[tokio::test]
async fn a_login_that_can_not_be_kept_is_not_begun() {
    let locks = ["oauth_creds.flock", "oauth_creds.lock", "oauth_accounts.flock", "oauth_accounts.lock"];
    for obstacle in ["dangling link", "file above"].into_iter().chain(locks) {
        let setup = Setup::logged_out().await;
        let directory = setup.home.qwen_dir();
        match obstacle {
            lock if locks.contains(&lock) => put(&directory.join(lock), "fifo"),
            _ => fs::remove_dir_all(&directory).unwrap(),
        }
        match obstacle {
            "dangling link" => symlink("/nowhere/qwen", &directory).unwrap(),
            "file above" => fs::write(&directory, "").unwrap(),
            _ => {}
        }
        let client = setup.client();
        let login = client.login(LoginOptions::default(), |_| panic!("the user is asked"));
        let error = login.await.unwrap_err();
        assert_eq!(error.code(), Code::Io, "{obstacle}: {}", error.message());
        assert_eq!(setup.server.all_requests(), 0, "{obstacle}");
        if obstacle == "file above" {
            fs::remove_file(&directory).unwrap();
        }
    }
}

/// Another user's file could hold any login and name any host.
#[tokio::test]
async fn the_credentials_of_another_user_are_refused() {
    if !rustix::process::geteuid().is_root() {
        return skipped("another user's files take root");
    }
    let setup = Setup::fresh().await;
    setup.home.write(&document("access-0", "refresh-0", in_seconds(3600), &setup.server.url()));
    std::os::unix::fs::chown(setup.home.credentials(), Some(54_321), None).unwrap();
    std::os::unix::fs::chown(setup.home.qwen_dir(), Some(12_345), None).unwrap();
    let error = setup.client().fetch(chat(false)).await.err().unwrap();
    assert_eq!(error.code(), Code::CredentialsInvalid);
    assert!(error.message().contains("another user"), "{}", error.message());
    assert!(error.message().contains("chown -h 12345 "), "{}", error.message());
    assert_eq!(setup.server.all_requests(), 0);
}

#[tokio::test]
async fn a_login_whose_file_can_not_be_read_after_the_refresh_is_kept_in_the_store_and_repaired() {
    type Spoil = fn(&Path);
    let spoils: [(&str, Spoil); 3] = [
        ("a link loop", |path| symlink(path, path).unwrap()),
        ("a directory", |path| fs::create_dir(path).unwrap()),
        ("no tokens", |path| fs::write(path, "{}").unwrap()),
    ];
    for (name, spoil) in spoils {
        let setup = Setup::expired().await;
        let path = setup.home.credentials();
        let before = fs::read(&path).unwrap();
        setup.server.hold();
        let client = setup.client();
        let asking = tokio::spawn(async move { client.fetch(chat(false)).await });
        setup.server.until_token_requests(1).await;
        fs::remove_file(&path).unwrap();
        spoil(&path);
        setup.server.release();
        assert_eq!(asking.await.unwrap().unwrap().status, 200, "{name}");
        assert_eq!(setup.events.count(EventKind::NeedsAttention), 1, "{name}");
        // The file is there again, with the spent token.
        if path.is_dir() {
            fs::remove_dir(&path).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        fs::write(&path, before).unwrap();
        assert_eq!(setup.client().access_token(None).await.unwrap().access_token.expose(), "access-1");
        assert_eq!((setup.home.access_token().as_str(), setup.server.redeemed_again()), ("access-1", 0));
    }
}
