//! Model lists of keys: they come from the servers, and a bad answer changes nothing.

use bytes::Bytes;
use qwen_base::EventKind;
use qwen_client::OfferedModel;
use serde_json::json;

use crate::support::fleet::{Fleet, who};
use crate::support::keys::secret;
use crate::support::reply::{Part, Reply};
use crate::support::server::Server;
use crate::support::setup::{CHAT, post};

const MODELS_PATH: &str = "/v1/models";
const LISTS: &str = "opencode_qwen_models.json";

fn ids(models: &[OfferedModel]) -> Vec<&str> {
    let of_key = models.iter().filter(|model| model.accounts.contains(&"plan".to_owned()));
    of_key.map(|model| model.id.as_str()).collect()
}

#[tokio::test]
async fn the_servers_list_is_offered_and_a_bad_answer_keeps_it() {
    let fleet = Fleet::of(1).await;
    let listed = ["qwen3.7-plus", "qwen9-new", "wan2.7-image", "bad\u{7}id"];
    let plan = fleet.add_place("plan", "token-plan", &listed).await;
    let client = fleet.client();
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
    // Another process sees that it was asked.
    fleet.client().models(false).await.unwrap();
    client.models(false).await.unwrap();
    assert_eq!(plan.requests(MODELS_PATH).len(), 1);
}

#[tokio::test]
async fn each_endpoint_is_asked_for_its_own_models() {
    let fleet = Fleet::of(1).await;
    let one = fleet.add_place("one", "token-plan", &["qwen3.7-plus", "glm-5"]).await;
    let two = fleet.add_place("two", "coding-plan", &["qwen3.7-plus", "qwen3-coder-plus"]).await;
    fleet.choose("one");
    let client = fleet.client();
    let ask = async |model: &str| {
        let body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}]});
        client.fetch(post(CHAT, &body)).await.map(|answer| (answer.status.as_u16(), who(&answer)))
    };
    // Before the lists are known, an endpoint without the model leaves it to the next.
    assert_eq!(ask("qwen3-coder-plus").await.unwrap(), (200, "two".to_owned()));
    let models = client.models(true).await.unwrap();
    let accounts = |id: &str| &models.iter().find(|model| model.id == id).unwrap().accounts;
    assert_eq!((accounts("glm-5"), accounts("qwen3-coder-plus")), (&vec!["one".into()], &vec!["two".into()]));
    assert_eq!(accounts("qwen3.7-plus").len(), 2);
    assert_eq!(ask("glm-5").await.unwrap(), (200, "one".to_owned()));
    let chats = |place: &Server| place.requests("/v1/chat/completions").len();
    assert_eq!((chats(&one), chats(&two)), (2, 1));
    // A refused key leaves the model to the other key.
    one.revoke(&secret("one"));
    assert_eq!(ask("qwen3.7-plus").await.unwrap(), (200, "two".to_owned()));
}

#[tokio::test]
async fn a_silent_server_is_named_and_delays_no_other_list() {
    let fleet = Fleet::of(1).await;
    let _plan = fleet.add_place("plan", "token-plan", &["qwen9-new"]).await;
    let silent = ["silent", "mute"];
    let mut servers = Vec::new();
    for id in silent {
        let server = fleet.add_key(id, "coding-plan").await;
        server.on_every_api(Reply::Hang);
        servers.push(server);
    }
    assert_eq!(ids(&fleet.client().models(true).await.unwrap()), ["qwen9-new"]);
    assert!(servers.iter().all(|server| server.requests(MODELS_PATH).len() == 1));
    for id in silent {
        let events = fleet.setup.events.all();
        assert!(
            events.iter().any(|event| event.message.contains(&format!("\"{id}\" could not be listed"))),
            "{id}"
        );
    }
}
