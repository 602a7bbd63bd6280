//! Adapts answers for `OpenCode`: final errors that it shows once, and streams with known finish reasons. Pure.

mod chat_events;
mod chunk;
mod completion;
mod error_text;
pub mod errors;
pub mod guard;
mod shape;
