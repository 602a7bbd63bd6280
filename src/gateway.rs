//! The gateways of a client, by the id of the call that opened each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use qwen_base::{Clock, Result, lock};
use qwen_client::{Client, EntryListener, Gateway, GatewayEntry, GatewaySettings};
use serde_json::{Value, json};

use super::bridge::SharedBridge;

#[derive(Default, Clone)]
pub struct Gateways(Arc<Mutex<OpenGateways>>);

#[derive(Default)]
struct OpenGateways {
    open: HashMap<u32, Gateway>,
    /// True if the client is closed. A gateway that opens later is closed too.
    is_closed: bool,
}

impl Gateways {
    /// Opens a gateway and returns its URL and key.
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

    /// Closes a gateway after its answers have ended or time is up.
    pub async fn close(&self, id: u32) {
        let gateway = self.lock().open.remove(&id);
        if let Some(gateway) = gateway {
            gateway.close().await;
        }
    }

    /// Closes all gateways at once.
    pub fn close_all(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.open.clear();
    }

    fn lock(&self) -> MutexGuard<'_, OpenGateways> {
        lock(&self.0)
    }
}

/// Reports each request to the JavaScript listener `id`.
pub fn listener(id: u32, shared: &Arc<SharedBridge>) -> EntryListener {
    let shared = Arc::downgrade(shared);
    Arc::new(move |entry| {
        if let Some(shared) = shared.upgrade() {
            shared.send_value(id, "event", entry_value(&entry));
        }
    })
}

fn entry_value(entry: &GatewayEntry) -> Value {
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
