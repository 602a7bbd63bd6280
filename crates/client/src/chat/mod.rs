//! Chat bodies in the shape of the official CLI, and smaller ones for an account without quota. Pure.

pub mod body;
pub mod degrade;
mod fields;
