//! Errors in `OpenCode`: each is shown once, in words that cause no retry.

use std::time::Duration;

use http::HeaderValue;
use qwen_accounts::Availability;
use qwen_base::{Code, Error};
use qwen_client::Answer;
use serde_json::Value;

use crate::support::reply::{Part, Reply};
use crate::support::server::GOOD_STREAM;
use crate::support::setup::{Setup, chat, get, text};

/// The patterns that make `OpenCode` retry.
const RETRY_WORDS: [&str; 13] = [
    "429",
    "500",
    "503",
    "rate limit",
    "too many requests",
    "overloaded",
    "unavailable",
    "server error",
    "terminated",
    "econnreset",
    "timeout",
    "timed out",
    "exhausted",
];

fn assert_no_retry_word(text: &str) {
    let text = text.to_ascii_lowercase();
    for word in RETRY_WORDS {
        assert!(!text.contains(word), "{word:?} in {text}");
    }
}

/// Returns the code and message of an answer that must not be retried.
async fn last_word(answer: Answer, status: u16) -> (String, String) {
    assert_eq!(answer.status, status);
    assert!(!answer.headers.contains_key("retry-after"));
    assert_eq!(answer.headers["content-type"], "application/json");
    let code = answer.error_code().unwrap().to_owned();
    let body = text(answer).await;
    assert_no_retry_word(&body);
    let body: Value = serde_json::from_str(&body).unwrap();
    (code, body["error"]["message"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_used_up_quota_is_a_402() {
    for reply in [
        Reply::api_error(
            429,
            "insufficient_quota",
            "Free allocated quota exceeded. Error 429, try again later",
        ),
        Reply::api_error(403, "quota_exceeded", "quota exhausted"),
        Reply::api_error(429, "", "month allocated quota exceeded"),
    ] {
        let setup = Setup::fresh().await;
        setup.server.on_every_api(reply.header("retry-after", "1800000"));
        let client = setup.host_client();
        let (code, message) = last_word(client.fetch(chat(true)).await.unwrap(), 402).await;
        assert_eq!(code, "ERR_QWEN_QUOTA_EXHAUSTED");
        assert!(message.contains("used up"), "{message}");
        // The smaller chat is not counted as a full one.
        assert_eq!(setup.server.api_requests().iter().filter(|seen| !seen.is_degraded()).count(), 1);
        assert!(matches!(client.accounts().await.unwrap()[0].availability, Availability::Cooling(_)));
    }
}

#[tokio::test]
async fn the_host_waits_for_a_short_rate_limit() {
    let short = || Reply::api_error(429, "Throttling.RateQuota", "Requests rate limit exceeded");
    for reply in [
        short().header("retry-after", "30"),
        short().header("retry-after-ms", "29500"),
        short().header("retry-after", "7").header("retry-after-ms", "30000"),
    ] {
        let setup = Setup::fresh().await;
        setup.server.on_every_api(reply);
        let answer = setup.host_client().fetch(chat(true)).await.unwrap();
        assert_eq!(answer.status, 429);
        assert_eq!(answer.headers["retry-after"], "30");
        assert!(!answer.headers.contains_key("retry-after-ms"));
        assert_eq!(answer.error_code(), Some("ERR_QWEN_RATE_LIMITED"));
    }
}

#[tokio::test]
async fn the_host_sleeps_for_no_hours_before_it_retries() {
    for (status, header, wait) in [
        (503, ("retry-after", "3600"), None),
        (500, ("retry-after-ms", "3600000"), None),
        (408, ("retry-after", "61"), None),
        (425, ("retry-after", "86400"), None),
        (503, ("retry-after", "60"), Some("60")),
        (503, ("retry-after", "3600s"), None),
        (429, ("retry-after", "1e4"), None),
    ] {
        let setup = Setup::fresh().await;
        setup.server.on_every_api(Reply::api_error(status, "", "busy").header(header.0, header.1));
        let answer = setup.host_client().fetch(chat(true)).await.unwrap();
        let found = answer.headers.get("retry-after").map(|value| value.to_str().unwrap());
        assert_eq!((answer.status.as_u16(), found), (status, wait), "{header:?}");
        assert!(!answer.headers.contains_key("retry-after-ms"));
        assert!(text(answer).await.contains("busy"));
    }
}

#[tokio::test]
async fn only_a_conversation_that_is_too_long_is_replaced_by_a_summary() {
    let words = "Too many tokens per minute, reduce the length of the messages";
    for (status, code, shown) in
        [(400, "InvalidParameter", 400), (429, "Throttling.RateQuota", 429), (500, "", 500), (503, "x", 503)]
    {
        let setup = Setup::fresh().await;
        setup.server.on_every_api(Reply::api_error(status, code, words));
        let answer = setup.host_client().fetch(chat(true)).await.unwrap();
        assert_eq!(answer.status, shown);
        let body = text(answer).await;
        assert!(!body.contains("Too many tokens") && !body.contains("reduce the length"), "{body}");
        assert!(body.replace('\u{2060}', "").contains(words), "{body}");
    }
    let setup = Setup::fresh().await;
    let long = "This model's maximum context length is 98304 tokens.";
    setup.server.on_every_api(Reply::api_error(400, "", long));
    let body = text(setup.host_client().fetch(chat(true)).await.unwrap()).await;
    assert!(body.contains(long) && body.contains("context_length_exceeded"), "{body}");
}

#[tokio::test]
async fn no_error_in_a_host_repeats_the_token() {
    for (status, code) in [(400, "InvalidParameter"), (401, ""), (429, "Throttling.RateQuota"), (503, "")] {
        let setup = Setup::fresh().await;
        let words = format!("Too many tokens for {}", setup.home.access_token());
        setup.server.on_every_api(Reply::api_error(status, code, &words));
        let body = text(setup.host_client().fetch(chat(true)).await.unwrap()).await;
        assert!(!body.contains(&setup.home.access_token()) && !body.contains("Too many tokens"), "{body}");
        assert!(status == 401 || body.contains("***"), "{body}");
    }
}

#[tokio::test]
async fn a_login_that_is_gone_is_a_401() {
    let setup = Setup::logged_out().await;
    let (code, message) = last_word(setup.host_client().fetch(chat(true)).await.unwrap(), 401).await;
    assert_eq!(code, "ERR_QWEN_NOT_LOGGED_IN");
    assert!(message.contains("Log in"));

    let setup = Setup::expired().await;
    setup.server.on_token([Reply::oauth_error(400, "invalid_grant")]);
    let client = setup.host_client();
    for _ in 0..2 {
        let (code, _) = last_word(client.fetch(chat(true)).await.unwrap(), 401).await;
        assert_eq!(code, "ERR_QWEN_REFRESH_TOKEN_INVALID");
    }
    assert_eq!(setup.server.token_requests(), 1);

    let setup = Setup::fresh().await;
    setup.server.on_every_api(Reply::api_error(401, "invalid_api_key", "500 server error, try again later"));
    let (code, _) = last_word(setup.host_client().fetch(chat(true)).await.unwrap(), 402).await;
    assert_eq!(code, "ERR_QWEN_FREE_TIER_DISCONTINUED");

    let setup = Setup::fresh().await;
    setup.server.on_every_api(Reply::api_error(403, "", "Access denied: 500 server error"));
    let (code, _) = last_word(setup.host_client().fetch(chat(true)).await.unwrap(), 401).await;
    assert_eq!(code, "ERR_QWEN_TOKEN_REJECTED");

    let setup = Setup::logged_out().await;
    std::fs::write(setup.home.credentials(), "{broken").unwrap();
    let (code, _) = last_word(setup.host_client().fetch(chat(true)).await.unwrap(), 401).await;
    assert_eq!(code, "ERR_QWEN_CREDENTIALS_INVALID");
}

#[tokio::test]
async fn a_bad_request_is_a_400() {
    let setup = Setup::fresh().await;
    let answer = setup.host_client().fetch(get("https://evil.example/v1/models")).await.unwrap();
    let (code, message) = last_word(answer, 400).await;
    assert_eq!(code, "ERR_QWEN_INVALID_ARGUMENT");
    assert!(message.contains("evil.example"));
    assert_eq!(setup.server.all_requests(), 0);
}

#[tokio::test]
async fn the_host_retries_temporary_trouble() {
    let setup = Setup::expired().await.with_idle_timeout(Duration::from_millis(300));
    let client = setup.host_client();
    setup.server.on_token([Reply::html(503).header("retry-after", "60")]);
    let error = client.fetch(chat(true)).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), (Code::RefreshUnavailable, true));
    setup.server.on_api([Reply::Close, Reply::Hang, Reply::html(503)]);
    let error = client.fetch(chat(true)).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), (Code::Network, true));
    let error = client.fetch(chat(true)).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), (Code::Timeout, true));
    assert_eq!(client.fetch(chat(true)).await.unwrap().status, 503);
}

#[tokio::test]
async fn an_empty_stream_is_an_error() {
    let role = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
    let done = "data: [DONE]\n\n";
    let empty = "Qwen sent an empty answer. Send the message again.";
    for (parts, expected) in [
        (vec![], empty),
        (
            vec![Part::text(": keep-alive\n\n"), Part::Pause(Duration::from_millis(1)), Part::text(done)],
            empty,
        ),
        (vec![Part::text(role), Part::Pause(Duration::from_millis(1)), Part::text(done)], empty),
        // The last event ends it.
        (vec![Part::text(done), Part::Stall], empty),
        (vec![Part::text(role), Part::Pause(Duration::from_millis(20)), Part::Cut], "Send the message again"),
        (vec![Part::text(role), Part::Stall], "Send the message again"),
    ] {
        let setup = Setup::fresh().await.with_idle_timeout(Duration::from_millis(300));
        setup.server.on_every_api(Reply::events(parts));
        let answer = setup.host_client().fetch(chat(true)).await.unwrap();
        let (_, message) = last_word(answer, 400).await;
        assert!(message.contains(expected), "{message}");
        assert_eq!(setup.server.api_requests().len(), 1);
        setup.server.until_closed().await;
    }
}

/// Returns the text and the error of a stream that a host gets.
async fn broken_stream(setup: &Setup) -> (String, Error) {
    let mut answer = setup.host_client().fetch(chat(true)).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), &answer.headers["content-type"]),
        (200, &HeaderValue::from_static("text/event-stream"))
    );
    let mut stream = String::new();
    loop {
        match answer.body.next().await {
            Ok(bytes) => stream.push_str(str::from_utf8(&bytes.expect("the end is an error")).unwrap()),
            Err(problem) => return (stream, problem),
        }
    }
}

#[tokio::test]
async fn a_broken_stream_ends_in_an_error_that_is_shown_unchanged() {
    let start = &GOOD_STREAM[..GOOD_STREAM.find("data: [").unwrap()];
    let start = &start[..start.find("\n\n").unwrap() + 2];
    for end in [
        vec![],
        vec![Part::Cut],
        vec![Part::Stall],
        vec![Part::text("data: {\"choices\":[{\"del"), Part::Cut],
        vec![Part::text("data: [DONE]\n\n")],
    ] {
        let setup = Setup::fresh().await.with_idle_timeout(Duration::from_millis(300));
        let parts = [vec![Part::text(start), Part::Pause(Duration::from_millis(20))], end].concat();
        setup.server.on_every_api(Reply::events(parts));
        let (stream, problem) = broken_stream(&setup).await;
        assert_no_retry_word(problem.message());
        assert!(problem.message().ends_with(". Send the message again."), "{problem}");
        assert!(stream.starts_with(start) && stream.ends_with("\n\n"));
        setup.server.until_closed().await;
    }
}

#[tokio::test]
async fn the_text_before_an_error_is_kept() {
    let unfinished = "Qwen ended its answer without finishing it. Send the message again.";
    let completion = |reason: &str| {
        let body = format!(r#"{{"choices":[{{"message":{{"content":"half"}}{reason}}}]}}"#);
        Reply::new(200, "application/json", vec![Part::text(&body)])
    };
    let said = r#"data: {"choices":[{"delta":{"content":"half"}}]}"#;
    let quota = r#"data: {"error":{"code":"insufficient_quota","message":"week allocated quota exceeded"}}"#;
    for (reply, problem) in [
        (completion(""), unfinished),
        (completion(r#","finish_reason":null"#), unfinished),
        (completion(r#","finish_reason":"null""#), unfinished),
        (
            completion(r#","finish_reason":"abort""#),
            "Qwen broke its answer off (abort). Send the message again.",
        ),
        (Reply::events(vec![Part::text(said)]), unfinished),
        // The connection broke, but the line is whole.
        (
            Reply::events(vec![
                Part::text(&format!("{said}\n\n{quota}")),
                Part::Pause(Duration::from_millis(20)),
                Part::Cut,
            ]),
            "Qwen ended its answer with an error: week allocated quota exceeded (insufficient_quota)",
        ),
    ] {
        let setup = Setup::fresh().await;
        setup.server.on_every_api(reply);
        let (stream, found) = broken_stream(&setup).await;
        assert!(stream.contains(r#""content":"half""#) && stream.ends_with("\n\n"), "{stream}");
        assert_eq!(found.message(), problem);
        let account = &setup.client().accounts().await.unwrap()[0];
        let is_cooling = matches!(account.availability, Availability::Cooling(_));
        assert_eq!(is_cooling, problem.contains("quota"), "{problem}");
    }
}

#[tokio::test]
async fn other_answers_than_chat_streams_are_not_watched() {
    let setup = Setup::fresh().await;
    setup.server.on_every_api(Reply::events(vec![]));
    let client = setup.host_client();
    assert_eq!(text(client.fetch(chat(false)).await.unwrap()).await, "");
    assert_eq!(text(client.fetch(get(&format!("{}/models", client.base_url()))).await.unwrap()).await, "");
}

#[tokio::test]
async fn a_flood_of_empty_events_is_not_kept_in_memory() {
    const BOUND: usize = 64 * 1024 * 1024;
    let setup = Setup::fresh().await;
    let comments = ": keep-alive\n\n".repeat(2048);
    setup.server.on_every_api(Reply::events(vec![Part::Flood(comments.into())]));
    let client = setup.host_client();
    let flooded = async {
        while setup.server.bytes_sent() < BOUND {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        answer = client.fetch(chat(true)) => drop(answer),
        () = flooded => panic!("{} bytes were read, and none handed on", setup.server.bytes_sent()),
        () = tokio::time::sleep(Duration::from_secs(10)) => {}
    }
}

#[tokio::test]
async fn an_endless_error_body_is_not_kept_in_memory() {
    const BOUND: usize = 64 * 1024 * 1024;
    let setup = Setup::fresh().await;
    let spaces = Part::Flood(vec![b' '; 16 * 1024].into());
    setup.server.on_every_api(Reply::new(403, "application/json", vec![spaces]));
    for client in [setup.client(), setup.host_client()] {
        let answer = client.fetch(chat(true)).await.unwrap();
        assert_eq!(answer.status.as_u16(), 403);
        assert!(setup.server.bytes_sent() < BOUND, "{}", setup.server.bytes_sent());
    }
    setup.server.until_closed().await;
}
