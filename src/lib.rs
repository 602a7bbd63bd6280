//! Qwen accounts for `OpenCode`: device login, token refresh and the request path.
//!
//! The core is plain Rust and knows nothing of Node; only `binding` does. ARCHITECTURE.md has the map.

#![cfg_attr(not(feature = "napi-binding"), forbid(unsafe_code))]

pub mod accounts;
pub mod base_url;
pub mod browser;
pub mod busy;
pub mod chat;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod discovery;
pub mod doctor;
pub mod dotenv;
pub mod environment;
pub mod error;
pub mod events;
pub mod fault;
pub mod gateway;
pub mod host;
pub mod http;
pub mod keys;
pub mod logging;
pub mod models;
pub mod oauth;
pub mod opencode_files;
pub mod paths;
pub mod plans;
pub mod redact;
pub mod request;
pub mod request_log;
pub mod safe_open;
pub mod secret;
pub mod shutdown;
pub mod sse;
pub mod store;
pub mod text;
pub mod token_manager;
pub mod usage;
pub mod verdict;

#[cfg(feature = "napi-binding")]
mod binding;
