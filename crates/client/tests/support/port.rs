//! An address that nobody listens on, and nobody else gets.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// A port of this machine that is taken, so that no other test's server comes to live there, but refuses connections.
pub struct ClosedPort {
    socket: TcpSocket,
    address: SocketAddr,
}

impl ClosedPort {
    pub fn new() -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// The port of a listener that was closed just now.
    pub fn at(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // Connections that were accepted there may still be open.
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        // Two sockets that both allow it, and don't listen yet, would share a port.
        socket.set_reuseaddr(false).unwrap();
        let address = socket.local_addr().unwrap();
        Self { socket, address }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Opens it.
    pub fn listen(self) -> TcpListener {
        self.socket.set_reuseaddr(true).unwrap();
        self.socket.listen(128).unwrap()
    }
}
