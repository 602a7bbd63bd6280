//! The way of a request: from the caller's bytes to the account's host, and of the answer back.
//!
//! [`fetch`] is the pipeline; everything else here is one of its steps.

pub mod answer;
pub mod attempt;
mod begin;
pub mod body;
pub mod classify;
pub mod degrade;
pub mod dialect;
pub mod eligible;
pub mod fetch;
mod fields;
pub mod guard;
pub mod headers;
pub mod host_errors;
mod judge;
pub mod plan;
pub mod prepare;
pub mod quota;
pub mod refusal;
pub mod stream;
pub mod target;
pub mod verdict;
mod ways_out;
