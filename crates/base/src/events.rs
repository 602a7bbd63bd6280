//! What happens that a person may want to know, as values for whoever listens.

use std::fmt;
use std::sync::Arc;

use crate::error::Code;
use crate::text::shorten_message;

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// A refresh token was redeemed.
    Refreshed,
    /// An account needs a new login.
    NeedsLogin,
    /// A request or a refresh is tried again.
    Retry,
    /// A setting could not be read.
    Config,
    /// Requests go to another account from now on.
    Switched,
    /// An account's quota is used up.
    Exhausted,
    /// An account can be asked again.
    Ready,
    /// A smaller payload was sent, since every account is out of quota.
    Degraded,
    /// The qwen CLI answered, since every account is out of quota.
    CliFallback,
    /// Something that only the user can put right: a login in danger, or a bill that is not paid.
    NeedsAttention,
    /// A file was damaged and set aside, a login found in it, or it was open to others.
    StoreRepaired,
}

impl EventKind {
    /// The kind as callers see it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refreshed => "refreshed",
            Self::NeedsLogin => "needs-login",
            Self::Retry => "retry",
            Self::Config => "config",
            Self::Switched => "switched",
            Self::Exhausted => "exhausted",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::CliFallback => "cli-fallback",
            Self::NeedsAttention => "needs-attention",
            Self::StoreRepaired => "store-repaired",
        }
    }
}

/// One event. It never holds a secret.
#[derive(Debug, Clone)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// When, in epoch milliseconds.
    pub at: u64,
    /// One line for a person.
    pub message: String,
    /// The account concerned.
    pub account_id: Option<String>,
    /// Its name.
    pub label: Option<String>,
    /// The account that was used before.
    pub from_account_id: Option<String>,
    /// The code of the error that led to it.
    pub code: Option<Code>,
    /// Until when, in epoch milliseconds.
    pub until: Option<u64>,
}

impl Event {
    /// An event that is about no account in particular.
    #[must_use]
    pub fn new(kind: EventKind, at: u64, message: String) -> Self {
        Self {
            kind,
            at,
            message: shorten_message(message),
            account_id: None,
            label: None,
            from_account_id: None,
            code: None,
            until: None,
        }
    }

    /// An event of one account.
    #[must_use]
    pub fn of_account(kind: EventKind, at: u64, id: &str, label: &str, message: String) -> Self {
        Self {
            account_id: Some(id.to_owned()),
            label: Some(label.to_owned()),
            ..Self::new(kind, at, message)
        }
    }
}

/// Where events go.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(Event) + Send + Sync>);

impl Events {
    /// Events are handed to `listener`, on whatever thread they happen.
    pub fn new(listener: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    /// Nobody listens.
    #[must_use]
    pub fn none() -> Self {
        Self::new(drop)
    }

    /// Tells the listener.
    pub fn emit(&self, event: Event) {
        (self.0)(event);
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}
