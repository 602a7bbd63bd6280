//! The wait that a server asks for.

use std::time::SystemTime;

use http::header::{HeaderMap, HeaderName, RETRY_AFTER};

use crate::clock::epoch_ms;

/// A form of `Retry-After` in milliseconds, which `OpenCode` reads first.
pub const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// Returns the wait that a server asks for, in milliseconds.
#[must_use]
pub fn retry_after_of(headers: &HeaderMap, now_ms: u64) -> Option<u64> {
    let value = |name: HeaderName| headers.get(name)?.to_str().ok();
    let in_ms = value(RETRY_AFTER_MS).and_then(|value| thousandths(value.trim()));
    let in_ms = in_ms.map(|thousandths| thousandths.div_ceil(1000));
    in_ms.or_else(|| retry_after_ms(value(RETRY_AFTER)?, now_ms))
}

/// Converts `Retry-After` to milliseconds, from seconds or an HTTP date (RFC 9110 section 10.2.3). Some servers send a
/// fraction of a second.
#[must_use]
pub fn retry_after_ms(value: &str, now_ms: u64) -> Option<u64> {
    let value = value.trim();
    thousandths(value).or_else(|| {
        let date: SystemTime = httpdate::parse_http_date(value).ok()?;
        Some(epoch_ms(date).saturating_sub(now_ms))
    })
}

/// Reads a decimal number in thousandths.
fn thousandths(number: &str) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let fraction = format!("{fraction:0<3}")[..3].parse().ok()?;
    Some(whole.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(1000).saturating_add(fraction))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date() {
        assert_eq!(retry_after_ms("7", 0), Some(7_000));
        assert_eq!(retry_after_ms(" 120 ", 0), Some(120_000));
        assert_eq!(retry_after_ms("Thu, 01 Jan 1970 00:01:00 GMT", 20_000), Some(40_000));
        assert_eq!(retry_after_ms("Thu, 01 Jan 1970 00:01:00 GMT", 90_000), Some(0));
        assert_eq!(retry_after_ms("99999999999999999999999", 0), Some(u64::MAX));
        assert_eq!(retry_after_ms("3600.5", 0), Some(3_600_500));
        for unreadable in ["", "-1", "1.", ".5", "1.5.5", "1e3", "soon"] {
            assert_eq!(retry_after_ms(unreadable, 0), None, "{unreadable}");
        }
    }

    #[test]
    fn a_wait_in_milliseconds_is_read_before_one_in_seconds() {
        for (in_ms, in_seconds, wait) in [
            (Some("100"), Some("30"), Some(100)),
            (Some("3600000"), None, Some(3_600_000)),
            (Some("99.5"), None, Some(100)),
            (Some("soon"), Some("30"), Some(30_000)),
            (None, Some("1.5"), Some(1_500)),
            (None, None, None),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in [(RETRY_AFTER_MS, in_ms), (RETRY_AFTER, in_seconds)] {
                headers.extend(value.map(|value| (name, HeaderValue::from_static(value))));
            }
            assert_eq!(retry_after_of(&headers, 0), wait, "{headers:?}");
        }
    }
}
