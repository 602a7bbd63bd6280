//! Failed refreshes: the caller's error, the server's requests, and no loss.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::time::Duration;

use futures_util::future::join_all;
use qwen_base::{Busy, Clock, Code, Error, EventKind, Secret, Shutdown};
use serde_json::json;

use crate::support::child::Child;
use crate::support::home::{document, in_seconds};
use crate::support::port::ClosedPort;
use crate::support::reply::{Part, Reply};
use crate::support::server::{Server, TOKEN_PATH};
use crate::support::setup::{ONLY, Setup};
use crate::support::time::until;

/// Asks for a token and gets an error; the Qwen directory must stay unchanged.
async fn failure(setup: &Setup) -> Error {
    let before = setup.home.bytes();
    let stamp = setup.home.credentials().metadata().unwrap().ino();
    let error = setup.manager().token(ONLY, None).await.unwrap_err();
    assert_eq!(setup.home.bytes(), before, "{}", error.message());
    assert_eq!(setup.home.credentials().metadata().unwrap().ino(), stamp);
    // The store notes a verdict on the account. Temporary trouble leaves nothing behind.
    assert_eq!(setup.home.store().exists(), error.code() == Code::RefreshTokenInvalid);
    setup.home.assert_tidy();
    error
}

#[tokio::test]
async fn a_refused_refresh_token_is_offered_once_and_kept() {
    for (status, error) in [
        (400, "invalid_grant"),
        (400, "invalid_request"),
        (400, "invalid_client"),
        (400, "unauthorized_client"),
        (401, "anything"),
        (403, "anything"),
    ] {
        let setup = Setup::expired().await;
        setup.server.on_token([Reply::oauth_error(status, error)]);
        let before = setup.home.bytes();
        let manager = setup.manager();
        for _ in 0..3 {
            let refusal = manager.token(ONLY, None).await.unwrap_err();
            assert_eq!(refusal.code(), Code::RefreshTokenInvalid);
            assert_eq!((refusal.status(), refusal.oauth_error()), (Some(status), Some(error)));
            assert!(!refusal.is_retryable());
        }
        assert_eq!(setup.server.token_requests(), 1);
        assert_eq!(setup.events.count(EventKind::NeedsLogin), 1);
        assert_eq!(setup.home.bytes(), before);
    }
}

#[tokio::test]
async fn a_refusal_ends_with_a_new_token_in_the_file() {
    let setup = Setup::expired().await;
    setup.server.on_token([Reply::oauth_error(400, "invalid_grant")]);
    let manager = setup.manager();
    manager.token(ONLY, None).await.unwrap_err();
    setup.server.know("access-cli", "refresh-cli");
    setup.home.write(&document("access-cli", "refresh-cli", in_seconds(-5), &setup.server.url()));
    let token = setup.client().access_token(None).await.unwrap();
    assert_eq!(token.access_token.expose(), "access-1");
    assert_eq!(setup.server.requests(TOKEN_PATH)[1].field("refresh_token"), "refresh-cli");
}

/// Returns the caller's token if the CLI writes its own before the server answers.
async fn token_when_the_cli_is_quicker(setup: &Setup) -> String {
    let caller = setup.asking(&setup.manager()).await;
    setup.home.write(&document("from-the-cli", "refresh-cli", in_seconds(3600), &setup.server.url()));
    setup.server.release();
    caller.await.unwrap().unwrap().access_token.expose().to_owned()
}

#[tokio::test]
async fn a_token_that_another_program_redeemed_first_is_not_a_refusal() {
    let setup = Setup::expired().await;
    setup.server.on_token([Reply::oauth_error(400, "invalid_grant")]);
    assert_eq!(token_when_the_cli_is_quicker(&setup).await, "from-the-cli");
    assert_eq!(setup.events.count(EventKind::NeedsLogin), 0);
}

#[tokio::test]
async fn a_directory_that_is_moved_during_a_refresh_costs_no_login_but_a_deleted_one_is_a_logout() {
    for is_moved in [true, false] {
        let setup = Setup::expired().await;
        let manager = setup.manager();
        let caller = setup.asking(&manager).await;
        let (directory, away) = (setup.home.qwen_dir(), setup.home.path().join("away"));
        if is_moved {
            fs::rename(&directory, &away).unwrap();
        } else {
            fs::remove_dir_all(&directory).unwrap();
        }
        setup.server.release();
        assert_eq!(caller.await.unwrap().unwrap().access_token.expose(), "access-1");
        assert_eq!(setup.home.store().exists(), is_moved);
        assert_eq!(setup.events.count(EventKind::NeedsAttention), usize::from(is_moved));
        if is_moved {
            assert_eq!(setup.home.files(), ["oauth_accounts.flock", "oauth_accounts.json"]);
            let next = setup.client().access_token(None).await.unwrap();
            assert_eq!((next.access_token.expose(), setup.server.redemptions()), ("access-1", 1));
            // The old directory comes back.
            fs::remove_dir_all(&directory).unwrap();
            fs::rename(&away, &directory).unwrap();
            manager.token(ONLY, None).await.unwrap();
            assert_eq!((setup.home.access_token(), setup.server.redemptions()), ("access-1".to_owned(), 1));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trouble_without_a_verdict_changes_nothing() {
    let cut = Reply::new(200, "application/json", vec![Part::text("{\"access_token\":"), Part::Cut]);
    // Requests for each reply: a lost answer is asked for once more, any other twice.
    let cases = [
        (Reply::json(429, &json!({"error": "slow_down"})), Code::OAuthError, 3),
        (Reply::html(429), Code::OAuthError, 3),
        (Reply::oauth_error(503, "invalid_grant"), Code::OAuthError, 3),
        (Reply::empty(500), Code::OAuthError, 3),
        (Reply::html(504), Code::OAuthError, 3),
        (Reply::html(200), Code::InvalidResponse, 3),
        (Reply::html(400), Code::OAuthError, 3),
        (Reply::html(401), Code::OAuthError, 3),
        (Reply::html(403), Code::OAuthError, 3),
        (Reply::oauth_error(400, "temporarily_unavailable"), Code::OAuthError, 3),
        (Reply::redirect(302, "https://wifi.example/login"), Code::OAuthError, 3),
        (Reply::Close, Code::Network, 2),
        (cut, Code::Network, 2),
        (Reply::Hang, Code::Timeout, 2),
    ];
    join_all(cases.map(|(reply, cause, requests)| async move {
        let setup = Setup::expired().await.with_oauth_timeout(Duration::from_millis(400));
        setup.server.on_every_token(reply.clone());
        let error = failure(&setup).await;
        assert_eq!(error.code(), Code::RefreshUnavailable, "{reply:?}");
        assert!(error.is_retryable());
        assert_eq!(error.cause().map(Error::code), Some(cause), "{reply:?}");
        assert_eq!(setup.server.token_requests(), requests, "{reply:?}");
        assert_eq!(setup.events.count(EventKind::Retry), requests - 1);
        assert_eq!(setup.events.count(EventKind::NeedsLogin), 0);
    }))
    .await;
}

#[tokio::test]
async fn an_unreachable_server_is_not_a_verdict() {
    let setup = Setup::expired().await;
    let mut unreachable = Setup::expired().await;
    let closed = ClosedPort::new();
    unreachable.options.oauth.base_url = Some(format!("http://{}", closed.address()));
    let error = failure(&unreachable).await;
    assert_eq!(error.code(), Code::RefreshUnavailable);
    assert_eq!(error.cause().map(Error::code), Some(Code::Network));
    assert_eq!(unreachable.events.count(EventKind::Retry), 2);
    assert_eq!(setup.server.token_requests(), 0);
}

#[tokio::test]
async fn a_refresh_recovers_from_temporary_trouble() {
    let setup = Setup::expired().await;
    setup.server.on_token([Reply::html(502), Reply::Close]);
    let token = setup.manager().token(ONLY, None).await.unwrap();
    assert_eq!(token.access_token.expose(), "access-1");
    assert_eq!(setup.server.token_requests(), 3);
    assert_eq!(setup.home.access_token(), "access-1");
}

#[tokio::test]
async fn a_process_that_is_ending_sends_no_token_again() {
    let setup = Setup::expired().await;
    let shutdown = Shutdown::default();
    let manager = setup.manager_at(Clock::system(), Busy::new(shutdown.clone(), || {}));
    setup.server.on_token([Reply::oauth_error(503, "unavailable")]);
    let asked = setup.asking(&manager).await;
    let ending = shutdown.clone();
    let end = tokio::task::spawn_blocking(move || ending.wait());
    until("the end", || shutdown.is_ending()).await;
    setup.server.release();
    asked.await.unwrap().unwrap_err();
    end.await.unwrap();
    assert_eq!(setup.server.token_requests(), 1);
}

#[tokio::test]
async fn the_caller_waits_for_a_long_retry_after() {
    let setup = Setup::expired().await;
    setup.server.on_every_token(Reply::html(429).header("retry-after", "90"));
    let error = failure(&setup).await;
    assert_eq!(error.code(), Code::RefreshUnavailable);
    assert_eq!((error.status(), error.retry_after_ms()), (Some(429), Some(90_000)));
    assert_eq!(setup.server.token_requests(), 1);
}

#[tokio::test]
async fn a_lost_answer_is_replayed_unless_the_file_has_changed() {
    let setup = Setup::expired().await;
    setup.server.on_token([Reply::Close]);
    assert_eq!(token_when_the_cli_is_quicker(&setup).await, "from-the-cli");
    assert_eq!(setup.server.token_requests(), 1);
}

#[tokio::test]
async fn a_lost_answer_of_a_redemption_ends_as_a_refusal_and_keeps_the_file() {
    let setup = Setup::expired().await;
    setup.server.on_token([Reply::Lost]);
    assert_eq!(failure(&setup).await.code(), Code::RefreshTokenInvalid);
    assert_eq!(setup.server.token_requests(), 2);
}

#[tokio::test]
async fn a_success_without_a_token_is_not_asked_for_again() {
    let large = Reply::new(200, "application/json", vec![Part::Bytes(vec![b' '; 1024 * 1024 + 1].into())]);
    let control = json!({"access_token": "a\r\nx-evil: 1", "refresh_token": "r"});
    for reply in [
        Reply::json(200, &json!({})),
        Reply::json(200, &json!({"access_token": ""})),
        Reply::json(200, &json!({"access_token": 7, "refresh_token": "r"})),
        Reply::json(200, &json!([1])),
        Reply::json(200, &control),
        large,
    ] {
        let setup = Setup::expired().await;
        setup.server.on_token([reply]);
        assert_eq!(failure(&setup).await.code(), Code::InvalidResponse);
        assert_eq!(setup.server.token_requests(), 1);
    }
}

#[tokio::test]
async fn a_redirect_never_carries_a_refresh_token_away() {
    let elsewhere = Server::start().await;
    let setup = Setup::expired().await;
    for status in [301, 302, 303, 307, 308] {
        let location = format!("{}{TOKEN_PATH}", elsewhere.url());
        setup.server.on_token([Reply::redirect(status, &location).header("retry-after", "60")]);
        assert_eq!(failure(&setup).await.code(), Code::RefreshUnavailable);
    }
    assert_eq!(elsewhere.all_requests(), 0);
}

#[tokio::test]
async fn no_error_repeats_a_token() {
    let setup = Setup::expired().await;
    let echo = json!({"error": "invalid_grant", "error_description": "refresh-0 and access-0 are unknown"});
    setup.server.on_token([Reply::json(400, &echo)]);
    let error = failure(&setup).await;
    for text in [error.message(), &format!("{error:?}"), &error.to_string()] {
        assert!(!text.contains("refresh-0") && !text.contains("access-0"), "{text}");
    }
}

/// The free function has no file, and retries as often.
#[tokio::test]
async fn without_a_file_a_refresh_is_tried_three_times() {
    let setup = Setup::logged_out().await;
    setup.server.know("access-0", "refresh-0");
    let client = setup.oauth_client();
    setup.server.on_token([Reply::html(502), Reply::html(502)]);
    let token = client.refresh_access_token(&Secret::new("refresh-0")).await.unwrap();
    assert_eq!(token.access_token.expose(), "access-1");
    setup.server.on_every_token(Reply::html(502));
    let error = client.refresh_access_token(&Secret::new("refresh-1")).await.unwrap_err();
    assert_eq!(error.code(), Code::RefreshUnavailable);
    assert_eq!(setup.server.token_requests(), 6);
    assert!(setup.home.files().is_empty());
}

/// Gives the Qwen directory to another user if the tests run as root, since modes don't stop root.
fn for_a_user_whom_modes_stop(setup: &Setup) -> Option<u32> {
    const NOBODY: u32 = 65_534;
    let directory = setup.home.qwen_dir();
    if directory.metadata().unwrap().uid() != 0 {
        return None;
    }
    for path in [setup.home.path(), &directory, &setup.home.credentials()] {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    Some(NOBODY)
}

fn set_mode(setup: &Setup, mode: u32) {
    fs::set_permissions(setup.home.qwen_dir(), fs::Permissions::from_mode(mode)).unwrap();
}

/// Starts a client that redeems its token while nothing can be written to the Qwen directory.
async fn redeemed_but_not_written(setup: &Setup) -> Child {
    let user = for_a_user_whom_modes_stop(setup);
    let mut client = Child::start_as(setup, user).await;
    setup.server.hold();
    client.ask().await;
    setup.server.until_token_requests(1).await;
    set_mode(setup, 0o500);
    // A writable file would be written in place.
    fs::set_permissions(setup.home.credentials(), fs::Permissions::from_mode(0o400)).unwrap();
    setup.server.release();
    assert_eq!(client.answer().await, "access-1");
    client
}

#[tokio::test]
async fn a_redeemed_token_that_cannot_be_written_is_used_and_written_later() {
    let setup = Setup::expired().await;
    let mut client = redeemed_but_not_written(&setup).await;
    assert_eq!(setup.home.access_token(), "access-0");
    assert_eq!(client.token().await, "access-1");
    assert_eq!(setup.server.token_requests(), 1);

    set_mode(&setup, 0o700);
    assert_eq!(client.token().await, "access-1");
    until("the redeemed tokens in the file", || setup.home.access_token() == "access-1").await;
    assert_eq!(setup.home.document()["refresh_token"], "refresh-1");
    assert_eq!(setup.server.token_requests(), 1);
}

#[tokio::test]
async fn a_short_lived_token_that_could_not_be_written_is_not_forgotten() {
    let setup = Setup::expired().await;
    setup.server.issue_with("expires_in", json!(5));
    let mut client = redeemed_but_not_written(&setup).await;
    set_mode(&setup, 0o700);
    // The next refresh must redeem the token in memory, which is not in the file.
    assert_eq!(client.token().await, "access-2");
    assert_eq!(setup.server.requests(TOKEN_PATH)[1].field("refresh_token"), "refresh-1");
    assert_eq!(setup.home.document()["refresh_token"], "refresh-2");
}

#[tokio::test]
async fn a_briefly_missing_directory_loses_no_login() {
    let setup = Setup::expired().await;
    let manager = setup.manager();
    let (directory, aside) = (setup.home.qwen_dir(), setup.home.path().join("aside"));
    let caller = setup.asking(&manager).await;
    // A file in its place makes reading fail: a missing directory would be a logout.
    fs::rename(&directory, &aside).unwrap();
    fs::write(&directory, "in the way").unwrap();
    setup.server.release();
    assert_eq!(caller.await.unwrap().unwrap().access_token.expose(), "access-1");
    fs::remove_file(&directory).unwrap();
    fs::rename(&aside, &directory).unwrap();
    let token = manager.token(ONLY, None).await.unwrap();
    assert_eq!(token.access_token.expose(), "access-1");
    assert_eq!(setup.server.redeemed_again(), 0);
    until("the redeemed tokens in the file", || setup.home.access_token() == "access-1").await;
}
