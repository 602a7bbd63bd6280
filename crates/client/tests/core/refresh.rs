//! Refreshing a token: once for all callers, and without losing anything in the file.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use qwen_accounts::Token;
use qwen_base::{Busy, Clock, Code, EventKind, Secret};
use serde_json::{Value, json};

use crate::support::home::{document, in_seconds};
use crate::support::reply::Reply;
use crate::support::setup::{ONLY, Setup};
use crate::support::time::{soon, until};

/// Returns the access token that a new manager gets.
async fn token(setup: &Setup) -> String {
    access(&setup.manager().token(ONLY, None).await.unwrap())
}

fn access(token: &Token) -> String {
    token.access_token.expose().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_share_one_redemption() {
    let setup = Setup::expired().await;
    let manager = setup.manager();
    setup.server.hold();
    let callers: Vec<_> = (0..64)
        .map(|_| {
            let manager = manager.clone();
            tokio::spawn(async move { manager.token(ONLY, None).await.unwrap() })
        })
        .collect();
    setup.server.until_token_requests(1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    setup.server.release();
    for token in join_all(callers).await {
        assert_eq!(access(&token.unwrap()), "access-1");
    }
    assert_eq!(setup.server.token_requests(), 1);
    assert_eq!(setup.events.count(EventKind::Refreshed), 1);
    assert_eq!(setup.home.files(), ["oauth_creds.flock", "oauth_creds.json"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_managers_share_one_redemption_even_of_a_short_lived_token() {
    let setup = Setup::expired().await;
    setup.server.issue_with("expires_in", json!(20));
    let tokens = join_all((0..8).map(|_| token(&setup))).await;
    assert!(tokens.iter().all(|token| token == "access-1"), "{tokens:?}");
    assert_eq!(setup.server.token_requests(), 1);
}

#[tokio::test]
async fn a_token_is_refreshed_thirty_seconds_before_it_expires() {
    let setup = Setup::fresh().await;
    let expiry = setup.home.document()["expiry_date"].as_u64().unwrap();
    let now = Arc::new(AtomicU64::new(expiry - 30_001));
    let clock = Arc::clone(&now);
    let clock = Clock::from_fn(move || clock.load(Ordering::SeqCst));
    let manager = setup.manager_at(clock, Busy::unobserved());
    assert_eq!(access(&manager.token(ONLY, None).await.unwrap()), "access-0");
    assert_eq!(setup.server.token_requests(), 0);
    now.store(expiry - 29_999, Ordering::SeqCst);
    assert_eq!(access(&manager.token(ONLY, None).await.unwrap()), "access-1");
    assert_eq!(setup.server.token_requests(), 1);
}

#[tokio::test]
async fn a_refresh_sends_the_token_once_and_updates_the_file() {
    let setup = Setup::expired().await;
    let before = in_seconds(0);
    token(&setup).await;
    let request = &setup.server.requests(crate::support::server::TOKEN_PATH)[0];
    let form = request.form();
    let pairs: Vec<_> = form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        pairs,
        [
            ("grant_type", "refresh_token"),
            ("refresh_token", "refresh-0"),
            ("client_id", "f0304373b74a44d2b584a3fb70ca9e56")
        ]
    );
    assert!(!request.headers.contains_key("x-request-id"));
    let written = setup.home.document();
    let expiry = written["expiry_date"].as_u64().unwrap();
    assert!((before + 21_600_000..=in_seconds(21_600)).contains(&expiry));
    assert_eq!(written, document("access-1", "refresh-1", expiry, &setup.server.url()));
    assert_eq!(setup.home.bytes(), serde_json::to_vec_pretty(&written).unwrap());
    assert_eq!(setup.home.credentials().metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_token_refreshed_elsewhere_is_taken_from_the_file() {
    let setup = Setup::expired().await;
    let manager = setup.manager();
    assert_eq!(access(&manager.token(ONLY, None).await.unwrap()), "access-1");
    setup.home.write(&document("from-the-cli", "refresh-cli", in_seconds(3600), &setup.server.url()));
    assert_eq!(access(&manager.token(ONLY, None).await.unwrap()), "from-the-cli");
    assert_eq!(setup.server.token_requests(), 1);
}

#[tokio::test]
async fn a_token_that_appears_while_the_lock_is_waited_for_is_taken_at_once() {
    let setup = Setup::expired().await;
    std::fs::write(setup.home.cli_lock(), "3b241101-e2bb-4255-8caf-4136c566a962").unwrap();
    let manager = setup.manager();
    let waiting = tokio::spawn(async move { manager.token(ONLY, None).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    // Its lifetime is short, but it was obtained just now.
    setup.home.write(&document("from-the-cli", "refresh-cli", in_seconds(15), &setup.server.url()));
    let token = soon("the token from the file", waiting).await.unwrap().unwrap();
    assert_eq!(access(&token), "from-the-cli");
    assert!(setup.home.cli_lock().exists());
    assert_eq!(setup.server.token_requests(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_token_is_renewed_once() {
    let setup = Setup::fresh().await;
    let manager = setup.manager();
    let rejected = Secret::new("access-0");
    let tokens = join_all((0..16).map(|_| manager.token(ONLY, Some(&rejected)))).await;
    for token in tokens {
        assert_eq!(access(&token.unwrap()), "access-1");
    }
    assert_eq!(access(&manager.token(ONLY, Some(&rejected)).await.unwrap()), "access-1");
    assert_eq!(setup.server.token_requests(), 1);
}

#[tokio::test]
async fn a_rejected_token_that_was_replaced_in_the_file_costs_no_redemption() {
    let setup = Setup::fresh().await;
    let manager = setup.manager();
    manager.token(ONLY, None).await.unwrap();
    setup.home.write(&document("newer", "refresh-newer", in_seconds(3600), &setup.server.url()));
    let token = manager.token(ONLY, Some(&Secret::new("access-0"))).await.unwrap();
    assert_eq!(access(&token), "newer");
    assert_eq!(setup.server.token_requests(), 0);
}

#[tokio::test]
async fn a_server_that_issues_the_rejected_token_again_is_not_asked_forever() {
    let setup = Setup::fresh().await;
    setup.server.issue_with("access_token", json!("access-0"));
    let manager = setup.manager();
    let error = manager.token(ONLY, Some(&Secret::new("access-0"))).await.unwrap_err();
    assert_eq!(error.code(), Code::TokenRejected);
    assert!(setup.server.token_requests() <= 2);
    assert_eq!(setup.server.redeemed_again(), 0);
}

#[tokio::test]
async fn fields_missing_from_an_answer_stay_unchanged() {
    let setup = Setup::expired().await;
    setup.server.issue_with("refresh_token", Value::Null);
    setup.server.issue_with("resource_url", Value::Null);
    setup.server.know("access-0", "refresh-0");
    assert_eq!(token(&setup).await, "access-1");
    let written = setup.home.document();
    assert_eq!(written["refresh_token"], "refresh-0");
    assert_eq!(written["resource_url"], setup.server.url());
}

#[tokio::test]
async fn unknown_fields_and_links_are_kept_and_a_links_target_is_private() {
    let setup = Setup::expired().await;
    let mut original = setup.home.document();
    original["added_by_the_cli"] = json!({"kept": [1, 2.5, "x"]});
    original["first"] = json!(null);
    let real = setup.home.path().join("dotfiles/creds.json");
    std::fs::create_dir(real.parent().unwrap()).unwrap();
    std::fs::write(&real, original.to_string()).unwrap();
    std::fs::remove_file(setup.home.credentials()).unwrap();
    symlink("../dotfiles/creds.json", setup.home.credentials()).unwrap();
    assert_eq!(token(&setup).await, "access-1");
    assert!(setup.home.credentials().symlink_metadata().unwrap().is_symlink());
    let target = real.symlink_metadata().unwrap();
    assert!(!target.is_symlink() && target.permissions().mode() & 0o777 == 0o600);
    let written = setup.home.document();
    assert_eq!(written["access_token"], "access-1");
    assert_eq!(written["added_by_the_cli"], original["added_by_the_cli"]);
    assert_eq!(written["first"], original["first"]);
    assert_eq!(setup.home.files(), ["oauth_creds.json"]);
    // Other links to the same file share the lock.
    assert!(real.with_extension("flock").exists());
}

#[tokio::test]
async fn an_abandoned_refresh_is_still_written() {
    let setup = Setup::expired().await;
    let idle = Arc::new(tokio::sync::Notify::new());
    let on_idle = Arc::clone(&idle);
    let busy = Busy::new(qwen_base::Shutdown::default(), move || on_idle.notify_one());
    let manager = setup.manager_at(Clock::system(), busy.clone());
    setup.server.hold();
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let manager = manager.clone();
            tokio::spawn(async move { manager.token(ONLY, None).await })
        })
        .collect();
    setup.server.until_token_requests(1).await;
    callers.iter().for_each(tokio::task::JoinHandle::abort);
    drop((callers, manager));
    assert!(busy.is_busy());
    setup.server.release();
    soon("the end of the refresh", async {
        while busy.is_busy() {
            idle.notified().await;
        }
    })
    .await;
    assert_eq!(setup.home.access_token(), "access-1");
    assert_eq!(setup.home.document()["refresh_token"], "refresh-1");
}

/// Starts a refresh, runs `meanwhile` after the redemption, and returns the caller's token.
async fn refreshed_while(setup: &Setup, meanwhile: impl FnOnce()) -> String {
    let caller = setup.asking(&setup.manager()).await;
    until("the redemption", || setup.server.redemptions() == 1).await;
    meanwhile();
    setup.server.release();
    access(&soon("the caller's token", caller).await.unwrap().unwrap())
}

#[tokio::test]
async fn a_logout_during_a_refresh_is_not_undone() {
    let setup = Setup::expired().await;
    refreshed_while(&setup, || std::fs::remove_file(setup.home.credentials()).unwrap()).await;
    assert_eq!(setup.home.files(), ["oauth_creds.flock"]);
    let error = setup.client().access_token(None).await.unwrap_err();
    assert_eq!(error.code(), Code::NotLoggedIn);
    assert_eq!(error.path(), Some(setup.home.credentials().as_path()));
}

#[tokio::test]
async fn a_change_to_other_fields_during_a_refresh_is_kept() {
    let setup = Setup::expired().await;
    let mut changed = setup.home.document();
    changed["note"] = json!("written meanwhile");
    assert_eq!(refreshed_while(&setup, || setup.home.write(&changed)).await, "access-1");
    assert_eq!(setup.home.document()["note"], "written meanwhile");
    assert_eq!(setup.home.access_token(), "access-1");
}

#[tokio::test]
async fn an_expired_token_without_a_refresh_token_needs_a_login() {
    let setup = Setup::expired().await;
    setup.home.write(&json!({"access_token": "a", "token_type": "Bearer", "expiry_date": 1}));
    let before = setup.home.bytes();
    let error = setup.manager().token(ONLY, None).await.unwrap_err();
    assert_eq!(error.code(), Code::RefreshTokenInvalid);
    assert_eq!(setup.home.bytes(), before);
    assert_eq!(setup.server.token_requests(), 0);
}

#[tokio::test]
async fn a_login_replaces_the_tokens_and_sets_a_broken_file_aside() {
    let setup = Setup::logged_out().await;
    setup.server.on_every_token(Reply::Hang);
    let login = Token {
        access_token: Secret::new("login"),
        refresh_token: Some(Secret::new("refresh-login")),
        token_type: "Bearer".to_owned(),
        resource_url: None,
        scope: None,
        expires_at: in_seconds(3600),
    };
    std::fs::write(setup.home.credentials(), "{broken").unwrap();
    setup.registry().add_login(&login, None, None).unwrap();
    assert_eq!(token(&setup).await, "login");
    let files = setup.home.files();
    let aside = files.iter().find(|name| name.starts_with("oauth_creds.json.corrupt-")).unwrap();
    assert_eq!(std::fs::read(setup.home.qwen_dir().join(aside)).unwrap(), b"{broken");
    assert!(!setup.client().adopt(login).await.unwrap());
}
