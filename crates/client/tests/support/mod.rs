//! Shared parts: a server that plays Qwen, a home directory, other processes, and a clock that can be wound on.

use std::io::Write as _;

pub mod apart;
pub mod child;
#[cfg(target_os = "linux")]
pub mod disks;
pub mod faults;
pub mod fleet;
pub mod gate;
pub mod home;
pub mod keys;
pub mod port;
pub mod proxies;
pub mod qwen_cli;
pub mod reply;
pub mod seen;
pub mod server;
pub mod setup;
pub mod time;
pub mod tls;

/// Says that a test can't run here. Writes past the test harness, which hides the output of tests that pass.
pub fn skipped(reason: &str) {
    std::io::stderr().write_all(format!("SKIPPED: {reason}\n").as_bytes()).unwrap();
}
