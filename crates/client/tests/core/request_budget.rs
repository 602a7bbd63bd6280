//! Largest number of requests of one call, whatever fails in whatever order.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use qwen_base::Code;

use crate::support::reply::{Part, Reply};
use crate::support::server::Seen;
use crate::support::setup::{Setup, chat};

/// Two for the one account, and two more.
const BUDGET: usize = 4;

fn api_trouble() -> impl Strategy<Value = Reply> {
    prop_oneof![
        Just(Reply::Real),
        Just(Reply::api_error(401, "invalid_api_key", "token expired")),
        Just(Reply::html(401)),
        Just(Reply::api_error(403, "", "invalid access token")),
        Just(Reply::api_error(429, "insufficient_quota", "Free allocated quota exceeded")),
        Just(Reply::api_error(429, "Throttling.RateQuota", "slow").header("retry-after", "60")),
        Just(Reply::api_error(429, "Throttling.RateQuota", "slow").header("retry-after", "0")),
        Just(Reply::html(500)),
        Just(Reply::html(503)),
        Just(Reply::Close),
        Just(Reply::redirect(307, "/v1/moved")),
        Just(Reply::redirect(308, "/v1/moved-for-good")),
        Just(Reply::redirect(302, "/v1/see")),
        Just(Reply::events(vec![Part::text("data: {"), Part::Cut])),
        Just(Reply::events(vec![])),
        Just(Reply::empty(200)),
    ]
}

fn token_trouble() -> impl Strategy<Value = Reply> {
    prop_oneof![
        4 => Just(Reply::Real),
        1 => Just(Reply::oauth_error(400, "invalid_grant")),
        1 => Just(Reply::html(503).header("retry-after", "60")),
        1 => Just(Reply::json(200, &serde_json::json!({}))),
    ]
}

#[test]
fn one_call_never_costs_more_than_its_budget() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let scripts = (
        proptest::collection::vec(api_trouble(), 1..10),
        proptest::collection::vec(token_trouble(), 0..4),
        any::<[bool; 3]>(),
    );
    let config = Config { cases: 96, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&scripts, |(api, token, [expired, opencode, stream])| {
            runtime.block_on(async {
                let setup = if expired { Setup::expired().await } else { Setup::fresh().await };
                setup.server.on_api(api);
                setup.server.on_token(token);
                let client = setup.client_with(&[], opencode);
                let outcome = client.fetch(chat(stream)).await;
                let requests = setup.server.api_requests();
                prop_assert!(requests.len() <= BUDGET, "{} requests", requests.len());
                prop_assert!(setup.server.token_requests() <= 3);
                prop_assert_eq!(setup.server.redeemed_again(), 0);
                // Every try has the same body, but for a shorter request at the end. That is
                // sent again if its token was refused.
                let full = requests.iter().position(Seen::is_degraded).unwrap_or(requests.len());
                prop_assert!(full + 2 >= requests.len());
                let is_same =
                    |requests: &[Seen]| requests.windows(2).all(|pair| pair[0].body == pair[1].body);
                prop_assert!(is_same(&requests[..full]) && is_same(&requests[full..]));
                if let Err(error) = outcome {
                    prop_assert!(error.code() != Code::Internal, "{}", error.message());
                }
                Ok(())
            })
        })
        .unwrap();
}

#[tokio::test]
async fn redirects_and_refusals_share_one_budget() {
    let setup = Setup::fresh().await;
    let moved = || Reply::redirect(307, "/v1/moved");
    setup.server.on_api([moved(), moved(), Reply::html(401), moved(), moved(), moved()]);
    assert_eq!(setup.client().fetch(chat(false)).await.unwrap().status, 307);
    assert_eq!(setup.server.api_requests().len(), BUDGET);
}

#[tokio::test]
async fn a_connection_that_broke_after_the_request_was_sent_is_not_tried_again() {
    let setup = Setup::fresh().await;
    setup.server.on_api([Reply::Close]);
    let error = setup.client().fetch(chat(false)).await.unwrap_err();
    assert_eq!(error.code(), Code::Network);
    assert!(error.is_retryable());
    assert_eq!(setup.server.api_requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_refused_calls_share_one_redemption() {
    let setup = Setup::fresh().await;
    setup.server.revoke("access-0");
    let client = setup.client();
    let calls = futures_util::future::join_all((0..32).map(|_| client.fetch(chat(false)))).await;
    assert!(calls.into_iter().all(|answer| answer.unwrap().status == 200));
    assert_eq!(setup.server.token_requests(), 1);
    assert!(setup.server.api_requests().len() <= 64);
}
