//! Kinds of accounts, and the rules for their requests. Pure.

use qwen_base::{KeyPlan, Price};

/// How an account authenticates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A login of qwen.ai.
    OAuth,
    /// A key of a plan, or of an unknown server.
    Key(Option<KeyPlan>),
}

/// Tells if an account serves a model. The best answer is first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Serving {
    /// The account serves it.
    Yes,
    /// Only the server can tell.
    Maybe,
    /// The server recently refused the model, or the catalog lists it for other plans only. The account is asked if no
    /// other account may serve the model.
    Unlikely,
    /// The account doesn't serve it.
    No,
}

impl Kind {
    /// Name in the public interface.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OAuth => "oauth",
            Self::Key(_) => "api-key",
        }
    }

    /// Plan of a key; `None` for a login, and for a key of an unknown server.
    #[must_use]
    pub const fn plan(self) -> Option<KeyPlan> {
        match self {
            Self::OAuth => None,
            Self::Key(plan) => plan,
        }
    }

    /// Value of the header `X-DashScope-AuthType`.
    #[must_use]
    pub const fn auth_type(self) -> &'static str {
        match self {
            Self::OAuth => "qwen-oauth",
            Self::Key(_) => "openai",
        }
    }

    /// Price of a request. A key of an unknown server counts as metered.
    #[must_use]
    pub const fn price(self) -> Price {
        match self {
            Self::OAuth => Price::Free,
            Self::Key(Some(plan)) => plan.price(),
            Self::Key(None) => Price::Metered,
        }
    }

    /// True if the server accepts the fields that the official CLI adds to bodies: cache markers and metadata. Other
    /// servers refuse unknown fields.
    #[must_use]
    pub const fn takes_markers(self) -> bool {
        !matches!(self, Self::Key(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_counts_as_metered() {
        assert_eq!(Kind::Key(None).price(), Price::Metered);
        assert!(!Kind::Key(None).takes_markers() && Kind::Key(Some(KeyPlan::TokenPlan)).takes_markers());
    }
}
