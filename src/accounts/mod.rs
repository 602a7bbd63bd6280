//! Accounts: who a request is sent as.

pub mod account;
pub mod cooldown;
pub mod identity;
pub mod importing;
pub mod reconcile;
pub mod registry;
pub mod rotation;
pub mod standing;
