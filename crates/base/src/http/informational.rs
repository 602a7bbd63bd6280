//! Detects a flood of informational responses (1xx).
//!
//! hyper reads and drops these responses, and reqwest doesn't pass on the extension that would report them. So a flood only
//! shows in the time that the async thread is busy although nothing arrives.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeMetrics};
use tokio::time::{Instant, timeout};

use super::TransportError;
use crate::Result;

/// Time between two measurements. In a flood, timers are late.
const WINDOW: Duration = Duration::from_secs(2);
/// Busy time that ends the wait, in at least two windows.
const LIMIT: Duration = Duration::from_secs(10);
/// Busy time in a window of a flood. Threads that only wait are busy for a thousandth of this.
const LEAST_BUSY: Duration = Duration::from_millis(500);
/// Longest time that the arrival of one piece takes, with its decoding.
const LONGEST_PIECE: Duration = Duration::from_millis(20);

/// Number of heads and pieces of bodies that have arrived in this process.
static ARRIVALS: AtomicU64 = AtomicU64::new(0);

/// Notes that the head or a piece of a body of an answer has arrived.
pub fn note_arrival() {
    ARRIVALS.fetch_add(1, Ordering::Relaxed);
}

/// Waits for an answer of `host`, for `limit` at most.
///
/// # Errors
/// `ERR_QWEN_TIMEOUT` after the limit, and `ERR_QWEN_INVALID_RESPONSE` after the async threads have been busy for ten seconds
/// with something else than what arrived.
pub async fn answer_within<T>(host: &str, limit: Duration, answer: impl Future<Output = T>) -> Result<T> {
    let metrics = Handle::current().metrics();
    let look = || (ARRIVALS.load(Ordering::Relaxed), busy_time(&metrics));
    let mut answer = pin!(answer);
    let begun = Instant::now();
    let (mut before, mut total, mut windows) = (look(), Duration::ZERO, 0);
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        if let Ok(answer) = timeout(left.min(WINDOW), &mut answer).await {
            return Ok(answer);
        }
        if left <= WINDOW {
            return Err(TransportError::no_answer(host, limit).error);
        }
        let now = look();
        let arrived = now.0.wrapping_sub(before.0);
        let explained = LONGEST_PIECE.saturating_mul(u32::try_from(arrived).unwrap_or(u32::MAX));
        let unexplained = now.1.saturating_sub(before.1).saturating_sub(explained);
        before = now;
        (total, windows) =
            if unexplained < LEAST_BUSY { (Duration::ZERO, 0) } else { (total + unexplained, windows + 1) };
        if total >= LIMIT && windows >= 2 {
            return Err(TransportError::flood(host));
        }
    }
}

fn busy_time(metrics: &RuntimeMetrics) -> Duration {
    (0..metrics.num_workers()).map(|worker| metrics.worker_total_busy_duration(worker)).sum()
}
