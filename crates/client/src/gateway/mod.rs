//! A local HTTP server for programs that use the `OpenAI` API but can't load this package.
//!
//! It listens on loopback, requires its key, and sends each request through the client's pipeline.

mod connection;
mod departure;
mod entry;
mod exchange;
mod gate;
mod listen;
mod models;
mod refusal;
mod reply;
mod socket;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use qwen_base::{Clock, Error, Result, Secret};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

pub use self::entry::{EntryListener, GatewayEntry};
use self::exchange::Exchange;
use self::gate::Gate;
use self::listen::Listeners;
use self::upload::Uploads;
use crate::client::Client;

/// Minimum length of a key, in bytes.
pub const MIN_KEY_LENGTH: usize = 32;
/// Maximum number of connections. Further ones wait.
const MAX_CONNECTIONS: usize = 2_048;
/// Time for open answers to finish when the gateway closes.
const GRACE: Duration = Duration::from_secs(2);
/// Pause after a failed accept, for example if file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Settings of a gateway.
#[derive(Clone, Default)]
pub struct GatewaySettings {
    /// Port, or 0 to let the system choose.
    pub port: u16,
    /// Key, or `None` for a random one.
    pub key: Option<Secret>,
    /// True to tell `OpenCode` 2 which errors are final and which are pauses.
    pub for_opencode: bool,
    /// The user's local time minus UTC, in minutes. Errors name times of day.
    pub utc_offset_minutes: i32,
    /// Called after each request.
    pub listener: Option<EntryListener>,
}

/// An open gateway. Dropping it closes it and all its connections.
pub struct Gateway {
    port: u16,
    key: Secret,
    closing: watch::Sender<bool>,
    is_closed: watch::Receiver<bool>,
    task: AbortHandle,
}

impl Gateway {
    /// Opens a gateway. Needs a runtime.
    ///
    /// # Errors
    /// `ERR_QWEN_PORT_IN_USE`; `ERR_QWEN_INVALID_ARGUMENT` for a key that is too short or not valid in a header.
    pub async fn open(client: Arc<Client>, clock: Clock, settings: GatewaySettings) -> Result<Self> {
        let key = match settings.key {
            Some(key) => checked(key)?,
            None => random_key()?,
        };
        client.keep_secret(&key);
        let listeners = listen::bind(settings.port).await?;
        let port = listeners.port;
        let exchange = Arc::new(Exchange {
            client,
            gate: Gate::new(port, &key),
            uploads: Uploads::default(),
            listener: settings.listener,
            clock,
            for_opencode: settings.for_opencode,
            utc_offset_minutes: settings.utc_offset_minutes,
        });
        let (closing, is_closing) = watch::channel(false);
        let (closed, is_closed) = watch::channel(false);
        let task = tokio::spawn(async move {
            run(exchange, listeners, is_closing).await;
            let _ = closed.send(true);
        });
        Ok(Self { port, key, closing, is_closed, task: task.abort_handle() })
    }

    /// Returns the base URL for an `OpenAI` client.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    /// Returns the key that clients send.
    #[must_use]
    pub fn key(&self) -> &Secret {
        &self.key
    }

    /// Accepts no more connections, lets answers finish for 2 s, then cuts them off. The future borrows nothing.
    pub fn close(&self) -> impl Future<Output = ()> + Send + use<> {
        let _ = self.closing.send(true);
        let mut is_closed = self.is_closed.clone();
        async move {
            // An error means that the task has ended.
            let _ = is_closed.wait_for(|closed| *closed).await;
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("port", &self.port).finish_non_exhaustive()
    }
}

async fn run(exchange: Arc<Exchange>, listeners: Listeners, mut is_closing: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    let closing = is_closing.clone();
    loop {
        let has_room = connections.len() < MAX_CONNECTIONS;
        let accepted = tokio::select! {
            _ = is_closing.wait_for(|closing| *closing) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = accept(Some(&listeners.v4)), if has_room => accepted,
            accepted = accept(listeners.v6.as_ref()), if has_room => accepted,
        };
        match accepted {
            Ok(stream) => {
                drop(connections.spawn(connection::serve(Arc::clone(&exchange), stream, closing.clone())));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
    drop(listeners);
    let drained = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(GRACE, drained).await;
    connections.shutdown().await;
}

async fn accept(listener: Option<&TcpListener>) -> std::io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

/// Returns a key of 256 random bits.
fn random_key() -> Result<Secret> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(Error::internal)?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(bytes)))
}

fn checked(key: Secret) -> Result<Secret> {
    let text = key.expose();
    if text.chars().count() < MIN_KEY_LENGTH {
        let expected = format!("must have at least {MIN_KEY_LENGTH} characters");
        return Err(Error::invalid_argument("key", &expected));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::invalid_argument(
            "key",
            "must consist of visible ASCII characters without spaces",
        ));
    }
    Ok(key)
}
