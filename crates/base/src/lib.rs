//! Values and tools for all other crates: errors, events, plans, hosts, the HTTP client, logs and time.

#![forbid(unsafe_code)]

mod base_url;
mod blocking;
mod busy;
mod clock;
mod environment;
mod error;
mod events;
pub mod fault;
pub mod foreign_keys;
mod http;
mod kernel_lock;
mod logging;
mod mutex;
mod paths;
mod plans;
pub mod private_files;
mod redact;
pub mod safe_open;
mod secret;
pub mod shell;
mod shutdown;
mod text;

pub use base_url::{DEFAULT_API_BASE_URL, api_base_url, display_url, host_url, is_plan_host};
pub use blocking::blocking;
pub use busy::{Busy, BusyGuard};
pub use clock::{Clock, DAY_MS, NEVER, epoch_ms, instant_from_number, iso_time};
pub use environment::Environment;
pub use error::{Code, Error, Result};
pub use events::{Event, EventKind, Events};
pub use http::certificates::read_certificates;
pub use http::decoding::decoded;
pub use http::informational::{answer_within, note_arrival};
pub use http::proxy::{NamedProxy, Proxies, UnreadableProxy};
pub use http::retry_after::{RETRY_AFTER_MS, retry_after_ms, retry_after_of};
pub use http::{Http, HttpAnswer, HttpConfig, PRODUCT, SharedHttp, TransportError, is_secure};
pub use kernel_lock::{KernelGuard, KernelLock};
pub use logging::background::Background;
pub use logging::{DEBUG_LOG, Logger, MAX_LOG_BYTES};
pub use mutex::lock;
pub use paths::{Paths, expand_home};
pub use plans::{
    ENDPOINTS, Endpoint, KeyPlan, Price, SUBSCRIPTION_PREFIX, Tier, endpoint_of, endpoint_on_host,
    endpoints_of_key, region_from_name,
};
pub use redact::{HIDDEN, KnownSecrets, Redactor};
pub use secret::Secret;
pub use shutdown::{LONGEST_WAIT, Section, SectionChange, Shutdown};
pub use text::{
    ESCAPE_LENGTH, MAX_LABEL, MAX_MESSAGE, MAX_SHOWN, escape_at, escaped_unit, is_unsafe, one_line,
    shorten_message, shows_nothing, truncate,
};
