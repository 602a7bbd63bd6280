//! The way of a request: from the caller's bytes to the account's host, and of the answer back.
//!
//! [`call`] has it from top to bottom; everything else here is a part of one of its steps.

pub mod answer;
pub mod attempt;
pub mod body;
mod call;
pub mod degrade;
pub mod dialect;
mod fields;
pub mod guard;
pub mod headers;
pub mod host_errors;
pub mod last_word;
mod late_error;
pub mod pipeline;
pub mod prepare;
pub mod quota;
pub mod refusal;
pub mod selection;
pub mod stream;
pub mod target;
pub mod verdict;
