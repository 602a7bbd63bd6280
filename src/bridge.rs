//! How results reach JavaScript: one weak thread-safe function per environment says "wake", and JavaScript takes what is
//! there.
//!
//! Promises are made in JavaScript, by the id of the call. So nothing of ours keeps a process alive but calls that wait,
//! and an environment can go away at any moment.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
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
use super::types::{
    Authorization, ClientSettings, FetchResponse, OAuthSettings, Variables, error_value, finding_value,
    token_value,
};

type Wake = ThreadsafeFunction<(), (), (), Status, false, true>;

/// What a call came to.
pub enum Outcome {
    /// A plain value.
    Value(Value),
    /// A response.
    Response(Box<FetchResponse>),
}

/// One piece of news for JavaScript.
struct Message {
    /// The call concerned, or the body that can be read.
    id: u32,
    /// `value`, `response`, `error`, `progress`, `event` or `readable`.
    kind: &'static str,
    content: Option<Outcome>,
}

/// So many elements of an array make up a message.
const MESSAGE_LENGTH: usize = 3;

/// The part of a bridge that other threads hold.
pub struct Shared {
    wake: Mutex<Wake>,
    is_woken: AtomicBool,
    messages: Mutex<Vec<Message>>,
    calls: Mutex<HashMap<u32, AbortHandle>>,
    streams: Streams,
}

impl Shared {
    fn wake(&self) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            // An environment that is going away has nobody left to tell, whatever the status says.
            let _ = lock(&self.wake).call((), ThreadsafeFunctionCallMode::NonBlocking);
        }
    }

    fn send(&self, message: Message) {
        lock(&self.messages).push(message);
        self.wake();
    }

    /// Sends a value on the way to a call's result, or an event of a client.
    pub fn send_value(&self, id: u32, kind: &'static str, value: Value) {
        self.send(Message { id, kind, content: Some(Outcome::Value(value)) });
    }

    /// Says that a body has something to read.
    pub fn send_readable(&self, id: u32) {
        self.send(Message { id, kind: "readable", content: None });
    }

    /// The answers that are being read.
    pub fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Runs a call to its end, or until it is cancelled.
    pub fn run(self: &Arc<Self>, id: u32, call: impl Future<Output = Result<Outcome>> + Send + 'static) {
        let runtime = match runtime() {
            Ok(runtime) => runtime,
            Err(error) => return self.send_value(id, "error", error_value(&error)),
        };
        let shared = Arc::clone(self);
        // Held while the call is entered, so that one that ends at once finds its entry to remove.
        let mut calls = lock(&self.calls);
        // No async block, which would have room for the call twice.
        let call = AssertUnwindSafe(call).catch_unwind().map(move |outcome| {
            lock(&shared.calls).remove(&id);
            match outcome.unwrap_or_else(|_| Err(Error::internal("a call panicked"))) {
                Ok(Outcome::Value(value)) => shared.send_value(id, "value", value),
                Ok(response) => shared.send(Message { id, kind: "response", content: Some(response) }),
                Err(error) => shared.send_value(id, "error", error_value(&error)),
            }
        });
        let task = runtime.spawn(call);
        calls.insert(id, task.abort_handle());
    }
}

/// The version of the addon.
#[napi(catch_unwind)]
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Ends the process's work where no exit handler of the addon's runs: see [`process_end::finish`]. Blocks.
#[napi(catch_unwind)]
pub fn finish() {
    process_end::finish();
}

/// The places of keys, each with the console's page that shows its keys: `[{ plan, title, region, page }]`.
#[napi(catch_unwind)]
pub fn key_pages() -> Value {
    let page = |place: &Endpoint| {
        json!({
            "plan": place.plan.as_str(), "title": place.plan.title(), "region": place.region, "page": place.key_page(),
        })
    };
    ENDPOINTS.iter().map(page).collect()
}

/// One environment's connection to the core.
#[napi]
pub struct Bridge {
    shared: Arc<Shared>,
    busy: Busy,
    http: Arc<SharedHttp>,
}

#[napi]
impl Bridge {
    /// `onWake` is called when there is something to [`drain`](Self::drain). It does not keep the process alive.
    #[napi(constructor, catch_unwind)]
    pub fn new(on_wake: Function<(), ()>) -> napi::Result<Self> {
        let wake = on_wake.build_threadsafe_function::<()>().weak::<true>().build()?;
        let shared = Arc::new(Shared {
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

    /// Takes all news, of which each is three elements: the id, the kind, and what there is to it.
    #[napi(catch_unwind)]
    pub fn drain<'env>(&self, env: &'env Env) -> napi::Result<Array<'env>> {
        self.shared.is_woken.store(false, Ordering::Release);
        let messages = std::mem::take(&mut *lock(&self.shared.messages));
        let mut news = env.create_array(0)?;
        for (Message { id, kind, content }, at) in messages.into_iter().zip((0..).step_by(MESSAGE_LENGTH)) {
            news.set(at, id)?;
            news.set(at + 1, kind)?;
            match content {
                Some(Outcome::Value(value)) => news.set(at + 2, value)?,
                Some(Outcome::Response(response)) => news.set(at + 2, response.into_array(env)?)?,
                None => news.set(at + 2, Null)?,
            }
        }
        Ok(news)
    }

    /// Whether the process may end while nothing else keeps it alive.
    #[napi(catch_unwind)]
    pub fn keep_alive(&self, env: Env, alive: bool) -> napi::Result<()> {
        set_referenced(&mut lock(&self.shared.wake), env, alive)
    }

    /// Whether a token is being redeemed or written.
    #[napi(catch_unwind)]
    pub fn is_busy(&self) -> bool {
        self.busy.is_busy()
    }

    /// Ends a call; nothing more is heard of it. What must reach its end goes on.
    #[napi(catch_unwind)]
    pub fn cancel(&self, id: u32) {
        if let Some(call) = lock(&self.shared.calls).remove(&id) {
            call.abort();
        }
    }

    /// Looks for what keeps requests from working. `workingDirectory` is where a project's configuration is looked for.
    #[napi(catch_unwind)]
    pub fn examine(&self, id: u32, options: ClientSettings, variables: Variables, working_directory: String) {
        let doctor = Doctor {
            options: options.into(),
            environment: variables.into_iter().collect(),
            working_directory: working_directory.into(),
            clock: Clock::system(),
        };
        self.shared.run(id, async move {
            let findings = doctor.examine().await?;
            Ok(Outcome::Value(findings.iter().map(finding_value).collect()))
        });
    }

    /// RFC 8628 section 3.1.
    #[napi(catch_unwind)]
    pub fn request_device_authorization(&self, id: u32, options: OAuthSettings, variables: Variables) {
        let http = Arc::clone(&self.http);
        self.shared.run(id, async move {
            let authorization =
                oauth_client(options, variables, &http)?.request_device_authorization().await?;
            Ok(Outcome::Value(Authorization::from(&authorization).into_value()))
        });
    }

    /// RFC 8628 section 3.4.
    #[napi(catch_unwind)]
    pub fn poll_device_token(
        &self,
        id: u32,
        authorization: Authorization,
        options: OAuthSettings,
        variables: Variables,
    ) {
        let http = Arc::clone(&self.http);
        self.shared.run(id, async move {
            let authorization = authorization.into();
            let token = oauth_client(options, variables, &http)?.poll_device_token(&authorization).await?;
            Ok(Outcome::Value(token_value(&token)))
        });
    }

    /// RFC 6749 section 6.
    #[napi(catch_unwind)]
    pub fn refresh_access_token(
        &self,
        id: u32,
        refresh_token: String,
        options: OAuthSettings,
        variables: Variables,
    ) {
        let http = Arc::clone(&self.http);
        self.shared.run(id, async move {
            let refresh_token = Secret::new(refresh_token);
            let token = oauth_client(options, variables, &http)?.refresh_access_token(&refresh_token).await?;
            Ok(Outcome::Value(token_value(&token)))
        });
    }
}

impl Bridge {
    /// For those who send news of their own.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// For those who begin work that must reach its end.
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

fn oauth_client(options: OAuthSettings, variables: Variables, http: &SharedHttp) -> Result<OAuthClient> {
    let environment: Environment = variables.into_iter().collect();
    let config = oauth_config(&options.into(), &environment, "")?;
    let http = http.get(&environment, config.timeout);
    Ok(OAuthClient::new(http, config, Clock::system()))
}
