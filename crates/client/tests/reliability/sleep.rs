//! A process that sleeps while it holds the locks, as on a suspended laptop.

use std::time::Duration;

use qwen_base::Secret;
use serde_json::Value;
use tokio::time::sleep;

use crate::support::child::Child;
use crate::support::home::{document, in_seconds};
use crate::support::qwen_cli::{CliLock, NEW_STALE, OLD_STALE};
use crate::support::setup::Setup;
use crate::support::time::soon;

/// Refreshes as a qwen CLI that read the file just now and holds its lock.
pub async fn cli_refreshes(setup: &Setup) -> Value {
    let spent = Secret::new(setup.home.document()["refresh_token"].as_str().unwrap());
    let token = setup.oauth_client().refresh_access_token(&spent).await.unwrap();
    let (access_token, refresh_token) = (token.access_token, token.refresh_token.unwrap());
    let url = setup.server.url();
    let theirs = document(access_token.expose(), refresh_token.expose(), in_seconds(3600), &url);
    setup.home.write(&theirs);
    theirs
}

/// Returns a stopped process that holds the locks and is about to redeem.
async fn sleeper(setup: &Setup) -> Child {
    let mut sleeper = Child::start_with(setup, "stop Sending").await;
    sleeper.ask().await;
    sleeper.stopped().await;
    sleeper
}

async fn others_wait_for_a_sleeper(seconds: u64, gives_up: bool) {
    let setup = Setup::expired().await;
    let mut sleeper = sleeper(&setup).await;
    let mut other = Child::start(&setup).await;
    other.ask().await;
    let answer = tokio::time::timeout(Duration::from_secs(seconds), other.next_answer()).await;
    assert_eq!(answer.ok().as_deref(), gives_up.then_some("ERR_QWEN_LOCK_TIMEOUT"));
    assert_eq!(setup.server.token_requests(), 0);
    sleeper.signal("CONT").await;
    assert_eq!(sleeper.answer().await, "access-1");
    let answer = if gives_up { other.token().await } else { other.answer().await };
    assert_eq!(answer, "access-1");
    assert_eq!((setup.server.redemptions(), setup.server.redeemed_again()), (1, 0));
    assert_eq!(setup.home.files(), ["oauth_creds.flock", "oauth_creds.json"]);
}

/// A CLI waits until the sleeper's lock is stale, takes it, and refreshes.
async fn a_cli_takes_the_lock_of_a_sleeper(stale_after: Duration) {
    let setup = Setup::expired().await;
    let mut sleeper = sleeper(&setup).await;
    let cli = CliLock::new(setup.home.cli_lock(), stale_after);
    while !cli.try_acquire() {
        sleep(Duration::from_millis(100)).await;
    }
    let theirs = cli_refreshes(&setup).await;
    cli.release();
    sleeper.signal("CONT").await;
    assert_eq!(sleeper.answer().await, theirs["access_token"].as_str().unwrap());
    assert_eq!(setup.home.document(), theirs);
    assert_eq!((setup.server.token_requests(), setup.server.redeemed_again()), (1, 0));
    assert_eq!(setup.home.files(), ["oauth_creds.flock", "oauth_creds.json"]);
}

#[tokio::test]
async fn a_holder_that_sleeps_for_12_s_is_waited_for_and_notices_what_happened_meanwhile() {
    tokio::join!(others_wait_for_a_sleeper(12, false), a_cli_takes_the_lock_of_a_sleeper(OLD_STALE));
}

#[tokio::test]
#[ignore = "takes 40 s; npm run test:stress"]
async fn a_holder_that_sleeps_for_40_s_is_given_up_and_notices_what_happened_meanwhile() {
    tokio::join!(others_wait_for_a_sleeper(40, true), a_cli_takes_the_lock_of_a_sleeper(NEW_STALE));
}

#[tokio::test]
async fn a_sleeper_that_wakes_beside_a_cli_at_work_waits_for_it() {
    let setup = Setup::expired().await;
    let mut sleeper = sleeper(&setup).await;
    // The lock is removed by hand: the two tests above wait until it is stale.
    std::fs::remove_file(setup.home.cli_lock()).unwrap();
    let cli = CliLock::new(setup.home.cli_lock(), NEW_STALE);
    assert!(cli.try_acquire());
    sleeper.signal("CONT").await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(setup.server.token_requests(), 0);
    let theirs = soon("the CLI's refresh", cli_refreshes(&setup)).await;
    cli.release();
    assert_eq!(sleeper.answer().await, theirs["access_token"].as_str().unwrap());
    assert_eq!((setup.server.token_requests(), setup.server.redeemed_again()), (1, 0));
}
