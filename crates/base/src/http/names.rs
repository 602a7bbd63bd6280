//! Resolves host names. Loopback names are never looked up, and an unknown proxy name gets its own error.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::is_loopback_name;

/// A proxy whose name does not resolve.
#[derive(Debug, thiserror::Error)]
#[error("the name of the proxy {host} ({variable}) could not be resolved")]
pub struct UnknownProxy {
    pub host: String,
    /// The variable that contains the name.
    pub variable: &'static str,
}

/// Resolves names with the system's resolver, except for loopback names.
pub struct Names {
    /// Names of proxies, each with the variable that it comes from.
    pub proxies: Vec<(String, &'static str)>,
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_ascii_lowercase();
        if is_loopback_name(&host) {
            let addresses: [SocketAddr; 2] =
                [(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()];
            return Box::pin(async move { Ok(Box::new(addresses.into_iter()) as Addrs) });
        }
        let variable = self.proxies.iter().find(|(proxy, _)| *proxy == host).map(|(_, variable)| *variable);
        Box::pin(async move {
            let found = tokio::net::lookup_host((host.as_str(), 0)).await;
            let found = found.map(Iterator::collect::<Vec<_>>);
            match (found, variable) {
                (Ok(addresses), _) => Ok(Box::new(addresses.into_iter()) as Addrs),
                (Err(_), Some(variable)) => Err(UnknownProxy { host, variable }.into()),
                (Err(error), None) => Err(error.into()),
            }
        })
    }
}
