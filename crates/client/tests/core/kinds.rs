//! Logins and keys in one rotation: the choice of the account, and its price.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use qwen_accounts::{AccountChanges, Availability, Kind};
use qwen_base::{Code, EventKind};
use qwen_client::Client;
use serde_json::{Value, json};

use crate::support::fleet::{Fleet, ask, quota, rate_limit, who, who_answers};
use crate::support::keys::secret;
use crate::support::reply::Reply;
use crate::support::server::Server;
use crate::support::setup::{CHAT, Setup, chat, get, post, text};

const ALLOWED: [(&str, &str); 1] = [("OPENCODE_QWEN_ALLOW_PAID_FALLBACK", "1")];
const HOUR_MS: u64 = 3_600_000;
const HALF_AN_HOUR_MS: u64 = 1_800_000;

/// Returns a Token Plan window that ends in `hours`, as the server writes it.
fn token_plan_window(left_ms: u64) -> Reply {
    let end = std::time::SystemTime::now() + std::time::Duration::from_millis(left_ms);
    let date = httpdate::fmt_http_date(end);
    // "Sun, 06 Nov 1994 08:49:37 GMT"
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|month| *month == &date[8..11]).unwrap() + 1;
    let message = format!(
        "Your token-plan 5-hour quota has been exhausted. The quota will reset at {month:02}-{} {} UTC.",
        &date[5..7],
        &date[17..25]
    );
    Reply::api_error(429, "insufficient_quota", &message)
}

fn spent(window: &str) -> Reply {
    Reply::api_error(429, "insufficient_quota", &format!("{window} allocated quota exceeded"))
}

fn body() -> Value {
    json!({
        "model": "coder-model", "stream": true,
        "messages": [{"role": "developer", "content": "be brief"}, {"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
    })
}

/// One free login, one subscription key, one metered key.
async fn one_of_each() -> (Fleet, Server, Server) {
    let fleet = Fleet::of(1).await;
    let plan = fleet.add_key("plan", "coding-plan").await;
    let metered = fleet.add_key("metered", "dashscope").await;
    (fleet, plan, metered)
}

#[tokio::test]
async fn two_keys_of_a_plan_switch_like_two_logins() {
    let fleet = Fleet::of(1).await;
    let first = fleet.add_key("first", "coding-plan").await;
    let second = fleet.add_key("second", "coding-plan").await;
    fleet.choose("first");
    let client = fleet.client();
    assert_eq!(who_answers(&client).await, "first");
    first.on_every_api(spent("hour"));
    let answer = client.fetch(post(CHAT, &body())).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), who(&answer).as_str()),
        (200, "ann"),
        "what costs less is asked first"
    );
    fleet.hosts[0].on_every_api(quota());
    let answer = client.fetch(post(CHAT, &body())).await.unwrap();
    assert_eq!((answer.status.as_u16(), who(&answer).as_str()), (200, "second"));
    assert!(!answer.headers.contains_key("x-qwen-paid-fallback"));
    let (one, two) = (first.api_requests(), second.api_requests());
    let (one, two) = (one.last().unwrap(), two.last().unwrap());
    let (mut one_body, mut two_body) = (one.json(), two.json());
    for body in [&mut one_body, &mut two_body] {
        assert!(body["metadata"]["promptId"].take().is_string());
    }
    assert_eq!(one_body, two_body);
    assert_eq!(one_body["messages"][0]["content"][0]["cache_control"], json!({"type": "ephemeral"}));
    assert_eq!((one.bearer(), two.bearer()), (secret("first").as_str(), secret("second").as_str()));
    assert_eq!(two.headers["x-dashscope-authtype"], "openai");
    fleet.assert_apart();
}

#[tokio::test]
async fn more_expensive_accounts_need_permission_and_each_switch_is_reported() {
    let (fleet, plan, metered) = one_of_each().await;
    fleet.hosts[0].on_every_api(quota());
    let answer = ask(&fleet.client()).await;
    assert_eq!(answer.status, 429);
    let message = text(answer).await;
    assert!(message.contains("has used up its quota") && message.contains("use plan"), "{message}");
    assert_eq!((plan.all_requests(), metered.all_requests()), (0, 0));

    let client = fleet.setup.client_with(&ALLOWED, false);
    let answer = ask(&client).await;
    assert_eq!(
        (who(&answer).as_str(), &answer.headers["x-qwen-paid-fallback"]),
        ("plan", &"1".parse().unwrap())
    );
    plan.on_every_api(spent("week"));
    let answer = ask(&client).await;
    assert_eq!(
        (who(&answer).as_str(), &answer.headers["x-qwen-paid-fallback"]),
        ("metered", &"1".parse().unwrap())
    );
    assert_eq!(who_answers(&client).await, "metered");
    let switched = fleet.setup.events.all().into_iter().filter(|event| event.kind == EventKind::Switched);
    let told: Vec<_> =
        switched.map(|event| (event.from_account_id, event.account_id, event.message)).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].2.contains("paid by subscription") && told[1].2.contains("billed by use"));
    assert_eq!((told[1].0.as_deref(), told[1].1.as_deref()), (Some("plan"), Some("metered")));

    // A metered key is left as soon as a cheaper account is back.
    fleet.hosts[0].on_every_api(Reply::Real);
    fleet.pass_ms(HOUR_MS);
    let answer = ask(&client).await;
    assert_eq!(who(&answer), "ann");
    assert!(!answer.headers.contains_key("x-qwen-paid-fallback"));
}

#[tokio::test]
async fn a_metered_key_that_the_user_chose_is_used() {
    let (fleet, plan, metered) = one_of_each().await;
    fleet.choose("metered");
    let client = fleet.client();
    let answer = ask(&client).await;
    assert_eq!(who(&answer), "metered");
    assert!(!answer.headers.contains_key("x-qwen-paid-fallback"));
    metered.on_every_api(quota());
    assert_eq!(who_answers(&client).await, "ann");
    assert_eq!(plan.all_requests(), 0);
}

#[tokio::test]
async fn round_robin_stays_within_the_cheapest_kind() {
    for rotation in ["round-robin", "hybrid"] {
        let fleet = Fleet::of(2).await;
        let plan = fleet.add_key("plan", "token-plan").await;
        let variables = [("OPENCODE_QWEN_ROTATION", rotation), ALLOWED[0]];
        let client = fleet.setup.client_with(&variables, false);
        for _ in 0..6 {
            assert_ne!(who_answers(&client).await, "plan");
        }
        fleet.hosts.iter().for_each(|host| host.on_every_api(quota()));
        assert_eq!(who_answers(&client).await, "plan");
        assert_eq!(plan.api_requests().len(), 1);
        let told = fleet.setup.events.all();
        assert!(
            told.iter()
                .any(|event| event.kind == EventKind::Switched && event.message.contains("subscription"))
        );
    }
}

#[tokio::test]
async fn only_fields_for_qwens_servers_differ_between_kinds() {
    let fleet = Fleet::of(1).await;
    let other = fleet.add_key("other", "").await;
    fleet.hosts[0].on_every_api(quota());
    let client = fleet.setup.client_with(&ALLOWED, false);
    let answer = client.fetch(post(CHAT, &body())).await.unwrap();
    assert_eq!((answer.status.as_u16(), who(&answer).as_str()), (200, "other"));
    let (ours, theirs) = (fleet.hosts[0].api_requests(), other.api_requests());
    let (mut ours, plain) = (ours[0].json(), theirs[0].json());
    assert!(!plain.to_string().contains("cache_control") && plain.get("metadata").is_none(), "{plain}");
    assert!(!theirs[0].headers.contains_key("x-dashscope-cachecontrol"));
    for field in ["metadata", "preserve_thinking", "vl_high_resolution_images"] {
        assert!(ours.as_object_mut().unwrap().remove(field).is_some(), "{field}");
        assert!(plain.get(field).is_none(), "{field}");
    }
    let without_markers = ours.to_string().replace(r#","cache_control":{"type":"ephemeral"}"#, "");
    let mut without_markers: Value = serde_json::from_str(&without_markers).unwrap();
    // A text with a marker is an array of one part.
    assert_eq!(without_markers["messages"][1]["content"], json!([{"type": "text", "text": "hi"}]));
    without_markers["messages"][1]["content"] = json!("hi");
    assert_eq!(without_markers, plain);
}

#[tokio::test]
async fn a_used_up_window_cools_until_its_known_end() {
    for (reply, least, named) in [
        (spent("hour"), HALF_AN_HOUR_MS, "5-hour"),
        (spent("hour").header("retry-after", "7200"), 2 * HOUR_MS, "5-hour"),
        (spent("hour").header("retry-after", "60"), HALF_AN_HOUR_MS, "5-hour"),
        (spent("hour").header("retry-after", "172800"), HALF_AN_HOUR_MS, "5-hour"),
        (spent("month"), 24 * HOUR_MS, "monthly"),
        (spent("month").header("retry-after", "60"), 24 * HOUR_MS, "monthly"),
        (spent("month").header("retry-after", "172800"), 48 * HOUR_MS, "monthly"),
        (token_plan_window(5 * HOUR_MS - 600_000), 0, "5-hour"),
        // An impossible end is ignored.
        (token_plan_window(6 * HOUR_MS), HALF_AN_HOUR_MS, "5-hour"),
        (spent("week"), 0, "weekly"),
    ] {
        let fleet = Fleet::of(1).await;
        let plan = fleet.add_key("plan", "coding-plan").await;
        fleet.choose("plan");
        fleet.hosts[0].on_every_api(quota());
        plan.on_every_api(reply);
        let client = fleet.client();
        let before = fleet.now_ms();
        assert_eq!(ask(&client).await.status, 429);
        let accounts = client.accounts().await.unwrap();
        let account = accounts.iter().find(|account| account.id == "plan").unwrap();
        let Availability::Cooling(until) = account.availability else { panic!("{:?}", account.availability) };
        match (named, least) {
            // Monday 00:00 UTC+8; the epoch was a Thursday.
            ("weekly", _) => assert_eq!((until + 8 * HOUR_MS) % (7 * 24 * HOUR_MS), 4 * 24 * HOUR_MS),
            (_, 0) => assert!(until.abs_diff(before + 5 * HOUR_MS - 600_000) < 120_000, "{}", until - before),
            _ => assert!((before + least..=fleet.now_ms() + least).contains(&until), "{}", until - before),
        }
        let event =
            fleet.setup.events.all().into_iter().find(|event| event.kind == EventKind::Exhausted).unwrap();
        assert_eq!((event.until, event.account_id.as_deref()), (Some(until), Some("plan")));
        assert!(event.message.contains("has used up its "), "{}", event.message);
        // It comes back by itself.
        plan.on_every_api(Reply::Real);
        fleet.pass_ms(until - before);
        assert_eq!(who_answers(&client).await, "plan");
    }
}

#[tokio::test]
async fn only_accounts_that_serve_the_model_are_asked() {
    let setup = Setup::fresh().await;
    std::fs::write(
        setup.home.store(),
        json!({"version": 1, "accounts": [], "activeAccountId": "k", "apiKeys": [
            {"id": "k", "plan": "dashscope", "key": "sk-1", "baseUrl": "https://dashscope.aliyuncs.com/compatible-mode/v1"}
        ]})
        .to_string(),
    )
    .unwrap();
    // The chosen key's endpoint doesn't serve it, so the login is asked.
    let client = setup.client();
    assert_eq!(client.fetch(chat(false)).await.unwrap().status, 200);
    std::fs::remove_file(setup.home.credentials()).unwrap();
    let login = client.accounts().await.unwrap().into_iter().find(|account| account.id != "k").unwrap();
    client.remove_account(&login.id, false).await.unwrap();
    let error = client.fetch(chat(false)).await.unwrap_err();
    assert_eq!(error.code(), Code::ModelUnavailable);
    assert!(error.message().contains("the model coder-model"), "{}", error.message());
    assert_eq!(setup.server.api_requests().len(), 1);
}

#[tokio::test]
async fn a_model_that_only_a_metered_key_serves_gives_no_permission_to_use_it() {
    let setup = Setup::fresh().await;
    std::fs::write(
        setup.home.store(),
        json!({"version": 1, "accounts": [], "apiKeys": [
            {"id": "k", "label": "Billed", "plan": "dashscope", "key": "sk-1", "baseUrl": "https://dashscope-us.aliyuncs.com/compatible-mode/v1"}
        ]})
        .to_string(),
    )
    .unwrap();
    let client = setup.client();
    let login = client.accounts().await.unwrap().into_iter().find(|account| account.id != "k").unwrap();
    client.set_active_account(&login.id).await.unwrap();
    let request =
        || post(CHAT, &json!({"model": "qwen3-coder-plus", "messages": [{"role": "user", "content": "hi"}]}));
    let error = client.fetch(request()).await.unwrap_err();
    assert_eq!(error.code(), Code::PaymentRequired);
    assert!(error.message().contains("\"Billed\"") && error.message().contains("ALLOW_PAID_FALLBACK"));
    assert_eq!(setup.server.api_requests().len(), 0);
    // A request without a model goes to the user's choice.
    assert_eq!(client.fetch(get(&CHAT.replace("chat/completions", "models"))).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_refused_key_is_not_an_expired_login() {
    let fleet = Fleet::of(1).await;
    let plan = fleet.add_key("plan", "coding-plan").await;
    fleet.choose("plan");
    plan.revoke(&secret("plan"));
    let client = fleet.client();
    assert_eq!(who_answers(&client).await, "ann");
    assert_eq!((plan.api_requests().len(), fleet.setup.server.token_requests()), (1, 0));
    let accounts = client.accounts().await.unwrap();
    let last = accounts.iter().find(|account| account.id == "plan").unwrap().last_error.clone().unwrap();
    assert_eq!(last.code, Code::TokenRejected.as_str());
    assert!(last.message.contains("add-key") && last.message.contains("plan"), "{}", last.message);
    assert!(!last.message.contains("sk-sp-"));
    // No other account is left: it is asked again, and its own answer is returned.
    client.remove_account("ann", false).await.unwrap();
    let answer = ask(&client).await;
    assert_eq!((answer.status.as_u16(), answer.error_code()), (401, Some("ERR_QWEN_TOKEN_REJECTED")));
    assert_eq!(fleet.setup.events.count(EventKind::NeedsLogin), 1);
    plan.accept(&secret("plan"));
    assert_eq!(who_answers(&client).await, "plan");
    let account = &client.accounts().await.unwrap()[0];
    assert_eq!((account.availability, account.last_error.is_none()), (Availability::Ready, true));
}

fn trouble() -> impl Strategy<Value = Reply> {
    prop_oneof![
        Just(Reply::Real),
        Just(quota()),
        Just(spent("hour")),
        Just(spent("month")),
        Just(rate_limit("60")),
        Just(rate_limit("0")),
        Just(Reply::api_error(401, "invalid_api_key", "invalid access token or token expired")),
        Just(Reply::api_error(403, "", "Access denied.")),
        Just(Reply::api_error(404, "model_not_found", "The model `coder-model` does not exist.")),
        Just(Reply::api_error(403, "AccessDenied", "Model access denied.")),
        Just(Reply::api_error(400, "Arrearage", "x")),
        Just(
            Reply::api_error(429, "Throttling.AllocationQuota", "Allocated quota exceeded.")
                .header("retry-after", "0")
        ),
        Just(Reply::json(200, &json!({"error": {"code": "insufficient_quota", "message": "x"}}))),
        Just(Reply::api_error(500, "internal_error", "x")),
        Just(Reply::html(503)),
        Just(Reply::Close),
    ]
}

async fn ask_often(client: &Client, times: usize) {
    for _ in 0..times {
        let _ = client.fetch(chat(true)).await;
    }
}

#[test]
fn no_order_of_failures_leads_to_a_metered_key_without_permission() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let script = || proptest::collection::vec(trouble(), 8);
    let cases = (
        (script(), script(), script()),
        any::<[bool; 3]>(),
        (0..3_usize, any::<[bool; 4]>()),
        proptest::option::of(1_u64..=48),
        proptest::sample::select(vec!["ann", "bob", "plan", "token"]),
    );
    let config = Config { cases: 200, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(
            &cases,
            |((one, two, three), [opencode, expired, otherwise], (rotation, disabled), hours, active)| {
                runtime.block_on(async {
                    let fleet = Fleet::expiring_in(&[if expired { -60 } else { 3600 * 24 * 9 }; 2]).await;
                    let plan = fleet.add_key("plan", "coding-plan").await;
                    let token = fleet.add_key("token", "token-plan").await;
                    let metered = fleet.add_key("metered", "dashscope").await;
                    let unknown = fleet.add_key("unknown", "").await;
                    fleet.choose(active);
                    fleet.hosts[0].on_api(one.clone());
                    fleet.hosts[1].on_api(three.clone());
                    plan.on_api(two);
                    token.on_api(three);
                    if otherwise {
                        fleet.on_every_host(&quota());
                        plan.on_every_api(spent("week"));
                        token.on_every_api(Reply::api_error(401, "invalid_api_key", "no"));
                    }
                    let rotation = ["sequential", "round-robin", "hybrid"][rotation];
                    let client = fleet.setup.client_with(&[("OPENCODE_QWEN_ROTATION", rotation)], opencode);
                    let all = ["ann", "bob", "plan", "token"];
                    let off: Vec<_> =
                        all.into_iter().zip(disabled).filter(|(_, off)| *off).map(|(id, _)| id).collect();
                    for id in &off {
                        let changes = AccountChanges { enabled: Some(false), ..AccountChanges::default() };
                        client.update_account(id, changes).await.unwrap();
                    }
                    let active =
                        client.accounts().await.unwrap().into_iter().find(|account| account.active).unwrap();
                    ask_often(&client, 3).await;
                    fleet.pass_ms(hours.unwrap_or(0) * HOUR_MS);
                    ask_often(&client, 2).await;
                    prop_assert_eq!((metered.all_requests(), unknown.all_requests()), (0, 0));
                    for (id, host) in all.into_iter().zip([&fleet.hosts[0], &fleet.hosts[1], &plan, &token]) {
                        prop_assert!(
                            !off.contains(&id) || host.api_requests().is_empty(),
                            "{id} is disabled"
                        );
                    }
                    if active.enabled && active.kind == Kind::OAuth {
                        prop_assert_eq!((plan.all_requests(), token.all_requests()), (0, 0));
                    }
                    fleet.assert_apart();
                    Ok(())
                })
            },
        )
        .unwrap();
}
