//! The client as a JavaScript object.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use napi::bindgen_prelude::{Either, Utf16String};
use napi_derive::napi;
use qwen_base::{Busy, Clock, Error, Events, Result, Secret};
use qwen_client::{
    Answer, Client, Context, GatewaySettings, ReceivedBody, Redirect, Request, headers, off_thread,
    receive_body,
};
use serde_json::{Value, json};

use super::body::ResponseBody;
use super::bridge::{Bridge, SharedBridge};
use super::gateway::{Gateways, listener};
use super::process_end;
use super::runtime::{runtime, start_blocking};
use super::types::{
    FetchResponse, HostTokens, RequestBody, ResponseContent, SEPARATOR, Variables, access_token_value,
    account_value, error_value, event_value, found_value, imported_value, model_value, read_options,
    usage_value,
};

#[napi]
pub struct NativeClient {
    client: Arc<Client>,
    shared: Arc<SharedBridge>,
    busy: Busy,
    gateways: Gateways,
    for_opencode: bool,
}

/// A client or the error that prevented it.
#[napi(object, object_from_js = false)]
pub struct Created {
    pub client: Option<NativeClient>,
    pub error: Option<Value>,
}

/// Creates a client. Its events are sent as messages with its id.
#[napi(catch_unwind)]
pub fn create_client(bridge: &Bridge, id: u32, options: Value, variables: Variables) -> Created {
    let shared = Arc::clone(bridge.shared());
    let listener = Arc::downgrade(&shared);
    let events = Events::new(move |event| {
        if let Some(shared) = listener.upgrade() {
            shared.send_value(id, "event", event_value(&event));
        }
    });
    let for_opencode = options["forOpenCode"] == true;
    let context = Context { for_opencode, clock: Clock::system(), events, busy: bridge.busy().clone() };
    let environment = variables.into_iter().collect();
    match read_options(options).and_then(|options| Client::new(&options, environment, context)) {
        Ok(client) => {
            let client = Arc::new(client);
            process_end::flush_at_end(client.usage_book());
            Created {
                client: Some(NativeClient {
                    client,
                    shared,
                    busy: bridge.busy().clone(),
                    gateways: Gateways::default(),
                    for_opencode,
                }),
                error: None,
            }
        }
        Err(error) => Created { client: None, error: Some(error_value(&error)) },
    }
}

#[napi]
impl NativeClient {
    /// The base URL for callers.
    #[napi(getter, catch_unwind)]
    pub fn base_url(&self) -> String {
        self.client.base_url()
    }

    /// Absolute paths of the files whose changes can change accounts or models. A file may not exist.
    #[napi(getter, catch_unwind)]
    pub fn account_files(&self) -> Vec<String> {
        self.client.account_files().iter().map(|path| path.to_string_lossy().into_owned()).collect()
    }

    /// Closes its gateways and its idle connections.
    #[napi(catch_unwind)]
    pub fn close(&self) {
        self.gateways.close_all();
        self.client.close();
    }

    /// Sends a request. The body of its response gets the id of the call. `head` has the method, the redirect mode, and
    /// the names and values of the headers in turn. `utf8Body` replaces `body` where the runtime converts strings to
    /// UTF-8 quickly. `utcOffsetMinutes` is the caller's offset from UTC.
    #[napi(catch_unwind)]
    pub fn fetch(
        &self,
        id: u32,
        url: String,
        head: String,
        utc_offset_minutes: i32,
        body: Option<RequestBody>,
        utf8_body: Option<String>,
    ) {
        let (client, shared) = (Arc::clone(&self.client), Arc::clone(&self.shared));
        let (text, bytes) = match body {
            Some(Either::A(text)) => (Some(text), None),
            Some(Either::B(bytes)) => (None, Some(Bytes::copy_from_slice(&bytes))),
            None => (None, utf8_body.map(Bytes::from)),
        };
        self.shared.run_fetch(id, async move {
            let mut request = read_request(url, &head, utc_offset_minutes)?;
            request.body = bytes;
            if let Some(text) = text {
                request.body = Some(utf8(text).await?);
            }
            let answer = client.fetch(request).await?;
            Ok(response(id, answer, shared).await)
        });
    }

    /// Opens a gateway on a port; 0 lets the system choose one. Its requests are reported to the listener `entries`.
    /// `utcOffsetMinutes` is the caller's offset from UTC.
    #[napi(catch_unwind)]
    pub fn serve(
        &self,
        id: u32,
        port: u16,
        key: Option<String>,
        entries: Option<u32>,
        utc_offset_minutes: i32,
    ) {
        let gateways = self.gateways.clone();
        let settings = GatewaySettings {
            port,
            key: key.map(Secret::new),
            for_opencode: self.for_opencode,
            utc_offset_minutes,
            listener: entries.map(|entries| listener(entries, &self.shared)),
        };
        self.call(id, move |client| async move { gateways.open(id, client, settings).await });
    }

    /// Closes a gateway. Resolves within 3 s.
    #[napi(catch_unwind)]
    pub fn close_gateway(&self, id: u32, gateway: u32) {
        let gateways = self.gateways.clone();
        self.shared.run(id, async move {
            gateways.close(gateway).await;
            Ok(Value::Null)
        });
    }

    /// Logs in. The authorization is sent as progress.
    #[napi(catch_unwind)]
    pub fn login(&self, id: u32, options: Value) {
        let shared = Arc::clone(&self.shared);
        self.call(id, move |client| async move {
            let account = client
                .login(read_options(options)?, |authorization| {
                    shared.send_value(id, "progress", json!(authorization));
                })
                .await?;
            Ok(account_value(&account))
        });
    }

    /// Adds a key as an account.
    #[napi(catch_unwind)]
    pub fn add_api_key(&self, id: u32, options: Value) {
        self.call(id, move |client| async move {
            let account = client.add_api_key(read_options(options)?).await?;
            Ok(account_value(&account))
        });
    }

    /// Returns the models of the enabled accounts, with their host settings.
    #[napi(catch_unwind)]
    pub fn models(&self, id: u32, refresh: bool) {
        self.call(id, move |client| async move {
            let models = client.models(refresh).await?;
            Ok(models.iter().map(model_value).collect())
        });
    }

    /// Imports tokens that a host has stored, if there is no credentials file.
    #[napi(catch_unwind)]
    pub fn adopt(&self, id: u32, tokens: HostTokens) {
        self.call(id, move |client| async move { Ok(client.adopt(tokens.into()).await?.into()) });
    }

    /// Imports the accounts in another tool's file.
    #[napi(catch_unwind)]
    pub fn import_accounts(&self, id: u32, path: String) {
        self.call(id, move |client| async move {
            let accounts = client.import_accounts(&path).await?;
            Ok(accounts.iter().map(account_value).collect())
        });
    }

    /// Returns the accounts and keys that `import_accounts` would import. Changes nothing.
    #[napi(catch_unwind)]
    pub fn preview_import(&self, id: u32, path: String) {
        self.call(id, move |client| async move {
            let found = client.preview_import(&path).await?;
            Ok(found.iter().map(found_value).collect())
        });
    }

    /// Returns the keys that other tools have stored.
    #[napi(catch_unwind)]
    pub fn find_credentials(&self, id: u32, working_directory: Option<String>) {
        self.call(id, move |client| async move {
            let found = client.find_credentials(working_directory.map(Into::into)).await?;
            Ok(found.iter().map(found_value).collect())
        });
    }

    /// Adds found keys as accounts: the chosen ones, or all new ones.
    #[napi(catch_unwind)]
    pub fn import_found(&self, id: u32, working_directory: Option<String>, chosen: Option<Vec<String>>) {
        self.call(id, move |client| async move {
            let imported = client.import_found(working_directory.map(Into::into), chosen.as_deref()).await?;
            Ok(imported.iter().map(imported_value).collect())
        });
    }

    /// Returns all accounts.
    #[napi(catch_unwind)]
    pub fn accounts(&self, id: u32) {
        self.call(id, move |client| async move {
            let accounts = client.accounts().await?;
            Ok(accounts.iter().map(account_value).collect())
        });
    }

    /// Returns the usage of each account. `utcOffsetMinutes` is the caller's offset from UTC.
    #[napi(catch_unwind)]
    pub fn usage(&self, id: u32, utc_offset_minutes: i32) {
        self.call(id, move |client| async move {
            let usage = client.usage(utc_offset_minutes).await?;
            Ok(usage.iter().map(usage_value).collect())
        });
    }

    /// Writes the usage that is only in memory. Without `mayBlock`, a background thread writes it and the process is
    /// kept alive.
    #[napi(catch_unwind)]
    pub fn flush(&self, may_block: bool) {
        if may_block {
            return self.client.flush();
        }
        if let Ok(runtime) = runtime() {
            let (client, busy) = (Arc::clone(&self.client), self.busy.enter());
            start_blocking(runtime, move || {
                client.flush();
                drop(busy);
            });
        }
    }

    /// Makes an account the active one.
    #[napi(catch_unwind)]
    pub fn set_active_account(&self, id: u32, account_id: String) {
        self.call(id, move |client| async move {
            let account = client.set_active_account(&account_id).await?;
            Ok(account_value(&account))
        });
    }

    /// Renames, enables or disables an account.
    #[napi(catch_unwind)]
    pub fn update_account(&self, id: u32, account_id: String, changes: Value) {
        self.call(id, move |client| async move {
            let account = client.update_account(&account_id, read_options(changes)?).await?;
            Ok(account_value(&account))
        });
    }

    /// Removes an account permanently.
    #[napi(catch_unwind)]
    pub fn remove_account(&self, id: u32, account_id: String, revoke: bool) {
        self.call(id, move |client| async move {
            let left_behind = client.remove_account(&account_id, revoke).await?;
            let left_behind: Vec<_> = left_behind.iter().map(|path| path.display().to_string()).collect();
            Ok(json!({ "leftBehind": left_behind }))
        });
    }

    /// Stores that `OpenCode` has an entry of this package.
    #[napi(catch_unwind)]
    pub fn note_host_login(&self, id: u32) {
        self.call(id, move |client| async move {
            client.note_host_login().await?;
            Ok(Value::Null)
        });
    }

    /// True if `OpenCode` has had an entry of this package.
    #[napi(catch_unwind)]
    pub fn had_host_login(&self, id: u32) {
        self.call(id, move |client| async move { Ok(client.had_host_login().await?.into()) });
    }

    /// Returns a fresh token.
    #[napi(catch_unwind)]
    pub fn access_token(&self, id: u32, account_id: Option<String>) {
        self.call(id, move |client| async move {
            let token = client.access_token(account_id.as_deref()).await?;
            Ok(access_token_value(&token))
        });
    }
}

impl NativeClient {
    fn call<C>(&self, id: u32, start: impl FnOnce(Arc<Client>) -> C)
    where
        C: Future<Output = Result<Value>> + Send + 'static,
    {
        self.shared.run(id, start(Arc::clone(&self.client)));
    }
}

fn read_request(url: String, head: &str, utc_offset_minutes: i32) -> Result<Request> {
    let mut fields = head.split(SEPARATOR);
    let method = Method::from_bytes(fields.next().unwrap_or_default().as_bytes());
    let redirect = match fields.next() {
        Some("error") => Redirect::Error,
        Some("manual") => Redirect::Manual,
        _ => Redirect::Follow,
    };
    let pairs = std::iter::from_fn(|| Some((fields.next()?, fields.next()?)));
    Ok(Request {
        url,
        method: method.map_err(|_| Error::invalid_argument("method", "is not an HTTP method"))?,
        headers: headers::read(pairs)?,
        body: None,
        redirect,
        utc_offset_minutes,
    })
}

/// Converts to UTF-8 as fetch does: an unpaired surrogate becomes U+FFFD.
async fn utf8(text: Utf16String) -> Result<Bytes> {
    off_thread(text.len() * 2, move || {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = &text[..];
        while !rest.is_empty() {
            // Room for ASCII. Other text takes another round.
            let start = bytes.len();
            bytes.resize(start + rest.len().max(4), 0);
            let (read, written) = encoding_rs::mem::convert_utf16_to_utf8_partial(rest, &mut bytes[start..]);
            bytes.truncate(start + written);
            rest = &rest[read..];
        }
        Bytes::from(bytes)
    })
    .await
}

async fn response(id: u32, answer: Answer, shared: Arc<SharedBridge>) -> FetchResponse {
    let streams = shared.streams().clone();
    let mut headers = String::new();
    for (name, value) in &answer.headers {
        headers.push_str(name.as_str());
        headers.push(SEPARATOR);
        // Each byte becomes one character, as in fetch.
        headers.extend(value.as_bytes().iter().copied().map(char::from));
        headers.push(SEPARATOR);
    }
    let content = match receive_body(answer.body, streams, move || shared.send_readable(id)).await {
        ReceivedBody::Whole(bytes) => ResponseContent::Whole(bytes),
        ReceivedBody::Stream(stream) => ResponseContent::Stream(ResponseBody::new(id, stream)),
    };
    FetchResponse {
        status: answer.status.as_u16(),
        status_text: answer.status.canonical_reason().unwrap_or_default(),
        url: answer.url.into(),
        headers,
        content,
    }
}
