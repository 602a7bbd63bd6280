//! The client: requests, keys, models, usage, the gateway, `doctor` and the fallback to the qwen CLI.

#![forbid(unsafe_code)]

mod browser;
mod chat;
mod cli;
mod client;
mod config;
mod discovery;
mod doctor;
mod dotenv;
mod gateway;
mod host;
mod keys;
mod models;
mod opencode_files;
mod request;
mod request_log;
mod sse;
mod usage;
mod verdict;

pub use chat::body::{Ids, shape};
pub use chat::degrade::degrade;
pub use cli::output::{Event, Parser};
pub use cli::prompt::prompt;
pub use cli::run::Limits;
pub use cli::{CliAnswer, CliFallback};
pub use client::{
    AccessToken, AccountInfo, AccountUsage, Client, Context, FoundCredential, ImportedKey, LoginOptions,
};
pub use config::{ClientConfig, ClientOptions, OAuthOptions, Rotation, oauth_config};
pub use doctor::Doctor;
pub use doctor::finding::{Finding, State};
pub use gateway::{Entry, Gateway, GatewaySettings, Listener};
pub use host::guard::Guard;
pub use keys::KeyOptions;
pub use keys::input::choose;
pub use keys::paste::read_key;
pub use models::catalog::{Input, Prices, Thinking};
pub use models::lists::{MAX_ID, MAX_IDS, read_list};
pub use models::offer::{OfferedModel, ThinkingLevel};
pub use request::answer::{Answer, Body};
pub use request::headers;
pub use request::prepare::{Redirect, Request, off_thread};
pub use request::stream::{Read, Received, Stream, Streams, receive};
pub use request::target::Target;
pub use request_log::{
    MAX_FILES, MAX_RESPONSE_BODY, MAX_TOTAL_BYTES, Outcome, RequestLog, RequestRecord, Start,
};
pub use sse::EventReader;
pub use usage::WeakUsageBook;
pub use usage::estimate::Estimate;
pub use usage::ledger::{Counts, Summary};
pub use verdict::dialect::Content;
pub use verdict::{AnswerReader, Asked, Reading, Verdict};
