//! The way of a request: from the caller's bytes to the account's host, and of the answer back.
//!
//! [`call`] has it from top to bottom; everything else here is a part of one of its steps.

pub mod answer;
pub mod attempt;
mod body;
mod call;
pub mod headers;
mod last_word;
pub mod pipeline;
pub mod prepare;
pub mod refusal;
mod selection;
pub mod stream;
pub mod target;
