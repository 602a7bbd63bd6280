//! Files that hold tokens: how they are locked, read and replaced. Everything here blocks; call it from a blocking thread.

pub mod accounts;
pub mod atomic;
pub mod credentials;
pub mod document;
pub mod file;
pub mod foreign;
pub mod legacy;
pub mod lock;
pub mod modes;
pub mod ownership;
pub mod place;
pub mod record;
pub mod recover;
pub mod sharing;
