//! Notes an error that a stream ends with, for the next request: content was passed on, so this one is over.

use tokio::runtime::Handle;

use super::answer::Answer;
use super::call::{DEFAULT_REST_MS, UNPAID_REST_MS};
use super::dialect::ServerError;
use super::last_word;
use super::pipeline::Pipeline;
use super::verdict::{Asked, Reading, Verdict};
use crate::accounts::account::Account;
use crate::accounts::cooldown::{Cooldown, CoolingReason, exhausted_until, least_cooldown_ms};
use crate::accounts::kind::Kind;
use crate::error::Error;

/// Rest of a key whose tokens per minute are used up.
const MINUTE_MS: u64 = 60_000;

/// Leaves the account alone if the answer ends with an error that asks for it.
pub(super) fn watch_for(pipeline: &Pipeline, account: &Account, answer: &mut Answer) {
    let (tokens, clock) = (pipeline.tokens.clone(), pipeline.journal.clock.clone());
    let (id, is_key) = (account.id.clone(), account.kind != Kind::OAuth);
    let quota_cooldown_ms = pipeline.settings.quota_cooldown_ms;
    answer.body.on_server_error(move |error: ServerError| {
        let now_ms = clock.now_ms();
        let reading = Reading::of_inner_error(error, &Asked { is_key, model: "", now_ms });
        let (Some(cooldown), Ok(runtime)) =
            (cooldown(&reading, quota_cooldown_ms, now_ms), Handle::try_current())
        else {
            return;
        };
        let why = Error::new(last_word::code_of(cooldown.reason), reading.message());
        runtime.spawn(async move {
            let _ = tokens.with_registry(move |registry| registry.mark_cooling(&id, &cooldown, &why)).await;
        });
    });
}

fn cooldown(reading: &Reading, quota_cooldown_ms: u64, now_ms: u64) -> Option<Cooldown> {
    let (reason, until, window) = match reading.verdict {
        Verdict::QuotaExhausted { window, until } => {
            let least = least_cooldown_ms(window, quota_cooldown_ms, None);
            let until = until.unwrap_or_else(|| exhausted_until(now_ms, least, None));
            (CoolingReason::Quota, until, window)
        }
        Verdict::RateLimited => (CoolingReason::RateLimit, now_ms + DEFAULT_REST_MS, None),
        Verdict::AllocationLimit => {
            (CoolingReason::TokenLimit, now_ms + MINUTE_MS.min(quota_cooldown_ms), None)
        }
        Verdict::PaymentRequired => (CoolingReason::Payment, now_ms + UNPAID_REST_MS, None),
        _ => return None,
    };
    let code = reading.code().unwrap_or(last_word::default_code(reason)).to_owned();
    Some(Cooldown { until, reason, code, window })
}
