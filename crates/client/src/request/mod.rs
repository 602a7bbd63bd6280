//! Sends a request with one account after another, and returns the answer.
//!
//! Start with [`call`], which has all steps in order. Each other file is a part of one step.

pub mod answer;
pub mod attempt;
mod body;
mod call;
mod cooling;
mod error_watch;
mod no_account;
pub mod pipeline;
pub mod prepare;
pub mod refusal;
mod selection;
pub mod stream;
pub mod target;
