//! An address that refuses connections and can't be taken by anything else.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// Holds a port of this machine that refuses connections, so that no other test's server gets it.
pub struct ClosedPort {
    socket: TcpSocket,
    address: SocketAddr,
}

impl ClosedPort {
    pub fn new() -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Takes the port of a listener that was just closed.
    pub fn at(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // Accepted connections may still be open there.
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

    /// Starts to listen.
    pub fn listen(self) -> TcpListener {
        self.socket.set_reuseaddr(true).unwrap();
        self.socket.listen(128).unwrap()
    }
}
