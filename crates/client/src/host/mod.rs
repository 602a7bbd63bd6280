//! Adapts answers for `OpenCode`: final errors that it shows once, and streams with known finish reasons. Pure.

mod chunk;
mod completion;
pub mod errors;
pub mod guard;
