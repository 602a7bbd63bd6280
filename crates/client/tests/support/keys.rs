//! Keys beside a fleet's logins. Each has its own server.

use serde_json::json;

use super::fleet::Fleet;
use super::home::in_seconds;
use super::server::Server;

impl Fleet {
    /// Adds a key of a plan. Its id is also its label and a part of its secret. Returns its server.
    pub async fn add_key(&self, id: &str, plan: &str) -> Server {
        let host = Server::start().await;
        host.accept(&secret(id));
        let before = in_seconds(-3600);
        let record = json!({
            "id": id, "label": id, "plan": plan, "key": secret(id), "baseUrl": format!("{}/v1", host.url()),
            "createdAt": before, "updatedAt": before,
        });
        self.edit_store(|store| match store["apiKeys"].as_array_mut() {
            Some(keys) => keys.push(record),
            None => store["apiKeys"] = json!([record]),
        });
        host
    }

    /// Adds a key whose server lists these models alone, and refuses other keys.
    pub async fn add_place(&self, id: &str, plan: &str, models: &[&str]) -> Server {
        let place = self.add_key(id, plan).await;
        place.offer(models);
        place
    }

    pub fn choose(&self, id: &str) {
        self.edit_store(|store| store["activeAccountId"] = json!(id));
    }
}

pub fn secret(id: &str) -> String {
    format!("sk-sp-{id}")
}
