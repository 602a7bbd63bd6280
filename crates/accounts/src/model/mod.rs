//! Values that every other module of the crate uses. Pure.

pub(crate) mod binding;
mod cooldown;
pub mod fields;
mod identity;
mod kind;
mod token;

pub use binding::{Binding, binding_fingerprint};
pub use cooldown::{
    Cooldown, CoolingReason, Pause, QuotaWindow, cooling_until, exhausted_until, least_cooldown_ms,
};
pub use identity::{fingerprint, same_user};
pub use kind::{Kind, Serving};
pub use token::{FIELDS, Token};
