//! Files that hold tokens: locking, reading and replacing them. Everything here blocks: call it from a blocking thread.

pub mod atomic;
pub mod credentials;
pub mod document;
pub mod file;
pub mod import_formats;
pub mod legacy;
pub mod lock;
pub mod modes;
pub mod obstacle;
pub mod ownership;
pub mod path_policy;
pub mod raw_fields;
pub mod record;
pub mod recover;
pub mod refresh_decision;
pub mod sanitize;
pub mod store_file;
