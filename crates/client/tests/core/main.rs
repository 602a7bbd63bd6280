//! Tests of the core over real sockets, real files and real processes.
#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test ends where something is not as it should be, and plays the user and the qwen CLI"
)]

#[expect(dead_code, reason = "nothing here suffers faults")]
#[path = "../support/mod.rs"]
mod support;

mod account_files;
mod bound_tokens;
mod cli_lock_interop;
mod dead_connections;
mod debug_prints;
mod device_flow;
mod disk_faults;
mod doctor;
mod doctor_commands;
mod erasure;
mod final_errors;
mod free_tier;
mod gateway;
mod importing;
mod kinds;
mod logged_requests;
mod model_lists;
mod multi_process;
mod network_faults;
mod odd_clocks;
mod odd_places;
mod odd_stores;
mod out_of_quota;
mod private_files;
mod refresh;
mod refresh_trouble;
mod request_budget;
mod request_path;
mod shared_token_model;
mod store_places;
mod streams;
mod switching;
mod transport;
mod usage;
mod verdicts;
