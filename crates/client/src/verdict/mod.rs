//! The meaning of an answer, read once, in any dialect and wherever its error stands. Pure.
//!
//! [`Reading::of_body`] reads an answer with an error status. [`AnswerReader`] finds an error that comes in place of an
//! answer inside a success.

mod denial;
pub mod dialect;
mod quota;
mod reading;
mod words;

pub use reading::{AnswerReader, Asked, Reading, Verdict};

#[cfg(test)]
mod tests;
