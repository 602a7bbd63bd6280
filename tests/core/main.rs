//! Tests of the core over real sockets, real files and real processes.
#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test ends where something is not as it should be, and plays the user and the qwen CLI"
)]

#[path = "../support/mod.rs"]
mod support;

mod account_files;
mod cli_lock_interop;
mod device_flow;
mod final_errors;
mod importing;
mod multi_process;
mod odd_stores;
mod out_of_quota;
mod refresh;
mod refresh_trouble;
mod request_budget;
mod request_path;
mod store_places;
mod streams;
mod switching;
mod transport;
