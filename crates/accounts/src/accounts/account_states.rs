//! Writes findings of requests and refreshes about an account to the store, for all processes.

use qwen_base::{Error, Result, Secret};

use super::cooldown::{Cooldown, CoolingReason, Pause, cooling_until};
use super::registry::Registry;
use crate::store::document::Document;
use crate::store::record::{LastError, Record};

/// Ends of two cooldowns that differ by less than this are the same finding, made by two requests.
const SAME_FINDING_MS: u64 = 10_000;
/// All processes together make one degraded try in this time while every account is cooling.
const DEGRADE_INTERVAL_MS: u64 = 60_000;

/// How an account cools after a finding was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cooled {
    /// The end, in epoch milliseconds.
    pub until: u64,
    /// False where another request has just found the same.
    pub is_news: bool,
}

impl Registry {
    /// The account is left alone for a time: its quota is used up, it may not be asked that often, or nobody pays for it.
    ///
    /// # Errors
    /// As [`Registry::with_store`]; so for all methods here. `None` where the account is gone.
    pub fn mark_cooling(&self, id: &str, cooldown: &Cooldown, why: &Error) -> Result<Option<Cooled>> {
        self.with_record(id, |record, now| {
            // An unpaid account is tried once an hour, and told of only when it changes to this state.
            let is_told = cooldown.reason == CoolingReason::Payment
                && record.last_error().is_some_and(|last| last.code == why.code().as_str());
            let cooled = cool(record, cooldown, why, now);
            Cooled { is_news: cooled.is_news && !is_told, ..cooled }
        })
    }

    /// The account may use no more tokens for a time that nobody knows: a pause that grows with each refusal after the
    /// one before it. `asked_at` is when the account was asked first for the refused request (epoch milliseconds), `code` the server's code.
    ///
    /// # Errors
    /// As [`Registry::mark_cooling`].
    pub fn mark_paused(
        &self,
        id: &str,
        (asked_at, code): (u64, &str),
        (retry_after_ms, longest_ms): (Option<u64>, u64),
        why: &Error,
    ) -> Result<Option<Cooled>> {
        self.with_record(id, |record, now| {
            let pause = Pause::after(record.pause(), asked_at, retry_after_ms, longest_ms, now);
            record.set_pause(pause);
            if pause.ends_at() <= now {
                return Cooled { until: pause.ends_at(), is_news: false };
            }
            let reason = CoolingReason::TokenLimit;
            let cooldown = Cooldown { until: pause.ends_at(), reason, code: code.to_owned(), window: None };
            cool(record, &cooldown, why, now)
        })
    }

    /// The API refuses the account's token or key.
    ///
    /// # Errors
    /// As [`Registry::mark_cooling`].
    pub fn mark_rejected(&self, id: &str, token: &Secret, why: &Error) -> Result<Option<()>> {
        self.with_record(id, |record, now| {
            record.set_rejected(Some((token, now)));
            record.set_last_error(Some(&LastError::new(why, now)));
        })
    }

    /// The OAuth server refuses the account's refresh token for good.
    ///
    /// # Errors
    /// As [`Registry::mark_cooling`].
    pub fn mark_refused(&self, id: &str, refresh_token: &Secret, why: &Error) -> Result<Option<()>> {
        self.with_record(id, |record, now| {
            record.set_refused(refresh_token);
            record.set_last_error(Some(&LastError::new(why, now)));
        })
    }

    /// The account has answered. A cooldown that began meanwhile stays.
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

    /// Says if a degraded payload may be sent now, and notes that it is. With `is_limited` one may once a minute.
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

/// True if no process has made a degraded try for a while.
#[must_use]
pub fn is_degraded_try_due(document: &Document, now_ms: u64) -> bool {
    now_ms.abs_diff(document.degraded_at()) >= DEGRADE_INTERVAL_MS
}

/// Leaves an account alone, unless another request has just found the same.
fn cool(record: &mut Record, cooldown: &Cooldown, why: &Error, now: u64) -> Cooled {
    let known = cooling_until(record.exhausted_until(), now);
    let is_longer = known.is_none_or(|known| cooldown.until.saturating_sub(known) > SAME_FINDING_MS);
    if is_longer && cooldown.until > now {
        record.start_cooling(cooldown, now);
        record.set_last_error(Some(&LastError::new(why, now)));
    }
    let until = cooling_until(record.exhausted_until(), now).unwrap_or(cooldown.until);
    Cooled { until, is_news: known.is_none() }
}
