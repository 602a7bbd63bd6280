//! Errors of a call that finds no account to ask. Pure.

use http::StatusCode;
use qwen_accounts::{Cooldown, CoolingReason};
use qwen_base::shell::operand;
use qwen_base::{Code, Error};
use serde_json::{Value, json};

use super::selection::{Candidate, Selection};
use crate::host::errors::{FinalError, SHORT_WAIT_MS, moment, plain};

/// The error of a call whose accounts are all cooling.
#[derive(Debug)]
pub struct AllCoolingError {
    reason: CoolingReason,
    server_code: String,
    message: String,
    /// Milliseconds until the first account can be asked again.
    pub wait_ms: u64,
}

impl AllCoolingError {
    /// Composes the error. `cli_failure` is the error of the qwen CLI.
    #[must_use]
    pub fn new(
        selection: &Selection,
        cli_failure: Option<&Error>,
        now_ms: u64,
        utc_offset_minutes: i32,
    ) -> Self {
        let cooling = selection.cooling();
        // An unpaid account does not recover without action.
        let first = cooling.iter().map(|(_, cooldown)| cooldown);
        let first = first.min_by_key(|cooldown| (cooldown.reason == CoolingReason::Payment, cooldown.until));
        let (reason, until) =
            first.map_or((CoolingReason::Quota, now_ms), |first| (first.reason, first.until));
        let mut message = if let [(candidate, cooldown)] = cooling {
            let name = if selection.allowed().len() == 1 {
                "This Qwen account".to_owned()
            } else {
                format!("The Qwen account \"{}\"", candidate.account.label)
            };
            cooling_message(&name, cooldown, now_ms, utc_offset_minutes)
        } else {
            let when = moment(until, now_ms, utc_offset_minutes);
            format!("{}; the next will be tried again {when}.", common_reason(cooling))
        };
        let otherwise = match selection.too_expensive() {
            [] => "add a key with `npx opencode-qwen-cli-auth add-key`.".to_owned(),
            [other, ..] => {
                let label = &other.account.label;
                format!(
                    "go on with \"{label}\", which costs more: `npx opencode-qwen-cli-auth use {}`.",
                    operand(label)
                )
            }
        };
        let advice = if reason == CoolingReason::Payment { "Pay the bill" } else { "Wait until then" };
        message = format!("{message} {advice}, or {otherwise}");
        if let Some(failure) = cli_failure {
            message = format!("{message}\n{}", failure.message());
        }
        let server_code = first.map(|first| first.code.clone()).filter(|code| !code.is_empty());
        let server_code = server_code.unwrap_or_else(|| reason.servers_code().to_owned());
        Self { reason, server_code, message, wait_ms: until.saturating_sub(now_ms) }
    }

    /// Returns the status and message. A host waits for a short limit, and treats everything else as final.
    #[must_use]
    pub fn final_error(&self, for_opencode: bool) -> FinalError {
        let is_short = match self.reason {
            CoolingReason::TokenLimit => true,
            CoolingReason::RateLimit => self.wait_ms <= SHORT_WAIT_MS,
            CoolingReason::Quota | CoolingReason::Payment => false,
        };
        let is_final = if for_opencode { !is_short } else { self.reason == CoolingReason::Payment };
        let status = if is_final { StatusCode::PAYMENT_REQUIRED } else { StatusCode::TOO_MANY_REQUESTS };
        FinalError {
            status,
            message: plain(&self.message),
            code: Some(self.reason.code()),
            server_code: None,
        }
    }

    /// Returns the error as the API writes it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.server_code, "code": self.server_code}})
    }
}

/// Returns the common reason of these accounts.
fn common_reason(cooling: &[(&Candidate, Cooldown)]) -> String {
    let count = cooling.len();
    let are_all =
        |wanted: &[CoolingReason]| cooling.iter().all(|(_, cooldown)| wanted.contains(&cooldown.reason));
    if are_all(&[CoolingReason::Quota]) {
        format!("All {count} accounts are out of quota")
    } else if are_all(&[CoolingReason::RateLimit, CoolingReason::TokenLimit]) {
        format!("Qwen takes no more requests from all {count} accounts for now")
    } else if are_all(&[CoolingReason::Payment]) {
        format!("Alibaba refuses all {count} accounts until their bills are paid")
    } else {
        format!("None of the {count} accounts can be asked for now")
    }
}

/// Returns the message about a cooling account, with the time of the next try. The reset time of a quota is often unknown, so
/// the message does not promise one.
#[must_use]
pub fn cooling_message(name: &str, cooldown: &Cooldown, now_ms: u64, utc_offset_minutes: i32) -> String {
    let what = match (cooldown.reason, cooldown.window) {
        (CoolingReason::Quota, Some(window)) => format!("{name} has used up its {} quota.", window.as_str()),
        (CoolingReason::Quota, None) => format!("{name} has used up its quota."),
        (CoolingReason::RateLimit | CoolingReason::TokenLimit, _) => limit_reached(name),
        (CoolingReason::Payment, _) => {
            format!("Alibaba refuses requests until the bill is paid. {name} is not paid for.")
        }
    };
    format!("{what} It will be tried again {}.", moment(cooldown.until, now_ms, utc_offset_minutes))
}

/// Returns the message about an account with a rate limit.
#[must_use]
pub fn limit_reached(name: &str) -> String {
    format!("{name} takes no more requests for now.")
}

/// Returns the error for a request that no account may serve.
#[must_use]
pub fn no_account_serves(model: &str, selection: &Selection) -> Error {
    let labels: Vec<_> =
        selection.too_expensive().iter().map(|candidate| candidate.account.label.as_str()).collect();
    let (code, message) = match labels.first() {
        None => (
            Code::ModelUnavailable,
            format!(
                "No account can use the model {model}. Choose one of the models that `npx opencode-qwen-cli-auth models` lists, or add an account that has it."
            ),
        ),
        Some(first) => (
            Code::PaymentRequired,
            format!(
                "Only an account that is billed by use serves this request: {}. Choose it with `npx opencode-qwen-cli-auth use {}`, or allow it with OPENCODE_QWEN_ALLOW_PAID_FALLBACK=1.",
                labels.iter().map(|label| format!("\"{label}\"")).collect::<Vec<_>>().join(", "),
                operand(first),
            ),
        ),
    };
    Error::new(code, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use qwen_accounts::QuotaWindow;

    use super::*;

    const NOW: u64 = 1_795_500_000_000;

    fn said(reason: CoolingReason, window: Option<QuotaWindow>, after_ms: u64) -> String {
        let cooldown = Cooldown { until: NOW + after_ms, reason, code: String::new(), window };
        cooling_message("This Qwen account", &cooldown, NOW, 0)
    }

    #[test]
    fn the_message_names_the_window_and_promises_no_reset_time() {
        use CoolingReason::{Payment, Quota, RateLimit, TokenLimit};
        for (reason, window, after_ms, expected) in [
            (
                Quota,
                Some(QuotaWindow::FiveHours),
                1_800_000,
                "This Qwen account has used up its 5-hour quota. It will be tried again at 06:30 (in 30 min).",
            ),
            (
                Quota,
                None,
                1_000,
                "This Qwen account has used up its quota. It will be tried again at 06:00 (in 1 min).",
            ),
            (
                RateLimit,
                None,
                60_000,
                "This Qwen account takes no more requests for now. It will be tried again at 06:01 (in 1 min).",
            ),
        ] {
            assert_eq!(said(reason, window, after_ms), expected);
        }
        assert!(
            said(TokenLimit, None, 60_000).contains("for now")
                && said(Payment, None, 3_600_000).contains("bill")
        );
    }

    proptest! {
        #[test]
        fn no_message_makes_a_host_retry(
            at in 0..4_usize, window in 0..QuotaWindow::ALL.len(), after_ms in 0..3_000_000_000_u64,
        ) {
            let message = said(CoolingReason::ALL[at], Some(QuotaWindow::ALL[window]), after_ms);
            let message = plain(&message);
            for word in ["try again", "tried again in", "exhausted", "rate limit", "unavailable", "429"] {
                prop_assert!(!message.contains(word), "{}", message);
            }
        }
    }
}
