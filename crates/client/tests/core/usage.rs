//! Usage of accounts: counted from answers as they pass, and added up by all processes.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use qwen_base::EventKind;
use qwen_client::{Client, Counts};
use serde_json::json;

use crate::odd_places::Unchangeable;
use crate::support::child::Child;
use crate::support::fleet::{Fleet, ask, quota, who_answers};
use crate::support::reply::{Part, Reply};
use crate::support::setup::{CHAT, ONLY, Setup, chat, get, post, read, text};
use crate::support::time::until;

const USAGE: &str = r#"{"prompt_tokens":100,"completion_tokens":7,"total_tokens":107,"prompt_tokens_details":{"cached_tokens":80}}"#;

/// A stream as the API sends it, with its usage.
fn stream_text() -> String {
    let event = |delta: &str, finish: &str| {
        format!("data: {{\"choices\":[{{\"delta\":{delta},\"finish_reason\":{finish}}}],\"usage\":null}}\n\n")
    };
    [
        event(r#"{"role":"assistant","content":""}"#, "null"),
        event(r#"{"content":"the words \"usage\":{\"prompt_tokens\":5}"}"#, "null"),
        event("{}", "\"stop\""),
        format!("data: {{\"choices\":[],\"usage\":{USAGE}}}\n\n"),
        "data: [DONE]\n\n".to_owned(),
    ]
    .concat()
}

fn in_pieces_of(size: usize) -> Reply {
    let text = stream_text().into_bytes();
    Reply::events(text.chunks(size).map(|piece| Part::Bytes(Bytes::copy_from_slice(piece))).collect())
}

async fn today(client: &Client, id: &str) -> Counts {
    let all = client.usage(0).await.unwrap();
    all.into_iter().find(|usage| usage.account_id == id).unwrap().summary.today
}

fn counts(requests: u64, without_usage: u64, reports: u64) -> Counts {
    Counts {
        requests,
        without_usage,
        input_tokens: 100 * reports,
        cached_tokens: 80 * reports,
        output_tokens: 7 * reports,
    }
}

#[tokio::test]
async fn streams_are_counted_and_passed_on_byte_for_byte() {
    let setup = Setup::fresh().await;
    let sizes = [1, 2, 3, 7, 64, 10_000];
    for client in [setup.client(), setup.host_client()] {
        for size in sizes {
            setup.server.on_api([in_pieces_of(size)]);
            assert_eq!(text(client.fetch(chat(true)).await.unwrap()).await, stream_text());
        }
        client.flush();
    }
    let all = 2 * sizes.len() as u64;
    assert_eq!(today(&setup.client(), ONLY).await, counts(all, 0, all));
}

#[tokio::test]
async fn usage_is_counted_wherever_its_event_is_cut() {
    let setup = Setup::fresh().await;
    let client = setup.host_client();
    let begin = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n";
    let end = format!(
        "data: {{\"choices\":[{{\"delta\":{{}},\"finish_reason\":\"stop\"}}],\"usage\":{USAGE}}}\n\ndata: [DONE]\n\n"
    );
    for cut in [0, 2, 40, end.len() - 20] {
        setup.server.on_api([Reply::events(vec![
            Part::text(&format!("{begin}{}", &end[..cut])),
            Part::Pause(Duration::from_millis(20)),
            Part::text(&end[cut..]),
        ])]);
        assert_eq!(text(client.fetch(chat(true)).await.unwrap()).await, format!("{begin}{end}"));
    }
    assert_eq!(today(&client, ONLY).await, counts(4, 0, 4));
    // The host gets a stream for it.
    let document = format!(
        "{{\"choices\":[{{\"message\":{{\"content\":\"hi\"}},\"finish_reason\":\"stop\"}}],\"usage\":{USAGE}}}"
    );
    setup.server.on_api([Reply::new(200, "application/json", vec![Part::text(&document)])]);
    assert!(text(client.fetch(chat(true)).await.unwrap()).await.contains("[DONE]"));
    assert_eq!(today(&client, ONLY).await, counts(5, 0, 5));
}

#[tokio::test]
async fn json_answers_and_embeddings_are_counted_and_nothing_else() {
    let setup = Setup::fresh().await;
    let client = setup.client();
    let document = format!("{{\"choices\":[{{\"message\":{{\"content\":\"hi\"}}}}],\"usage\":{USAGE}}}");
    let answer = || Reply::new(200, "application/json", vec![Part::text(&document)]);
    setup.server.on_api([answer(), answer()]);
    assert_eq!(text(ask(&client).await).await, document);
    let embeddings = CHAT.replace("chat/completions", "embeddings");
    drop(text(client.fetch(post(&embeddings, &json!({"model": "m"}))).await.unwrap()).await);
    assert_eq!(today(&client, ONLY).await, counts(2, 0, 2));

    setup.server.on_api([answer(), Reply::new(500, "application/json", vec![Part::text(&document)])]);
    drop(text(client.fetch(get(&CHAT.replace("chat/completions", "models"))).await.unwrap()).await);
    drop(text(ask(&client).await).await);
    setup.server.on_every_api(Reply::Close);
    drop(client.fetch(chat(false)).await.unwrap_err());
    assert_eq!(today(&client, ONLY).await, counts(2, 0, 2));
}

#[tokio::test]
async fn an_answer_that_does_not_end_well_is_a_request_without_usage() {
    let setup = Setup::fresh().await;
    let client = setup.host_client();
    let end = stream_text().find("\"stop\"").unwrap();
    let begun = Part::text(&stream_text()[..end]);
    // Cut, empty, and cancelled.
    setup.server.on_api([Reply::events(vec![
        begun.clone(),
        Part::Pause(Duration::from_millis(50)),
        Part::Cut,
    ])]);
    read(&mut client.fetch(chat(true)).await.unwrap().body).await.1.unwrap_err();
    setup.server.on_api([Reply::events(vec![Part::text("data: [DONE]\n\n")])]);
    assert_ne!(client.fetch(chat(true)).await.unwrap().status, 200);
    setup.server.on_api([Reply::events(vec![begun, Part::Stall])]);
    drop(client.fetch(chat(true)).await.unwrap());
    assert_eq!(today(&client, ONLY).await, counts(3, 3, 0));
}

#[tokio::test]
async fn each_answer_counts_for_its_own_account_degraded_or_not() {
    let fleet = Fleet::of(2).await;
    let client = fleet.client();
    let answer = format!("{{\"usage\":{USAGE}}}");
    let answer = || Reply::new(200, "application/json", vec![Part::text(&answer)]);
    fleet.hosts[0].on_api([answer(), quota()]);
    fleet.hosts[1].on_api([answer(), quota()]);
    for _ in 0..2 {
        drop(text(ask(&client).await).await);
    }
    assert_eq!(today(&client, "ann").await, counts(1, 0, 1));
    assert_eq!(today(&client, "bob").await, counts(1, 0, 1));
    fleet.on_every_host(&answer());
    let messages = json!([{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"}]);
    let body = json!({"model": "coder-model", "max_tokens": 4096, "messages": messages});
    let degraded = client.fetch(post(CHAT, &body)).await.unwrap();
    assert_eq!(degraded.headers["x-qwen-degraded"], "1");
    drop(text(degraded).await);
    let (ann, bob) = (today(&client, "ann").await, today(&client, "bob").await);
    assert_eq!((ann.requests + bob.requests, ann.input_tokens + bob.input_tokens), (3, 300));
}

#[tokio::test]
async fn ten_processes_at_once_lose_nothing() {
    let setup = Setup::fresh().await;
    setup.server.on_every_api(in_pieces_of(50));
    let mut processes = join_all((0..10).map(|_| Child::start(&setup))).await;
    for process in &mut processes {
        process.meter(20).await;
    }
    for process in &mut processes {
        assert_eq!(process.answer().await, "metered");
    }
    join_all(processes.into_iter().map(Child::end)).await;
    assert_eq!(today(&setup.client(), ONLY).await, counts(200, 0, 200));
    let names = ["oauth_creds.json", "opencode_qwen_usage.flock", "opencode_qwen_usage.json"];
    assert_eq!(setup.home.files(), names);
    let contents = std::fs::read_to_string(setup.home.qwen_dir().join(names[2])).unwrap();
    assert!(contents.len() < 2_000 && !contents.contains("access") && !contents.contains("hi"), "{contents}");
}

#[tokio::test]
async fn a_killed_process_loses_only_its_last_figures() {
    let setup = Setup::fresh().await;
    setup.server.on_every_api(in_pieces_of(50));
    let mut process = Child::start(&setup).await;
    process.meter(20).await;
    assert_eq!(process.answer().await, "metered");
    // Longer than the delay of a write, and the write itself.
    tokio::time::sleep(Duration::from_secs(7)).await;
    process.kill().await;
    let mut process = Child::start(&setup).await;
    process.meter(1_000_000).await;
    until("more requests", || setup.server.api_requests().len() >= 60).await;
    process.kill().await;
    let client = setup.client();
    let left = today(&client, ONLY).await.requests;
    assert!((20..=setup.server.api_requests().len() as u64).contains(&left), "{left}");
    // The next write works, whatever the killed process left behind.
    drop(text(client.fetch(chat(true)).await.unwrap()).await);
    assert_eq!(today(&client, ONLY).await.requests, left + 1);
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_reported() {
    let setup = Setup::fresh().await;
    let path = setup.home.qwen_dir().join("opencode_qwen_usage.json");
    std::fs::write(&path, "{ half").unwrap();
    let client = setup.client();
    assert_eq!(today(&client, ONLY).await, Counts::default());
    setup.server.on_every_api(in_pieces_of(50));
    drop(text(client.fetch(chat(true)).await.unwrap()).await);
    assert_eq!(today(&client, ONLY).await, counts(1, 0, 1));
    assert_eq!(setup.events.count(EventKind::StoreRepaired), 1);
    let aside =
        setup.home.files().into_iter().filter(|name| name.contains(".json.corrupt-")).collect::<Vec<_>>();
    assert_eq!(std::fs::read_to_string(setup.home.qwen_dir().join(&aside[0])).unwrap(), "{ half");
    assert_eq!(aside.len(), 1);
}

#[tokio::test]
async fn a_damaged_file_that_can_not_be_replaced_is_not_copied() {
    let setup = Setup::fresh().await;
    let path = setup.home.qwen_dir().join("opencode_qwen_usage.json");
    std::fs::write(&path, "{ half").unwrap();
    let Some(unchangeable) = Unchangeable::make(path, "i") else { return };
    for _ in 0..2 {
        let client = setup.client();
        drop(text(client.fetch(chat(true)).await.unwrap()).await);
        client.flush();
    }
    let names = setup.home.files();
    assert!(names.iter().all(|name| !name.contains(".corrupt-")), "{names:?}");
    drop(unchangeable);
}

#[tokio::test]
async fn unwritable_usage_figures_stop_no_answer() {
    let setup = Setup::fresh().await;
    // A file of a newer version is left alone.
    let path = setup.home.qwen_dir().join("opencode_qwen_usage.json");
    std::fs::write(&path, r#"{"version":9}"#).unwrap();
    let client = setup.client();
    setup.server.on_every_api(in_pieces_of(50));
    assert_eq!(text(client.fetch(chat(true)).await.unwrap()).await, stream_text());
    let error = client.usage(0).await.unwrap_err();
    assert_eq!(error.path(), Some(path.as_path()));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), r#"{"version":9}"#);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(today(&client, ONLY).await, counts(1, 0, 1));
}

#[tokio::test]
async fn the_last_account_that_is_ready_is_named_once() {
    let last = |fleet: &Fleet| -> Vec<String> {
        let all = fleet.setup.events.all().into_iter().map(|event| event.message);
        all.filter(|message| message.contains("last one that is ready")).collect()
    };
    let fleet = Fleet::of(3).await;
    let client = fleet.client();
    fleet.hosts[0].on_every_api(quota());
    assert_eq!(who_answers(&client).await, "bob");
    assert_eq!(last(&fleet), Vec::<String>::new());
    fleet.hosts[1].on_every_api(quota());
    for _ in 0..3 {
        assert_eq!(who_answers(&client).await, "cyd");
    }
    let named = "Requests go to the Qwen account \"Account 3\" now. It is the last one that is ready.";
    assert_eq!(last(&fleet), [named]);

    let fleet = Fleet::of(2).await;
    let client = fleet.setup.client_with(&[("OPENCODE_QWEN_ROTATION", "round-robin")], false);
    fleet.hosts[0].on_every_api(quota());
    for _ in 0..3 {
        assert_eq!(who_answers(&client).await, "bob");
    }
    let [named] = &last(&fleet)[..] else { panic!("{:?}", last(&fleet)) };
    assert!(named.starts_with("The Qwen account \"Account 1\" has used up its quota"), "{named}");
    assert!(named.ends_with(" \"Account 2\" is the last one that is ready."), "{named}");

    let fleet = Fleet::of(1).await;
    drop(ask(&fleet.client()).await);
    assert_eq!(last(&fleet), Vec::<String>::new());
}
