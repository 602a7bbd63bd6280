//! Waiting for conditions, and winding the clock on.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, advance};

/// Far above the time that a working test takes on the slowest machine: only a hang reaches it.
const LIMIT: Duration = Duration::from_secs(25);

/// Waits until `condition` holds; fails with `what` after the limit.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < LIMIT, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for `future`; fails with `what` after the limit.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("never came: {what}"))
}

/// Runs `future` on a paused clock that is wound on while sockets get the real time they need.
///
/// A paused clock by itself jumps to the next timer whenever nothing is ready, even while an answer is on its way
/// through the kernel. A blocking task prevents the jump.
pub async fn fast_forward<T>(future: impl Future<Output = T>) -> T {
    let wind_on = async {
        loop {
            advance(Duration::from_millis(100)).await;
            settle().await;
        }
    };
    tokio::select! {
        biased;
        output = future => output,
        () = wind_on => unreachable!("the clock is wound on for ever"),
    }
}

/// Lets `seconds` of the paused clock pass.
pub async fn pass(seconds: u64) {
    fast_forward(tokio::time::sleep(Duration::from_secs(seconds))).await;
}

async fn settle() {
    tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(1))).await.unwrap();
}
