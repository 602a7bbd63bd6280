//! Decides if a request is allowed, by `Host`, `Origin` and key.

use std::net::IpAddr;

use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};
use http::uri::Authority;
use http::{Uri, header::HeaderValue};
use qwen_base::{Secret, opaque_debug};
use sha2::{Digest as _, Sha256};

use super::refusal::GatewayRefusal;

/// Header for the key if `Authorization` is already used, as in `OpenCode` 2.
pub const KEY_HEADER: HeaderName = HeaderName::from_static("x-qwen-gateway-key");

pub(super) struct Gate {
    port: u16,
    /// SHA-256 of the key. Comparing hashes reveals nothing through timing.
    digest: [u8; 32],
}

opaque_debug!(Gate);

impl Gate {
    pub(super) fn new(port: u16, key: &Secret) -> Self {
        Self { port, digest: Sha256::digest(key.expose()).into() }
    }

    /// Refuses a request for another host, from a web page, or without the key.
    pub(super) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), GatewayRefusal> {
        if !self.is_addressed(uri, headers) {
            return Err(GatewayRefusal::foreign_host(self.port));
        }
        if headers.contains_key(ORIGIN) {
            return Err(GatewayRefusal::foreign_origin());
        }
        if self.has_key(headers) { Ok(()) } else { Err(GatewayRefusal::wrong_key()) }
    }

    /// Checks the host, because a web page may resolve its own name to this machine (DNS rebinding).
    fn is_addressed(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
        let host = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
        host.is_some_and(|host| self.is_ours(&host)) && uri.authority().is_none_or(|host| self.is_ours(host))
    }

    fn is_ours(&self, authority: &Authority) -> bool {
        let host = authority.host();
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let is_loopback = host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback());
        is_loopback && !authority.as_str().contains('@') && authority.port_u16().unwrap_or(80) == self.port
    }

    fn has_key(&self, headers: &HeaderMap) -> bool {
        let name = if headers.contains_key(KEY_HEADER) { KEY_HEADER } else { AUTHORIZATION };
        let mut values = headers.get_all(&name).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return false };
        let key = if name == KEY_HEADER { Some(value.as_bytes()) } else { bearer(value) };
        key.is_some_and(|key| self.is_key(key))
    }

    fn is_key(&self, key: &[u8]) -> bool {
        let given: [u8; 32] = Sha256::digest(key).into();
        let difference = given.iter().zip(&self.digest).fold(0, |all, (one, other)| all | (one ^ other));
        std::hint::black_box(difference) == 0
    }
}

fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer ";
    let (scheme, key) = value.as_bytes().split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then(|| key.trim_ascii())
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    fn status(uri: &str, headers: &[(&str, &str)]) -> Option<StatusCode> {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
            .collect();
        let gate = Gate::new(4141, &Secret::new(KEY));
        gate.check(&uri.parse().unwrap(), &headers).err().map(|refusal| refusal.status)
    }

    #[test]
    fn a_loopback_host_with_the_key_is_allowed() {
        let key = format!("Bearer {KEY}");
        for host in ["127.0.0.1:4141", "localhost:4141", "LOCALHOST:4141", "[::1]:4141"] {
            assert_eq!(status("/v1/models", &[("host", host), ("authorization", &key)]), None, "{host}");
        }
        let absolute = "http://127.0.0.1:4141/v1/models";
        assert_eq!(status(absolute, &[("host", "127.0.0.1:4141"), ("authorization", &key)]), None);
        let both =
            [("host", "localhost:4141"), ("authorization", "Bearer other"), ("x-qwen-gateway-key", KEY)];
        assert_eq!(status("/v1/models", &both), None);
    }

    #[test]
    fn other_hosts_and_all_origins_are_refused() {
        let key = format!("Bearer {KEY}");
        for host in [
            "evil.example:4141",
            "127.0.0.1:4142",
            "127.0.0.1",
            "localhost.evil.example:4141",
            "192.168.0.1:4141",
            "127.0.0.1.evil.example:4141",
            "user@127.0.0.1:4141",
            "",
            "[::2]:4141",
        ] {
            let found = status("/v1/models", &[("host", host), ("authorization", &key)]);
            assert_eq!(found, Some(StatusCode::FORBIDDEN), "{host}");
        }
        let forbidden = Some(StatusCode::FORBIDDEN);
        assert_eq!(status("/v1/models", &[("authorization", &key)]), forbidden);
        let own = ("host", "127.0.0.1:4141");
        assert_eq!(status("http://evil.example/v1", &[own, ("authorization", &key)]), forbidden);
        assert_eq!(status("/v1", &[own, ("host", "evil.example"), ("authorization", &key)]), forbidden);
        for origin in ["http://127.0.0.1:4141", "null", "https://evil.example"] {
            assert_eq!(status("/v1", &[own, ("origin", origin), ("authorization", &key)]), forbidden);
        }
    }

    #[test]
    fn other_keys_are_refused() {
        let own = ("host", "127.0.0.1:4141");
        let right = format!("Bearer {KEY}");
        let longer = format!("{right}0");
        for wrong in ["", "Bearer", "Bearer ", &right[..right.len() - 1], &longer, KEY] {
            let found = status("/v1", &[own, ("authorization", wrong)]);
            assert_eq!(found, Some(StatusCode::UNAUTHORIZED), "{wrong}");
        }
        assert_eq!(status("/v1", &[own]), Some(StatusCode::UNAUTHORIZED));
        let twice = [own, ("authorization", &*right), ("authorization", &*right)];
        assert_eq!(status("/v1", &twice), Some(StatusCode::UNAUTHORIZED));
    }
}
