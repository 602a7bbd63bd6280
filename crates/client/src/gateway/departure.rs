//! Distinguishes a client that is gone from one that only closed its sending half. TCP shows no difference until something
//! is sent. Both ends are on this machine, so Linux tells if the client's end still has an owner.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// Sent if the system doesn't tell: if the client is gone, its system answers with a reset. All HTTP clients ignore this
/// interim response.
const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(40);

/// Watches a client that has closed its sending half.
#[derive(Debug)]
pub(super) struct Departure {
    own: SocketAddr,
    peer: SocketAddr,
    pause: Duration,
    rest: Pin<Box<Sleep>>,
    has_probed: bool,
}

impl Departure {
    pub(super) fn new(own: SocketAddr, peer: SocketAddr) -> Self {
        Self { own, peer, pause: FIRST_PAUSE, rest: Box::pin(sleep(Duration::ZERO)), has_probed: false }
    }

    /// Resolves when the client is gone. `may_probe` is true until a part of the answer was sent.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        stream: &TcpStream,
        may_probe: bool,
    ) -> Poll<()> {
        loop {
            if !matches!(stream.take_error(), Ok(None)) {
                return Poll::Ready(());
            }
            ready!(self.rest.as_mut().poll(context));
            match is_waiting(self.own, self.peer) {
                Some(false) => return Poll::Ready(()),
                None if may_probe && !self.has_probed => {
                    self.has_probed = true;
                    // The send buffer is empty. A failure becomes the connection's error.
                    let _ = stream.try_write(PROBE);
                }
                Some(true) | None => {}
            }
            self.rest.as_mut().reset(Instant::now() + self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Returns whether the client still waits for its answer; `None` if the system doesn't tell.
#[cfg(not(target_os = "linux"))]
fn is_waiting(_own: SocketAddr, _peer: SocketAddr) -> Option<bool> {
    None
}

#[cfg(target_os = "linux")]
use self::linux::is_waiting;

/// Asks the kernel for one socket (`sock_diag(7)`). A table of all sockets takes long to read and changes meanwhile.
#[cfg(target_os = "linux")]
mod linux {
    use std::net::{IpAddr, SocketAddr};

    use rustix::io::Result;
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const NLM_F_REQUEST: u16 = 1;
    const IPPROTO_TCP: u8 = 6;
    const TCP_LISTEN: u8 = 10;
    /// Positions in the kernel's answer: a header of 16 bytes, then `inet_diag_msg`.
    const TYPE: usize = 4;
    const STATE: usize = 17;
    const INODE: usize = 84;

    /// Returns whether the client's end has an owner. If this end isn't found either, the kernel tells nothing.
    pub(super) fn is_waiting(own: SocketAddr, peer: SocketAddr) -> Option<bool> {
        match has_owner(peer, own).ok()? {
            Some(true) => Some(true),
            _ => has_owner(own, peer).ok()?.map(|_| false),
        }
    }

    /// Returns whether a process has the connected socket open; `None` if there is no such socket.
    fn has_owner(local: SocketAddr, remote: SocketAddr) -> Result<Option<bool>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            flags,
            Some(netlink::SOCK_DIAG),
        )?;
        rustix::net::send(&socket, &request(local, remote), SendFlags::empty())?;
        // The kernel answers before `send` returns.
        let mut answer = [0; 512];
        let (_, length) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
        let is_found = length >= INODE + 4 && answer[TYPE..][..2] == SOCK_DIAG_BY_FAMILY.to_ne_bytes();
        // Without a connection, the kernel finds a listening socket with the same local address.
        Ok((is_found && answer[STATE] != TCP_LISTEN).then(|| answer[INODE..][..4] != [0; 4]))
    }

    /// Returns a `nlmsghdr` and an `inet_diag_req_v2`.
    fn request(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
        let family = if local.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let family = u8::try_from(family.as_raw()).unwrap_or(0);
        let mut bytes = 72_u32.to_ne_bytes().to_vec();
        bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        bytes.extend(NLM_F_REQUEST.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend([family, IPPROTO_TCP, 0, 0]);
        // All states.
        bytes.extend([0xff; 4]);
        bytes.extend(local.port().to_be_bytes());
        bytes.extend(remote.port().to_be_bytes());
        for address in [local, remote] {
            let mut octets = [0; 16];
            match address.ip() {
                IpAddr::V4(ip) => octets[..4].copy_from_slice(&ip.octets()),
                IpAddr::V6(ip) => octets = ip.octets(),
            }
            bytes.extend(octets);
        }
        // Any interface, and no cookie.
        bytes.extend([0; 4]);
        bytes.extend([0xff; 8]);
        bytes
    }

    #[cfg(test)]
    mod tests {
        use std::net::{Shutdown, TcpListener, TcpStream};

        use super::*;

        #[test]
        fn a_half_closed_client_waits_until_it_closes() {
            for address in ["127.0.0.1:0", "[::1]:0"] {
                let Ok(listener) = TcpListener::bind(address) else { continue };
                let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let (server, peer) = listener.accept().unwrap();
                let own = server.local_addr().unwrap();
                assert_eq!(is_waiting(own, peer), Some(true));
                client.shutdown(Shutdown::Write).unwrap();
                assert_eq!(is_waiting(own, peer), Some(true));
                drop(client);
                assert_eq!(is_waiting(own, peer), Some(false));
            }
            let [own, peer] = ["127.0.0.1:1", "127.0.0.1:2"].map(|address| address.parse().unwrap());
            assert_eq!(is_waiting(own, peer), None);
        }
    }
}
