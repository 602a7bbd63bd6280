//! What the tests share: a server that plays Qwen, a home directory, other processes, and time that can be wound on.

pub mod child;
pub mod fleet;
pub mod home;
pub mod reply;
pub mod seen;
pub mod server;
pub mod setup;
pub mod time;
pub mod tls;
