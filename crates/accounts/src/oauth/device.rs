//! Device authorization answer (RFC 8628 section 3.2). Pure.

use std::time::Duration;

use qwen_base::{Code, Error, Result, Secret};
use serde::{Deserialize, Serialize, Serializer};
use url::Url;

use super::error_response::{OAuthAnswer, OAuthBody, seconds};
use super::poll::DEFAULT_INTERVAL_S;
use super::redemption::{invalid, unreadable};
use crate::model::fields::text;

/// Qwen's public client, which the official CLI uses.
pub const QWEN_CLIENT_ID: &str = "f0304373b74a44d2b584a3fb70ca9e56";

/// A login that waits for the user's approval.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceAuthorization {
    /// Exchanged for tokens once the user has approved.
    #[serde(serialize_with = "expose")]
    pub device_code: Secret,
    /// Code that the user types or compares.
    pub user_code: String,
    /// Page to open.
    pub verification_uri: String,
    /// Page to open, with the user code in its query.
    pub verification_uri_complete: String,
    /// Lifetime of the codes, in seconds.
    pub expires_in: f64,
    /// Shortest time between two polls, in seconds.
    pub interval: f64,
    /// PKCE verifier of the request (RFC 7636).
    #[serde(serialize_with = "expose")]
    pub code_verifier: Secret,
}

fn expose<S: Serializer>(secret: &Secret, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose())
}

/// Reads a device authorization answer.
///
/// # Errors
/// `ERR_QWEN_DEVICE_AUTHORIZATION_FAILED` if the server refused, `ERR_QWEN_INVALID_RESPONSE` if a success lacks a
/// required field.
pub fn read_device_authorization(
    answer: &OAuthAnswer,
    client_id: &str,
    code_verifier: Secret,
) -> Result<DeviceAuthorization> {
    if !(200..300).contains(&answer.status) {
        return Err(refused(answer));
    }
    let OAuthBody::Object(object) = &answer.body else {
        return Err(unreadable(&answer.body).with_status(answer.status));
    };
    let required = |field: &'static str| {
        text(object, field)
            .filter(|text| !text.chars().any(char::is_control))
            .ok_or_else(|| invalid(&format!("has no usable {field}")).with_status(answer.status))
    };
    let web_page = |field: &'static str, value: &str| {
        Url::parse(value)
            .ok()
            .filter(|url| matches!(url.scheme(), "https" | "http") && url.has_host())
            .ok_or_else(|| {
                invalid(&format!("has a {field} that is not a web address")).with_status(answer.status)
            })
    };
    let verification_uri = required("verification_uri")?;
    web_page("verification_uri", verification_uri)?;
    let mut complete = match text(object, "verification_uri_complete") {
        Some(complete) => web_page("verification_uri_complete", complete)?,
        None => web_page("verification_uri", verification_uri)?,
    };
    if client_id == QWEN_CLIENT_ID && !complete.query_pairs().any(|(name, _)| name == "client") {
        complete.query_pairs_mut().append_pair("client", "qwen-code");
    }
    let expires_in = seconds(object, "expires_in").filter(|seconds| *seconds > 0.0);
    Ok(DeviceAuthorization {
        device_code: Secret::new(required("device_code")?),
        user_code: required("user_code")?.to_owned(),
        verification_uri: verification_uri.to_owned(),
        verification_uri_complete: complete.into(),
        expires_in: expires_in
            .ok_or_else(|| invalid("has no usable expires_in").with_status(answer.status))?,
        interval: seconds(object, "interval").unwrap_or(DEFAULT_INTERVAL_S),
        code_verifier,
    })
}

fn refused(answer: &OAuthAnswer) -> Error {
    let reason = answer.printable_error();
    let message = format!(
        "The OAuth server refused to start a login ({}, HTTP status {}). Try again later; if it stays, check the OAuth settings and the proxy.",
        reason.as_deref().unwrap_or("no reason given"),
        answer.status
    );
    let error = Error::new(Code::DeviceAuthorizationFailed, message)
        .with_status(answer.status)
        .with_oauth_error(reason)
        .with_retry_after_ms(answer.retry_after_ms);
    if answer.status == 429 || answer.status >= 500 { error.retryable() } else { error }
}

/// Converts seconds from a server or caller. Durations that are too long for a timer become ten years.
pub(super) fn finite_duration(seconds: f64) -> Duration {
    const TEN_YEARS: f64 = 10.0 * 365.0 * 24.0 * 3600.0;
    Duration::try_from_secs_f64(seconds.min(TEN_YEARS)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn answer() -> Value {
        json!({
            "device_code": "dc", "user_code": "ABCD", "verification_uri": "https://chat.qwen.ai/authorize",
            "verification_uri_complete": "https://chat.qwen.ai/authorize?user_code=ABCD", "expires_in": 900
        })
    }

    fn read(value: &Value, client_id: &str) -> Result<DeviceAuthorization> {
        let body = OAuthBody::read(Some(value.to_string().as_bytes()));
        read_device_authorization(
            &OAuthAnswer { status: 200, retry_after_ms: None, body },
            client_id,
            Secret::new("v"),
        )
    }

    #[test]
    fn rfc_defaults_and_qwens_query_parameter() {
        let read_one = read(&answer(), QWEN_CLIENT_ID).unwrap();
        assert!((read_one.interval - 5.0).abs() < f64::EPSILON);
        assert_eq!(
            read_one.verification_uri_complete,
            "https://chat.qwen.ai/authorize?user_code=ABCD&client=qwen-code"
        );
        let mut given = answer();
        given["verification_uri_complete"] = json!("https://chat.qwen.ai/authorize?client=other&user_code=A");
        assert_eq!(
            read(&given, QWEN_CLIENT_ID).unwrap().verification_uri_complete,
            "https://chat.qwen.ai/authorize?client=other&user_code=A"
        );
    }

    #[test]
    fn addresses_of_other_servers_stay_unchanged() {
        let mut value = answer();
        value.as_object_mut().unwrap().remove("verification_uri_complete");
        assert_eq!(read(&value, "mine").unwrap().verification_uri_complete, "https://chat.qwen.ai/authorize");
    }

    #[test]
    fn each_required_field_is_required() {
        for field in ["device_code", "user_code", "verification_uri", "expires_in"] {
            for bad in [Value::Null, json!([]), json!(""), json!("\u{1b}[2J")] {
                let mut value = answer();
                value[field] = bad;
                let error = read(&value, "mine").unwrap_err();
                assert_eq!(error.code(), Code::InvalidResponse);
                assert!(error.message().contains(field), "{}", error.message());
            }
        }
    }

    #[test]
    fn only_web_addresses_are_handed_to_a_browser() {
        for address in ["javascript:alert(1)", "file:///etc/passwd", "ms-settings:", "chat.qwen.ai"] {
            let mut value = answer();
            value["verification_uri_complete"] = json!(address);
            assert_eq!(read(&value, "mine").unwrap_err().code(), Code::InvalidResponse);
        }
    }
}
