//! Tests beside the qwen CLI, which ignores the kernel lock.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use qwen_accounts::{CredentialsFile, lock};
use qwen_base::{Clock, Secret};

use crate::support::home::{document, in_seconds};
use crate::support::qwen_cli::{CliLock, NEW_STALE, OLD_STALE};
use crate::support::reply::Reply;
use crate::support::setup::{ONLY, Setup};
use crate::support::time::soon;

fn make_older(path: &Path, age: Duration) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

fn cli(setup: &Setup) -> CliLock {
    CliLock::new(setup.home.cli_lock(), NEW_STALE)
}

#[test]
fn the_cli_and_we_never_hold_the_lock_together() {
    let home = crate::support::home::Home::new();
    let locks = CredentialsFile::new(home.credentials()).locks();
    assert_eq!(locks.cli, home.cli_lock());
    let (inside, entered, done) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let critical = || {
        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two are inside");
        std::thread::sleep(Duration::from_micros(300));
        inside.fetch_sub(1, Ordering::SeqCst);
        entered.fetch_add(1, Ordering::SeqCst);
    };
    std::thread::scope(|scope| {
        for stale_after in [OLD_STALE, NEW_STALE] {
            let cli = CliLock::new(home.cli_lock(), stale_after);
            let (critical, done) = (&critical, &done);
            scope.spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    if cli.try_acquire() {
                        critical();
                        cli.release();
                    }
                    std::thread::sleep(Duration::from_micros(500));
                }
            });
        }
        let ours: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..25 {
                        let enter = |_: &mut lock::CliLock| {
                            critical();
                            Ok(())
                        };
                        lock::exclusively(&locks, &Clock::system(), || None, enter).unwrap();
                    }
                })
            })
            .collect();
        let ended: Vec<_> = ours.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::SeqCst);
        assert!(ended.iter().all(Result::is_ok));
    });
    assert!(entered.load(Ordering::SeqCst) > 75, "the CLI never got in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn next_to_a_busy_cli_no_token_is_redeemed_twice() {
    let setup = Arc::new(Setup::expired().await);
    setup.server.issue_with("expires_in", serde_json::json!(2));
    let client = cli_at_work(Arc::clone(&setup));
    let ours = {
        let setup = Arc::clone(&setup);
        tokio::spawn(async move {
            let manager = setup.manager();
            for _ in 0..12 {
                manager.token(ONLY, None).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    };
    soon("our refreshes", ours).await.unwrap();
    soon("the CLI's refreshes", client).await.unwrap();
    assert_eq!(setup.server.redeemed_again(), 0);
    assert_eq!(setup.home.access_token(), format!("access-{}", setup.server.redemptions()));
    assert!(!setup.home.cli_lock().exists());
}

/// Refreshes over and over like a CLI: under its own lock, from its own reading of the file.
fn cli_at_work(setup: Arc<Setup>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let oauth = setup.oauth_client();
        for _ in 0..8 {
            let lock = cli(&setup);
            assert!(tokio::task::spawn_blocking(move || lock.acquire()).await.unwrap(), "the CLI gave up");
            let old = setup.home.document();
            let spent = Secret::new(old["refresh_token"].as_str().unwrap());
            let token = oauth.refresh_access_token(&spent).await.unwrap();
            let refresh_token = token.refresh_token.unwrap();
            setup.home.write(&document(
                token.access_token.expose(),
                refresh_token.expose(),
                token.expires_at,
                &setup.server.url(),
            ));
            cli(&setup).release();
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    })
}

#[tokio::test]
async fn a_lock_that_the_cli_holds_is_waited_for() {
    let setup = Setup::expired().await;
    let lock = cli(&setup);
    assert!(lock.try_acquire());
    // Stale for an old CLI; a new one may hold it for longer.
    make_older(&lock.path, Duration::from_secs(12));
    let manager = setup.manager();
    let caller = tokio::spawn(async move { manager.token(ONLY, None).await });
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(setup.server.token_requests(), 0);
    lock.release();
    let token = soon("the token", caller).await.unwrap().unwrap();
    assert_eq!(token.access_token.expose(), "access-1");
    assert!(!lock.path.exists());
}

#[tokio::test]
async fn a_stale_lock_is_removed_at_once() {
    let ours = "5b0c1a86-6b7c-4b2b-8a2e-0d6a53b1a2c4\nopencode-qwen-cli-auth 4194305\n";
    for (contents, age) in [("3b241101-e2bb-4255-8caf-4136c566a962", 40), ("", 40), (ours, 0), (ours, 20)] {
        let setup = Setup::expired().await;
        fs::write(setup.home.cli_lock(), contents).unwrap();
        make_older(&setup.home.cli_lock(), Duration::from_secs(age));
        let token = setup.manager().token(ONLY, None).await.unwrap();
        assert_eq!(token.access_token.expose(), "access-1");
        assert!(!setup.home.cli_lock().exists());
    }
}

#[tokio::test]
async fn a_stolen_lock_and_its_file_are_left_to_the_thief() {
    let setup = Setup::expired().await;
    let thief = cli(&setup);
    let caller = setup.asking(&setup.manager()).await;
    thief.release();
    assert!(thief.try_acquire());
    let stolen = fs::read(&thief.path).unwrap();
    let theirs = document("from-the-cli", "refresh-cli", in_seconds(3600), &setup.server.url());
    setup.home.write(&theirs);
    setup.server.release();
    soon("the token", caller).await.unwrap().unwrap();
    assert_eq!(fs::read(&thief.path).unwrap(), stolen);
    assert_eq!(setup.home.document(), theirs);
}

#[tokio::test]
async fn a_lock_that_was_stolen_before_a_retry_is_noticed() {
    let setup = Setup::expired().await;
    // The first answer is not a verdict; before the second try the CLI has refreshed.
    setup.server.on_token([Reply::html(502)]);
    let caller = setup.asking(&setup.manager()).await;
    let thief = cli(&setup);
    thief.release();
    assert!(thief.try_acquire());
    setup.home.write(&document("from-the-cli", "refresh-cli", in_seconds(3600), &setup.server.url()));
    thief.release();
    setup.server.release();
    let token = soon("the token", caller).await.unwrap().unwrap();
    assert_eq!(token.access_token.expose(), "from-the-cli");
    assert_eq!(setup.server.token_requests(), 1);
    assert!(!thief.path.exists());
}

#[tokio::test]
async fn a_retry_leaves_the_token_to_a_thief_who_is_at_work() {
    let setup = Setup::expired().await;
    setup.server.on_token([Reply::html(502)]);
    let manager = setup.manager();
    let caller = setup.asking(&manager).await;
    // Another CLI's exit has removed our lock. This CLI has taken it and is about to redeem the same token.
    let thief = cli(&setup);
    thief.release();
    assert!(thief.try_acquire());
    setup.server.release();
    // Longer than the pauses between our tries.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let redeemed_under_it = setup.server.redemptions();
    setup.home.write(&document("from-the-cli", "refresh-cli", in_seconds(3600), &setup.server.url()));
    thief.release();
    // It may wait for the thief, or give up for now.
    if let Err(error) = soon("the outcome", caller).await.unwrap() {
        assert!(error.is_retryable());
    }
    assert_eq!(redeemed_under_it, 0);
    assert_eq!(manager.token(ONLY, None).await.unwrap().access_token.expose(), "from-the-cli");
}
