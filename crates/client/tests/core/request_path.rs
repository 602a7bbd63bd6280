//! The request path: host, credentials, body, and answer.

use std::time::Duration;

use http::{HeaderValue, Method};
use qwen_accounts::Availability;
use qwen_base::{Code, EventKind};
use qwen_client::{ClientOptions, Redirect};
use serde_json::json;

use crate::support::fleet::rate_limit;
use crate::support::home::{document, in_seconds};
use crate::support::reply::{Part, Reply};
use crate::support::server::{Seen, Server};
use crate::support::setup::{CHAT, Setup, chat, get, post, text};
use crate::support::time::until;

const PRODUCT: &str = concat!("opencode-qwen-cli-auth/", env!("CARGO_PKG_VERSION"));

#[tokio::test]
async fn a_request_goes_to_the_accounts_own_host() {
    let setup = Setup::fresh().await;
    let client = setup.client();
    assert_eq!(client.base_url(), "https://dashscope.aliyuncs.com/compatible-mode/v1");
    let own = format!("{}/v1/models?b=%2F", setup.server.url());
    let answer = client.fetch(get(&own)).await.unwrap();
    assert_eq!(answer.url.as_str(), own);
    client.fetch(get(&format!("{}/models?a=1#x", client.base_url()))).await.unwrap();
    client.fetch(chat(false)).await.unwrap();
    let requests = setup.server.api_requests();
    let places: Vec<_> = requests.iter().map(|seen| (seen.method.as_str(), seen.uri.to_string())).collect();
    assert_eq!(
        places,
        [
            ("GET", "/v1/models?b=%2F".to_owned()),
            ("GET", "/v1/models?a=1".to_owned()),
            ("POST", "/v1/chat/completions".to_owned())
        ]
    );
    assert!(requests.iter().all(|seen| seen.bearer() == "access-0"));
}

#[tokio::test]
async fn a_base_url_that_was_set_wins_over_the_accounts_own() {
    let setup = Setup::fresh().await;
    setup.home.write(&document("access-0", "refresh-0", in_seconds(3600), "https://portal.example"));
    let base = format!("{}/compatible-mode", setup.server.url());
    let client = setup.client_with(&[("OPENCODE_QWEN_BASE_URL", &base)], false);
    assert_eq!(client.base_url(), format!("{base}/v1"));
    client.fetch(get(&format!("{base}/v1/models"))).await.unwrap();
    assert_eq!(setup.server.api_requests()[0].uri, "/compatible-mode/v1/models");
    let error = client.fetch(get("https://portal.example/v1/models")).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_foreign_host_is_refused_before_anything_is_sent() {
    let (setup, elsewhere) = (Setup::expired().await, Server::start().await);
    let client = setup.client();
    let (own, other) = (setup.server.url(), elsewhere.url());
    for url in [
        format!("{other}/v1/models"),
        format!("{own}/v2/models"),
        format!("{own}/v1/../admin"),
        format!("{}/v1/models", own.replace("http://", "http://user:hunter2@")),
        format!("{}/v1/models", own.replace("127.0.0.1", "localhost")),
        "https://dashscope.aliyuncs.com/api/v1/models".to_owned(),
        "http://dashscope.aliyuncs.com/compatible-mode/v1/models".to_owned(),
        "/v1/models".to_owned(),
        String::new(),
    ] {
        let error = client.fetch(get(&url)).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{url}");
        assert!(!error.message().contains("hunter2"));
    }
    let mut request = chat(false);
    request.method = Method::GET;
    assert_eq!(client.fetch(request).await.unwrap_err().code(), Code::InvalidArgument);
    let mut request = get(CHAT);
    request.method = Method::TRACE;
    assert_eq!(client.fetch(request).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!((setup.server.all_requests(), elsewhere.all_requests()), (0, 0));
}

#[tokio::test]
async fn a_token_that_names_an_insecure_host_is_not_sent_there() {
    let setup = Setup::fresh().await;
    for host in ["http://portal.qwen.ai", "ftp://127.0.0.1", "https://u:p@portal.qwen.ai", "::"] {
        setup.home.write(&document("access-0", "refresh-0", in_seconds(3600), host));
        let error = setup.client().fetch(chat(false)).await.unwrap_err();
        assert_eq!(error.code(), Code::CredentialsInvalid, "{host}");
    }
}

#[tokio::test]
async fn our_headers_win_and_the_callers_stay() {
    let setup = Setup::fresh().await;
    let mut request = chat(false);
    for (name, value) in [
        ("authorization", "Bearer placeholder"),
        ("user-agent", "ai-sdk/5"),
        ("x-dashscope-authtype", "openai"),
        ("accept-encoding", "gzip, br"),
        ("content-length", "99999"),
        ("host", "evil.example"),
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
        ("x-own", "caf\u{e9}"),
        ("accept", "text/event-stream"),
    ] {
        request.headers.insert(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    let answer = setup.client().fetch(request).await.unwrap();
    assert_eq!(answer.headers["x-qwen-account"], "qwen-cli");
    assert!(!answer.headers.contains_key("transfer-encoding"));
    let seen = &setup.server.api_requests()[0];
    assert_eq!(seen.bearer(), "access-0");
    assert_eq!(seen.headers["user-agent"], PRODUCT);
    assert_eq!(seen.headers["x-dashscope-useragent"], PRODUCT);
    assert_eq!(seen.headers["x-dashscope-authtype"], "qwen-oauth");
    assert_eq!(seen.headers["x-dashscope-cachecontrol"], "enable");
    assert_eq!(seen.headers["accept-encoding"], "identity");
    assert_eq!(seen.headers["content-type"], "application/json");
    assert_eq!(seen.headers["accept"], "text/event-stream");
    assert_eq!(seen.headers["x-own"].as_bytes(), "caf\u{e9}".as_bytes());
    assert_eq!(seen.headers["host"], setup.server.url().trim_start_matches("http://"));
    assert_eq!(seen.headers.get_all("authorization").iter().count(), 1);
    assert_eq!(seen.headers["content-length"], seen.body.len().to_string().as_str());
    assert!(!seen.headers.contains_key("transfer-encoding"));
}

#[tokio::test]
async fn a_chat_is_shaped_and_capped() {
    let setup = Setup::fresh().await;
    let body = json!({
        "model": "vision-model", "stream": true, "max_tokens": 100_000, "temperature": 0.5,
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "developer", "content": "be brief"},
        ],
        "tools": [{"type": "function", "function": {"name": "a"}}],
    });
    let mut request = post(CHAT, &body);
    request.headers.insert("x-session-id", HeaderValue::from_static("conversation"));
    setup.client().fetch(request).await.unwrap();
    let sent = setup.server.api_requests()[0].json();
    let marker = json!({"type": "ephemeral"});
    assert_eq!(
        sent["messages"],
        json!([
            {"role": "system", "content": [{"type": "text", "text": "be brief", "cache_control": marker}]},
            {"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": marker}]},
        ])
    );
    assert_eq!(sent["tools"][0]["cache_control"], marker);
    assert_eq!(sent["max_tokens"], 8_192);
    assert_eq!(sent["temperature"], 0.5);
    assert_eq!(sent["vl_high_resolution_images"], true);
    assert_eq!(sent["metadata"]["sessionId"], "conversation");
    assert!(sent["metadata"]["promptId"].as_str().unwrap().starts_with("conversation"));
}

#[tokio::test]
async fn other_bodies_are_sent_unchanged() {
    let setup = Setup::fresh().await;
    let plain = setup.client_with(&[("QWEN_MODE", "0")], false);
    let body =
        json!({"model": "coder-model", "max_tokens": 9, "messages": [{"role": "developer", "content": "x"}]});
    plain.fetch(post(CHAT, &body)).await.unwrap();
    let mut large = body.clone();
    large["max_completion_tokens"] = json!(1_000_000);
    plain.fetch(post(CHAT, &large)).await.unwrap();
    let client = setup.client();
    let embeddings = CHAT.replace("chat/completions", "embeddings");
    client.fetch(post(&embeddings, &large)).await.unwrap();
    let mut request = post(CHAT, &json!(null));
    request.body = Some("{not json".into());
    client.fetch(request).await.unwrap();
    let sent: Vec<_> = setup.server.api_requests().into_iter().map(|seen| seen.body).collect();
    assert_eq!(sent[0], body.to_string());
    assert_eq!(sent[1], large.to_string().replace("1000000", "65536"));
    assert_eq!(sent[2], large.to_string());
    assert_eq!(sent[3], "{not json");
}

#[tokio::test]
async fn a_body_of_megabytes_arrives_whole() {
    let setup = Setup::fresh().await;
    let long = "x".repeat(6 * 1024 * 1024);
    let body = json!({"model": "coder-model", "messages": [{"role": "user", "content": long}]});
    setup.client().fetch(post(CHAT, &body)).await.unwrap();
    assert_eq!(setup.server.api_requests()[0].json()["messages"], body["messages"]);
}

#[tokio::test]
async fn a_request_is_not_sent_with_a_token_that_could_not_be_refreshed() {
    let setup = Setup::expired().await;
    let client = setup.client();
    setup.server.on_every_token(Reply::html(503).header("retry-after", "60"));
    let error = client.fetch(chat(false)).await.unwrap_err();
    assert_eq!(error.code(), Code::RefreshUnavailable);
    assert!(error.is_retryable());
    setup.server.on_every_token(Reply::oauth_error(400, "invalid_grant"));
    assert_eq!(client.fetch(chat(false)).await.unwrap_err().code(), Code::RefreshTokenInvalid);
    assert_eq!(client.accounts().await.unwrap()[0].availability, Availability::Dead);
    let id = client.accounts().await.unwrap()[0].id.clone();
    client.remove_account(&id, false).await.unwrap();
    assert_eq!(client.fetch(chat(false)).await.unwrap_err().code(), Code::NotLoggedIn);
    assert!(setup.server.api_requests().is_empty());
}

#[tokio::test]
async fn a_refused_token_is_renewed_once_and_the_same_body_sent_again() {
    let unknown_token = [
        Reply::api_error(401, "invalid_api_key", "invalid access token or token expired"),
        Reply::html(401),
        Reply::api_error(403, "", "Access denied."),
        Reply::json(403, &json!({"code": "x", "message": "Invalid access token provided"})),
    ];
    for reply in unknown_token {
        let setup = Setup::fresh().await;
        setup.server.on_api([reply]);
        let answer = setup.client().fetch(chat(true)).await.unwrap();
        assert_eq!(answer.status, 200);
        let requests = setup.server.api_requests();
        assert_eq!(requests.len(), 2);
        assert_eq!((requests[0].bearer(), requests[1].bearer()), ("access-0", "access-1"));
        assert_eq!(requests[0].body, requests[1].body);
        assert_eq!(setup.server.token_requests(), 1);
    }
}

#[tokio::test]
async fn a_refused_token_and_a_rate_limit_have_one_more_try_each_in_any_order() {
    let refused = || Reply::api_error(401, "invalid_api_key", "invalid access token or token expired");
    let limited = || rate_limit("0");
    let ended = Code::FreeTierDiscontinued.as_str();
    let rate_limited = Code::RateLimited.as_str();
    for (replies, status, code, bearers) in [
        (vec![limited(), refused()], 200, None, ["access-0", "access-0", "access-1"]),
        (vec![refused(), limited()], 200, None, ["access-0", "access-1", "access-1"]),
        (vec![limited(), refused(), refused()], 401, Some(ended), ["access-0", "access-0", "access-1"]),
        (
            vec![limited(), refused(), limited()],
            429,
            Some(rate_limited),
            ["access-0", "access-0", "access-1"],
        ),
    ] {
        let setup = Setup::fresh().await;
        setup.server.on_api(replies);
        let answer = setup.client().fetch(chat(false)).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.error_code()), (status, code));
        let requests = setup.server.api_requests();
        assert_eq!(requests.iter().map(Seen::bearer).collect::<Vec<_>>(), bearers);
        assert_eq!(setup.server.token_requests(), 1);
    }
}

#[tokio::test]
async fn a_newer_token_in_the_file_answers_a_refusal() {
    let setup = Setup::fresh().await;
    setup.server.know("from-the-cli", "refresh-cli");
    let pause = Part::Pause(Duration::from_millis(300));
    setup.server.on_api([Reply::new(401, "application/json", vec![pause, Part::text("{}")])]);
    let client = setup.client();
    // The request is on its way with the old token when the new one appears.
    let (answer, ()) = tokio::join!(client.fetch(chat(false)), async {
        until("the refused request", || setup.server.api_requests().len() == 1).await;
        setup.home.write(&document("from-the-cli", "refresh-cli", in_seconds(3600), &setup.server.url()));
    });
    assert_eq!(answer.unwrap().status, 200);
    assert_eq!(setup.server.api_requests()[1].bearer(), "from-the-cli");
    assert_eq!(setup.server.token_requests(), 0);
}

#[tokio::test]
async fn a_token_that_stays_refused_is_the_servers_answer_and_needs_a_login() {
    let setup = Setup::fresh().await;
    setup.server.on_every_api(Reply::api_error(401, "no_access", "not for you"));
    let client = setup.client();
    let answer = client.fetch(chat(false)).await.unwrap();
    assert_eq!(answer.status, 401);
    assert_eq!(answer.error_code(), Some("ERR_QWEN_TOKEN_REJECTED"));
    let body: serde_json::Value = serde_json::from_str(&text(answer).await).unwrap();
    assert_eq!(body["error"]["code"], "no_access");
    assert!(body["error"]["message"].as_str().unwrap().contains("Log in again"));
    assert_eq!((setup.server.api_requests().len(), setup.server.token_requests()), (2, 1));
    assert_eq!(setup.events.count(EventKind::NeedsLogin), 1);
    let account = &client.accounts().await.unwrap()[0];
    assert_eq!(account.availability, Availability::Dead);
    assert_eq!(account.last_error.as_ref().unwrap().code, Code::TokenRejected.as_str());
}

#[tokio::test]
async fn a_refused_token_that_cannot_be_renewed() {
    let setup = Setup::fresh().await;
    setup.server.on_every_api(Reply::html(401));
    setup.server.on_token([Reply::html(503).header("retry-after", "60")]);
    let error = setup.client().fetch(chat(false)).await.unwrap_err();
    assert_eq!(error.code(), Code::RefreshUnavailable);
    setup.server.on_token([Reply::oauth_error(400, "invalid_grant")]);
    let answer = setup.client().fetch(chat(false)).await.unwrap();
    assert_eq!(answer.status, 401);
    assert_eq!(answer.error_code(), Some("ERR_QWEN_REFRESH_TOKEN_INVALID"));
    // The server's page is replaced by the reason.
    assert_eq!(answer.headers["content-type"], "application/json");
    let body: serde_json::Value = serde_json::from_str(&text(answer).await).unwrap();
    assert!(body["error"]["message"].as_str().unwrap().contains("Log in again"), "{body}");
    assert_eq!(setup.server.api_requests().len(), 2);
}

#[tokio::test]
async fn other_errors_are_returned_unchanged() {
    for (reply, status) in [
        (Reply::api_error(403, "content_filter", "not here"), 403),
        (Reply::api_error(400, "invalid_parameter", "no"), 400),
        (Reply::api_error(404, "model_not_found", "no"), 404),
        (Reply::html(500), 500),
        (Reply::html(503).header("retry-after", "9"), 503),
        (Reply::empty(204), 204),
    ] {
        let setup = Setup::fresh().await;
        setup.server.on_every_api(reply.clone());
        let answer = setup.client().fetch(chat(false)).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.error_code()), (status, None), "{reply:?}");
        if let Reply::Answer(expected) = &reply {
            assert_eq!(answer.headers.get("retry-after").is_some(), expected.has_header("retry-after"));
            assert_eq!(text(answer).await, expected.text());
        }
        assert_eq!((setup.server.api_requests().len(), setup.server.token_requests()), (1, 0));
    }
}

#[tokio::test]
async fn a_redirect_is_followed_on_the_same_origin_alone() {
    let (setup, elsewhere) = (Setup::fresh().await, Server::start().await);
    let client = setup.client();
    for status in [307, 308] {
        setup.server.on_api([Reply::redirect(status, "/moved/chat?x=1")]);
        assert_eq!(client.fetch(chat(false)).await.unwrap().status, 200);
        let requests = setup.server.api_requests();
        let [.., first, second] = requests.as_slice() else { panic!("two requests") };
        assert_eq!(second.uri, "/moved/chat?x=1");
        assert_eq!((first.bearer(), &first.body), (second.bearer(), &second.body));
    }
    for status in [301, 302, 303, 307, 308] {
        let location = format!("{}/v1/models", elsewhere.url());
        setup.server.on_api([Reply::redirect(status, &location), Reply::redirect(status, &location)]);
        for request in [chat(false), get(&CHAT.replace("chat/completions", "models"))] {
            let answer = client.fetch(request).await.unwrap();
            assert_eq!(answer.status, status);
            assert_eq!(answer.headers["location"], location.as_str());
        }
    }
    // The caller follows redirects that turn a POST into a GET.
    setup.server.on_api([Reply::redirect(303, "/v1/other")]);
    assert_eq!(client.fetch(chat(false)).await.unwrap().status, 303);
    assert_eq!(elsewhere.all_requests(), 0);
}

#[tokio::test]
async fn the_caller_chooses_how_redirects_are_handled() {
    let setup = Setup::fresh().await;
    setup.server.on_every_api(Reply::redirect(307, "/v1/again"));
    let client = setup.client();
    let mut request = chat(false);
    request.redirect = Redirect::Manual;
    assert_eq!(client.fetch(request.clone()).await.unwrap().status, 307);
    request.redirect = Redirect::Error;
    assert_eq!(client.fetch(request).await.unwrap_err().code(), Code::Network);
    assert_eq!(setup.server.api_requests().len(), 2);
    // A loop ends at the call's budget.
    assert_eq!(client.fetch(chat(false)).await.unwrap().status, 307);
    assert!(setup.server.api_requests().len() <= 2 + 4);
}

#[tokio::test]
async fn an_invalid_switch_is_reported_once() {
    let setup = Setup::fresh().await;
    setup.client_with(&[("QWEN_MODE", "perhaps")], false);
    assert_eq!(setup.events.count(EventKind::Config), 1);
    let options =
        ClientOptions { base_url: Some("http://api.example".to_owned()), ..ClientOptions::default() };
    let refused = Setup { options, ..Setup::fresh().await };
    let error = refused.try_client(&[], false, refused.events.events()).unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}
