//! Writes the results of requests and refreshes to the store, so that all processes see them.

use qwen_base::{Error, Result, Secret};

use super::registry::Registry;
use crate::model::{Cooldown, CoolingReason, Pause, cooling_until};
use crate::store::document::Document;
use crate::store::record::{LastError, Record};

/// Cooldowns whose ends differ by less than this, in milliseconds, count as one.
const SAME_FINDING_MS: u64 = 10_000;
/// Time between two shorter requests of all processes while every account is cooling.
const DEGRADE_INTERVAL_MS: u64 = 60_000;

/// A cooldown after it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cooled {
    /// End of the cooldown, in epoch milliseconds.
    pub until: u64,
    /// False if another request has just found the same.
    pub is_news: bool,
}

impl Registry {
    /// Starts a cooldown of the account. Returns `None` if the account is gone.
    ///
    /// # Errors
    /// As [`Registry::with_store`], for all methods here.
    pub fn mark_cooling(&self, id: &str, cooldown: &Cooldown, why: &Error) -> Result<Option<Cooled>> {
        self.with_record(id, |record, now| {
            // An unpaid account is tried once an hour. The user is told once.
            let is_told = cooldown.reason == CoolingReason::Payment
                && record.last_error().is_some_and(|last| last.code == why.code().as_str());
            let cooled = cool(record, cooldown, why, now);
            Cooled { is_news: cooled.is_news && !is_told, ..cooled }
        })
    }

    /// Pauses an account whose tokens per minute are used up. `code` is the server's code. `next` returns the new pause,
    /// from the current one and the time in epoch milliseconds.
    ///
    /// # Errors
    /// As [`Registry::mark_cooling`].
    pub fn mark_paused(
        &self,
        id: &str,
        code: &str,
        next: impl FnOnce(Option<Pause>, u64) -> Pause,
        why: &Error,
    ) -> Result<Option<Cooled>> {
        self.with_record(id, |record, now| {
            let pause = next(record.pause, now);
            record.pause = Some(pause);
            if pause.ends_at() <= now {
                return Cooled { until: pause.ends_at(), is_news: false };
            }
            let reason = CoolingReason::TokenLimit;
            let cooldown = Cooldown { until: pause.ends_at(), reason, code: code.to_owned(), window: None };
            cool(record, &cooldown, why, now)
        })
    }

    /// Notes that the API refused the account's token or key.
    ///
    /// # Errors
    /// As [`Registry::mark_cooling`].
    pub fn mark_rejected(&self, id: &str, token: &Secret, why: &Error) -> Result<Option<()>> {
        self.with_record(id, |record, now| {
            record.set_rejected(Some((token, now)));
            record.set_last_error(Some(LastError::new(why, now)));
        })
    }

    /// Notes that the OAuth server refused the account's refresh token for good.
    ///
    /// # Errors
    /// As [`Registry::mark_cooling`].
    pub fn mark_refused(&self, id: &str, refresh_token: &Secret, why: &Error) -> Result<Option<()>> {
        self.with_record(id, |record, now| {
            record.set_refused(refresh_token);
            record.set_last_error(Some(LastError::new(why, now)));
        })
    }

    /// Notes that the account has answered. A cooldown that began meanwhile stays.
    ///
    /// # Errors
    /// As [`Registry::mark_cooling`].
    pub fn mark_recovered(&self, id: &str) -> Result<Option<()>> {
        self.with_record(id, |record, now| {
            record.set_rejected(None);
            if cooling_until(record.exhausted_until(), now).is_none() {
                record.set_last_error(None);
                record.stop_cooling(now);
            }
        })
    }

    /// Returns true if a shorter request may be sent now, and notes that it is sent. With `is_limited` one is allowed
    /// per minute.
    ///
    /// # Errors
    /// As [`Registry::with_store`].
    pub fn claim_degraded_try(&self, is_limited: bool) -> Result<bool> {
        let now = self.clock.now_ms();
        self.with_store(|document| {
            let may = !is_limited || is_degraded_try_due(document, now);
            if may {
                document.set_degraded_at(now);
            }
            may
        })
    }
}

/// True if no process has sent a shorter request in the last minute.
#[must_use]
pub fn is_degraded_try_due(document: &Document, now_ms: u64) -> bool {
    now_ms.abs_diff(document.degraded_at()) >= DEGRADE_INTERVAL_MS
}

/// Starts a cooldown, unless another request has just found the same.
fn cool(record: &mut Record, cooldown: &Cooldown, why: &Error, now: u64) -> Cooled {
    let known = cooling_until(record.exhausted_until(), now);
    let is_longer = known.is_none_or(|known| cooldown.until.saturating_sub(known) > SAME_FINDING_MS);
    if is_longer && cooldown.until > now {
        record.start_cooling(cooldown, now);
        record.set_last_error(Some(LastError::new(why, now)));
    }
    let until = cooling_until(record.exhausted_until(), now).unwrap_or(cooldown.until);
    Cooled { until, is_news: known.is_none() }
}
