//! Answers `GET /v1/models`.

use qwen_base::Result;
use serde_json::{Value, json};

use crate::client::Client;

pub(super) async fn list(client: &Client) -> Result<String> {
    let models: Vec<Value> = client
        .model_ids()
        .await?
        .into_iter()
        .map(|id| json!({"id": id, "object": "model", "created": 0, "owned_by": "qwen"}))
        .collect();
    Ok(json!({"object": "list", "data": models}).to_string())
}
