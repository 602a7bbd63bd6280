//! The Node addon. It converts JavaScript values to the core's and back, and decides nothing.

mod body;
mod bridge;
mod client;
mod gateway;
mod process_end;
mod runtime;
mod shell;
mod signals;
mod types;
