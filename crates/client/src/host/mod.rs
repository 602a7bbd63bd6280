//! What `OpenCode` needs of an answer: errors that it says once, and streams that end as it knows. Pure.

mod chunk;
mod completion;
pub mod errors;
pub mod guard;
