//! Keys beside the logins of a fleet, each at home on a server of its own.

use serde_json::json;

use super::fleet::Fleet;
use super::home::in_seconds;
use super::server::Server;

impl Fleet {
    /// Adds a key of a plan, whose id is also its label and a part of its secret. Gives its server.
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

    /// Adds a key whose server plays its place: it has these models alone, and takes no other keys.
    pub async fn add_place(&self, id: &str, plan: &str, models: &[&str]) -> Server {
        let place = self.add_key(id, plan).await;
        place.offer(models);
        place
    }

    /// Makes an account the active one.
    pub fn choose(&self, id: &str) {
        self.edit_store(|store| store["activeAccountId"] = json!(id));
    }
}

/// The key of an account.
pub fn secret(id: &str) -> String {
    format!("sk-sp-{id}")
}
