//! Promises that hold whatever happens to a process: no token is redeemed twice, none is lost, no file is torn.
//!
//! One test for each promise shows that it is kept, and that it breaks without its safeguard. Tests that take minutes
//! are ignored; `npm run test:stress` runs them.
#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test ends where something is not as it should be, and plays the user and the qwen CLI"
)]

#[expect(dead_code, reason = "the tests of the core use what these don't")]
#[path = "../support/mod.rs"]
mod support;

mod crash;
mod places;
mod power_loss;
mod safeguards;
mod scene;
mod sleep;
