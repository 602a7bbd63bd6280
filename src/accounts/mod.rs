//! Accounts: who a request is sent as.

pub mod account;
pub mod health;
