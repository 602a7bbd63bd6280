//! What happens that a person may want to know, as values for whoever listens.

use std::fmt;
use std::sync::Arc;

use crate::error::Code;

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
    /// The code of the error that led to it.
    pub code: Option<Code>,
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
