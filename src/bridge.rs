//! Sends results to JavaScript: a weak thread-safe function for each environment says "wake", and JavaScript then takes
//! all messages.
//!
//! JavaScript creates the promises and finds them by the id of the call. So only waiting calls keep a process alive,
//! and an environment can end at any moment.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, TryFutureExt as _};
use napi::bindgen_prelude::{Array, Function, Null};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi::{Env, Status};
use napi_derive::napi;
use qwen_accounts::OAuthClient;
use qwen_base::{Busy, Clock, ENDPOINTS, Endpoint, Environment, Error, Result, Secret, SharedHttp, lock};
use qwen_client::{Doctor, Streams, oauth_config};
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use super::process_end;
use super::runtime::runtime;
use super::types::{FetchResponse, Variables, error_value, read_options, token_value, without_null};

type Wake = ThreadsafeFunction<(), (), (), Status, false, true>;

enum CallOutput {
    Value(Value),
    Response(Box<FetchResponse>),
}

struct Message {
    /// The id of the call or of the readable body.
    id: u32,
    /// `value`, `response`, `error`, `progress`, `event` or `readable`.
    kind: &'static str,
    content: Option<CallOutput>,
}

/// Array elements for each message.
const MESSAGE_LENGTH: usize = 3;

/// The part of a bridge that other threads share.
pub struct SharedBridge {
    wake: Mutex<Wake>,
    is_woken: AtomicBool,
    messages: Mutex<Vec<Message>>,
    calls: Mutex<HashMap<u32, AbortHandle>>,
    streams: Streams,
}

impl SharedBridge {
    fn wake(&self) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            // The call fails only if the environment is ending, and then nothing listens.
            let _ = lock(&self.wake).call((), ThreadsafeFunctionCallMode::NonBlocking);
        }
    }

    fn send(&self, message: Message) {
        lock(&self.messages).push(message);
        self.wake();
    }

    /// Sends progress of a call, or an event of a client.
    pub fn send_value(&self, id: u32, kind: &'static str, value: Value) {
        self.send(Message { id, kind, content: Some(CallOutput::Value(value)) });
    }

    /// Reports that a body has data.
    pub fn send_readable(&self, id: u32) {
        self.send(Message { id, kind: "readable", content: None });
    }

    pub fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Runs a call until it ends or is cancelled.
    pub fn run(self: &Arc<Self>, id: u32, call: impl Future<Output = Result<Value>> + Send + 'static) {
        self.start(id, call.map_ok(CallOutput::Value).boxed());
    }

    /// As [`SharedBridge::run`], for a call that returns a response.
    pub fn run_fetch(
        self: &Arc<Self>,
        id: u32,
        call: impl Future<Output = Result<FetchResponse>> + Send + 'static,
    ) {
        self.start(id, call.map_ok(|response| CallOutput::Response(Box::new(response))).boxed());
    }

    // The call is boxed, since tokio's code for a task is large and would be compiled for each kind of call.
    fn start(self: &Arc<Self>, id: u32, call: BoxFuture<'static, Result<CallOutput>>) {
        let runtime = match runtime() {
            Ok(runtime) => runtime,
            Err(error) => return self.send_value(id, "error", error_value(&error)),
        };
        let shared = Arc::clone(self);
        // Locked until the call is inserted, so that a call that ends at once finds its entry to remove.
        let mut calls = lock(&self.calls);
        let task = runtime.spawn(async move {
            let outcome = AssertUnwindSafe(call).catch_unwind().await;
            lock(&shared.calls).remove(&id);
            match outcome.unwrap_or_else(|_| Err(Error::internal("a call panicked"))) {
                Ok(CallOutput::Value(value)) => shared.send_value(id, "value", value),
                Ok(response) => shared.send(Message { id, kind: "response", content: Some(response) }),
                Err(error) => shared.send_value(id, "error", error_value(&error)),
            }
        });
        calls.insert(id, task.abort_handle());
    }
}

/// Returns the version of the addon.
#[napi(catch_unwind)]
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Ends the process's work on systems without exit handlers: see [`process_end::finish`]. Blocks.
#[napi(catch_unwind)]
pub fn finish() {
    process_end::finish();
}

/// Returns the endpoints of all plans, each with the console page that shows its keys: `[{ plan, title, region, page
/// }]`.
#[napi(catch_unwind)]
pub fn key_pages() -> Value {
    let page = |place: &Endpoint| {
        json!({
            "plan": place.plan.as_str(), "title": place.plan.title(), "region": place.region, "page": place.key_page(),
        })
    };
    ENDPOINTS.iter().map(page).collect()
}

/// Connects one JavaScript environment to the core.
#[napi]
pub struct Bridge {
    shared: Arc<SharedBridge>,
    busy: Busy,
    http: Arc<SharedHttp>,
}

#[napi]
impl Bridge {
    /// Calls `onWake` when there are messages to [`drain`](Self::drain). Doesn't keep the process alive.
    #[napi(constructor, catch_unwind)]
    pub fn new(on_wake: Function<(), ()>) -> napi::Result<Self> {
        let wake = on_wake.build_threadsafe_function::<()>().weak::<true>().build()?;
        let shared = Arc::new(SharedBridge {
            wake: Mutex::new(wake),
            is_woken: AtomicBool::new(false),
            messages: Mutex::default(),
            calls: Mutex::default(),
            streams: Streams::default(),
        });
        let idle = Arc::downgrade(&shared);
        let busy = Busy::new(process_end::shutdown(), move || {
            if let Some(shared) = idle.upgrade() {
                shared.wake();
            }
        });
        Ok(Self { shared, busy, http: Arc::default() })
    }

    /// Takes all messages. Each is three elements: the id, the kind and the content.
    #[napi(catch_unwind)]
    pub fn drain<'env>(&self, env: &'env Env) -> napi::Result<Array<'env>> {
        self.shared.is_woken.store(false, Ordering::Release);
        let messages = std::mem::take(&mut *lock(&self.shared.messages));
        let mut drained = env.create_array(0)?;
        for (Message { id, kind, content }, at) in messages.into_iter().zip((0..).step_by(MESSAGE_LENGTH)) {
            drained.set(at, id)?;
            drained.set(at + 1, kind)?;
            match content {
                Some(CallOutput::Value(value)) => drained.set(at + 2, value)?,
                Some(CallOutput::Response(response)) => drained.set(at + 2, response.into_array(env)?)?,
                None => drained.set(at + 2, Null)?,
            }
        }
        Ok(drained)
    }

    /// Sets whether waiting calls keep the process alive.
    #[napi(catch_unwind)]
    pub fn keep_alive(&self, env: Env, alive: bool) -> napi::Result<()> {
        set_referenced(&mut lock(&self.shared.wake), env, alive)
    }

    /// True while a token is being redeemed or written.
    #[napi(catch_unwind)]
    pub fn is_busy(&self) -> bool {
        self.busy.is_busy()
    }

    /// Cancels a call, which then sends no more messages. Work that must finish continues.
    #[napi(catch_unwind)]
    pub fn cancel(&self, id: u32) {
        if let Some(call) = lock(&self.shared.calls).remove(&id) {
            call.abort();
        }
    }

    /// Runs the doctor. It looks for a project's configuration in `workingDirectory`.
    #[napi(catch_unwind)]
    pub fn examine(&self, id: u32, options: Value, variables: Variables, working_directory: String) {
        self.shared.run(id, async move {
            let doctor = Doctor {
                options: read_options(options)?,
                environment: variables.into_iter().collect(),
                working_directory: working_directory.into(),
                clock: Clock::system(),
            };
            let findings = doctor.examine().await?;
            Ok(without_null(json!(findings)))
        });
    }

    /// Starts a device authorization (RFC 8628 section 3.1).
    #[napi(catch_unwind)]
    pub fn request_device_authorization(&self, id: u32, options: Value, variables: Variables) {
        let http = Arc::clone(&self.http);
        self.shared.run(id, async move {
            let authorization =
                oauth_client(options, variables, &http)?.request_device_authorization().await?;
            Ok(json!(authorization))
        });
    }

    /// Polls for the token (RFC 8628 section 3.4).
    #[napi(catch_unwind)]
    pub fn poll_device_token(&self, id: u32, authorization: Value, options: Value, variables: Variables) {
        let http = Arc::clone(&self.http);
        self.shared.run(id, async move {
            let authorization = read_options(authorization)?;
            let token = oauth_client(options, variables, &http)?.poll_device_token(&authorization).await?;
            Ok(token_value(&token))
        });
    }

    /// Redeems a refresh token (RFC 6749 section 6).
    #[napi(catch_unwind)]
    pub fn refresh_access_token(&self, id: u32, refresh_token: String, options: Value, variables: Variables) {
        let http = Arc::clone(&self.http);
        self.shared.run(id, async move {
            let refresh_token = Secret::new(refresh_token);
            let token = oauth_client(options, variables, &http)?.refresh_access_token(&refresh_token).await?;
            Ok(token_value(&token))
        });
    }
}

impl Bridge {
    pub fn shared(&self) -> &Arc<SharedBridge> {
        &self.shared
    }

    pub fn busy(&self) -> &Busy {
        &self.busy
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        for call in lock(&self.shared.calls).values() {
            call.abort();
        }
    }
}

#[expect(deprecated, reason = "more references, the alternative it names, only ever keep a process alive")]
fn set_referenced(wake: &mut Wake, env: Env, referenced: bool) -> napi::Result<()> {
    if referenced { wake.refer(&env) } else { wake.unref(&env) }
}

fn oauth_client(options: Value, variables: Variables, http: &SharedHttp) -> Result<OAuthClient> {
    let environment: Environment = variables.into_iter().collect();
    let config = oauth_config(&read_options(options)?, &environment, "")?;
    let http = http.get(&environment, config.timeout);
    Ok(OAuthClient::new(http, config, Clock::system()))
}
