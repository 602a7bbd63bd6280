//! Chat bodies: shaped as the official CLI shapes them, and made smaller for an account whose quota is used up. Pure.

pub mod body;
pub mod degrade;
mod fields;
