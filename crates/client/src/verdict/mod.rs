//! Reads the meaning of an answer, once, for every form of error. Pure.
//!
//! [`Reading::of_body`] reads an answer with an error status. [`AnswerReader`] finds an error inside a success, before any
//! content.

mod denial;
pub mod dialect;
mod quota;
mod quotations;
mod reading;
mod words;

pub use reading::{AnswerReader, Reading, RequestContext, Verdict};

#[cfg(test)]
mod tests;
