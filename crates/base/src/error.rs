//! The error type of all crates: a stable code, a message for the user, and details for the caller.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::text::shorten_message;

/// The stable part of an error. JavaScript sees it as `ERR_QWEN_…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// A caller passed a value of the wrong type or out of range.
    InvalidArgument,
    /// An environment variable or option names a URL or value that cannot be used.
    InvalidConfig,
    /// The path leads to a place where the plugin must not write.
    PathNotAllowed,
    /// No account is available for the request.
    NotLoggedIn,
    /// The credentials file exists but has no usable credentials.
    CredentialsInvalid,
    /// The account store is damaged and could not be moved aside.
    StoreCorrupt,
    /// The account store has an unknown version and could not be moved aside.
    StoreUnsupported,
    /// A file could not be read or written.
    Io,
    /// Another process held the lock for too long.
    LockTimeout,
    /// The device authorization request was refused (RFC 8628 section 3.2).
    DeviceAuthorizationFailed,
    /// The user refused the login (RFC 8628 section 3.5).
    AccessDenied,
    /// The device code expired before the user approved it (RFC 8628 section 3.5).
    DeviceCodeExpired,
    /// The server refused the refresh token (RFC 6749 section 5.2).
    RefreshTokenInvalid,
    /// A refresh failed, but the server did not reject the refresh token.
    RefreshUnavailable,
    /// The OAuth server returned an error without a code of its own here.
    OAuthError,
    /// A server's answer lacks a required part of the protocol.
    InvalidResponse,
    /// The server could not be reached, or the connection broke.
    Network,
    /// No data arrived in time.
    Timeout,
    /// The API refused an access token, even a fresh one.
    TokenRejected,
    /// The API refuses free-tier logins, because Qwen has ended the free tier.
    FreeTierDiscontinued,
    /// The account's quota is used up.
    QuotaExhausted,
    /// The account has reached a rate limit.
    RateLimited,
    /// The API refuses requests because of an unpaid bill.
    PaymentRequired,
    /// The account can't use the requested model.
    ModelUnavailable,
    /// A rule of the account (address, workspace) forbids the request.
    PermissionDenied,
    /// Another program already listens on the port.
    PortInUse,
    /// The qwen CLI for the fallback was not found.
    CliNotFound,
    /// The qwen CLI failed to answer.
    CliFailed,
    /// A bug in this package.
    Internal,
}

impl Code {
    /// Returns the code as JavaScript sees it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "ERR_QWEN_INVALID_ARGUMENT",
            Self::InvalidConfig => "ERR_QWEN_INVALID_CONFIG",
            Self::PathNotAllowed => "ERR_QWEN_PATH_NOT_ALLOWED",
            Self::NotLoggedIn => "ERR_QWEN_NOT_LOGGED_IN",
            Self::CredentialsInvalid => "ERR_QWEN_CREDENTIALS_INVALID",
            Self::StoreCorrupt => "ERR_QWEN_STORE_CORRUPT",
            Self::StoreUnsupported => "ERR_QWEN_STORE_UNSUPPORTED",
            Self::Io => "ERR_QWEN_IO",
            Self::LockTimeout => "ERR_QWEN_LOCK_TIMEOUT",
            Self::DeviceAuthorizationFailed => "ERR_QWEN_DEVICE_AUTHORIZATION_FAILED",
            Self::AccessDenied => "ERR_QWEN_ACCESS_DENIED",
            Self::DeviceCodeExpired => "ERR_QWEN_DEVICE_CODE_EXPIRED",
            Self::RefreshTokenInvalid => "ERR_QWEN_REFRESH_TOKEN_INVALID",
            Self::RefreshUnavailable => "ERR_QWEN_REFRESH_UNAVAILABLE",
            Self::OAuthError => "ERR_QWEN_OAUTH_ERROR",
            Self::InvalidResponse => "ERR_QWEN_INVALID_RESPONSE",
            Self::Network => "ERR_QWEN_NETWORK",
            Self::Timeout => "ERR_QWEN_TIMEOUT",
            Self::TokenRejected => "ERR_QWEN_TOKEN_REJECTED",
            Self::FreeTierDiscontinued => "ERR_QWEN_FREE_TIER_DISCONTINUED",
            Self::QuotaExhausted => "ERR_QWEN_QUOTA_EXHAUSTED",
            Self::RateLimited => "ERR_QWEN_RATE_LIMITED",
            Self::PaymentRequired => "ERR_QWEN_PAYMENT_REQUIRED",
            Self::ModelUnavailable => "ERR_QWEN_MODEL_UNAVAILABLE",
            Self::PermissionDenied => "ERR_QWEN_PERMISSION_DENIED",
            Self::PortInUse => "ERR_QWEN_PORT_IN_USE",
            Self::CliNotFound => "ERR_QWEN_CLI_NOT_FOUND",
            Self::CliFailed => "ERR_QWEN_CLI_FAILED",
            Self::Internal => "ERR_QWEN_INTERNAL",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error for the user. Neither it nor its source contains a token or a key.
///
/// Cheap to clone, because every caller that waited for a refresh gets the same error.
#[derive(Debug, Clone)]
pub struct Error(Box<Details>);

#[derive(Debug, Clone)]
struct Details {
    code: Code,
    message: String,
    status: Option<u16>,
    oauth_error: Option<String>,
    account_id: Option<String>,
    path: Option<PathBuf>,
    retry_after_ms: Option<u64>,
    retryable: bool,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// Creates an error. The message has one or two lines and says what to do next. The middle of a message of more
    /// than 2,000 bytes is left out.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Details {
            code,
            message: shorten_message(message.into()),
            status: None,
            oauth_error: None,
            account_id: None,
            path: None,
            retry_after_ms: None,
            retryable: false,
            source: None,
        }))
    }

    /// Creates an error for an invalid argument: "`field` `expected`."
    #[must_use]
    pub fn invalid_argument(field: &str, expected: &str) -> Self {
        Self::new(Code::InvalidArgument, format!("{field} {expected}."))
    }

    /// Creates an error for a failed file operation. `action` completes the sentence "Could not …".
    #[must_use]
    pub fn io(action: &str, path: &Path, error: io::Error) -> Self {
        let message = format!("Could not {action} {}: {error}. {}", path.display(), io_advice(&error));
        Self::new(Code::Io, message).with_path(path).with_source(error)
    }

    /// Creates an error for a bug in this package.
    #[must_use]
    pub fn internal(what: impl fmt::Display) -> Self {
        Self::new(
            Code::Internal,
            format!("Internal error in opencode-qwen-cli-auth: {what}. Please report it."),
        )
    }

    /// Sets the HTTP status that caused the error.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.0.status = Some(status);
        self
    }

    /// Sets the `error` field of an OAuth error response (RFC 6749 section 5.2).
    #[must_use]
    pub fn with_oauth_error(mut self, error: Option<String>) -> Self {
        self.0.oauth_error = error;
        self
    }

    /// The account concerned.
    #[must_use]
    pub fn with_account(mut self, id: &str) -> Self {
        self.0.account_id = Some(id.to_owned());
        self
    }

    /// The file concerned.
    #[must_use]
    pub fn with_path(mut self, path: &Path) -> Self {
        self.0.path = Some(path.to_owned());
        self
    }

    /// Sets the wait time that the server asked for.
    #[must_use]
    pub fn with_retry_after_ms(mut self, ms: Option<u64>) -> Self {
        self.0.retry_after_ms = ms;
        self
    }

    /// Marks the error as temporary.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.0.retryable = true;
        self
    }

    /// Adds a sentence to the message.
    #[must_use]
    pub fn with_advice(mut self, sentence: &str) -> Self {
        self.0.message.push(' ');
        self.0.message.push_str(sentence);
        self
    }

    /// Sets the error that caused this one. It must not print a secret.
    #[must_use]
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// Returns the stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// Returns the message for the user.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns the HTTP status that caused the error.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }

    /// Returns the OAuth `error` field, if the server sent one.
    #[must_use]
    pub fn oauth_error(&self) -> Option<&str> {
        self.0.oauth_error.as_deref()
    }

    /// The account concerned.
    #[must_use]
    pub fn account_id(&self) -> Option<&str> {
        self.0.account_id.as_deref()
    }

    /// The file concerned.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// Returns the wait time that the server asked for, in milliseconds.
    #[must_use]
    pub fn retry_after_ms(&self) -> Option<u64> {
        self.0.retry_after_ms
    }

    /// True if the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// Returns the source if it is an error of this type too, with a code that callers can act on.
    #[must_use]
    pub fn cause(&self) -> Option<&Self> {
        self.0.source.as_ref()?.downcast_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let source = self.0.source.as_deref()?;
        Some(source)
    }
}

fn io_advice(error: &io::Error) -> &'static str {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::PermissionDenied => "Check its owner and mode, then try again.",
        Kind::StorageFull | Kind::QuotaExceeded => "Free some disk space, then try again.",
        Kind::ReadOnlyFilesystem => "Make the file system writable, or point QWEN_HOME at one that is.",
        Kind::NotADirectory | Kind::IsADirectory => {
            "Something else is in its place; move it away, then try again."
        }
        _ => "Try again. If the error persists, check the disk and QWEN_HOME.",
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn an_io_error_names_the_file_and_the_fix_and_keeps_its_source() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = Error::io("write", Path::new("/home/u/.qwen/oauth_creds.json"), full);
        assert_eq!(error.code().as_str(), "ERR_QWEN_IO");
        assert!(error.message().contains("/home/u/.qwen/oauth_creds.json"));
        assert!(error.message().contains("Free some disk space"));
        let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        assert_eq!(source.map(io::Error::kind), Some(io::ErrorKind::StorageFull));
        assert!(error.cause().is_none());
        let outer = Error::internal("test").with_source(error);
        assert_eq!(outer.cause().map(Error::code), Some(Code::Io));
    }
}
