//! Chat bodies in the shape of the official CLI, and those of shorter requests for an account without quota. Pure.

pub mod body;
pub mod degrade;
pub(crate) mod fields;
