//! Several accounts: the choice for a request, and the next one when it can't answer.

use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use qwen_accounts::Availability;
use qwen_base::{Code, EventKind};
use qwen_client::Client;
use serde_json::json;

use crate::support::fleet::{Fleet, NAMES, access, ask, quota, rate_limit, who, who_answers};
use crate::support::reply::Reply;
use crate::support::seen::Seen;
use crate::support::server::Server;
use crate::support::setup::{CHAT, chat, get, post};
use crate::support::time::soon;

const HALF_AN_HOUR_MS: u64 = 1_800_000;

async fn availability(client: &Client, id: &str) -> Availability {
    let accounts = client.accounts().await.unwrap();
    accounts.into_iter().find(|account| account.id == id).unwrap().availability
}

#[tokio::test]
async fn a_switch_sends_the_same_payload_to_the_next_accounts_own_host() {
    let fleet = Fleet::of(3).await;
    let client = fleet.client();
    assert_eq!(who_answers(&client).await, "ann");
    let credentials = fleet.setup.home.bytes();
    fleet.hosts[0].on_every_api(quota());
    let body = json!({
        "model": "coder-model", "stream": true, "temperature": 0.25, "metadata": {"mine": [1, null]},
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi \u{1f600}"}],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
    });
    let answer = client.fetch(post(CHAT, &body)).await.unwrap();
    assert_eq!((answer.status.as_u16(), who(&answer).as_str()), (200, "bob"));
    let (first, second) = (fleet.hosts[0].api_requests(), fleet.hosts[1].api_requests());
    let (first, second) = (first.last().unwrap(), second.last().unwrap());
    assert_eq!(first.json(), second.json());
    assert_eq!(first.body, second.body);
    assert!(first.json()["metadata"]["promptId"].is_string());
    assert_eq!((first.bearer(), second.bearer()), (access("ann", 0).as_str(), access("bob", 0).as_str()));
    assert_eq!(first.uri, second.uri);
    fleet.assert_apart();
    // The user's choice and the qwen CLI's file stay.
    assert_eq!(fleet.setup.home.bytes(), credentials);
    assert_eq!(fleet.store()["activeAccountId"], "ann");
    let exhausted =
        fleet.setup.events.all().into_iter().find(|event| event.kind == EventKind::Exhausted).unwrap();
    assert_eq!((exhausted.account_id.as_deref(), exhausted.code), (Some("ann"), Some(Code::QuotaExhausted)));
    let switched =
        fleet.setup.events.all().into_iter().find(|event| event.kind == EventKind::Switched).unwrap();
    assert_eq!(
        (switched.from_account_id.as_deref(), switched.account_id.as_deref()),
        (Some("ann"), Some("bob"))
    );
}

#[tokio::test]
async fn a_url_of_any_account_goes_to_the_chosen_account() {
    let fleet = Fleet::of(2).await;
    let client = fleet.client();
    for host in &fleet.hosts {
        let answer = client.fetch(get(&format!("{}/v1/models", host.url()))).await.unwrap();
        assert_eq!(who(&answer), "ann");
    }
    assert_eq!(fleet.full_requests(), [2, 0]);
    let error = client.fetch(get(&format!("{}/v1/models", fleet.setup.server.url()))).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_cooldown_is_kept_for_all_clients_and_ends_by_itself() {
    let fleet = Fleet::of(2).await;
    fleet.hosts[0].on_api([quota()]);
    let before = fleet.now_ms();
    assert_eq!(who_answers(&fleet.client()).await, "bob");
    let until = fleet.stored("ann")["exhaustedUntil"].as_u64().unwrap();
    assert!((before + HALF_AN_HOUR_MS..=fleet.now_ms() + HALF_AN_HOUR_MS).contains(&until));
    assert_eq!(fleet.stored("ann")["lastErrorCode"], "insufficient_quota");
    let second = fleet.client();
    assert_eq!(availability(&second, "ann").await, Availability::Cooling(until));
    assert_eq!(who_answers(&second).await, "bob");
    assert_eq!(fleet.full_requests(), [1, 2]);

    fleet.pass_ms(HALF_AN_HOUR_MS - 60_000);
    assert_eq!(who_answers(&second).await, "bob");
    fleet.pass_ms(60_001);
    assert_eq!(availability(&second, "ann").await, Availability::Ready);
    assert_eq!(who_answers(&second).await, "ann");
    assert_eq!(who_answers(&second).await, "ann");
    assert_eq!(fleet.setup.events.count(EventKind::Ready), 1);
    assert_eq!(fleet.stored("ann")["exhaustedUntil"], 0);
}

#[tokio::test]
async fn the_longer_of_cooldown_and_retry_after_counts() {
    for (retry_after, cooldown, seconds) in [
        ("7200", "", 7_200),
        ("60", "", 1_800),
        ("60", "5000", 60),
        ("0", "5000", 5),
        ("soon", "", 1_800),
        ("99999999999999999999", "", 32 * 24 * 3_600),
        ("7200.5", "", 7_201),
        ("date", "", 7_200),
        ("ms", "", 7_200),
    ] {
        let fleet = Fleet::of(2).await;
        let client = fleet.setup.client_with(&[("OPENCODE_QWEN_QUOTA_COOLDOWN_MS", cooldown)], false);
        let before = fleet.now_ms();
        let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(before + 7_200_000));
        fleet.hosts[0].on_api([match retry_after {
            "date" => quota().header("retry-after", &date),
            "ms" => quota().header("retry-after", "60").header("retry-after-ms", "7200000"),
            other => quota().header("retry-after", other),
        }]);
        assert_eq!(who_answers(&client).await, "bob");
        let until = fleet.stored("ann")["exhaustedUntil"].as_u64().unwrap();
        // A date has whole seconds, and a fraction is rounded up here.
        let (earliest, latest) = (before + seconds * 1000 - 1000, fleet.now_ms() + seconds * 1000);
        assert!(
            (earliest..=latest).contains(&until),
            "{retry_after}: {until}, not in {earliest} to {latest}"
        );
    }
}

#[tokio::test]
async fn each_rotation_starts_with_the_right_account() {
    let fleet = Fleet::of(3).await;
    let at = |name: &str| fleet.setup.client_with(&[("OPENCODE_QWEN_ROTATION", name)], false);
    let sequential = fleet.client();
    for _ in 0..3 {
        assert_eq!(who_answers(&sequential).await, "ann");
    }
    let round_robin = at("round-robin");
    for expected in ["ann", "bob", "cyd", "ann", "bob"] {
        assert_eq!(who_answers(&round_robin).await, expected);
    }
    let own = NAMES[usize::try_from(std::process::id()).unwrap() % 3];
    let hybrid = at("hybrid");
    for _ in 0..3 {
        assert_eq!(who_answers(&hybrid).await, own);
    }
    assert_eq!(who_answers(&at("zigzag")).await, "ann");
    assert_eq!(fleet.setup.events.count(EventKind::Config), 1);
    fleet.assert_apart();
}

#[tokio::test]
async fn round_robin_skips_cooling_accounts() {
    let fleet = Fleet::of(3).await;
    fleet.hosts[1].on_every_api(quota());
    let client = fleet.setup.client_with(&[("OPENCODE_QWEN_ROTATION", "round-robin")], false);
    let mut answered = Vec::new();
    for _ in 0..6 {
        answered.push(who_answers(&client).await);
    }
    assert!(answered.iter().all(|name| name != "bob"), "{answered:?}");
    assert!(
        ["ann", "cyd"].iter().all(|name| answered.iter().filter(|who| who == name).count() >= 2),
        "{answered:?}"
    );
    assert_eq!(fleet.full_requests()[1], 1);
}

#[tokio::test]
async fn a_short_rate_limit_is_waited_for_once_on_the_same_account() {
    for (reply, least) in [
        (rate_limit("2"), 2_000),
        (Reply::api_error(429, "Throttling.AllocationQuota", "slow down"), 1_000),
        (Reply::api_error(429, "insufficient_quota", "concurrency allocated quota exceeded"), 1_000),
    ] {
        let fleet = Fleet::of(2).await;
        fleet.hosts[0].on_api([reply]);
        let store = fleet.store();
        assert_eq!(who_answers(&fleet.client()).await, "ann");
        let requests = fleet.hosts[0].api_requests();
        let waited = (requests[1].at - requests[0].at).as_millis();
        assert!(waited >= least, "{waited}");
        assert_eq!(requests[0].body, requests[1].body);
        assert_eq!(fleet.full_requests(), [2, 0]);
        let mut after = fleet.store();
        assert!(after["accounts"][0].as_object_mut().unwrap().remove("binding").is_some());
        assert_eq!(after["accounts"], store["accounts"]);
    }
}

#[tokio::test]
async fn a_lasting_short_rate_limit_moves_the_request_to_another_account() {
    for (reply, rest) in
        [(rate_limit("1"), 1_000), (Reply::api_error(429, "Throttling.RateQuota", "slow down"), 10_000)]
    {
        let fleet = Fleet::of(2).await;
        fleet.hosts[0].on_every_api(reply);
        let client = fleet.client();
        let before = fleet.now_ms();
        assert_eq!(who_answers(&client).await, "bob");
        assert_eq!(fleet.full_requests(), [2, 1]);
        let until = fleet.stored("ann")["exhaustedUntil"].as_u64().unwrap();
        assert!((before + rest..=fleet.now_ms() + rest).contains(&until), "{until}, {before} and {rest}");
        assert_eq!(fleet.stored("ann")["lastError"]["code"], "ERR_QWEN_RATE_LIMITED");
        fleet.pass_ms(rest);
        fleet.hosts[0].on_every_api(Reply::Real);
        assert_eq!(who_answers(&client).await, "ann");
    }
}

#[tokio::test]
async fn a_lasting_short_rate_limit_is_returned_if_there_is_no_other_account() {
    let fleet = Fleet::of(1).await;
    fleet.hosts[0].on_every_api(rate_limit("0"));
    let client = fleet.client();
    let answer = ask(&client).await;
    assert_eq!((answer.status.as_u16(), who(&answer).as_str()), (429, "ann"));
    assert_eq!(
        (answer.headers["retry-after"].as_bytes(), answer.error_code()),
        (&b"0"[..], Some("ERR_QWEN_RATE_LIMITED"))
    );
    assert_eq!(fleet.full_requests(), [2]);
    assert_eq!(availability(&client, "ann").await, Availability::Ready);
}

#[tokio::test]
async fn a_long_rate_limit_cools_the_account_for_its_length_and_another_is_asked() {
    let fleet = Fleet::of(2).await;
    fleet.hosts[0].on_every_api(rate_limit("45"));
    let client = fleet.client();
    let before = fleet.now_ms();
    assert_eq!(who_answers(&client).await, "bob");
    let Availability::Cooling(until) = availability(&client, "ann").await else { panic!("it should cool") };
    assert!((before + 45_000..=fleet.now_ms() + 45_000).contains(&until), "{until} and {before}");
    assert_eq!(fleet.full_requests(), [1, 1]);
    fleet.pass_ms(45_001);
    fleet.hosts[0].on_every_api(Reply::Real);
    assert_eq!(who_answers(&client).await, "ann");
}

#[tokio::test]
async fn the_last_accounts_rate_limit_comes_back_untouched() {
    let fleet = Fleet::of(2).await;
    fleet.hosts[0].on_every_api(rate_limit("45"));
    fleet.hosts[1].on_every_api(rate_limit("90"));
    let answer = ask(&fleet.client()).await;
    assert_eq!((answer.status.as_u16(), who(&answer).as_str()), (429, "bob"));
    assert_eq!(answer.headers["retry-after"], "90");
    let body: serde_json::Value = serde_json::from_str(&crate::support::setup::text(answer).await).unwrap();
    assert_eq!(
        body["error"],
        json!({"code": "Throttling.RateQuota", "message": "Requests rate limit exceeded", "type": "t"})
    );
    assert_eq!((fleet.full_requests(), fleet.degraded_requests()), (vec![1, 1], 0));
}

#[tokio::test]
async fn a_refresh_of_one_account_does_not_hold_up_another() {
    let fleet = Fleet::expiring_in(&[-60, 3600]).await;
    let client = fleet.setup.client_with(&[("OPENCODE_QWEN_ROTATION", "round-robin")], false);
    fleet.setup.server.hold();
    let waiting = client.fetch(chat(false));
    let meanwhile = async {
        fleet.setup.server.until_token_requests(1).await;
        let name = soon("the other account's answer", who_answers(&client)).await;
        assert_eq!(client.access_token(Some("bob")).await.unwrap().account_id, "bob");
        fleet.setup.server.release();
        name
    };
    let (first, second) = tokio::join!(waiting, meanwhile);
    assert_eq!((who(&first.unwrap()).as_str(), second.as_str()), ("ann", "bob"));
    assert_eq!(fleet.hosts[0].api_requests()[0].bearer(), access("ann", 1));
    fleet.assert_apart();
}

#[tokio::test]
async fn a_token_that_the_api_refuses_is_renewed_once_and_then_the_next_account_asked() {
    let fleet = Fleet::of(2).await;
    fleet.hosts[0].on_every_api(Reply::api_error(401, "invalid_api_key", "token expired"));
    let client = fleet.client();
    assert_eq!(who_answers(&client).await, "bob");
    let bearers: Vec<_> = fleet.hosts[0].api_requests().iter().map(|seen| seen.bearer().to_owned()).collect();
    assert_eq!(bearers, [access("ann", 0), access("ann", 1)]);
    assert_eq!(fleet.setup.events.count(EventKind::NeedsLogin), 1);
    assert_eq!(availability(&client, "ann").await, Availability::Dead);
    // Within the minute no client asks it again.
    assert_eq!(who_answers(&fleet.client()).await, "bob");
    assert_eq!(fleet.full_requests(), [2, 2]);
    fleet.hosts[0].on_every_api(Reply::Real);
    fleet.pass_ms(60_001);
    assert_eq!(who_answers(&client).await, "ann");
    assert_eq!(availability(&client, "ann").await, Availability::Ready);
    assert_eq!(fleet.setup.server.redeemed_again(), 0);
    fleet.assert_apart();
}

#[tokio::test]
async fn an_account_that_the_api_refused_is_asked_again_if_nothing_else_is_left() {
    let fleet = Fleet::of(2).await;
    fleet.on_every_host(&Reply::html(401));
    let client = fleet.client();
    assert_eq!(ask(&client).await.status, 401);
    assert_eq!(fleet.full_requests(), [2, 2]);
    fleet.on_every_host(&Reply::Real);
    assert_eq!(who_answers(&client).await, "ann");
}

#[tokio::test]
async fn a_call_has_a_renewed_try_for_the_last_of_many_refused_accounts() {
    let fleet = Fleet::of(5).await;
    for host in &fleet.hosts[..4] {
        host.on_api([Reply::html(401), rate_limit("0"), rate_limit("0")]);
    }
    fleet.hosts[4].on_api([Reply::html(401)]);
    assert_eq!(who_answers(&fleet.client()).await, "eve");
}

#[tokio::test]
async fn an_account_whose_login_is_gone_is_left_out_until_a_new_token_is_there() {
    let fleet = Fleet::expiring_in(&[-60, 3600]).await;
    fleet.setup.server.on_token([Reply::oauth_error(400, "invalid_grant")]);
    let client = fleet.client();
    for _ in 0..3 {
        assert_eq!(who_answers(&client).await, "bob");
        assert_eq!(who_answers(&fleet.client()).await, "bob");
        fleet.pass_ms(61_000);
    }
    assert_eq!(fleet.setup.server.token_requests(), 1);
    assert_eq!(fleet.full_requests()[0], 0);
    assert_eq!(availability(&client, "ann").await, Availability::Dead);
    assert_eq!(fleet.stored("ann")["lastError"]["code"], "ERR_QWEN_REFRESH_TOKEN_INVALID");
}

#[tokio::test]
async fn a_refresh_without_a_verdict_asks_no_other_account() {
    let fleet = Fleet::expiring_in(&[-60, 3600]).await;
    fleet.setup.server.on_every_token(Reply::html(503).header("retry-after", "60"));
    let error = fleet.client().fetch(chat(false)).await.unwrap_err();
    assert_eq!((error.code(), error.account_id()), (Code::RefreshUnavailable, Some("ann")));
    assert_eq!(fleet.full_requests(), [0, 0]);
}

#[tokio::test]
async fn an_account_that_names_no_usable_host_does_not_stop_the_others() {
    let fleet = Fleet::of(2).await;
    let insecure = crate::support::fleet::token("ann", 3600, "http://portal.example");
    fleet.setup.home.write(&insecure);
    fleet.edit_store(|store| store["accounts"][0]["token"] = insecure);
    let answer = fleet.client().fetch(chat(false)).await;
    assert_eq!(answer.map(|answer| who(&answer)).map_err(|error| error.code()), Ok("bob".to_owned()));
}

const MOVED: &str = "/v1/moved";

/// Answers that a host can give to a request.
fn trouble() -> impl Strategy<Value = Reply> {
    prop_oneof![
        2 => Just(Reply::Real),
        4 => Just(quota()),
        1 => Just(Reply::api_error(403, "quota_exceeded", "quota")),
        2 => Just(rate_limit("60")),
        2 => Just(rate_limit("0")),
        2 => Just(Reply::html(401)),
        1 => Just(Reply::api_error(403, "", "access denied")),
        1 => Just(Reply::html(500)),
        1 => Just(Reply::Close),
        1 => Just(Reply::redirect(307, MOVED)),
    ]
}

/// Returns what all hosts were asked. The HTTP library follows redirects, which costs no try.
fn requests_without_redirects(fleet: &Fleet) -> Vec<Seen> {
    fleet.hosts.iter().flat_map(Server::api_requests).filter(|seen| seen.uri.path() != MOVED).collect()
}

#[test]
fn a_failing_call_stays_within_its_budget_and_keeps_accounts_apart() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let host = || proptest::collection::vec(trouble(), 6);
    let scripts = (proptest::collection::vec(host(), 1..=4), any::<[bool; 4]>(), any::<bool>(), 0..3_usize);
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&scripts, |(hosts, expired, opencode, rotation)| {
            runtime.block_on(async {
                let lifetimes: Vec<_> =
                    hosts.iter().zip(expired).map(|(_, is)| if is { -60 } else { 3600 }).collect();
                let fleet = Fleet::expiring_in(&lifetimes).await;
                let count = hosts.len();
                for (host, replies) in fleet.hosts.iter().zip(hosts) {
                    host.on_api(replies);
                }
                let rotation = ["sequential", "round-robin", "hybrid"][rotation];
                let client = fleet.setup.client_with(&[("OPENCODE_QWEN_ROTATION", rotation)], opencode);
                let mut before = 0;
                for _ in 0..2 {
                    let outcome = client.fetch(chat(false)).await;
                    let asked = requests_without_redirects(&fleet).len();
                    prop_assert!(asked - before <= 2 * count + 2, "{} requests", asked - before);
                    before = asked;
                    if let Err(error) = outcome {
                        prop_assert!(error.code() != Code::Internal, "{}", error.message());
                    }
                }
                fleet.assert_apart();
                // One for each call, and once more if its token is refused.
                prop_assert!(
                    requests_without_redirects(&fleet).iter().filter(|seen| seen.is_degraded()).count() <= 4
                );
                prop_assert_eq!(fleet.setup.server.redeemed_again(), 0);
                Ok(())
            })
        })
        .unwrap();
}
