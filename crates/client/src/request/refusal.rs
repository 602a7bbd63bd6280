//! Finds out why the API refuses a fresh login, since the advice to the user depends on it. Pure.

use http::HeaderMap;
use http::header::DATE;
use qwen_accounts::Kind;
use qwen_base::{Code, Error, epoch_ms};

use crate::models::COMMON_MODEL;
use crate::verdict::Reading;

/// End of Qwen's free tier, in epoch milliseconds: 2026-04-15.
pub const FREE_TIER_END_MS: u64 = 1_776_211_200_000;
/// Largest difference to the server's clock, in milliseconds.
const MAX_SKEW_MS: u64 = 5 * 60 * 1000;

/// A refusal of a fresh token.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<'a> {
    pub kind: Kind,
    pub label: &'a str,
    pub reading: &'a Reading,
    /// The headers of the answer.
    pub headers: &'a HeaderMap,
    /// True if the user has a key.
    pub has_key: bool,
}

impl Refusal<'_> {
    /// Returns the error for the user.
    #[must_use]
    pub fn error(&self, now_ms: u64) -> Error {
        if let Some(skew) = self.skew(now_ms) {
            let minutes = (skew.unsigned_abs() + 30_000) / 60_000;
            let direction = if skew > 0 { "behind" } else { "ahead of" };
            let message = format!(
                "Qwen refused the account \"{}\", and this computer's clock is {minutes} min {direction} Qwen's: correct it, then try again. If that does not help, log in again with `opencode auth login`.",
                self.label
            );
            return Error::new(Code::TokenRejected, message);
        }
        if self.kind == Kind::OAuth && self.reading.refuses_login() && now_ms >= FREE_TIER_END_MS {
            return free_tier_ended(self.has_key);
        }
        let message =
            "Qwen refused this login, and a fresh token for it too. Log in again with `opencode auth login`.";
        Error::new(Code::TokenRejected, message)
    }

    /// Returns the milliseconds by which the server's clock is ahead of ours, if the difference is too large.
    fn skew(&self, now_ms: u64) -> Option<i64> {
        let date = httpdate::parse_http_date(self.headers.get(DATE)?.to_str().ok()?).ok()?;
        let servers = epoch_ms(date);
        let skew = i64::try_from(servers).ok()? - i64::try_from(now_ms).ok()?;
        (skew.unsigned_abs() > MAX_SKEW_MS).then_some(skew)
    }
}

/// True if the error means that this account's login does not work. Then another account may be asked.
#[must_use]
pub const fn is_about_login(code: Code) -> bool {
    matches!(
        code,
        Code::RefreshTokenInvalid
            | Code::CredentialsInvalid
            | Code::TokenRejected
            | Code::InvalidResponse
            | Code::InvalidArgument
    )
}

fn free_tier_ended(has_key: bool) -> Error {
    let add = if has_key {
        "Go on with the key that you have"
    } else {
        "Add the key of a plan with `npx opencode-qwen-cli-auth add-key`, and go on with it"
    };
    let message = format!(
        "Qwen ended its free tier on 2026-04-15: a login still succeeds, and requests with it are refused, so it does not help to log in again. {add}: `opencode -m qwen-code/{COMMON_MODEL}`."
    );
    Error::new(Code::FreeTierDiscontinued, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::RequestContext;

    const NOW: u64 = 1_795_500_000_000;
    const REFUSED: &[u8] =
        br#"{"error":{"code":"invalid_api_key","message":"invalid access token or token expired"}}"#;

    fn reading(status: u16, body: &[u8]) -> Reading {
        Reading::of_body(status, body, &RequestContext { is_key: false, model: "coder-model", now_ms: NOW })
    }

    fn error(reading: &Reading, kind: Kind, has_key: bool, headers: &HeaderMap, now_ms: u64) -> Error {
        Refusal { kind, label: "Mine", reading, headers, has_key }.error(now_ms)
    }

    fn dated(now_ms: u64) -> HeaderMap {
        let date = std::time::UNIX_EPOCH + std::time::Duration::from_millis(now_ms);
        [(DATE, httpdate::fmt_http_date(date).parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn a_refused_fresh_login_means_the_end_of_the_free_tier() {
        for headers in [HeaderMap::new(), dated(NOW), dated(NOW + 240_000)] {
            let error = error(&reading(401, REFUSED), Kind::OAuth, false, &headers, NOW);
            assert_eq!(error.code(), Code::FreeTierDiscontinued);
            assert!(error.message().contains("2026-04-15") && error.message().contains("add-key"));
        }
        let with_key = error(&reading(401, REFUSED), Kind::OAuth, true, &HeaderMap::new(), NOW);
        assert!(!with_key.message().contains("add-key") && with_key.message().contains("opencode -m"));
    }

    #[test]
    fn other_refusals_do_not_mean_the_end_of_the_free_tier() {
        let none = HeaderMap::new();
        for (what, status, body, kind, now) in [
            ("another status", 403, REFUSED, Kind::OAuth, NOW),
            ("another error", 401, b"{}", Kind::OAuth, NOW),
            ("no error of the API", 401, b"<html>", Kind::OAuth, NOW),
            ("a key", 401, REFUSED, Kind::Key(None), NOW),
            ("before the end", 401, REFUSED, Kind::OAuth, FREE_TIER_END_MS - 1),
        ] {
            let found = error(&reading(status, body), kind, false, &none, now);
            assert_eq!(found.code(), Code::TokenRejected, "{what}");
            assert!(found.message().contains("Log in again"), "{what}");
        }
    }

    #[test]
    fn a_wrong_clock_is_reported_first() {
        for (server, words) in [(NOW + 7_200_000, "120 min behind"), (NOW - 600_000, "10 min ahead of")] {
            let error = error(&reading(401, REFUSED), Kind::OAuth, false, &dated(server), NOW);
            assert_eq!(error.code(), Code::TokenRejected);
            assert!(error.message().contains(words), "{}", error.message());
        }
    }
}
