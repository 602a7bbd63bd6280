//! What must hold whatever happens to a process: no token redeemed twice, none lost that could be kept, no file torn.
//!
//! For each promise one test shows that it is kept, and that it is broken without the safeguard it rests on. Those that
//! take minutes are ignored, and run by `npm run test:stress`.
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
