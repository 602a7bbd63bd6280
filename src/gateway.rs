//! A client's gateways as JavaScript holds them: by the number of the call that opened each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use qwen_base::{Clock, Result, lock};
use qwen_client::{Client, Entry, Gateway, GatewaySettings, Listener};
use serde_json::{Value, json};

use super::bridge::Shared;

/// The gateways of one client that are open.
#[derive(Default, Clone)]
pub struct Gateways(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    open: HashMap<u32, Gateway>,
    /// Whether the client is closed: a gateway that comes after that is closed as well.
    is_closed: bool,
}

impl Gateways {
    /// Opens a gateway, and says where.
    ///
    /// # Errors
    /// As [`Gateway::open`].
    pub async fn open(&self, id: u32, client: Arc<Client>, settings: GatewaySettings) -> Result<Value> {
        let gateway = Gateway::open(client, Clock::system(), settings).await?;
        let opened = json!({"id": id, "url": gateway.url(), "key": gateway.key().expose()});
        let mut state = self.lock();
        if !state.is_closed {
            state.open.insert(id, gateway);
        }
        Ok(opened)
    }

    /// Closes a gateway once its answers are out, or cut off.
    pub async fn close(&self, id: u32) {
        let gateway = self.lock().open.remove(&id);
        if let Some(gateway) = gateway {
            gateway.close().await;
        }
    }

    /// Closes all at once.
    pub fn close_all(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.open.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

/// Tells JavaScript's listener `id` of each request.
pub fn listener(id: u32, shared: &Arc<Shared>) -> Listener {
    let shared = Arc::downgrade(shared);
    Arc::new(move |entry| {
        if let Some(shared) = shared.upgrade() {
            shared.send_value(id, "event", entry_value(&entry));
        }
    })
}

fn entry_value(entry: &Entry) -> Value {
    json!({
        "at": entry.at,
        "method": entry.method,
        "path": entry.path,
        "model": entry.model,
        "account": entry.account,
        "status": entry.status,
        "durationMs": entry.duration_ms,
        "inputTokens": entry.tokens.map(|tokens| tokens.input),
        "outputTokens": entry.tokens.map(|tokens| tokens.output),
    })
}
