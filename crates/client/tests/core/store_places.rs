//! Allowed places of the store, its permissions, and writers at the same time.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};

use futures_util::future::join_all;
use qwen_base::Code;

use crate::support::child::Child;
use crate::support::fleet::{Fleet, NAMES, access, quota, who_answers};
use crate::support::setup::Setup;

#[tokio::test]
async fn concurrent_writers_keep_each_others_changes() {
    let fleet = Fleet::of(4).await;
    let mut children = join_all((0..4).map(|_| Child::start(&fleet.setup))).await;
    let answers = join_all(children.iter_mut().zip(NAMES).map(|(child, name)| child.exhaust(name))).await;
    assert!(answers.iter().all(|answer| answer == "exhausted"), "{answers:?}");
    for name in &NAMES[..4] {
        assert_eq!(fleet.stored(name)["lastErrorCode"], *name);
    }
    fleet.setup.home.assert_tidy();

    // The same through chats: every process finds both accounts exhausted, at its own pace.
    let fleet = Fleet::of(2).await;
    fleet.on_every_host(&quota());
    let mut children = join_all((0..4).map(|_| Child::start(&fleet.setup))).await;
    let answers = join_all(children.iter_mut().map(Child::chat)).await;
    assert!(answers.iter().all(|answer| answer.starts_with("429")), "{answers:?}");
    assert!(
        ["ann", "bob"]
            .iter()
            .all(|name| fleet.stored(name)["exhaustedUntil"].as_u64().unwrap() > fleet.now_ms())
    );
}

#[tokio::test]
async fn a_forbidden_store_path_is_refused_and_nothing_touched() {
    let setup = Setup::fresh().await;
    let (home, qwen) = (setup.home.path().to_owned(), setup.home.qwen_dir());
    std::fs::create_dir(home.join(".qwen-other")).unwrap();
    symlink(&home, qwen.join("out")).unwrap();
    symlink("oauth_creds.json", qwen.join("alias.json")).unwrap();
    symlink(home.join("elsewhere.json"), qwen.join("leads-out.json")).unwrap();
    std::fs::hard_link(qwen.join("oauth_creds.json"), qwen.join("hard.json")).unwrap();
    let (before, files) = (setup.home.bytes(), setup.home.files());
    for path in [
        "oauth_creds.json",
        "OAUTH_CREDS.json",
        "settings.json",
        "opencode_qwen_models.json",
        "opencode_qwen_usage.json",
        "oauth_creds.lock",
        "oauth_accounts.flock",
        "store.txt",
        "sub/",
        ".",
        "..",
        "../store.json",
        "out/store.json",
        "alias.json",
        "leads-out.json",
        "hard.json",
        "~/store.json",
        "/etc/store.json",
        "sub/../../store.json",
        "../.qwen-other/store.json",
        &setup.home.qwen_dir().to_string_lossy(),
    ] {
        let outcome =
            setup.try_client(&[("OPENCODE_QWEN_ACCOUNTS_PATH", path)], false, setup.events.events());
        let error = outcome.map(drop).unwrap_err();
        assert_eq!((error.code(), error.path().is_some()), (Code::PathNotAllowed, true), "{path}");
        let reason = match path {
            "opencode_qwen_models.json" => "is this package's file of model lists",
            "opencode_qwen_usage.json" => "is this package's file of usage figures",
            "OAUTH_CREDS.json" | "alias.json" => "is the qwen CLI's own file",
            "hard.json" => "is another name of the qwen CLI's own file",
            _ => "",
        };
        assert!(error.message().contains(reason), "{path}: {error}");
    }
    assert_eq!((setup.home.bytes(), setup.home.files()), (before, files));
    assert!(!home.join("elsewhere.json").exists());
}

#[tokio::test]
async fn a_store_of_another_name_is_used_with_locks_of_its_own() {
    let fleet = Fleet::of(2).await;
    let qwen = fleet.setup.home.qwen_dir();
    let elsewhere = qwen.join("sub/mine.json");
    std::fs::create_dir(qwen.join("sub")).unwrap();
    std::fs::rename(fleet.setup.home.store(), &elsewhere).unwrap();
    for path in ["sub/mine.json", "~/.qwen/sub/mine.json", elsewhere.to_str().unwrap()] {
        let client = fleet.setup.client_with(&[("OPENCODE_QWEN_ACCOUNTS_PATH", path)], false);
        assert_eq!(client.accounts().await.unwrap().len(), 2, "{path}");
        client.set_active_account("bob").await.unwrap();
        client.set_active_account("ann").await.unwrap();
    }
    assert!(qwen.join("sub/mine.json.flock").exists() && !fleet.setup.home.store().exists());
}

#[tokio::test]
async fn a_store_that_is_marked_read_only_is_replaced_and_kept_private() {
    let fleet = Fleet::of(2).await;
    let store = fleet.setup.home.store();
    std::fs::set_permissions(&store, std::fs::Permissions::from_mode(0o444)).unwrap();
    fleet.hosts[0].on_every_api(quota());
    assert_eq!(who_answers(&fleet.client()).await, "bob");
    assert!(fleet.stored("ann")["exhaustedUntil"].as_u64().unwrap() > fleet.now_ms());
    assert_eq!(store.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_home_that_cannot_be_written_still_chats() {
    const NOBODY: u32 = 65_534;
    let fleet = Fleet::of(2).await;
    let home = &fleet.setup.home;
    let is_root = home.qwen_dir().metadata().unwrap().uid() == 0;
    if is_root {
        for path in [home.path().to_owned(), home.qwen_dir(), home.credentials(), home.store()] {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
    let set_mode =
        |mode| std::fs::set_permissions(home.qwen_dir(), std::fs::Permissions::from_mode(mode)).unwrap();
    let (store, credentials) = (std::fs::read(home.store()).unwrap(), home.bytes());
    set_mode(0o500);
    let mut child = Child::start_as(&fleet.setup, is_root.then_some(NOBODY)).await;
    assert_eq!(child.chat().await, "200 ann");
    fleet.hosts[0].on_every_api(quota());
    assert_eq!(child.chat().await, "200 bob");
    assert_eq!(child.token().await, access("ann", 0));
    set_mode(0o700);
    assert_eq!((std::fs::read(home.store()).unwrap(), home.bytes()), (store, credentials));
    // A store that its user may not read gives an error that says this.
    std::fs::set_permissions(home.store(), std::fs::Permissions::from_mode(0o000)).unwrap();
    let mut child = Child::start_as(&fleet.setup, is_root.then_some(NOBODY)).await;
    assert_eq!(child.chat().await, "ERR_QWEN_IO");
}
