//! A user with several accounts. Each has its own tokens and its own API host.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use qwen_base::Clock;
use qwen_client::{Answer, Client};
use serde_json::{Value, json};

use super::home::{document, in_seconds, private};
use super::reply::Reply;
use super::server::{Seen, Server};
use super::setup::{Setup, chat};

/// Ids of the accounts, and lineages of their tokens.
pub const NAMES: [&str; 5] = ["ann", "bob", "cyd", "dot", "eve"];
/// Long enough for tests that wind the clock on.
const MONTH_S: i64 = 30 * 24 * 3600;

pub struct Fleet {
    pub setup: Setup,
    /// In the order of [`NAMES`].
    pub hosts: Vec<Server>,
    ahead_ms: Arc<AtomicU64>,
}

impl Fleet {
    /// Makes `count` accounts with fresh tokens. The first is the active one, and the qwen CLI's.
    pub async fn of(count: usize) -> Self {
        Self::expiring_in(&vec![MONTH_S; count]).await
    }

    /// Makes an account for each lifetime, in seconds.
    pub async fn expiring_in(lifetimes: &[i64]) -> Self {
        let mut setup = Setup::logged_out().await;
        // A refresh doesn't change an account's host.
        setup.server.issue_with("resource_url", Value::Null);
        setup.server.issue_with("expires_in", json!(MONTH_S));
        let ahead_ms = Arc::new(AtomicU64::new(0));
        let (system, ahead) = (Clock::system(), Arc::clone(&ahead_ms));
        setup.clock = Clock::from_fn(move || system.now_ms() + ahead.load(Ordering::SeqCst));
        let mut hosts = Vec::new();
        let mut accounts = Vec::new();
        for (name, lifetime) in NAMES.iter().zip(lifetimes) {
            let host = Server::start().await;
            host.serve_lineage(name);
            setup.server.know(&access(name, 0), &refresh(name, 0));
            accounts.push(account(name, *lifetime, &host.url()));
            hosts.push(host);
        }
        setup.home.write(&accounts[0]["token"]);
        let fleet = Self { setup, hosts, ahead_ms };
        fleet.write_store(&store(&accounts));
        fleet
    }

    pub fn client(&self) -> Client {
        self.setup.client()
    }

    pub fn pass_ms(&self, ms: u64) {
        self.ahead_ms.fetch_add(ms, Ordering::SeqCst);
    }

    pub fn now_ms(&self) -> u64 {
        self.setup.clock.now_ms()
    }

    pub fn store(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.setup.home.store()).unwrap()).unwrap()
    }

    pub fn write_store(&self, store: &Value) {
        std::fs::write(self.setup.home.store(), serde_json::to_vec_pretty(store).unwrap()).unwrap();
        private(&self.setup.home.store());
    }

    /// Changes the store as another program would.
    pub fn edit_store(&self, edit: impl FnOnce(&mut Value)) {
        let mut store = self.store();
        edit(&mut store);
        self.write_store(&store);
    }

    /// Returns an account as the store has it.
    pub fn stored(&self, id: &str) -> Value {
        let store = self.store();
        let accounts = store["accounts"].as_array().unwrap();
        accounts.iter().find(|account| account["id"] == id).cloned().unwrap_or_default()
    }

    /// Sets the answer of every host.
    pub fn on_every_host(&self, reply: &Reply) {
        self.hosts.iter().for_each(|host| host.on_every_api(reply.clone()));
    }

    /// Counts the full chats that each host received.
    pub fn full_requests(&self) -> Vec<usize> {
        let count = |host: &Server| host.api_requests().iter().filter(|seen| !seen.is_degraded()).count();
        self.hosts.iter().map(count).collect()
    }

    /// Counts the smaller chats that all hosts received.
    pub fn degraded_requests(&self) -> usize {
        self.hosts.iter().flat_map(Server::api_requests).filter(Seen::is_degraded).count()
    }

    /// Fails if a host has seen a token of another account.
    pub fn assert_apart(&self) {
        for (name, host) in NAMES.iter().zip(&self.hosts) {
            for seen in host.api_requests() {
                assert!(seen.bearer().starts_with(&format!("access.{name}.")), "{name}: {}", seen.bearer());
                assert_eq!(seen.headers["host"], host.url().trim_start_matches("http://"));
                let text = format!("{:?} {}", seen.headers, String::from_utf8_lossy(&seen.body));
                let others = NAMES.iter().filter(|other| *other != name);
                assert!(others.clone().all(|other| !text.contains(&format!(".{other}."))), "{text}");
                assert!(!text.contains("refresh."), "{text}");
            }
        }
    }
}

pub fn access(lineage: &str, count: u32) -> String {
    format!("access.{lineage}.{count}")
}

pub fn refresh(lineage: &str, count: u32) -> String {
    format!("refresh.{lineage}.{count}")
}

/// Returns the first tokens of a lineage, as files hold them.
pub fn token(lineage: &str, lifetime: i64, resource_url: &str) -> Value {
    document(&access(lineage, 0), &refresh(lineage, 0), in_seconds(lifetime), resource_url)
}

/// Returns an account as the store holds it, with unknown fields.
pub fn account(name: &str, lifetime: i64, resource_url: &str) -> Value {
    let before = in_seconds(-3600);
    json!({
        "id": name, "token": token(name, lifetime, resource_url), "resource_url": resource_url, "exhaustedUntil": 0,
        "createdAt": before, "updatedAt": before, "colour": ["not", "ours"],
    })
}

/// Returns a store as the original plugin writes it.
pub fn store(accounts: &[Value]) -> Value {
    json!({"version": 1, "activeAccountId": accounts[0]["id"], "accounts": accounts})
}

pub async fn ask(client: &Client) -> Answer {
    client.fetch(chat(false)).await.unwrap()
}

/// Sends a chat. Returns the account that answers it.
pub async fn who_answers(client: &Client) -> String {
    let answer = ask(client).await;
    assert_eq!(answer.status, 200);
    who(&answer)
}

pub fn who(answer: &Answer) -> String {
    answer.headers["x-qwen-account"].to_str().unwrap().to_owned()
}

pub fn quota() -> Reply {
    Reply::api_error(429, "insufficient_quota", "Free allocated quota exceeded.")
}

pub fn rate_limit(retry_after: &str) -> Reply {
    Reply::api_error(429, "Throttling.RateQuota", "Requests rate limit exceeded")
        .header("retry-after", retry_after)
}
