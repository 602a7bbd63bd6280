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
pub mod headers;
mod host;
mod keys;
mod lenient_json;
mod models;
mod opencode_files;
mod request;
mod request_log;
mod shared_file;
mod sse;
#[cfg(test)]
mod test_tokens;
mod usage;
mod user_files;
mod verdict;

pub use client::{
    AccessToken, AccountInfo, AccountUsage, Client, Context, FoundCredential, ImportedKey, LoginOptions,
};
pub use config::{ClientOptions, OAuthOptions, Rotation, oauth_config};
pub use doctor::Doctor;
pub use doctor::finding::{Finding, FindingState};
pub use gateway::{EntryListener, Gateway, GatewayEntry, GatewaySettings};
pub use keys::KeyOptions;
pub use models::catalog::{Input, Prices, Thinking};
pub use models::offer::{OfferedModel, ThinkingLevel};
pub use request::answer::Answer;
pub use request::prepare::{Redirect, Request, off_thread};
pub use request::stream::{ReceivedBody, Stream, StreamRead, Streams, receive_body};
pub use usage::WeakUsageBook;
pub use usage::estimate::Estimate;
pub use usage::ledger::{Counts, Summary};

/// Parts that only the tests and the fuzz targets use.
#[doc(hidden)]
pub mod internals {
    pub use crate::chat::body::{Ids, shape_body};
    pub use crate::chat::degrade::degrade_body;
    pub use crate::cli::output::{CliEvent, CliParser};
    pub use crate::cli::prompt::write_prompt;
    pub use crate::cli::run::CliLimits;
    pub use crate::cli::{CliAnswer, CliFallback};
    pub use crate::config::ClientConfig;
    pub use crate::host::guard::Guard;
    pub use crate::keys::input::candidate_endpoints;
    pub use crate::keys::paste::read_key;
    pub use crate::models::lists::{MAX_ID, MAX_IDS, read_list};
    pub use crate::request::answer::Body;
    pub use crate::request::target::Target;
    pub use crate::request_log::{
        LogOutcome, LogStart, MAX_FILES, MAX_RESPONSE_BODY, MAX_TOTAL_BYTES, RequestLog, RequestRecord,
    };
    pub use crate::sse::EventReader;
    pub use crate::verdict::dialect::Content;
    pub use crate::verdict::{AnswerReader, Reading, RequestContext, Verdict};
}
