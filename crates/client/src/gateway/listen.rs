//! Listens on loopback, on one port for IPv4 and IPv6. `localhost` may mean either, and must not lead a client with its key
//! to another program.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use qwen_base::{Code, Error, Result};
use tokio::net::TcpListener;

/// Number of tries to get the system's IPv4 port for IPv6 too.
const MAX_TRIES: usize = 20;

pub(super) struct Listeners {
    pub(super) port: u16,
    pub(super) v4: TcpListener,
    /// `None` on a system without IPv6.
    pub(super) v6: Option<TcpListener>,
}

/// Binds a port, or one that the system chooses (0).
pub(super) async fn bind(port: u16) -> Result<Listeners> {
    let mut tries_left = MAX_TRIES;
    loop {
        let v4 = listen(IpAddr::V4(Ipv4Addr::LOCALHOST), port).await?;
        let chosen = v4.local_addr().map_err(Error::internal)?.port();
        match listen(IpAddr::V6(Ipv6Addr::LOCALHOST), chosen).await {
            Ok(v6) => return Ok(Listeners { port: chosen, v4, v6: Some(v6) }),
            Err(error) if error.code() == Code::Io => return Ok(Listeners { port: chosen, v4, v6: None }),
            Err(error) if port != 0 || tries_left == 0 => return Err(error),
            Err(_) => tries_left -= 1,
        }
    }
}

async fn listen(ip: IpAddr, port: u16) -> Result<TcpListener> {
    let address = SocketAddr::new(ip, port);
    TcpListener::bind(address).await.map_err(|error| {
        let (code, message) = match error.kind() {
            ErrorKind::AddrInUse => (
                Code::PortInUse,
                format!("Port {port} is in use: another program listens on {address}. Choose another port, or end that program."),
            ),
            ErrorKind::PermissionDenied => (
                Code::InvalidArgument,
                format!("The system does not allow listening on port {port}. Choose one from 1024 to 65535."),
            ),
            _ => (Code::Io, format!("Could not listen on {address}: {error}. Choose another port.")),
        };
        Error::new(code, message).with_source(error)
    })
}
