//! Permissions of files with tokens, and attacks with links.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use qwen_base::{Code, EventKind};

use crate::support::fleet::{Fleet, who_answers};
use crate::support::home::{document, in_seconds};
use crate::support::setup::{Setup, chat, quiet_login};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn widen(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn tokens_open_to_others_are_closed_and_reported_once() {
    let fleet = Fleet::of(2).await;
    let home = &fleet.setup.home;
    let (store, credentials) = (home.store(), home.credentials());
    for (path, wide) in [(&store, 0o644), (&credentials, 0o664), (&home.qwen_dir(), 0o777)] {
        widen(path, wide);
    }
    let before = home.bytes();
    let client = fleet.client();
    for _ in 0..2 {
        assert_eq!(client.accounts().await.unwrap().len(), 2);
        assert_eq!((mode(&store), mode(&credentials), mode(&home.qwen_dir())), (0o600, 0o600, 0o700));
        // The old qwen CLI leaves its file open each time.
        home.write(&home.document());
        widen(&credentials, 0o644);
    }
    assert_eq!(who_answers(&client).await, "ann");
    assert_eq!(home.bytes(), before);
    let told: Vec<_> =
        fleet.setup.events.all().into_iter().filter(|event| event.kind == EventKind::StoreRepaired).collect();
    assert_eq!(told.len(), 3);
    for (event, path) in told.iter().zip([&home.qwen_dir(), &credentials, &store]) {
        assert!(event.message.starts_with(path.to_str().unwrap()), "{}", event.message);
    }
}

#[tokio::test]
async fn private_files_cause_no_warning() {
    let setup = Setup::fresh().await;
    widen(&setup.home.qwen_dir(), 0o755);
    assert_eq!(setup.client().fetch(chat(false)).await.unwrap().status, 200);
    assert_eq!(mode(&setup.home.qwen_dir()), 0o700);
    assert_eq!(setup.events.count(EventKind::StoreRepaired), 0);
}

#[tokio::test]
async fn all_created_files_are_private() {
    let setup = Setup::expired().await;
    let client = setup.client();
    client.access_token(None).await.unwrap();
    client.fetch(chat(false)).await.unwrap();
    for name in setup.home.files() {
        assert_eq!(mode(&setup.home.qwen_dir().join(&name)), 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_link_in_the_place_of_a_lock_is_not_followed_to_somebody_elses_file() {
    for name in ["oauth_creds.lock", "oauth_creds.flock"] {
        let setup = Setup::expired().await;
        let victim = setup.home.path().join("precious.txt");
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, setup.home.qwen_dir().join(name)).unwrap();
        let outcome =
            tokio::time::timeout(std::time::Duration::from_secs(3), setup.client().access_token(None)).await;
        if let Ok(outcome) = outcome {
            assert!(outcome.is_ok() || outcome.unwrap_err().code() == Code::Io, "{name}");
        }
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious", "{name}");
        assert_eq!(setup.server.redeemed_again(), 0);
    }
}

/// Root in a user's directory, as in a container or with sudo: the user keeps all files, and gets root's back.
#[tokio::test]
async fn files_that_root_writes_in_a_users_directory_belong_to_that_user() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    const USER: u32 = 54_321;
    if !rustix::process::geteuid().is_root() {
        return crate::support::skipped("another user's files take root");
    }
    let setup = Setup::expired().await;
    let flock = setup.home.qwen_dir().join("oauth_creds.flock");
    fs::write(&flock, "").unwrap();
    widen(&flock, 0o600);
    // A damaged store is set aside as a copy.
    fs::write(setup.home.store(), "{").unwrap();
    widen(&setup.home.store(), 0o600);
    for path in [setup.home.qwen_dir(), setup.home.credentials(), setup.home.store()] {
        chown(path, Some(USER), Some(USER)).unwrap();
    }
    let client = setup.client();
    client.access_token(None).await.unwrap();
    client.fetch(chat(false)).await.unwrap();
    client.flush();
    client.note_host_login().await.unwrap();
    let files = setup.home.files();
    assert!(files.iter().any(|name| name.contains(".corrupt-")) && files.len() >= 5, "{files:?}");
    for name in files {
        let found = fs::metadata(setup.home.qwen_dir().join(&name)).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (USER, USER, 0o600), "{name}");
    }
}

/// Root in a user's directory must not change other files through that user's links.
#[tokio::test]
async fn root_follows_no_link_of_a_user_to_a_file_of_another() {
    use std::os::unix::fs::{chown, lchown};
    const USER: u32 = 54_321;
    if !rustix::process::geteuid().is_root() {
        return crate::support::skipped("another user's files take root");
    }
    for name in ["oauth_creds.json", "oauth_accounts.json", ""] {
        let setup = Setup::logged_out().await;
        let directory = setup.home.qwen_dir();
        let place = directory.join(name);
        // A directory named "qwen" counts as the user's own.
        let victim = setup.home.path().join("other-qwen");
        if name.is_empty() {
            fs::remove_dir_all(&directory).unwrap();
            fs::create_dir(&victim).unwrap();
        } else {
            fs::write(&victim, "precious").unwrap();
            chown(&directory, Some(USER), Some(USER)).unwrap();
        }
        let link = if name.is_empty() { &directory } else { &place };
        symlink(&victim, link).unwrap();
        lchown(link, Some(USER), Some(USER)).unwrap();
        chown(setup.home.path(), Some(USER), Some(USER)).unwrap();
        widen(&victim, 0o755);
        let client = setup.client();
        let _ = client.accounts().await;
        if name == "oauth_accounts.json" {
            client.login(quiet_login(), |_| panic!("the user is asked")).await.unwrap_err();
        }
        assert_eq!(mode(&victim), 0o755, "{name}");
        assert!(victim.is_dir() || fs::read_to_string(&victim).unwrap() == "precious", "{name}");
    }
}

#[tokio::test]
async fn a_hard_link_to_the_credentials_keeps_its_old_contents_and_gets_no_new_token() {
    let setup = Setup::expired().await;
    let copy = setup.home.path().join("copy.json");
    fs::hard_link(setup.home.credentials(), &copy).unwrap();
    let before = setup.home.bytes();
    setup.client().access_token(None).await.unwrap();
    assert_eq!(fs::read(&copy).unwrap(), before);
    assert!(setup.home.document()["refresh_token"] == "refresh-1");
}

#[tokio::test]
async fn a_circle_or_a_device_in_the_place_of_the_credentials_is_an_error() {
    for target in ["oauth_creds.json", "/dev/zero", "/dev/stdin", "/"] {
        let setup = Setup::logged_out().await;
        symlink(target, setup.home.credentials()).unwrap();
        let error = setup.client().access_token(None).await.unwrap_err();
        assert!(
            [Code::Io, Code::CredentialsInvalid].contains(&error.code()),
            "{target}: {}",
            error.message()
        );
        assert_eq!(setup.server.all_requests(), 0);
    }
}

/// Line breaks in files add nothing to a request's head.
#[tokio::test]
async fn line_breaks_in_a_file_are_never_sent() {
    let evil = "a\r\nx-evil: 1";
    let setup = Setup::fresh().await;
    for (access, refresh) in [(evil, "refresh-0"), ("access-0", evil)] {
        setup.home.write(&document(access, refresh, in_seconds(-60), &setup.server.url()));
        setup.server.on_every_token(crate::support::reply::Reply::oauth_error(400, "invalid_grant"));
        setup.client().fetch(chat(false)).await.unwrap_err();
    }
    setup.home.write(&document(
        "access-0",
        "refresh-0",
        in_seconds(3600),
        &format!("{}\r\nx-evil: 1", setup.server.url()),
    ));
    assert!(setup.client().fetch(chat(false)).await.is_err());
    assert!(setup.server.api_requests().is_empty());

    let fleet = Fleet::of(2).await;
    fleet.edit_store(|store| {
        store["accounts"][0]["id"] = serde_json::json!(evil);
        store["accounts"][0]["label"] = serde_json::json!(evil);
        store["activeAccountId"] = serde_json::json!(evil);
    });
    let answer = fleet.client().fetch(chat(false)).await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(!answer.headers.contains_key("x-evil") && !answer.headers.contains_key("x-qwen-account"));
    for host in &fleet.hosts {
        assert!(host.api_requests().iter().all(|seen| !seen.headers.contains_key("x-evil")));
    }
    let events = fleet.setup.events.all();
    assert!(events.iter().all(|event| !event.message.contains('\r')), "{events:?}");
}

/// Checks the search that ends every test's home and every list of events.
#[test]
fn a_token_in_a_log_would_be_found() {
    use crate::support::home::holds_token;
    for text in ["Bearer access-1", "{\"t\":\"refresh.ann.12\"}", "access.cyd.0\n", "x=refresh-0&y"] {
        assert!(holds_token(text), "{text}");
    }
    for text in ["access-control-allow-origin", "the refresh.", "refresh-token: ***", "access_token"] {
        assert!(!holds_token(text), "{text}");
    }
    let home = crate::support::home::Home::new();
    let logs = home.path().join(".opencode/logs");
    fs::create_dir_all(&logs).unwrap();
    fs::write(logs.join("request.json"), "{\"authorization\":\"Bearer access-1\"}").unwrap();
    let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(home)));
    assert!(dropped.unwrap_err().downcast::<String>().unwrap().contains("request.json"));
}
