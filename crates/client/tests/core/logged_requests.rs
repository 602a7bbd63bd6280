//! The logs of a client's requests. The files themselves have their own tests: `logs.rs`.

use std::path::PathBuf;

use qwen_base::{DEBUG_LOG, Secret};
use qwen_client::KeyOptions;
use serde_json::{Value, json};

use crate::support::fleet::{Fleet, NAMES, quota};
use crate::support::home::{Home, document, in_seconds};
use crate::support::port::ClosedPort;
use crate::support::reply::{Part, Reply};
use crate::support::server::GOOD_STREAM;
use crate::support::setup::{CHAT, Setup, chat, post, read, text};
use crate::support::time::until;
use crate::support::tls::NAME;

const LOGS: [(&str, &str); 2] = [("DEBUG_QWEN_PLUGIN", "1"), ("ENABLE_PLUGIN_REQUEST_LOGGING", "1")];

/// Lists the files of the logs, oldest first.
fn files(home: &Home) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(home.path().join(".opencode/logs/qwen-plugin")).into_iter().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn contents(home: &Home) -> String {
    files(home).iter().map(|path| std::fs::read_to_string(path).unwrap_or_default()).collect()
}

/// Returns the records of requests once there are `count`.
async fn records(home: &Home, count: usize) -> Vec<Value> {
    let found = || {
        let is_record = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
        let texts = files(home).into_iter().filter(is_record).filter_map(|path| std::fs::read(path).ok());
        texts.filter_map(|text| serde_json::from_slice(&text).ok()).collect::<Vec<_>>()
    };
    until("the records", || found().len() == count).await;
    found()
}

#[tokio::test]
async fn each_switch_turns_on_its_own_log_which_the_first_call_opens() {
    for (variables, names) in [
        (&[][..], &[][..]),
        (&LOGS[..1], &[DEBUG_LOG]),
        (&LOGS[1..], &["request-2"]),
        (&LOGS, &[DEBUG_LOG, "request-2"]),
    ] {
        let setup = Setup::fresh().await;
        let client = setup.client_with(variables, false);
        assert!(!setup.home.path().join(".opencode").exists());
        text(client.fetch(chat(false)).await.unwrap()).await;
        until("the logs", || files(&setup.home).len() >= names.len()).await;
        let found = files(&setup.home);
        assert_eq!(found.len(), names.len(), "{found:?}");
        for (path, name) in found.iter().zip(names) {
            assert!(path.file_name().unwrap().to_str().unwrap().starts_with(name), "{found:?}");
        }
    }
}

#[tokio::test]
async fn a_request_is_logged_as_it_was_sent_and_however_it_ends() {
    let setup = Setup::fresh().await;
    let client = setup.client_with(&LOGS, false);
    let last = async |count| records(&setup.home, count).await.pop().unwrap();
    let mut request = chat(true);
    let secrets = ["secret-token-of-the-caller", "secret-cookie-of-the-caller", "sk-secret-of-the-caller"];
    for (name, value) in ["authorization", "cookie", "x-api-key"].into_iter().zip(secrets) {
        request.headers.insert(name, value.parse().unwrap());
    }
    assert_eq!(text(client.fetch(request).await.unwrap()).await, GOOD_STREAM);
    let record = last(1).await;
    let sent = &setup.server.api_requests()[0];
    assert_eq!(
        (&record["url"], &record["method"], &record["stream"]),
        (&json!(CHAT), &json!("POST"), &json!(true))
    );
    assert_eq!(
        (&record["request"]["body"], &record["request"]["bytes"]),
        (&sent.json(), &json!(sent.body.len()))
    );
    assert_eq!((&record["outcome"], &record["notes"]), (&json!("completed"), &json!([])));
    assert_eq!(
        (&record["response"]["status"], &record["response"]["body"]),
        (&json!(200), &json!(GOOD_STREAM))
    );
    assert_eq!(record["response"]["bytes"], GOOD_STREAM.len());
    let label = &client.accounts().await.unwrap()[0].label;
    assert_eq!(record["account"], json!(label));
    assert!(record["firstByteMs"].as_u64() <= record["durationMs"].as_u64());

    setup.server.on_api([Reply::Close]);
    client.fetch(chat(false)).await.unwrap_err();
    let record = last(2).await;
    assert_eq!((&record["outcome"], &record["response"]), (&json!("ERR_QWEN_NETWORK"), &json!(null)));
    assert_eq!(record["attempts"][0]["status"], json!(null));

    let begun = vec![Part::text("data: 1\n\n"), Part::Pause(std::time::Duration::from_millis(20))];
    setup.server.on_api([Reply::events([begun.clone(), vec![Part::Cut]].concat())]);
    read(&mut client.fetch(chat(true)).await.unwrap().body).await.1.unwrap_err();
    let record = last(3).await;
    assert_eq!(
        (&record["outcome"], &record["response"]["body"]),
        (&json!("ERR_QWEN_NETWORK"), &json!("data: 1\n\n"))
    );

    setup.server.on_api([Reply::events([begun, vec![Part::Stall]].concat())]);
    drop(client.fetch(chat(true)).await.unwrap());
    assert_eq!(last(4).await["outcome"], "cancelled");

    setup.server.on_api([Reply::Hang]);
    let asked = tokio::time::timeout(std::time::Duration::from_millis(300), client.fetch(chat(true)));
    assert!(asked.await.is_err());
    assert_eq!(last(5).await["outcome"], "cancelled");
    assert!(!contents(&setup.home).contains("of-the-caller"));
}

#[tokio::test]
async fn attempts_of_several_accounts_a_refresh_and_a_shorter_request_are_logged() {
    let fleet = Fleet::expiring_in(&[-60, 3600, 3600]).await;
    fleet.hosts[0].on_api([quota()]);
    fleet.hosts[1..].iter().for_each(|host| host.on_every_api(quota().header("retry-after", "7200")));
    let answer = fleet.setup.client_with(&LOGS, false).fetch(chat(true)).await.unwrap();
    assert_eq!(answer.headers["x-qwen-degraded"], "1");
    text(answer).await;
    let home = &fleet.setup.home;
    let record = records(home, 1).await.remove(0);
    let attempts: Vec<_> = record["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| (&attempt["account"], &attempt["status"], &attempt["verdict"]))
        .collect();
    let expected = [
        ("Account 1", 429, "quota-exhausted"),
        ("Account 2", 429, "quota-exhausted"),
        ("Account 3", 429, "quota-exhausted"),
        ("Account 1", 200, "pass"),
    ]
    .map(|(account, status, verdict)| (json!(account), json!(status), json!(verdict)));
    assert_eq!(attempts, expected.each_ref().map(|(account, status, verdict)| (account, status, verdict)));
    assert_eq!((&record["notes"], &record["outcome"]), (&json!(["degraded"]), &json!("completed")));
    for word in ["refreshed", "exhausted", "quota-exhausted", "status=429", "status=200", "degraded"] {
        until(word, || contents(home).contains(word)).await;
    }
    assert_eq!(
        NAMES[..3].iter().filter(|name| contents(home).contains(&format!("access.{name}"))).count(),
        0
    );
}

#[tokio::test]
async fn a_key_is_in_no_log_and_no_event() {
    // It has no typical mark.
    const KEY: &str = "nothingtellsthatthisisakey1234567890";
    let setup = Setup::logged_out().await;
    setup.server.accept(KEY);
    let client = setup.client_with(&LOGS, false);
    let key = KeyOptions {
        key: Secret::new(KEY),
        plan: None,
        region: None,
        base_url: Some(format!("{}/v1", setup.server.url())),
        label: None,
        tier: None,
        check: false,
    };
    client.add_api_key(key).await.unwrap();
    let message = json!({"role": "user", "content": format!("my key is {KEY}")});
    let body = json!({"model": "qwen3.7-plus", "messages": [message]});
    text(client.fetch(post(CHAT, &body)).await.unwrap()).await;
    assert!(String::from_utf8_lossy(&setup.server.api_requests()[0].body).contains(KEY));
    setup.server.revoke(KEY);
    assert_eq!(client.fetch(post(CHAT, &body)).await.unwrap().status, 401);

    records(&setup.home, 2).await;
    assert!(!contents(&setup.home).contains(KEY));
    assert!(!format!("{:?}", setup.events.all()).contains(KEY));
}

#[tokio::test]
async fn a_proxys_password_is_in_no_log() {
    let (setup, closed) = (Setup::fresh().await, ClosedPort::new());
    setup.home.write(&document("access-0", "refresh-0", in_seconds(3600), &format!("https://{NAME}")));
    for (address, count) in [(closed.address().to_string(), 1), ("proxy.invalid:3128".to_owned(), 2)] {
        let proxy = format!("http://user:hunter2oftheproxy@{address}");
        let client = setup.client_with(&[LOGS[0], LOGS[1], ("HTTPS_PROXY", &proxy)], false);
        client.fetch(chat(false)).await.unwrap_err();
        assert!(records(&setup.home, count).await[count - 1]["outcome"] == "ERR_QWEN_NETWORK");
    }
    assert!(!contents(&setup.home).contains("hunter2"));
}
