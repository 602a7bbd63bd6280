//! What kind of account there is, and what follows from it for a request. Pure.

use qwen_base::{KeyPlan, Price};

/// How an account authenticates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A login of qwen.ai.
    OAuth,
    /// A key of a plan; without one it is a key of somebody else's server.
    Key(Option<KeyPlan>),
}

/// Tells if an account serves a model, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Serving {
    /// It is known to.
    Yes,
    /// Only the server can tell.
    Maybe,
    /// The server said lately that it does not, or the catalog knows the model for other plans alone. It is asked if no
    /// other account may serve the model.
    Unlikely,
    /// It is known not to.
    No,
}

impl Kind {
    /// Its name, as callers see it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OAuth => "oauth",
            Self::Key(_) => "api-key",
        }
    }

    /// The value of `X-DashScope-AuthType`.
    #[must_use]
    pub const fn auth_type(self) -> &'static str {
        match self {
            Self::OAuth => "qwen-oauth",
            Self::Key(_) => "openai",
        }
    }

    /// What a request costs. What is not known counts as the dearest.
    #[must_use]
    pub const fn price(self) -> Price {
        match self {
            Self::OAuth => Price::Free,
            Self::Key(Some(plan)) => plan.price(),
            Self::Key(None) => Price::Metered,
        }
    }

    /// Whether its server takes what the official CLI adds to bodies: cache markers and metadata. Other servers refuse
    /// fields that they don't know.
    #[must_use]
    pub const fn takes_markers(self) -> bool {
        !matches!(self, Self::Key(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_nothing_is_known_of_counts_as_the_dearest() {
        assert_eq!(Kind::Key(None).price(), Price::Metered);
        assert!(!Kind::Key(None).takes_markers() && Kind::Key(Some(KeyPlan::TokenPlan)).takes_markers());
    }
}
