//! What Node sees. Nothing here decides anything: it turns JavaScript values into the core's and back.

mod body;
mod bridge;
mod client;
mod gateway;
mod process_end;
mod runtime;
mod signals;
mod types;
