//! The models of keys: the servers' lists, and what a bad answer changes, which is nothing.

use bytes::Bytes;
use opencode_qwen_cli_auth::events::EventKind;
use opencode_qwen_cli_auth::models::offer::OfferedModel;
use serde_json::json;

use crate::support::fleet::Fleet;
use crate::support::reply::{Part, Reply};

const MODELS_PATH: &str = "/v1/models";
const LISTS: &str = "opencode_qwen_models.json";

fn list(ids: &[&str]) -> Reply {
    Reply::json(
        200,
        &json!({"object": "list", "data": ids.iter().map(|id| json!({"id": id})).collect::<Vec<_>>()}),
    )
}

fn ids(models: &[OfferedModel]) -> Vec<&str> {
    let of_key = models.iter().filter(|model| model.accounts.contains(&"plan".to_owned()));
    of_key.map(|model| model.id.as_str()).collect()
}

#[tokio::test]
async fn the_servers_list_is_offered_and_a_bad_answer_leaves_it() {
    let fleet = Fleet::of(1).await;
    let plan = fleet.add_key("plan", "token-plan").await;
    let client = fleet.client();
    plan.on_every_api(list(&["qwen3.7-plus", "qwen9-new", "wan2.7-image", "bad\u{7}id"]));
    assert_eq!(ids(&client.models(true).await.unwrap()), ["qwen3.7-plus", "qwen9-new"]);
    let kept = std::fs::read(fleet.setup.home.qwen_dir().join(LISTS)).unwrap();
    assert!(!String::from_utf8(kept).unwrap().contains("sk-sp-"));
    let flood = Part::Flood(Bytes::from(vec![b' '; 64 * 1024]));
    for bad in [
        Reply::html(200),
        Reply::html(502),
        Reply::redirect(302, "https://models.example/"),
        Reply::json(200, &json!({"data": []})),
        Reply::json(200, &json!({"error": {"message": "no"}})),
        Reply::new(200, "application/json", vec![Part::text("{\"data\":["), flood]),
        Reply::new(200, "application/json", vec![Part::text("{\"data\":["), Part::Cut]),
        Reply::Close,
    ] {
        let notes = fleet.setup.events.count(EventKind::Config);
        plan.on_every_api(bad.clone());
        assert_eq!(ids(&client.models(true).await.unwrap()), ["qwen3.7-plus", "qwen9-new"], "{bad:?}");
        assert_eq!(fleet.setup.events.count(EventKind::Config), notes + 1, "{bad:?}");
    }
}

#[tokio::test]
async fn a_silent_server_delays_nothing_and_is_asked_once() {
    let fleet = Fleet::of(1).await;
    let plan = fleet.add_key("plan", "coding-plan").await;
    plan.on_every_api(Reply::Hang);
    let client = fleet.client();
    let offered = client.models(false).await.unwrap();
    assert!(
        ids(&offered).contains(&"qwen3-coder-plus") && offered.iter().any(|model| model.id == "coder-model")
    );
    while plan.requests(MODELS_PATH).is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    // Another process finds it asked.
    fleet.client().models(false).await.unwrap();
    client.models(false).await.unwrap();
    assert_eq!(plan.requests(MODELS_PATH).len(), 1);
}
