//! All accounts are out of quota: further tries, and the error.

use futures_util::future::join_all;
use qwen_accounts::Availability;
use qwen_base::{Code, EventKind};
use qwen_client::Answer;
use serde_json::{Value, json};

use crate::support::fleet::{Fleet, ask, quota, rate_limit, who, who_answers};
use crate::support::reply::Reply;
use crate::support::server::GOOD_STREAM;
use crate::support::setup::{CHAT, Setup, chat, get, post, text};

async fn error(answer: Answer) -> Value {
    serde_json::from_str::<Value>(&text(answer).await).unwrap()["error"].clone()
}

fn seconds(answer: &Answer) -> u64 {
    answer.headers["retry-after"].to_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn the_final_error_is_a_429_that_says_when_the_first_account_is_free() {
    let fleet = Fleet::of(3).await;
    let spent = |code: &str, after: &str| {
        Reply::api_error(429, code, "hour allocated quota exceeded").header("retry-after", after)
    };
    fleet.hosts[0].on_every_api(spent("one", "7200"));
    fleet.hosts[1].on_every_api(spent("two", "3600"));
    fleet.hosts[2].on_every_api(spent("three", "9000"));
    let answer = ask(&fleet.client()).await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.error_code(), Some("ERR_QWEN_QUOTA_EXHAUSTED"));
    assert!((3_595..=3_600).contains(&seconds(&answer)), "{}", seconds(&answer));
    let error = error(answer).await;
    assert!(["one", "two", "three"].contains(&error["code"].as_str().unwrap()));
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with("All 3 accounts are out of quota"), "{message}");
    assert_eq!(fleet.full_requests(), [1, 1, 1]);
    assert!(fleet.hosts.iter().map(|host| host.api_requests()[0].at).is_sorted());
    // The smaller chat went to the account that is free first.
    let degraded: Vec<_> = fleet.hosts.iter().map(|host| host.api_requests().len() - 1).collect();
    assert_eq!(degraded, [0, 1, 0]);
    fleet.assert_apart();
}

#[tokio::test]
async fn an_account_that_is_free_sooner_after_a_rate_limit_counts_too() {
    let fleet = Fleet::of(2).await;
    fleet.hosts[0].on_every_api(rate_limit("60"));
    fleet.hosts[1].on_every_api(quota());
    let answer = ask(&fleet.client()).await;
    assert_eq!(answer.status, 429);
    assert!(seconds(&answer) <= 60, "ann is free in 60 s, not in {}", seconds(&answer));
}

#[tokio::test]
async fn a_call_that_finds_all_cooling_says_the_servers_code() {
    let setup = Setup::fresh().await;
    setup.server.on_every_api(rate_limit("60"));
    let client = setup.client_with(&[("OPENCODE_QWEN_DEGRADE", "0")], false);
    for _ in 0..2 {
        let answer = ask(&client).await;
        assert_eq!(answer.status, 429);
        assert!(seconds(&answer) <= 60);
        assert_eq!(error(answer).await["code"], "Throttling.RateQuota");
    }
    assert_eq!(setup.server.api_requests().len(), 1);
}

#[tokio::test]
async fn in_a_host_the_final_error_is_a_402() {
    let fleet = Fleet::of(2).await;
    fleet.on_every_host(&quota());
    let client = fleet.setup.host_client();
    for full in [1, 1] {
        let answer = client.fetch(chat(true)).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.error_code()), (402, Some("ERR_QWEN_QUOTA_EXHAUSTED")));
        assert!(!answer.headers.contains_key("retry-after"));
        assert_eq!(fleet.full_requests(), [full, full]);
    }
}

#[tokio::test]
async fn the_last_error_of_a_used_up_account_is_kept() {
    let fleet = Fleet::of(1).await;
    fleet.on_every_host(&quota());
    let client = fleet.client();
    ask(&client).await;
    let account = client.accounts().await.unwrap().remove(0);
    assert!(matches!(account.availability, Availability::Cooling(_)));
    assert_eq!(account.last_error.map(|error| error.code).as_deref(), Some("ERR_QWEN_QUOTA_EXHAUSTED"));
}

#[tokio::test]
async fn while_all_are_cooling_a_smaller_chat_is_tried_once_a_minute() {
    let fleet = Fleet::of(2).await;
    fleet.on_every_host(&quota());
    let (first, second) = (fleet.client(), fleet.client());
    ask(&first).await;
    assert_eq!((fleet.full_requests(), fleet.degraded_requests()), (vec![1, 1], 1));
    for client in [&first, &second, &first] {
        let answer = ask(client).await;
        assert_eq!((answer.status.as_u16(), answer.error_code()), (429, Some("ERR_QWEN_QUOTA_EXHAUSTED")));
        assert!(seconds(&answer) > 1_700);
    }
    assert_eq!((fleet.full_requests(), fleet.degraded_requests()), (vec![1, 1], 1));
    fleet.pass_ms(60_001);
    ask(&second).await;
    ask(&first).await;
    assert_eq!((fleet.full_requests(), fleet.degraded_requests()), (vec![1, 1], 2));
    fleet.pass_ms(1_800_000);
    fleet.on_every_host(&Reply::Real);
    assert_eq!(who_answers(&first).await, "ann");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_calls_that_find_all_cooling_one_tries_a_smaller_chat() {
    let fleet = Fleet::of(2).await;
    fleet.on_every_host(&quota());
    ask(&fleet.client()).await;
    fleet.pass_ms(60_001);
    let clients: Vec<_> = (0..4).map(|_| fleet.client()).collect();
    let calls = clients.iter().flat_map(|client| (0..4).map(move |_| ask(client)));
    assert!(join_all(calls).await.iter().all(|answer| answer.status == 429));
    assert_eq!((fleet.full_requests(), fleet.degraded_requests()), (vec![1, 1], 2));
}

#[tokio::test]
async fn an_answered_smaller_chat_is_marked() {
    let fleet = Fleet::of(1).await;
    for (stream, at) in [(true, 0), (false, 1)] {
        fleet.hosts[0].on_api([quota()]);
        let mut messages = vec![json!({"role": "system", "content": "be brief"})];
        for round in 0..200 {
            messages
                .push(json!({"role": "user", "content": format!("question {round} {}", "x".repeat(2_000))}));
            messages.push(json!({"role": "assistant", "content": format!("answer {round}")}));
        }
        messages.push(json!({"role": "user", "content": "the last question"}));
        let body =
            json!({"model": "coder-model", "stream": stream, "max_tokens": 30_000, "messages": messages});
        let answer = fleet.client().fetch(post(CHAT, &body)).await.unwrap();
        assert_eq!(
            (answer.status.as_u16(), &answer.headers["x-qwen-degraded"]),
            (200, &"1".parse().unwrap())
        );
        assert_eq!(who(&answer), "ann");
        let left_out = answer.headers["x-qwen-degraded-left-out"].to_str().unwrap().to_owned();
        let event = fleet.setup.events.all().into_iter().rfind(|event| event.kind == EventKind::Degraded);
        assert!(event.unwrap().message.contains(&left_out));
        let whole = text(answer).await;
        assert_eq!(whole == GOOD_STREAM, stream);
        let sent = fleet.hosts[0].api_requests()[at * 2 + 1].json();
        assert_eq!((&sent["max_tokens"], &sent["stream"]), (&json!(1024), &json!(stream)));
        assert_eq!(left_out, "without the 398 oldest messages, and with an answer of at most 1024 tokens");
        let kept = sent["messages"].as_array().unwrap();
        assert!(kept.len() < messages.len());
        assert_eq!(kept[0]["role"], "system");
        assert!(kept.last().unwrap().to_string().contains("the last question"));
        assert_eq!(fleet.setup.events.count(EventKind::Degraded), at + 1);
        fleet.pass_ms(1_800_001);
    }
}

#[tokio::test]
async fn a_smaller_chat_keeps_its_tools_and_is_not_sent_if_a_cut_answer_does_harm() {
    let tools = json!([{"type": "function", "function": {"name": "look"}}]);
    for (opencode, limit, agent, is_sent) in [
        (false, json!(900), None, true),
        (false, json!(30_000), None, false),
        (false, Value::Null, None, false),
        (false, json!(900), Some("title"), false),
        (false, json!(900), Some("compaction"), false),
        (false, json!(900), Some("build"), true),
        (true, json!(900), Some("compaction"), false),
        (true, json!(900), Some("build"), true),
        // It may be a summary.
        (true, json!(900), None, false),
    ] {
        let fleet = Fleet::of(1).await;
        fleet.hosts[0].on_every_api(quota());
        let messages = json!([{"role": "user", "content": "hi"}]);
        let body = json!({"model": "coder-model", "max_tokens": limit, "messages": messages, "tools": tools});
        let mut request = post(CHAT, &body);
        if let Some(agent) = agent {
            request.headers.insert("x-qwen-agent", agent.parse().unwrap());
        }
        let client = fleet.setup.client_with(&[], opencode);
        let status = client.fetch(request).await.unwrap().status;
        assert_eq!(status, if opencode { 402 } else { 429 });
        let sent = fleet.hosts[0].api_requests();
        assert_eq!(sent.len(), 1 + usize::from(is_sent), "{opencode} {limit} {agent:?}");
        for seen in &sent {
            assert_eq!(seen.json()["tools"], tools);
            assert!(!seen.headers.contains_key("x-qwen-agent"));
        }
    }
}

#[tokio::test]
async fn keys_and_short_limits_get_no_smaller_chat() {
    let fleet = Fleet::of(1).await;
    fleet.hosts[0].on_every_api(rate_limit("60"));
    let plan = fleet.add_key("plan", "coding-plan").await;
    plan.on_every_api(quota());
    fleet.choose("plan");
    for _ in 0..2 {
        assert_eq!(ask(&fleet.client()).await.status, 429);
        fleet.pass_ms(1_000);
    }
    assert_eq!(
        (fleet.full_requests(), fleet.degraded_requests(), plan.api_requests().len()),
        (vec![1], 0, 1)
    );
}

#[tokio::test]
async fn degrading_can_be_disabled_and_applies_to_chats_only() {
    let fleet = Fleet::of(2).await;
    fleet.on_every_host(&quota());
    let client = fleet.setup.client_with(&[("OPENCODE_QWEN_DEGRADE", "off")], false);
    assert_eq!(ask(&client).await.status, 429);
    assert_eq!((fleet.full_requests(), fleet.degraded_requests()), (vec![1, 1], 0));

    let fleet = Fleet::of(2).await;
    fleet.on_every_host(&quota());
    let client = fleet.client();
    for _ in 0..2 {
        let answer = client.fetch(get(&format!("{}/models", client.base_url()))).await.unwrap();
        assert_eq!(answer.status, 429);
    }
    assert_eq!(fleet.full_requests(), [1, 1]);
}

#[tokio::test]
async fn an_account_that_is_not_listed_is_not_counted() {
    let fleet = Fleet::of(1).await;
    let mut earlier = fleet.stored("ann");
    earlier["id"] = json!("earlier");
    earlier["token"] = crate::support::fleet::token("earlier", -60, &fleet.hosts[0].url());
    earlier["superseded"] = json!(true);
    fleet.edit_store(|store| store["accounts"].as_array_mut().unwrap().insert(0, earlier));
    fleet.on_every_host(&quota());
    let client = fleet.client();
    assert_eq!(client.accounts().await.unwrap().len(), 1);
    let message = error(ask(&client).await).await["message"].as_str().unwrap().to_owned();
    assert!(!message.contains("2 accounts"), "{message}");
}

/// A store whose account cools for ever.
async fn cooling_for_ever() -> Fleet {
    let fleet = Fleet::of(1).await;
    fleet.edit_store(|store| store["accounts"][0]["exhaustedUntil"] = json!(8_640_000_000_000_000_u64));
    fleet
}

#[tokio::test]
async fn an_impossibly_long_cooldown_is_ignored_and_reported_once() {
    let fleet = cooling_for_ever().await;
    let client = fleet.client();
    for _ in 0..3 {
        assert_eq!(who_answers(&client).await, "ann");
    }
    assert!(
        fleet.setup.events.count(EventKind::Ready) <= 1,
        "{}",
        fleet.setup.events.count(EventKind::Ready)
    );
}

#[tokio::test]
async fn an_impossibly_long_cooldown_is_replaced_by_a_real_one() {
    let fleet = cooling_for_ever().await;
    let client = fleet.client();
    fleet.on_every_host(&quota());
    for _ in 0..2 {
        let answer = ask(&client).await;
        assert_eq!(answer.status, 429);
        assert!(seconds(&answer) <= 1_800, "{}", seconds(&answer));
    }
    assert_eq!(fleet.full_requests(), [1]);
}

#[tokio::test]
async fn a_broken_login_is_reported_beside_a_cooling_one() {
    let fleet = Fleet::of(2).await;
    fleet.hosts[0].on_every_api(quota());
    fleet.hosts[1].on_every_api(Reply::api_error(401, "no_access", "not for you"));
    let client = fleet.client();
    for _ in 0..2 {
        let answer = ask(&client).await;
        assert_eq!((answer.status.as_u16(), answer.error_code()), (429, Some(Code::QuotaExhausted.as_str())));
    }
    assert_eq!(fleet.full_requests()[0], 1);
    assert_eq!(fleet.degraded_requests(), 1, "once a minute");
}
