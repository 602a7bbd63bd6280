//! The device authorization grant: its requests, their pace, and the ends of a login.

use std::time::Duration;

use qwen_accounts::{DeviceAuthorization, OAuthClient};
use qwen_base::Code;
use serde_json::json;

use crate::support::reply::{Part, Reply};
use crate::support::server::{DEVICE_PATH, Server, TOKEN_PATH};
use crate::support::setup::Setup;
use crate::support::time::{fast_forward, pass};

const MIB: usize = 1024 * 1024;

async fn started(setup: &Setup) -> (OAuthClient, DeviceAuthorization) {
    let client = setup.oauth_client();
    let authorization = client.request_device_authorization().await.unwrap();
    (client, authorization)
}

fn pending() -> Reply {
    Reply::oauth_error(400, "authorization_pending")
}

/// Seconds between the polls, rounded.
fn gaps(server: &Server) -> Vec<u64> {
    let polls = server.requests(TOKEN_PATH);
    polls.windows(2).map(|pair| (pair[1].at - pair[0].at + Duration::from_millis(500)).as_secs()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_login_sends_what_the_rfcs_ask_for_and_nothing_else() {
    let setup = Setup::logged_out().await;
    setup.server.on_token([pending()]);
    let (authorization, token) = fast_forward(async {
        let (client, authorization) = started(&setup).await;
        let token = client.poll_device_token(&authorization).await.unwrap();
        (authorization, token)
    })
    .await;
    assert_eq!(token.access_token.expose(), "access-1");
    assert_eq!(token.refresh_token.unwrap().expose(), "refresh-1");
    assert_eq!(authorization.code_verifier.expose().len(), 43);
    assert!(authorization.verification_uri_complete.ends_with("user_code=ABCD-EFGH&client=qwen-code"));

    let device = &setup.server.requests(DEVICE_PATH)[0];
    let names = |form: Vec<(String, String)>| form.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(device.form()), ["client_id", "scope", "code_challenge", "code_challenge_method"]);
    assert_eq!(device.field("client_id"), "f0304373b74a44d2b584a3fb70ca9e56");
    assert_eq!(device.field("scope"), "openid profile email model.completion");
    assert_eq!(device.field("code_challenge_method"), "S256");
    let request_id = device.headers["x-request-id"].to_str().unwrap();
    assert_eq!(uuid::Uuid::parse_str(request_id).unwrap().get_version_num(), 4);

    let polls = setup.server.requests(TOKEN_PATH);
    assert_eq!(polls.len(), 2);
    for poll in &polls {
        assert_eq!(names(poll.form()), ["grant_type", "client_id", "device_code", "code_verifier"]);
        assert_eq!(poll.field("grant_type"), "urn:ietf:params:oauth:grant-type:device_code");
        assert!(!poll.headers.contains_key("x-request-id"));
    }
    for request in polls.iter().chain([device]) {
        assert_eq!(request.method, "POST");
        assert_eq!(request.headers["accept"], "application/json");
        assert_eq!(request.headers["content-type"], "application/x-www-form-urlencoded");
        assert!(request.headers["user-agent"].to_str().unwrap().starts_with("opencode-qwen-cli-auth/"));
        assert!(!request.headers.contains_key("authorization"));
    }
}

#[tokio::test(start_paused = true)]
async fn each_login_has_its_own_verifier_and_request_id() {
    let setup = Setup::logged_out().await;
    let (one, two) = fast_forward(async { (started(&setup).await.1, started(&setup).await.1) }).await;
    assert_ne!(one.code_verifier, two.code_verifier);
    let requests = setup.server.requests(DEVICE_PATH);
    assert_ne!(requests[0].headers["x-request-id"], requests[1].headers["x-request-id"]);
    assert_ne!(requests[0].field("code_challenge"), requests[1].field("code_challenge"));
}

#[tokio::test(start_paused = true)]
async fn slow_down_adds_five_seconds_for_good_in_both_dialects() {
    let setup = Setup::logged_out().await;
    let slow_down = |status| Reply::oauth_error(status, "slow_down");
    setup.server.on_token([pending(), slow_down(429), pending(), slow_down(400), pending(), pending()]);
    fast_forward(async {
        let (client, authorization) = started(&setup).await;
        client.poll_device_token(&authorization).await.unwrap();
    })
    .await;
    assert_eq!(gaps(&setup.server), [5, 10, 10, 15, 15, 15]);
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_without_a_name_slows_the_polling_too() {
    let setup = Setup::logged_out().await;
    setup.server.on_token([Reply::html(429), pending()]);
    fast_forward(async {
        let (client, authorization) = started(&setup).await;
        client.poll_device_token(&authorization).await.unwrap();
    })
    .await;
    assert_eq!(gaps(&setup.server), [10, 10]);
}

#[tokio::test(start_paused = true)]
async fn temporary_trouble_does_not_end_a_login() {
    let setup = Setup::logged_out().await.with_oauth_timeout(Duration::from_secs(3));
    setup.server.on_token([
        Reply::html(504),
        Reply::html(200),
        Reply::json(502, &json!({"error": "bad_gateway"})),
        Reply::empty(503),
        Reply::Close,
        Reply::Hang,
        Reply::new(200, "application/json", vec![Part::text("{\"access"), Part::Cut]),
        Reply::json(200, &json!({"status": "pending"})),
    ]);
    let token = fast_forward(async {
        let (client, authorization) = started(&setup).await;
        client.poll_device_token(&authorization).await.unwrap()
    })
    .await;
    assert_eq!(token.access_token.expose(), "access-1");
    assert_eq!(setup.server.token_requests(), 9);
}

#[tokio::test(start_paused = true)]
async fn an_unapproved_code_expires() {
    for (reply, has_cause) in [(pending(), false), (Reply::html(504), true)] {
        let setup = Setup::logged_out().await;
        setup.server.on_every_token(reply);
        let error = fast_forward(async {
            let (client, mut authorization) = started(&setup).await;
            authorization.expires_in = 18.0;
            client.poll_device_token(&authorization).await.unwrap_err()
        })
        .await;
        assert_eq!(error.code(), Code::DeviceCodeExpired);
        assert_eq!(error.cause().is_some(), has_cause);
        assert_eq!(setup.server.token_requests(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_hangs_does_not_outlive_the_code() {
    let setup = Setup::logged_out().await;
    setup.server.on_every_token(Reply::Hang);
    let started_at = tokio::time::Instant::now();
    let error = fast_forward(async {
        let (client, mut authorization) = started(&setup).await;
        authorization.expires_in = 12.0;
        client.poll_device_token(&authorization).await.unwrap_err()
    })
    .await;
    assert_eq!(error.code(), Code::DeviceCodeExpired);
    // A request may still be on its way when the code expires. It has 30 s.
    assert!(started_at.elapsed() < Duration::from_secs(45));
}

#[tokio::test(start_paused = true)]
async fn a_final_answer_ends_a_login_at_once() {
    for (status, error, code) in [
        (400, "access_denied", Code::AccessDenied),
        (403, "access_denied", Code::AccessDenied),
        (400, "expired_token", Code::DeviceCodeExpired),
        (401, "invalid_token", Code::DeviceCodeExpired),
        (401, "invalid_client", Code::OAuthError),
        (400, "invalid_grant", Code::OAuthError),
    ] {
        let setup = Setup::logged_out().await;
        setup.server.on_token([Reply::oauth_error(status, error)]);
        let failure = fast_forward(async {
            let (client, authorization) = started(&setup).await;
            client.poll_device_token(&authorization).await.unwrap_err()
        })
        .await;
        assert_eq!(failure.code(), code, "{status} {error}");
        assert_eq!(failure.status(), Some(status));
        assert_eq!(failure.oauth_error(), Some(error));
        assert_eq!(setup.server.token_requests(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_verifier_gets_no_token() {
    let setup = Setup::logged_out().await;
    let error = fast_forward(async {
        let (client, mut authorization) = started(&setup).await;
        authorization.code_verifier = qwen_accounts::code_verifier().unwrap();
        client.poll_device_token(&authorization).await.unwrap_err()
    })
    .await;
    assert_eq!(error.oauth_error(), Some("invalid_grant"));
}

#[tokio::test(start_paused = true)]
async fn an_aborted_login_sends_nothing_more() {
    let setup = Setup::logged_out().await;
    setup.server.on_every_token(pending());
    fast_forward(async {
        let (client, authorization) = started(&setup).await;
        let polling = client.poll_device_token(&authorization);
        assert!(tokio::time::timeout(Duration::from_secs(12), polling).await.is_err());
    })
    .await;
    assert_eq!(setup.server.token_requests(), 2);
    pass(40).await;
    assert_eq!(setup.server.token_requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_login_aborted_in_mid_request_closes_its_connection() {
    let setup = Setup::logged_out().await;
    setup.server.on_every_token(Reply::Hang);
    fast_forward(async {
        let (client, authorization) = started(&setup).await;
        let polling = client.poll_device_token(&authorization);
        assert!(tokio::time::timeout(Duration::from_secs(8), polling).await.is_err());
        setup.server.until_closed().await;
    })
    .await;
    pass(40).await;
    assert_eq!(setup.server.token_requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_read_up_to_one_mebibyte() {
    let answer = |size: usize| {
        let fields =
            r#""device_code":"d","user_code":"u","verification_uri":"https://a.example/","expires_in":9"#;
        let padding = " ".repeat(size - fields.len() - 2);
        Reply::new(200, "application/json", vec![Part::text(&format!("{{{fields}{padding}}}"))])
    };
    let setup = Setup::logged_out().await;
    let flood = Reply::new(200, "application/json", vec![Part::Flood(vec![b' '; 16 * 1024].into())]);
    setup.server.on_device([answer(MIB), answer(MIB + 1), flood.clone()]);
    setup.server.on_token([flood]);
    fast_forward(async {
        let client = setup.oauth_client();
        let authorization = client.request_device_authorization().await.unwrap();
        for _ in 0..2 {
            let error = client.request_device_authorization().await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidResponse);
            assert!(error.message().contains("1 MiB"), "{}", error.message());
        }
        let error = client.poll_device_token(&authorization).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidResponse);
        setup.server.until_closed().await;
    })
    .await;
    assert!(setup.server.bytes_sent() < 64 * MIB, "{}", setup.server.bytes_sent());
}

#[tokio::test(start_paused = true)]
async fn redirects_are_never_followed() {
    let setup = Setup::logged_out().await;
    let elsewhere = Server::start().await;
    let redirect = |status, path| Reply::redirect(status, &format!("{}{path}", elsewhere.url()));
    let statuses = [301, 302, 303, 307, 308];
    setup.server.on_device(statuses.map(|status| redirect(status, DEVICE_PATH)));
    setup.server.on_token(statuses.map(|status| redirect(status, TOKEN_PATH)));
    fast_forward(async {
        let client = setup.oauth_client();
        for status in statuses {
            let error = client.request_device_authorization().await.unwrap_err();
            assert_eq!(error.code(), Code::DeviceAuthorizationFailed);
            assert_eq!(error.status(), Some(status));
        }
        let authorization = client.request_device_authorization().await.unwrap();
        client.poll_device_token(&authorization).await.unwrap();
    })
    .await;
    assert_eq!(elsewhere.all_requests(), 0);
    assert_eq!(setup.server.token_requests(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_starts_no_login_says_why() {
    let setup = Setup::logged_out().await.with_oauth_timeout(Duration::from_secs(2));
    setup.server.on_device([
        Reply::oauth_error(400, "invalid_scope"),
        Reply::html(503),
        Reply::html(200),
        Reply::json(200, &json!({"device_code": "d"})),
        Reply::Close,
        Reply::Hang,
    ]);
    fast_forward(async {
        let client = setup.oauth_client();
        for (code, retryable) in [
            (Code::DeviceAuthorizationFailed, false),
            (Code::DeviceAuthorizationFailed, true),
            (Code::InvalidResponse, false),
            (Code::InvalidResponse, false),
            (Code::Network, true),
            (Code::Timeout, true),
        ] {
            let error = client.request_device_authorization().await.unwrap_err();
            assert_eq!((error.code(), error.is_retryable()), (code, retryable), "{}", error.message());
        }
    })
    .await;
    assert_eq!(setup.server.requests(DEVICE_PATH).len(), 6);
}
