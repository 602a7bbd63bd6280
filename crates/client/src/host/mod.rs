//! Adapts answers for the host, the program that loads the plugin: `OpenCode`. Errors become final, so that it shows them
//! once, and streams end with known finish reasons. Pure.

mod chat_events;
mod chunk;
mod completion;
mod error_text;
pub mod errors;
pub mod guard;
mod shape;
