//! Detects a flood of informational responses (1xx).
//!
//! hyper reads and drops these responses, and reqwest doesn't pass on the extension that would report them. So a flood only
//! shows in the time that the async thread is busy although nothing arrives.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeMetrics};

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

/// Resolves after the async threads have been busy for ten seconds with something else than what arrived.
pub async fn flood() {
    let metrics = Handle::current().metrics();
    let (mut total, mut windows) = (Duration::ZERO, 0);
    while total < LIMIT || windows < 2 {
        let (arrivals, busy) = (ARRIVALS.load(Ordering::Relaxed), busy_time(&metrics));
        tokio::time::sleep(WINDOW).await;
        let arrived = ARRIVALS.load(Ordering::Relaxed).wrapping_sub(arrivals);
        let explained = LONGEST_PIECE.saturating_mul(u32::try_from(arrived).unwrap_or(u32::MAX));
        let unexplained = busy_time(&metrics).saturating_sub(busy).saturating_sub(explained);
        (total, windows) =
            if unexplained < LEAST_BUSY { (Duration::ZERO, 0) } else { (total + unexplained, windows + 1) };
    }
}

fn busy_time(metrics: &RuntimeMetrics) -> Duration {
    (0..metrics.num_workers()).map(|worker| metrics.worker_total_busy_duration(worker)).sum()
}
