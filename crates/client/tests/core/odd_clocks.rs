//! Clocks that jump, and impossible expiry times.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use qwen_base::{Clock, Code};
use serde_json::json;

use crate::support::home::document;
use crate::support::reply::Reply;
use crate::support::setup::{Setup, chat};

const DAY_MS: i64 = 24 * 3600 * 1000;

/// A setup whose clock can be moved.
async fn jumping(expiring_in: i64) -> (Setup, Arc<AtomicI64>) {
    let mut setup = Setup::expiring_in(expiring_in).await;
    let offset = Arc::new(AtomicI64::new(0));
    let (system, jump) = (Clock::system(), Arc::clone(&offset));
    setup.clock = Clock::from_fn(move || system.now_ms().saturating_add_signed(jump.load(Ordering::SeqCst)));
    (setup, offset)
}

#[tokio::test]
async fn a_clock_that_jumps_a_day_costs_a_refresh_and_no_login() {
    for days in [[1, 0], [-1, 0], [1, -1], [-1, 1]] {
        let (setup, offset) = jumping(3600).await;
        let client = setup.client();
        assert_eq!(client.fetch(chat(false)).await.unwrap().status, 200);
        for day in days {
            offset.store(day * DAY_MS, Ordering::SeqCst);
            for _ in 0..3 {
                assert_eq!(client.fetch(chat(false)).await.unwrap().status, 200, "{days:?}");
            }
        }
        assert_eq!(setup.server.redeemed_again(), 0, "{days:?}");
        assert!(setup.server.redemptions() <= 2, "{days:?}: {}", setup.server.redemptions());
        setup.home.assert_tidy();
    }
}

#[tokio::test]
async fn a_token_that_looks_fresh_by_a_wrong_clock_is_renewed_when_the_server_refuses_it() {
    let (setup, offset) = jumping(-60).await;
    offset.store(-DAY_MS, Ordering::SeqCst);
    setup.server.revoke("access-0");
    assert_eq!(setup.client().fetch(chat(false)).await.unwrap().status, 200);
    assert_eq!((setup.server.redemptions(), setup.server.redeemed_again()), (1, 0));
    assert_eq!(setup.home.access_token(), "access-1");
}

#[tokio::test]
async fn a_refresh_that_fails_by_any_clock_leaves_the_file() {
    for day in [-1, 1] {
        let (setup, offset) = jumping(-2 * 24 * 3600).await;
        offset.store(day * DAY_MS, Ordering::SeqCst);
        setup.server.on_every_token(Reply::html(503));
        let before = setup.home.bytes();
        let client = setup.client();
        assert_eq!(client.access_token(None).await.unwrap_err().code(), Code::RefreshUnavailable);
        assert_eq!(setup.home.bytes(), before);
        setup.server.on_every_token(Reply::Real);
        assert_eq!(client.access_token(None).await.unwrap().access_token.expose(), "access-1");
    }
}

#[tokio::test]
async fn a_dead_clis_lock_is_removed_whatever_the_clock_says() {
    for day in [-1, 1] {
        let (setup, offset) = jumping(-60 - 24 * 3600).await;
        std::fs::write(setup.home.cli_lock(), "3b241101-e2bb-4255-8caf-4136c566a962").unwrap();
        offset.store(day * DAY_MS, Ordering::SeqCst);
        let token = setup.client().access_token(None).await.unwrap();
        assert!(["access-0", "access-1"].contains(&token.access_token.expose()));
    }
}

#[tokio::test]
async fn impossible_expiry_times_cause_only_a_refresh() {
    let url = |setup: &Setup| setup.server.url();
    for expiry in [
        json!(0),
        json!(-1),
        json!(1),
        json!(1e300),
        json!(-1e300),
        json!(8_640_000_000_000_001_u64),
        json!("never"),
        json!(null),
        json!([]),
    ] {
        let setup = Setup::fresh().await;
        let mut stored = document("access-0", "refresh-0", 0, &url(&setup));
        stored["expiry_date"] = expiry.clone();
        setup.home.write(&stored);
        let token = setup.client().access_token(None).await.unwrap();
        assert_eq!(token.access_token.expose(), "access-1", "{expiry}");
        assert_eq!((setup.server.redemptions(), setup.server.redeemed_again()), (1, 0), "{expiry}");
        assert_eq!(setup.home.document()["refresh_token"], "refresh-1", "{expiry}");
    }
    // The largest possible time: the token is used until the server refuses it.
    let setup = Setup::fresh().await;
    setup.home.write(&document("access-0", "refresh-0", 8_640_000_000_000_000, &url(&setup)));
    let client = setup.client();
    assert_eq!(client.fetch(chat(false)).await.unwrap().status, 200);
    setup.server.revoke("access-0");
    assert_eq!(client.fetch(chat(false)).await.unwrap().status, 200);
    assert_eq!(setup.server.redemptions(), 1);
}

#[tokio::test]
async fn impossible_lifetimes_from_the_server_are_limited() {
    for lifetime in [json!(1), json!(0), json!(-5), json!(1e300), json!("soon"), json!(null), json!(1_e-9)] {
        let setup = Setup::expired().await;
        setup.server.issue_with("expires_in", lifetime.clone());
        let client = setup.client();
        assert_eq!(client.access_token(None).await.unwrap().access_token.expose(), "access-1", "{lifetime}");
        assert_eq!(setup.server.token_requests(), 1, "{lifetime}");
        assert_eq!(setup.home.access_token(), "access-1", "{lifetime}");
        assert!(setup.home.document()["expiry_date"].as_u64().is_some(), "{lifetime}");
        assert_eq!(client.fetch(chat(false)).await.unwrap().status, 200, "{lifetime}");
        assert_eq!(setup.server.redeemed_again(), 0, "{lifetime}");
    }
}
