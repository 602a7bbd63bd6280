//! What `OpenCode` needs of an answer: errors that it says once, and streams that end as it knows. Pure.

pub mod errors;
pub mod guard;
