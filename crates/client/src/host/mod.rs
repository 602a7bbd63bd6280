//! Adapts answers for `OpenCode`: final errors that it shows once, and streams with known finish reasons. Pure.

mod chat_events;
mod chunk;
mod completion;
pub mod errors;
pub mod guard;
