//! `GET /v1/models`: what the accounts have, in the API's form.

use qwen_base::Result;
use serde_json::{Value, json};

use crate::client::Client;

/// The list as JSON.
pub(super) async fn list(client: &Client) -> Result<String> {
    let models: Vec<Value> = client
        .model_ids()
        .await?
        .into_iter()
        .map(|id| json!({"id": id, "object": "model", "created": 0, "owned_by": "qwen"}))
        .collect();
    Ok(json!({"object": "list", "data": models}).to_string())
}
