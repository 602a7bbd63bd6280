//! A server and a user who is logged in to it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use qwen_accounts::{CredentialsFile, LegacyFile, OAuthClient, Registry, StoreFile, Token, TokenManager};
use qwen_base::{Busy, Clock, Code, Event, EventKind, Events, Http, KnownSecrets, Result};
use qwen_client::internals::{Body, ClientConfig};
use qwen_client::{
    Answer, Client, ClientOptions, Context, Doctor, LoginOptions, OAuthOptions, Redirect, Request,
};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::home::{Home, document, holds_token, in_seconds};
use super::server::Server;

/// Default chat URL of a caller.
pub const CHAT: &str = "https://dashscope.aliyuncs.com/compatible-mode/v1/chat/completions";

/// Id of the account in `oauth_creds.json` while it is the only one.
pub const ONLY: &str = "qwen-cli";

pub struct Setup {
    pub server: Server,
    pub home: Home,
    pub events: Recorder,
    pub options: ClientOptions,
    pub clock: Clock,
}

/// Keeps all events.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Told>);

/// The events. Dropping them fails if one holds a token.
#[derive(Default)]
struct Told(Mutex<Vec<Event>>);

impl Drop for Told {
    fn drop(&mut self) {
        let told = format!("{:?}", self.0);
        assert!(!holds_token(&told) || std::thread::panicking(), "an event holds a token: {told}");
    }
}

impl Recorder {
    pub fn events(&self) -> Events {
        let list = Arc::clone(&self.0);
        Events::new(move |event| list.0.lock().unwrap().push(event))
    }

    pub fn all(&self) -> Vec<Event> {
        self.0.0.lock().unwrap().clone()
    }

    pub fn count(&self, kind: EventKind) -> usize {
        self.0.0.lock().unwrap().iter().filter(|event| event.kind == kind).count()
    }
}

impl Setup {
    pub async fn logged_out() -> Self {
        let server = Server::start().await;
        let oauth = OAuthOptions { base_url: Some(server.url()), ..OAuthOptions::default() };
        let options = ClientOptions { oauth, ..ClientOptions::default() };
        Self { server, home: Home::new(), events: Recorder::default(), options, clock: Clock::system() }
    }

    /// The file holds `access-0` and `refresh-0`, which expire in `seconds`.
    pub async fn expiring_in(seconds: i64) -> Self {
        let setup = Self::logged_out().await;
        setup.server.know("access-0", "refresh-0");
        setup.home.write(&document("access-0", "refresh-0", in_seconds(seconds), &setup.server.url()));
        setup
    }

    pub async fn expired() -> Self {
        Self::expiring_in(-60).await
    }

    pub async fn fresh() -> Self {
        Self::expiring_in(3600).await
    }

    pub fn with_oauth_timeout(mut self, timeout: Duration) -> Self {
        self.options.oauth.timeout = Some(timeout);
        self
    }

    pub fn with_idle_timeout(mut self, timeout: Duration) -> Self {
        self.options.idle_timeout = Some(timeout);
        self
    }

    pub fn oauth_client(&self) -> OAuthClient {
        self.oauth_client_with(&[])
    }

    pub fn oauth_client_with(&self, environment: &[(&str, &str)]) -> OAuthClient {
        let config = ClientConfig::read(&self.options, &self.home.environment(environment)).unwrap();
        OAuthClient::new(Arc::new(Http::new(config.http)), config.oauth, Clock::system())
    }

    /// Makes a manager that shares only the files with the others, like another process.
    /// Starts a call for a token, and waits until the server has the request, whose answer is held.
    pub async fn asking(&self, manager: &TokenManager) -> JoinHandle<Result<Arc<Token>>> {
        self.server.hold();
        let manager = manager.clone();
        let caller = tokio::spawn(async move { manager.token(ONLY, None).await });
        self.server.until_token_requests(1).await;
        caller
    }

    pub fn manager(&self) -> TokenManager {
        self.manager_at(self.clock.clone(), Busy::unobserved())
    }

    pub fn manager_at(&self, clock: Clock, busy: Busy) -> TokenManager {
        let registry = Arc::new(self.registry_at(clock.clone()));
        TokenManager::new(
            self.oauth_client(),
            registry,
            clock,
            self.events.events(),
            busy,
            KnownSecrets::default(),
            None,
        )
    }

    pub fn registry(&self) -> Registry {
        self.registry_at(self.clock.clone())
    }

    fn registry_at(&self, clock: Clock) -> Registry {
        Registry::new(
            CredentialsFile::new(self.home.credentials()),
            StoreFile::new(self.home.store(), true),
            LegacyFile::new(self.home.legacy()),
            clock,
            self.events.events(),
        )
    }

    /// A doctor of this home, as the command line makes it.
    pub fn doctor(&self, environment: &[(&str, &str)]) -> Doctor {
        Doctor {
            options: self.options.clone(),
            environment: self.home.environment(environment),
            working_directory: self.home.path().to_owned(),
            clock: self.clock.clone(),
        }
    }

    pub fn client(&self) -> Client {
        self.client_with(&[], false)
    }

    pub fn host_client(&self) -> Client {
        self.client_with(&[], true)
    }

    pub fn client_with(&self, environment: &[(&str, &str)], opencode: bool) -> Client {
        self.try_client(environment, opencode, self.events.events()).unwrap()
    }

    pub fn try_client(&self, environment: &[(&str, &str)], opencode: bool, events: Events) -> Result<Client> {
        let context =
            Context { for_opencode: opencode, clock: self.clock.clone(), events, busy: Busy::unobserved() };
        Client::new(&self.options, self.home.environment(environment), context)
    }
}

pub fn quiet_login() -> LoginOptions {
    LoginOptions { open_browser: Some(false), ..LoginOptions::default() }
}

pub fn post(url: &str, body: &Value) -> Request {
    let headers: HeaderMap =
        [(http::header::CONTENT_TYPE, "application/json".parse().unwrap())].into_iter().collect();
    Request {
        url: url.to_owned(),
        method: Method::POST,
        headers,
        body: Some(Bytes::from(body.to_string())),
        redirect: Redirect::Follow,
        utc_offset_minutes: 0,
    }
}

pub fn get(url: &str) -> Request {
    Request {
        url: url.to_owned(),
        method: Method::GET,
        headers: HeaderMap::new(),
        body: None,
        redirect: Redirect::Follow,
        utc_offset_minutes: 0,
    }
}

/// A chat of one message.
pub fn chat(stream: bool) -> Request {
    let message = serde_json::json!({"role": "user", "content": "hi"});
    post(CHAT, &serde_json::json!({"model": "coder-model", "stream": stream, "messages": [message]}))
}

/// Returns the rest of a body, and its end.
pub async fn read(body: &mut Body) -> (Vec<u8>, Result<(), Code>) {
    let mut bytes = Vec::new();
    loop {
        match body.next().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => return (bytes, Ok(())),
            Err(error) => return (bytes, Err(error.code())),
        }
    }
}

pub async fn text(mut answer: Answer) -> String {
    let (bytes, end) = read(&mut answer.body).await;
    assert_eq!(end, Ok(()));
    String::from_utf8(bytes).unwrap()
}
