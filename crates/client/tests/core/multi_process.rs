//! Many processes with one credentials file.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use crate::support::child::Child;
use crate::support::home::{document, in_seconds};
use crate::support::reply::Reply;
use crate::support::setup::{ONLY, Setup};
use crate::support::time::until;

/// Far below the time of waiting for a stale lock.
const QUICK: Duration = Duration::from_secs(8);

#[tokio::test]
async fn many_processes_share_one_redemption() {
    let setup = Setup::expired().await;
    let mut clients = join_all((0..24).map(|_| Child::start(&setup))).await;
    let answers = join_all(clients.iter_mut().map(Child::token)).await;
    assert!(answers.iter().all(|answer| answer == "access-1"), "{answers:?}");
    assert_eq!(setup.server.token_requests(), 1);
    assert_eq!(setup.home.files(), ["oauth_creds.flock", "oauth_creds.json"]);
    assert_eq!(std::fs::read(setup.home.qwen_dir().join("oauth_creds.flock")).unwrap(), b"");
}

#[tokio::test]
async fn processes_that_refresh_all_the_time_never_redeem_a_token_twice() {
    let setup = Setup::expired().await;
    // Too short to count as fresh, so that each call redeems.
    setup.server.issue_with("expires_in", json!(1));
    let mut clients = join_all((0..4).map(|_| Child::start(&setup))).await;
    join_all(clients.iter_mut().map(|client| async {
        for _ in 0..6 {
            let answer = client.token().await;
            assert!(answer.starts_with("access-"), "{answer}");
        }
    }))
    .await;
    assert_eq!(setup.server.redeemed_again(), 0);
    let last = format!("access-{}", setup.server.redemptions());
    assert_eq!(setup.home.access_token(), last);
    assert_eq!(setup.home.files(), ["oauth_creds.flock", "oauth_creds.json"]);
}

#[tokio::test]
async fn a_holder_that_is_stopped_for_a_while_keeps_its_lock() {
    let setup = Setup::expired().await;
    let (mut holder, mut waiter) = (Child::start(&setup).await, Child::start(&setup).await);
    setup.server.hold();
    holder.ask().await;
    setup.server.until_token_requests(1).await;
    holder.signal("STOP").await;
    setup.server.release();
    waiter.ask().await;
    assert!(tokio::time::timeout(Duration::from_secs(3), waiter.answer()).await.is_err());
    assert_eq!(setup.server.token_requests(), 1);
    holder.signal("CONT").await;
    assert_eq!(holder.answer().await, "access-1");
    assert_eq!(waiter.answer().await, "access-1");
    assert_eq!(setup.server.token_requests(), 1);
}

#[tokio::test]
async fn the_next_process_gets_through_where_the_holder_was_killed() {
    let setup = Setup::expired().await;
    let (mut holder, mut waiter) = (Child::start(&setup).await, Child::start(&setup).await);
    // It was killed before the server acted: the refresh token is still good.
    setup.server.on_token([Reply::Hang]);
    holder.ask().await;
    setup.server.until_token_requests(1).await;
    waiter.ask().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(setup.home.cli_lock().exists());
    holder.kill().await;
    let killed = Instant::now();
    assert_eq!(waiter.answer().await, "access-1");
    assert!(killed.elapsed() < QUICK, "{:?}", killed.elapsed());
    assert_eq!(setup.server.redemptions(), 1);
    assert_eq!(setup.home.files(), ["oauth_creds.flock", "oauth_creds.json"]);
}

#[tokio::test]
async fn a_process_that_starts_later_removes_the_lock_of_a_killed_one() {
    let setup = Setup::expired().await;
    let mut holder = Child::start(&setup).await;
    setup.server.on_token([Reply::Hang]);
    holder.ask().await;
    setup.server.until_token_requests(1).await;
    holder.kill().await;
    assert!(setup.home.cli_lock().exists());
    let started = Instant::now();
    let token = setup.manager().token(ONLY, None).await.unwrap();
    assert_eq!(token.access_token.expose(), "access-1");
    assert!(started.elapsed() < QUICK, "{:?}", started.elapsed());
    assert!(!setup.home.cli_lock().exists());
}

#[tokio::test]
async fn a_kill_at_any_moment_leaves_the_old_file_or_the_new_one() {
    for round in 0..10_u64 {
        let setup = Setup::expired().await;
        let mut client = Child::start(&setup).await;
        let old = setup.home.bytes();
        client.ask().await;
        if round > 0 {
            setup.server.until_token_requests(1).await;
            tokio::time::sleep(Duration::from_micros(500 * (round - 1))).await;
        }
        client.kill().await;
        if setup.home.bytes() != old {
            assert_eq!(setup.home.access_token(), "access-1");
            assert_eq!(setup.home.document()["refresh_token"], "refresh-1");
        }
        // The next login works, whatever was left behind.
        setup.server.know("access-cli", "refresh-cli");
        setup.home.write(&document("access-cli", "refresh-cli", in_seconds(-5), &setup.server.url()));
        let mut next = Child::start(&setup).await;
        let answer = next.token().await;
        assert!(answer.starts_with("access-"), "{answer}");
        assert_eq!(setup.home.access_token(), answer);
    }
}

#[tokio::test]
async fn one_process_sees_what_another_was_refused() {
    let setup = Setup::expired().await;
    setup.server.on_token([Reply::oauth_error(400, "invalid_grant")]);
    let mut clients = join_all((0..2).map(|_| Child::start(&setup))).await;
    let before = setup.home.bytes();
    assert_eq!(clients[0].token().await, "ERR_QWEN_REFRESH_TOKEN_INVALID");
    assert_eq!(setup.home.bytes(), before);
    setup.home.write(&document("login", "refresh-login", in_seconds(3600), &setup.server.url()));
    let answers = join_all(clients.iter_mut().map(Child::token)).await;
    assert_eq!(answers, ["login", "login"]);
    until("no more requests", || setup.server.open_requests() == 0).await;
    assert_eq!(setup.server.token_requests(), 1);
}
