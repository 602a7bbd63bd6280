//! Many processes with one credentials file.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use crate::support::child::Child;
use crate::support::home::{document, in_seconds};
use crate::support::reply::Reply;
use crate::support::setup::Setup;
use crate::support::time::until;

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
    assert_eq!(waiter.answer().await, "access-1");
    assert_eq!(setup.server.redemptions(), 1);
    assert_eq!(setup.home.files(), ["oauth_creds.flock", "oauth_creds.json"]);
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
