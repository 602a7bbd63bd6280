//! Accounts: who a request is sent as.

pub mod account;
pub mod account_states;
pub mod availability;
pub mod binding;
pub mod choices;
pub mod cooldown;
pub mod erase;
pub mod identity;
pub mod importing;
pub mod kind;
pub mod reconcile;
pub mod redeemed;
pub mod registry;
pub mod view;
