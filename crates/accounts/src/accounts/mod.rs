//! Accounts that requests are sent with.

pub mod account;
pub mod account_commands;
pub mod account_states;
pub mod availability;
pub mod erase;
pub mod import;
pub mod issuer;
pub mod reconcile;
pub mod redeemed;
pub mod registry;
pub mod snapshot;
