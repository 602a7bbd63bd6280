//! The meaning of each kind of answer for the account and for the request.

use std::time::Duration;

use qwen_accounts::Availability;
use qwen_base::{Code, EventKind};
use qwen_client::{AccountInfo, Answer, Client};
use serde_json::{Value, json};

use crate::support::fleet::{Fleet, who};
use crate::support::reply::{Part, Reply};
use crate::support::server::Server;
use crate::support::setup::{CHAT, Setup, chat, get, post, read, text};
use crate::support::time::{soon, until};

const MODEL: &str = "qwen3.7-plus";
const MINUTE_MS: u64 = 60_000;

/// Two keys of one plan; the first is the active one.
async fn two_keys() -> (Fleet, Server, Server) {
    let fleet = Fleet::of(1).await;
    let first = fleet.add_key("first", "token-plan").await;
    let second = fleet.add_key("second", "token-plan").await;
    fleet.choose("first");
    fleet.client().remove_account("ann", false).await.unwrap();
    (fleet, first, second)
}

async fn say(client: &Client, stream: bool) -> Answer {
    let message = json!({"role": "user", "content": "hi"});
    client.fetch(post(CHAT, &json!({"model": MODEL, "stream": stream, "messages": [message]}))).await.unwrap()
}

async fn account(client: &Client, id: &str) -> AccountInfo {
    client.accounts().await.unwrap().into_iter().find(|account| account.id == id).unwrap()
}

fn last_code(account: &AccountInfo) -> Option<&str> {
    account.last_error.as_ref().map(|error| error.code.as_str())
}

/// The same error inside a success, as JSON and as an event of a stream.
fn inside_a_success(code: &str, message: &str) -> [Reply; 2] {
    let body = json!({"error": {"code": code, "message": message}});
    let nothing = concat!(
        "data: {}\n\n",
        "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"model\":\"m\"}\n\n",
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
    );
    [
        Reply::json(200, &body),
        Reply::events(vec![Part::text(nothing), Part::text(&format!("data: {body}\n\n")), Part::Stall]),
    ]
}

#[tokio::test]
async fn each_answer_leads_to_the_state_it_means() {
    let quota = Code::QuotaExhausted.as_str();
    let limited = Code::RateLimited.as_str();
    for (status, code, message, state, asked) in [
        (429, "insufficient_quota", "hour allocated quota exceeded", Some(quota), 1),
        (
            403,
            "AllocationQuota.FreeTierOnly",
            "The free tier of the model has been exhausted.",
            Some(quota),
            1,
        ),
        (429, "insufficient_quota", "month allocated quota exceeded", Some(quota), 1),
        (
            429,
            "insufficient_quota",
            "Your token-plan 5-hour quota has been exhausted. The quota will reset at 08-04 04:11:00 UTC.",
            Some(quota),
            1,
        ),
        (429, "insufficient_quota", "", Some(quota), 1),
        (429, "", "concurrency allocated quota exceeded", Some(limited), 2),
        (403, "AccessDenied.Unpurchased", "Access to model denied.", None, 1),
        (403, "Workspace.AccessDenied", "Workspace access denied.", None, 1),
        (429, "Throttling.AllocationQuota", "Allocated quota exceeded.", Some(limited), 2),
        (
            429,
            "insufficient_quota",
            "You exceeded your current quota, please check your plan.",
            Some(limited),
            2,
        ),
        (429, "Throttling.RateQuota", "Requests rate limit exceeded.", Some(limited), 2),
        (404, "model_not_found", "The model `qwen3.7-plus` does not exist.", None, 1),
        (403, "AccessDenied", "IP access denied.", None, 1),
        (401, "invalid_api_key", "Incorrect API key provided.", Some(Code::TokenRejected.as_str()), 1),
        (403, "invalid_api_key", "invalid api-key", Some(Code::TokenRejected.as_str()), 1),
        (
            400,
            "Arrearage",
            "Access denied, please make sure your account is in good standing.",
            Some(Code::PaymentRequired.as_str()),
            1,
        ),
        (429, "PrepaidBillOverdue", "The prepaid bill is overdue.", Some(Code::PaymentRequired.as_str()), 1),
    ] {
        let [json, events] = inside_a_success(code, message);
        for (reply, stream) in
            [(Reply::api_error(status, code, message), false), (json, false), (events, true)]
        {
            let (fleet, first, second) = two_keys().await;
            first.on_every_api(reply);
            let client = fleet.client();
            let answer = say(&client, stream).await;
            assert_eq!((answer.status.as_u16(), who(&answer).as_str()), (200, "second"), "{code} {message}");
            drop(answer);
            let sent = (first.api_requests().len(), second.api_requests().len());
            assert_eq!(sent, (asked, 1), "{code} {message} {stream}");
            let first = account(&client, "first").await;
            assert_eq!(last_code(&first), state, "{code} {message}");
            let is_cooling = matches!(first.availability, Availability::Cooling(_));
            assert_eq!(is_cooling, state.is_some_and(|code| code != Code::TokenRejected.as_str()), "{code}");
        }
    }
}

#[tokio::test]
async fn an_error_that_comes_late_instead_of_content_is_handled_as_its_status_is() {
    let (fleet, first, second) = two_keys().await;
    let error = json!({"error": {"code": "insufficient_quota", "message": "week allocated quota exceeded"}});
    let role = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
    let pause = || Part::Pause(Duration::from_millis(800));
    let late = Part::text(&format!("data: {error}\n\n"));
    first.on_every_api(Reply::events(vec![
        Part::text(role),
        pause(),
        Part::text(": wait\n\n"),
        pause(),
        late,
    ]));
    let client = fleet.client();
    assert_eq!(who(&say(&client, true).await), "second");
    assert_eq!((first.api_requests().len(), second.api_requests().len()), (1, 1));
    assert!(matches!(account(&client, "first").await.availability, Availability::Cooling(_)));
}

#[tokio::test]
async fn an_error_after_content_is_noted_for_the_next_request() {
    let error = json!({"error": {"code": "insufficient_quota", "message": "week allocated quota exceeded"}});
    let content = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n";
    let many = content.repeat(2_000);
    for (opencode, begun) in [(false, content), (false, &many), (true, content)] {
        let (fleet, first, _second) = two_keys().await;
        let late = Part::text(&format!("data: {error}\n\n"));
        first.on_every_api(Reply::events(vec![
            Part::text(begun),
            Part::Pause(Duration::from_millis(50)),
            late,
        ]));
        let client = fleet.setup.client_with(&[], opencode);
        let mut answer = say(&client, true).await;
        assert_eq!((answer.status.as_u16(), who(&answer).as_str()), (200, "first"));
        let (bytes, end) = read(&mut answer.body).await;
        assert_eq!((bytes.starts_with(begun.as_bytes()), end.is_err()), (true, opencode));
        // The end comes after the note.
        assert_eq!(fleet.setup.events.count(EventKind::Exhausted), 1);
        assert_eq!(who(&say(&client, true).await), "second", "{opencode}");
        assert_eq!(first.api_requests().len(), 1);
        // The server's words may repeat a token.
        let noted = account(&client, "first").await.last_error.unwrap();
        assert!(noted.message.contains("week"), "{}", noted.message);
        assert!(!noted.message.contains("allocated"), "{}", noted.message);
    }
}

#[tokio::test]
async fn opencode_waits_for_the_account_that_is_free_first() {
    for waits in [["20", "3600"], ["3600", "20"]] {
        let (fleet, first, second) = two_keys().await;
        for (host, wait) in [&first, &second].into_iter().zip(waits) {
            let limit = Reply::api_error(429, "Throttling.RateQuota", "Requests rate limit exceeded.");
            host.on_every_api(limit.header("retry-after", wait));
        }
        let answer = say(&fleet.setup.host_client(), true).await;
        let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert_eq!((answer.status.as_u16(), (18..=20).contains(&wait)), (429, true), "{wait}");
    }
}

#[tokio::test]
async fn a_key_that_is_refused_after_content_is_not_asked_again() {
    let (fleet, first, _second) = two_keys().await;
    let error = json!({"error": {"code": "invalid_api_key", "message": "Incorrect API key provided."}});
    let sent = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"hi\"}}}}]}}\n\ndata: {error}\n\n");
    first.on_every_api(Reply::events(vec![Part::text(&sent)]));
    let client = fleet.client();
    assert_eq!(text(say(&client, true).await).await, sent);
    assert_eq!(who(&say(&client, true).await), "second");
    assert_eq!((first.api_requests().len(), fleet.setup.events.count(EventKind::NeedsLogin)), (1, 1));
    assert_eq!(last_code(&account(&client, "first").await), Some(Code::TokenRejected.as_str()));
}

#[tokio::test]
async fn an_error_after_content_is_noted_though_its_reader_stops_there() {
    let error = json!({"error": {"code": "insufficient_quota", "message": "week allocated quota exceeded"}});
    let (fleet, first, _second) = two_keys().await;
    let sent = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"hi\"}}}}]}}\n\ndata: {error}\n\n");
    first.on_every_api(Reply::events(vec![Part::text(&sent), Part::Stall]));
    let client = fleet.client();
    let mut answer = say(&client, true).await;
    assert_eq!(answer.body.next().await.unwrap().unwrap(), sent);
    drop(answer);
    until("the cooldown", || fleet.setup.events.count(EventKind::Exhausted) == 1).await;
    assert_eq!(who(&say(&client, true).await), "second");
}

#[tokio::test]
async fn each_answer_is_returned_if_there_is_no_other_account() {
    let quota = Some(Code::QuotaExhausted);
    let limited = Some(Code::RateLimited);
    let rejected = Some(Code::TokenRejected);
    let unpaid = Some(Code::PaymentRequired);
    // Statuses of the plain client and of the host client; requests of the first call and of both.
    for (status, code, message, state, statuses, requests) in [
        (429, "insufficient_quota", "hour allocated quota exceeded", quota, (429, 402), (1, 1)),
        (403, "AllocationQuota.FreeTierOnly", "The free tier is over.", quota, (429, 402), (1, 1)),
        (429, "Throttling.AllocationQuota", "Allocated quota exceeded.", limited, (429, 429), (2, 2)),
        (429, "Throttling.RateQuota", "Requests rate limit exceeded.", limited, (429, 429), (2, 2)),
        (404, "model_not_found", "The model `qwen3.7-plus` does not exist.", None, (404, 404), (1, 2)),
        (403, "AccessDenied", "IP access denied.", None, (403, 403), (1, 2)),
        (401, "invalid_api_key", "Incorrect API key provided.", rejected, (401, 401), (1, 2)),
        (403, "invalid_api_key", "invalid api-key", rejected, (403, 401), (1, 2)),
        (400, "Arrearage", "Your account is not in good standing.", unpaid, (400, 402), (1, 1)),
        (400, "data_inspection_failed", "Inappropriate content.", None, (400, 400), (1, 2)),
        (413, "", "Request entity too large", None, (413, 413), (1, 2)),
        (405, "", "only available for Coding Agents", None, (405, 405), (1, 2)),
    ] {
        for (opencode, expected) in [(false, statuses.0), (true, statuses.1)] {
            let fleet = Fleet::of(1).await;
            let key = fleet.add_key("key", "token-plan").await;
            fleet.choose("key");
            fleet.client().remove_account("ann", false).await.unwrap();
            key.on_every_api(Reply::api_error(status, code, message));
            let client = fleet.setup.client_with(&[], opencode);
            let first = say(&client, true).await;
            let state = state.map(Code::as_str);
            let name = format!("{message} {opencode}");
            assert_eq!((first.status.as_u16(), key.api_requests().len()), (expected, requests.0), "{name}");
            assert_eq!(last_code(&account(&client, "key").await), state, "{name}");
            if state.is_some() && code != "Throttling.RateQuota" {
                assert_eq!(first.error_code(), state, "{name}");
            }
            let words = text(first).await;
            assert!(state.is_some() || words.contains(message), "{name}: {words}");
            // A cooling account is not asked.
            assert!((400..500).contains(&say(&client, true).await.status.as_u16()), "{name}");
            assert_eq!(key.api_requests().len(), requests.1, "{name}");
        }
    }
}

#[tokio::test]
async fn a_final_error_asks_no_other_account() {
    for (status, code, message) in [
        (400, "data_inspection_failed", "Input data may contain inappropriate content."),
        (400, "invalid_parameter_error", "Range of input length should be [1, 1000000]"),
        (400, "invalid_parameter_error", "tool_choice auto is not supported by this model"),
        (405, "", "only available for Coding Agents"),
        (503, "", "overloaded"),
    ] {
        let (fleet, first, second) = two_keys().await;
        first.on_every_api(Reply::api_error(status, code, message));
        let client = fleet.client();
        assert_eq!(say(&client, false).await.status, status);
        assert_eq!((first.api_requests().len(), second.api_requests().len()), (1, 0), "{message}");
        assert_eq!(account(&client, "first").await.availability, Availability::Ready);
    }
}

#[tokio::test]
async fn a_model_that_an_account_lacks_is_remembered_for_a_day_and_asked_for_where_no_other_has_it() {
    let (fleet, first, second) = two_keys().await;
    let missing = || Reply::api_error(404, "model_not_found", "The model `qwen3.7-plus` does not exist.");
    first.on_every_api(missing());
    let client = fleet.client();
    for _ in 0..3 {
        assert_eq!(who(&say(&client, false).await), "second");
    }
    assert_eq!((first.api_requests().len(), second.api_requests().len()), (1, 3));
    // No other account has it, so it is asked again: the server's words are the answer.
    second.on_every_api(missing());
    for opencode in [false, true] {
        let client = fleet.setup.client_with(&[], opencode);
        let answer = say(&client, false).await;
        assert!(answer.status.is_client_error() && answer.status != 429, "{}", answer.status);
        assert_eq!(answer.error_code(), Some(Code::ModelUnavailable.as_str()));
        assert!(text(answer).await.contains("does not exist"));
    }
    first.on_every_api(Reply::Real);
    soon("the first account's turn", async { while say(&fleet.client(), false).await.status != 200 {} })
        .await;
    assert_eq!(account(&client, "second").await.availability, Availability::Ready);
}

#[tokio::test]
async fn an_account_rule_is_reported_in_the_servers_words() {
    let (fleet, first, second) = two_keys().await;
    for host in [&first, &second] {
        host.on_every_api(Reply::api_error(403, "AccessDenied", "IP access denied."));
    }
    for opencode in [false, true] {
        let answer = say(&fleet.setup.client_with(&[], opencode), false).await;
        assert_eq!(
            (answer.status.as_u16(), answer.error_code()),
            (403, Some(Code::PermissionDenied.as_str()))
        );
        assert!(text(answer).await.contains("IP access denied"));
    }
}

#[tokio::test]
async fn an_unpaid_account_is_tried_once_an_hour_and_reported_once() {
    let (fleet, first, second) = two_keys().await;
    let unpaid = || Reply::api_error(400, "Arrearage", "Please make sure your account is in good standing.");
    first.on_every_api(unpaid());
    let client = fleet.client();
    let told = |fleet: &Fleet| fleet.setup.events.count(EventKind::NeedsAttention);
    for hour in 1..=3 {
        assert_eq!(who(&say(&client, false).await), "second");
        assert_eq!(who(&say(&client, false).await), "second");
        assert_eq!((first.api_requests().len(), told(&fleet)), (hour, 1));
        fleet.pass_ms(60 * MINUTE_MS);
    }
    second.on_every_api(unpaid());
    let answer = say(&fleet.setup.host_client(), false).await;
    assert_eq!((answer.status.as_u16(), answer.error_code()), (402, Some(Code::PaymentRequired.as_str())));
    let answer = say(&fleet.setup.host_client(), false).await;
    assert_eq!((answer.status.as_u16(), answer.error_code()), (402, Some(Code::PaymentRequired.as_str())));
    assert!(text(answer).await.contains("bill"));
    fleet.pass_ms(60 * MINUTE_MS);
    first.on_every_api(Reply::Real);
    assert_eq!(who(&say(&client, false).await), "first");
    assert_eq!(last_code(&account(&client, "first").await), None);
}

#[tokio::test]
async fn a_token_limit_pauses_a_key_for_longer_each_time_until_it_answers() {
    let fleet = Fleet::of(1).await;
    let key = fleet.add_key("key", "dashscope").await;
    fleet.choose("key");
    fleet.client().remove_account("ann", false).await.unwrap();
    let limit = || {
        Reply::api_error(429, "Throttling.AllocationQuota", "Allocated quota exceeded.")
            .header("retry-after-ms", "100")
    };
    let error = json!({"code": "Throttling.AllocationQuota", "message": "Allocated quota exceeded."});
    let late = format!(
        "data: {{\"choices\":[{{\"delta\":{{\"content\":\"hi\"}}}}]}}\n\ndata: {}\n\n",
        json!({"error": error})
    );
    for (at, (minutes, is_late)) in
        [(1, false), (2, true), (4, true), (8, false), (16, false), (30, true), (30, false)]
            .into_iter()
            .enumerate()
    {
        let client = fleet.setup.client_with(&[], at % 2 == 1);
        if is_late {
            // The error of a stream that has begun counts as much.
            key.on_every_api(Reply::events(vec![Part::text(&late)]));
            let _ = read(&mut say(&client, true).await.body).await;
        }
        key.on_every_api(limit());
        let asked = if is_late { 0 } else { 2 };
        // Both calls, and a third in another process, see the same pause.
        for (client, asked) in [(client, asked), (fleet.client(), 0), (fleet.setup.host_client(), 0)] {
            let before = key.api_requests().len();
            let answer = say(&client, false).await;
            assert_eq!(
                (answer.status.as_u16(), answer.error_code()),
                (429, Some(Code::RateLimited.as_str()))
            );
            let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
            assert!((minutes * 60 - 5..=minutes * 60).contains(&wait), "{at}: {wait}");
            assert!(!answer.headers.contains_key("retry-after-ms"));
            assert_eq!(key.api_requests().len() - before, asked);
            assert_eq!(last_code(&account(&client, "key").await), Some(Code::RateLimited.as_str()));
        }
        fleet.pass_ms(minutes * MINUTE_MS);
    }
    let client = fleet.client();
    key.on_every_api(Reply::Real);
    assert_eq!(say(&client, false).await.status, 200);
    key.on_every_api(limit());
    assert_eq!(say(&client, false).await.headers["retry-after"], "60");
}

#[tokio::test]
async fn refusals_of_requests_that_were_under_way_together_count_once() {
    let limit = Reply::api_error(429, "Throttling.AllocationQuota", "Allocated quota exceeded.");
    let spent = Reply::api_error(429, "insufficient_quota", "hour allocated quota exceeded");
    for (refusal, minutes, told) in [(limit, 1, 0), (spent, 30, 1)] {
        let (fleet, first, second) = two_keys().await;
        first.on_every_api(refusal);
        let clients = [fleet.client(), fleet.client()];
        let calls = clients.iter().flat_map(|client| [say(client, false), say(client, true)]);
        let answers = futures_util::future::join_all(calls).await;
        assert!(answers.iter().all(|answer| answer.status == 200 && who(answer) == "second"));
        let Availability::Cooling(until) = account(&clients[0], "first").await.availability else {
            panic!("no pause")
        };
        assert!(until <= fleet.now_ms() + minutes * MINUTE_MS, "{}", until - fleet.now_ms());
        assert_eq!(second.api_requests().len(), 4);
        assert_eq!(fleet.setup.events.count(EventKind::Exhausted), told);
    }
}

#[tokio::test]
async fn an_error_inside_a_success_is_an_error_to_its_caller_too() {
    for stream in [false, true] {
        let setup = Setup::fresh().await;
        let [json, events] = inside_a_success("insufficient_quota", "Free allocated quota exceeded.");
        setup.server.on_every_api(if stream { events } else { json });
        let client = setup.client_with(&[("OPENCODE_QWEN_DEGRADE", "0")], false);
        let message = json!({"role": "user", "content": "hi"});
        let body = json!({"model": "coder-model", "stream": stream, "messages": [message]});
        let answer = client.fetch(post(CHAT, &body)).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.error_code()), (429, Some(Code::QuotaExhausted.as_str())));
        let body: Value = serde_json::from_str(&text(answer).await).unwrap();
        assert_eq!(body["error"]["code"], "insufficient_quota");
        assert_eq!(setup.server.api_requests().len(), 1);
        setup.server.until_closed().await;
    }
    // A message alone is an error too: it is not an answer to a chat.
    for opencode in [false, true] {
        for stream in [false, true] {
            let setup = Setup::fresh().await;
            setup.server.on_every_api(Reply::json(200, &json!({"message": "The tools are odd."})));
            let client = setup.client_with(&[], opencode);
            let answer = client.fetch(chat(stream)).await.unwrap();
            assert_eq!(answer.status, 400, "{opencode} {stream}");
            assert!(text(answer).await.contains("The tools are odd."), "{opencode} {stream}");
            let other = client.fetch(get(&CHAT.replace("chat/completions", "models"))).await.unwrap();
            assert_eq!(other.status, 200);
        }
    }
    // A login's refused token is renewed, in whatever form the refusal comes.
    let setup = Setup::fresh().await;
    let [json, _] = inside_a_success("invalid_api_key", "invalid access token or token expired");
    setup.server.on_api([json]);
    let body = json!({"model": "coder-model", "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(setup.client().fetch(post(CHAT, &body)).await.unwrap().status, 200);
    assert_eq!(setup.server.token_requests(), 1);
    // A JSON document is read to its end, however slowly it comes.
    let setup = Setup::fresh().await;
    let body = json!({"error": {"code": "data_inspection_failed", "message": "no"}}).to_string();
    let (begun, rest) = body.split_at(20);
    let parts = vec![Part::text(begun), Part::Pause(Duration::from_millis(1_500)), Part::text(rest)];
    setup.server.on_api([Reply::new(200, "application/json", parts)]);
    assert_eq!(setup.client().fetch(chat(false)).await.unwrap().status, 400);
}

#[tokio::test]
async fn an_error_after_text_is_passed_on_unchanged_and_noted_unless_the_answer_is_over() {
    let error = json!({"code": "insufficient_quota", "message": "Free allocated quota exceeded."});
    let (event, done) = (format!("data: {}\n\n", json!({"error": error})), "data: [DONE]\n\n");
    for (end, is_noted) in [
        (format!("{event}{done}"), true),
        (format!("event:error\n:HTTP_STATUS/429\ndata:{error}\n\n{done}"), true),
        (format!("{done}{event}"), false),
    ] {
        let setup = Setup::fresh().await;
        let begun = "data: {\"choices\":[{\"delta\":{\"content\":\"half\"}}]}\n\n";
        let sent = format!("{begun}{end}");
        setup.server.on_every_api(Reply::events(vec![Part::text(&sent)]));
        let client = setup.client();
        let answer = client.fetch(chat(true)).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.error_code()), (200, None));
        assert_eq!(text(answer).await, sent);
        let account = &client.accounts().await.unwrap()[0];
        assert_eq!(matches!(account.availability, Availability::Cooling(_)), is_noted, "{end}");
    }
}
