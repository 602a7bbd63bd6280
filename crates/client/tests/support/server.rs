//! A server that plays Qwen: OAuth with single-use rotating refresh tokens, and an API that knows its tokens.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{Request, State as Shared};
use axum::response::Response;
use axum::serve::{IncomingStream, Listener};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::reply::Reply;
pub use super::seen::Seen;
use super::time::until;
use super::tls::TlsListener;

pub const DEVICE_PATH: &str = "/api/v1/oauth2/device/code";
pub const TOKEN_PATH: &str = "/api/v1/oauth2/token";
/// The acknowledgement of a client that read a whole good answer.
pub const GOOD_STREAM: &str = concat!(
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"Hel\"}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"lo\"},\"finish_reason\":\"stop\"}]}\n\n",
    "data: [DONE]\n\n",
);

#[derive(Default)]
struct Book {
    challenge: String,
    /// Refresh tokens that may still be redeemed.
    live: HashSet<String>,
    spent: HashSet<String>,
    /// Access tokens that the API takes.
    accepted: HashSet<String>,
    issued: usize,
    /// Models that this server lists for keys; `None` for a server of logins, which has any.
    models: Option<Vec<String>>,
    /// Fields of a token answer to set, or to leave out if null.
    overrides: Map<String, Value>,
    /// Lineage whose tokens the API takes.
    lineage: Option<String>,
    device: VecDeque<Reply>,
    token: VecDeque<Reply>,
    /// Used once `token` is empty.
    token_otherwise: Option<Reply>,
    api: VecDeque<Reply>,
    api_otherwise: Option<Reply>,
    redemptions: usize,
    redeemed_again: usize,
    seen: Vec<Seen>,
}

pub struct State {
    address: SocketAddr,
    book: Mutex<Book>,
    hold: watch::Sender<bool>,
    sent: AtomicUsize,
    open: AtomicUsize,
}

/// A running server. Dropping this value ends it.
pub struct Server {
    state: Arc<State>,
    scheme: &'static str,
    task: AbortHandle,
}

#[derive(Clone, Copy)]
pub struct Peer(SocketAddr);

impl Connected<IncomingStream<'_, TcpListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

impl Server {
    pub async fn start() -> Self {
        Self::serve("http", TcpListener::bind(("127.0.0.1", 0)).await.unwrap())
    }

    pub fn serve<L: Listener<Addr = SocketAddr>>(scheme: &'static str, listener: L) -> Self
    where
        for<'a> Peer: Connected<IncomingStream<'a, L>>,
    {
        let state = Arc::new(State {
            address: listener.local_addr().unwrap(),
            book: Mutex::default(),
            hold: watch::Sender::new(false),
            sent: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
        });
        let router = Router::new().fallback(handle).with_state(Arc::clone(&state));
        let serving = axum::serve(listener, router.into_make_service_with_connect_info::<Peer>());
        let task = tokio::spawn(async move { serving.await.unwrap() }).abort_handle();
        Self { state, scheme, task }
    }

    pub fn address(&self) -> SocketAddr {
        self.state.address
    }

    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.state.address)
    }

    /// Queues answers to device authorization requests.
    pub fn on_device(&self, replies: impl IntoIterator<Item = Reply>) {
        self.book().device.extend(replies);
    }

    /// Queues answers to token requests.
    pub fn on_token(&self, replies: impl IntoIterator<Item = Reply>) {
        self.book().token.extend(replies);
    }

    /// Answers all token requests for which no answer is queued.
    pub fn on_every_token(&self, reply: Reply) {
        self.book().token_otherwise = Some(reply);
    }

    /// Queues answers to API requests.
    pub fn on_api(&self, replies: impl IntoIterator<Item = Reply>) {
        self.book().api.extend(replies);
    }

    /// Answers all API requests for which no answer is queued.
    pub fn on_every_api(&self, reply: Reply) {
        self.book().api_otherwise = Some(reply);
    }

    /// Sets a field of every token answer, or leaves it out if `value` is null.
    pub fn issue_with(&self, field: &str, value: Value) {
        self.book().overrides.insert(field.to_owned(), value);
    }

    /// Accepts tokens that this server did not issue.
    pub fn know(&self, access_token: &str, refresh_token: &str) {
        let mut book = self.book();
        book.accepted.insert(access_token.to_owned());
        book.live.insert(refresh_token.to_owned());
    }

    pub fn accept(&self, key: &str) {
        self.book().accepted.insert(key.to_owned());
    }

    /// Makes the API list these models alone, and refuse unknown keys.
    pub fn offer(&self, models: &[&str]) {
        self.book().models = Some(models.iter().map(|model| (*model).to_owned()).collect());
    }

    /// Makes the API take `access.<lineage>.0`, and each token that redeeming `refresh.<lineage>.0` brings.
    pub fn serve_lineage(&self, lineage: &str) {
        self.book().lineage = Some(lineage.to_owned());
    }

    pub fn revoke(&self, access_token: &str) {
        self.book().accepted.remove(access_token);
    }

    /// Acts on token requests, but keeps the answers back until [`Server::release`].
    pub fn hold(&self) {
        self.state.hold.send_replace(true);
    }

    pub fn release(&self) {
        self.state.hold.send_replace(false);
    }

    pub fn requests(&self, path: &str) -> Vec<Seen> {
        self.book().seen.iter().filter(|seen| seen.uri.path() == path).cloned().collect()
    }

    pub fn token_requests(&self) -> usize {
        self.requests(TOKEN_PATH).len()
    }

    /// Requests to other paths than the OAuth endpoints.
    pub fn api_requests(&self) -> Vec<Seen> {
        let is_oauth = |seen: &&Seen| seen.uri.path().starts_with("/api/v1/oauth2/");
        self.book().seen.iter().filter(|seen| !is_oauth(seen)).cloned().collect()
    }

    pub fn all_requests(&self) -> usize {
        self.book().seen.len()
    }

    pub fn redemptions(&self) -> usize {
        self.book().redemptions
    }

    /// Counts offers of a refresh token that had been redeemed before.
    pub fn redeemed_again(&self) -> usize {
        self.book().redeemed_again
    }

    /// Bytes of bodies that the network has taken.
    pub fn bytes_sent(&self) -> usize {
        self.state.sent.load(Ordering::SeqCst)
    }

    /// Requests whose answer has not ended, and whose connection is open.
    pub fn open_requests(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    pub async fn until_token_requests(&self, count: usize) {
        until(&format!("{count} token requests"), || self.token_requests() >= count).await;
    }

    pub async fn until_closed(&self) {
        until("the end of every connection's request", || self.open_requests() == 0).await;
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.state.book.lock().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Book {
    fn takes(&self, token: &str) -> bool {
        let of_lineage = |lineage: &String| token.starts_with(&format!("access.{lineage}."));
        self.accepted.contains(token) || self.lineage.as_ref().is_some_and(of_lineage)
    }
}

/// Returns the next tokens of a lineage; `None` for a refresh token without one.
fn heirs(refresh_token: &str) -> Option<(String, String)> {
    let (lineage, count) = refresh_token.strip_prefix("refresh.")?.rsplit_once('.')?;
    let next = count.parse::<u32>().ok()? + 1;
    Some((format!("access.{lineage}.{next}"), format!("refresh.{lineage}.{next}")))
}

/// Counts a request as open while it lives.
struct Open(Arc<State>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn handle(
    Shared(state): Shared<Arc<State>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    request: Request,
) -> Response {
    state.open.fetch_add(1, Ordering::SeqCst);
    let open = Open(Arc::clone(&state));
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let seen = Seen {
        method: head.method,
        uri: head.uri,
        version: head.version,
        headers: head.headers,
        body,
        at: Instant::now(),
        peer,
    };
    let path = seen.uri.path().to_owned();
    let reply = {
        let mut book = state.book.lock().unwrap();
        book.seen.push(seen.clone());
        let reply = match path.as_str() {
            DEVICE_PATH => book.device.pop_front(),
            TOKEN_PATH => book.token.pop_front().or_else(|| book.token_otherwise.clone()),
            _ => book.api.pop_front().or_else(|| book.api_otherwise.clone()),
        };
        reply.unwrap_or(Reply::Real)
    };
    let reply = match reply {
        Reply::Real => state.real(&seen),
        Reply::Lost => {
            state.real(&seen);
            Reply::Close
        }
        other => other,
    };
    if path == TOKEN_PATH {
        // The state owns the sender, so there is always a next value to wait for.
        let _ = state.hold.subscribe().wait_for(|held| !held).await;
    }
    match reply {
        Reply::Answer(answer) => {
            let counting = Arc::clone(&state);
            let count = move |bytes| {
                counting.sent.fetch_add(bytes, Ordering::SeqCst);
            };
            answer.respond(count, open)
        }
        Reply::Hang => std::future::pending().await,
        // An unwinding handler closes its connection; unlike a panic it prints nothing.
        Reply::Close | Reply::Real | Reply::Lost => {
            std::panic::resume_unwind(Box::new("the connection ends"))
        }
    }
}

impl State {
    fn real(&self, seen: &Seen) -> Reply {
        let mut book = self.book.lock().unwrap();
        match seen.uri.path() {
            DEVICE_PATH => {
                book.challenge = seen.field("code_challenge");
                Reply::json(
                    200,
                    &json!({
                        "device_code": "device-code", "user_code": "ABCD-EFGH", "expires_in": 600, "interval": 5,
                        "verification_uri": "https://chat.qwen.ai/authorize",
                        "verification_uri_complete": "https://chat.qwen.ai/authorize?user_code=ABCD-EFGH",
                    }),
                )
            }
            TOKEN_PATH if seen.field("grant_type") == "refresh_token" => {
                let token = seen.field("refresh_token");
                if book.live.remove(&token) {
                    book.redemptions += 1;
                    let next = heirs(&token);
                    book.spent.insert(token);
                    return self.issue(&mut book, next);
                }
                book.redeemed_again += usize::from(book.spent.contains(&token));
                Reply::oauth_error(400, "invalid_grant")
            }
            TOKEN_PATH => {
                let verifier = seen.field("code_verifier");
                let matches = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)) == book.challenge;
                if matches && seen.field("device_code") == "device-code" {
                    return self.issue(&mut book, None);
                }
                Reply::oauth_error(400, "invalid_grant")
            }
            _ if !book.takes(seen.bearer()) && book.models.is_some() => {
                Reply::api_error(403, "invalid_api_key", "invalid api-key")
            }
            _ if !book.takes(seen.bearer()) => {
                Reply::api_error(401, "invalid_api_key", "invalid access token or token expired")
            }
            "/v1/models" if book.models.is_some() => {
                let models = book.models.iter().flatten().map(|id| json!({"id": id, "object": "model"}));
                Reply::json(200, &json!({"object": "list", "data": models.collect::<Vec<_>>()}))
            }
            _ => {
                let body: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
                let is_missing = |models: &Vec<String>| models.iter().all(|model| body["model"] != **model);
                if book.models.as_ref().is_some_and(is_missing) {
                    return Reply::api_error(404, "model_not_found", "The model does not exist.");
                }
                if body["stream"] == true {
                    return Reply::events(vec![super::reply::Part::text(GOOD_STREAM)]);
                }
                let choice = json!({"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello"}});
                Reply::json(200, &json!({"id": "chat-1", "object": "chat.completion", "choices": [choice]}))
            }
        }
    }

    fn issue(&self, book: &mut Book, tokens: Option<(String, String)>) -> Reply {
        book.issued += 1;
        let (access_token, refresh_token) =
            tokens.unwrap_or_else(|| (format!("access-{}", book.issued), format!("refresh-{}", book.issued)));
        let mut answer = json!({
            "access_token": access_token, "refresh_token": refresh_token, "token_type": "Bearer",
            "expires_in": 21_600, "resource_url": format!("http://{}", self.address),
        });
        for (field, value) in &book.overrides {
            match value {
                Value::Null => drop(answer.as_object_mut().unwrap().shift_remove(field)),
                value => answer[field] = value.clone(),
            }
        }
        if let Some(token) = answer["access_token"].as_str() {
            book.accepted.insert(token.to_owned());
        }
        if let Some(token) = answer.get("refresh_token").and_then(Value::as_str) {
            book.live.insert(token.to_owned());
        }
        Reply::json(200, &answer)
    }
}
