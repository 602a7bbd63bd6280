//! Events that users may want to see.

use std::fmt;
use std::sync::Arc;

use crate::error::Code;
use crate::text::shorten_message;

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// An access token was refreshed.
    Refreshed,
    /// An account needs a new login.
    NeedsLogin,
    /// A request or a refresh is retried.
    Retry,
    /// A setting could not be read.
    Config,
    /// Requests now go to another account.
    Switched,
    /// An account's quota is used up.
    Exhausted,
    /// An account can be used again.
    Ready,
    /// A shorter request was sent because every account is out of quota.
    Degraded,
    /// The qwen CLI answered because every account is out of quota.
    CliFallback,
    /// Something only the user can fix: a login in danger or an unpaid bill.
    NeedsAttention,
    /// A damaged file was moved aside, a login was recovered from it, or a file was open to other users.
    StoreRepaired,
}

impl EventKind {
    /// Returns the kind as JavaScript sees it.
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

/// One event. It never contains a secret.
#[derive(Debug, Clone)]
pub struct Event {
    /// The kind of event.
    pub kind: EventKind,
    /// Time of the event in epoch milliseconds.
    pub at: u64,
    /// One line for the user.
    pub message: String,
    /// The account concerned.
    pub account_id: Option<String>,
    /// The name of that account.
    pub label: Option<String>,
    /// The account that was used before a switch.
    pub from_account_id: Option<String>,
    /// The code of the error that caused the event.
    pub code: Option<Code>,
    /// End of the cooldown in epoch milliseconds.
    pub until: Option<u64>,
}

impl Event {
    /// Creates an event that concerns no single account.
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

    /// Creates an event of one account.
    #[must_use]
    pub fn of_account(kind: EventKind, at: u64, id: &str, label: &str, message: String) -> Self {
        Self {
            account_id: Some(id.to_owned()),
            label: Some(label.to_owned()),
            ..Self::new(kind, at, message)
        }
    }
}

/// The listener of events.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(Event) + Send + Sync>);

impl Events {
    /// Passes events to `listener`, on the thread where they happen.
    pub fn new(listener: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    /// Drops all events.
    #[must_use]
    pub fn none() -> Self {
        Self::new(drop)
    }

    /// Passes an event to the listener.
    pub fn emit(&self, event: Event) {
        (self.0)(event);
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}
