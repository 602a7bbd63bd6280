//! A client as JavaScript holds it.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use napi::bindgen_prelude::{Either, Utf16String};
use napi_derive::napi;
use serde_json::Value;

use super::body::ResponseBody;
use super::bridge::{Bridge, Outcome, Shared};
use super::runtime::runtime;
use super::types::{
    Authorization, ClientSettings, FetchRequest, HostTokens, KeySettings, LoginSettings, ResponseHead,
    Variables, access_token_value, account_value, error_value, event_value, model_value, usage_value,
};
use crate::busy::Busy;
use crate::client::{Client, Context};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::request::answer::Answer;
use crate::request::headers;
use crate::request::prepare::{Redirect, Request, off_thread};
use crate::request::stream::Stream;

/// A client.
#[napi]
pub struct NativeClient {
    client: Arc<Client>,
    shared: Arc<Shared>,
    busy: Busy,
}

/// A client, or why there is none.
#[napi(object, object_from_js = false)]
pub struct Created {
    pub client: Option<NativeClient>,
    pub error: Option<Value>,
}

/// Makes a client. Its events come as messages with its id.
#[napi(catch_unwind)]
pub fn create_client(bridge: &Bridge, id: u32, options: ClientSettings, variables: Variables) -> Created {
    let shared = Arc::clone(bridge.shared());
    let listener = Arc::downgrade(&shared);
    let events = Events::new(move |event| {
        if let Some(shared) = listener.upgrade() {
            shared.send_value(id, "event", event_value(&event));
        }
    });
    let context =
        Context { for_host: options.for_host, clock: Clock::system(), events, busy: bridge.busy().clone() };
    match Client::new(&options.into(), variables.into_iter().collect(), context) {
        Ok(client) => {
            let client = Arc::new(client);
            shared.add_client(&client);
            Created {
                client: Some(NativeClient { client, shared, busy: bridge.busy().clone() }),
                error: None,
            }
        }
        Err(error) => Created { client: None, error: Some(error_value(&error)) },
    }
}

#[napi]
impl NativeClient {
    /// What callers build their URLs from.
    #[napi(getter, catch_unwind)]
    pub fn base_url(&self) -> String {
        self.client.base_url()
    }

    /// Closes the connections that are at rest.
    #[napi(catch_unwind)]
    pub fn close(&self) {
        self.client.close();
    }

    /// Sends a request. The body of its response gets the id of the call.
    #[napi(catch_unwind)]
    pub fn fetch(&self, id: u32, request: FetchRequest) {
        let (client, shared) = (Arc::clone(&self.client), Arc::clone(&self.shared));
        let request = read_request(request);
        self.shared.run(id, async move {
            let (mut request, text) = request?;
            if let Some(text) = text {
                request.body = Some(utf8(text).await?);
            }
            let answer = client.fetch(request).await?;
            Ok(Outcome::Response(Box::new(response_head(id, answer, shared).await)))
        });
    }

    /// Logs in. The authorization comes as progress.
    #[napi(catch_unwind)]
    pub fn login(&self, id: u32, options: LoginSettings) {
        let (client, shared) = (Arc::clone(&self.client), Arc::clone(&self.shared));
        self.shared.run(id, async move {
            let account = client
                .login(options.into(), |authorization| {
                    shared.send_value(id, "progress", Authorization::from(authorization).into_value());
                })
                .await?;
            Ok(Outcome::Value(account_value(&account)))
        });
    }

    /// Keeps a key as an account.
    #[napi(catch_unwind)]
    pub fn add_api_key(&self, id: u32, options: KeySettings) {
        let client = Arc::clone(&self.client);
        let options = options.into();
        self.shared.run(id, async move {
            let account = client.add_api_key(options).await?;
            Ok(Outcome::Value(account_value(&account)))
        });
    }

    /// The plans' models that an account serves.
    #[napi(catch_unwind)]
    pub fn plan_models(&self, id: u32) {
        let client = Arc::clone(&self.client);
        self.shared.run(id, async move {
            let models = client.plan_models().await?;
            Ok(Outcome::Value(models.iter().map(model_value).collect()))
        });
    }

    /// Takes tokens over that a host kept, if there is no credentials file.
    #[napi(catch_unwind)]
    pub fn adopt(&self, id: u32, tokens: HostTokens) {
        let client = Arc::clone(&self.client);
        self.shared.run(id, async move { Ok(Outcome::Value(client.adopt(tokens.into()).await?.into())) });
    }

    /// Adds the accounts in another tool's file.
    #[napi(catch_unwind)]
    pub fn import_accounts(&self, id: u32, path: String) {
        let client = Arc::clone(&self.client);
        self.shared.run(id, async move {
            let accounts = client.import_accounts(&path).await?;
            Ok(Outcome::Value(accounts.iter().map(account_value).collect()))
        });
    }

    /// All accounts.
    #[napi(catch_unwind)]
    pub fn accounts(&self, id: u32) {
        let client = Arc::clone(&self.client);
        self.shared.run(id, async move {
            let accounts = client.accounts().await?;
            Ok(Outcome::Value(accounts.iter().map(account_value).collect()))
        });
    }

    /// What each account has given. The caller's clock is so many minutes ahead of UTC.
    #[napi(catch_unwind)]
    pub fn usage(&self, id: u32, utc_offset_minutes: i32) {
        let client = Arc::clone(&self.client);
        self.shared.run(id, async move {
            let usage = client.usage(utc_offset_minutes).await?;
            Ok(Outcome::Value(usage.iter().map(usage_value).collect()))
        });
    }

    /// Writes what was counted and is not written yet. Where the caller can't be held up, the process is kept alive
    /// instead.
    #[napi(catch_unwind)]
    pub fn flush(&self, may_block: bool) {
        if may_block {
            return self.client.flush();
        }
        if let Ok(runtime) = runtime() {
            let (client, busy) = (Arc::clone(&self.client), self.busy.enter());
            runtime.spawn_blocking(move || {
                client.flush();
                drop(busy);
            });
        }
    }

    /// Makes an account the user's choice.
    #[napi(catch_unwind)]
    pub fn set_active_account(&self, id: u32, account_id: String) {
        let client = Arc::clone(&self.client);
        self.shared.run(id, async move {
            let account = client.set_active_account(&account_id).await?;
            Ok(Outcome::Value(account_value(&account)))
        });
    }

    /// Removes an account for good.
    #[napi(catch_unwind)]
    pub fn remove_account(&self, id: u32, account_id: String) {
        let client = Arc::clone(&self.client);
        self.shared.run(id, async move {
            client.remove_account(&account_id).await?;
            Ok(Outcome::Value(Value::Null))
        });
    }

    /// Notes that `OpenCode` has an entry of ours.
    #[napi(catch_unwind)]
    pub fn note_host_login(&self, id: u32) {
        let client = Arc::clone(&self.client);
        self.shared.run(id, async move {
            client.note_host_login().await?;
            Ok(Outcome::Value(Value::Null))
        });
    }

    /// Whether `OpenCode` has had an entry of ours.
    #[napi(catch_unwind)]
    pub fn had_host_login(&self, id: u32) {
        let client = Arc::clone(&self.client);
        self.shared.run(id, async move { Ok(Outcome::Value(client.had_host_login().await?.into())) });
    }

    /// A fresh token.
    #[napi(catch_unwind)]
    pub fn access_token(&self, id: u32, account_id: Option<String>) {
        let client = Arc::clone(&self.client);
        self.shared.run(id, async move {
            let token = client.access_token(account_id.as_deref()).await?;
            Ok(Outcome::Value(access_token_value(&token)))
        });
    }
}

/// The request, and its body where that is still to become UTF-8.
fn read_request(request: FetchRequest) -> Result<(Request, Option<Utf16String>)> {
    let method = Method::from_bytes(request.method.as_bytes());
    let pairs = request.headers.chunks_exact(2).map(|pair| (&pair[0], &pair[1]));
    let (text, bytes) = match request.body {
        Some(Either::A(text)) => (Some(text), None),
        Some(Either::B(bytes)) => (None, Some(Bytes::copy_from_slice(&bytes))),
        None => (None, request.utf8_body.map(Bytes::from)),
    };
    let request = Request {
        method: method.map_err(|_| Error::invalid_argument("method", "is no HTTP method"))?,
        headers: headers::read(pairs)?,
        body: bytes,
        redirect: match request.redirect.as_str() {
            "error" => Redirect::Error,
            "manual" => Redirect::Manual,
            _ => Redirect::Follow,
        },
        utc_offset_minutes: request.utc_offset_minutes,
        url: request.url,
    };
    Ok((request, text))
}

/// As fetch has it: half a surrogate pair becomes U+FFFD.
async fn utf8(text: Utf16String) -> Result<Bytes> {
    off_thread(text.len() * 2, move || {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = &text[..];
        while !rest.is_empty() {
            // As much room as the rest may take at the least; what is no ASCII takes another turn.
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

async fn response_head(id: u32, answer: Answer, shared: Arc<Shared>) -> ResponseHead {
    let mut headers = Vec::with_capacity(answer.headers.len() * 2);
    for (name, value) in &answer.headers {
        headers.push(name.as_str().to_owned());
        // One character a byte, as fetch has it.
        headers.push(value.as_bytes().iter().copied().map(char::from).collect());
    }
    let stream = Stream::start(answer.body, move || shared.send_readable(id)).await;
    ResponseHead {
        status: answer.status.as_u16(),
        status_text: answer.status.canonical_reason().unwrap_or_default().to_owned(),
        url: answer.url.into(),
        headers,
        is_whole: stream.is_whole(),
        body: ResponseBody::new(id, stream),
    }
}
