//! Distinguishes a client that is gone from one that only closed its sending half. TCP shows no difference until something
//! is sent. Both ends are on this machine, so the system's table of connections tells, if there is one.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep};

/// Sent if no table can be read: if the client is gone, its system answers with a reset. All HTTP clients ignore this
/// interim response.
const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// State of the client's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    Gone,
    Waiting,
    Unknown,
}

/// Watches a client that has closed its sending half.
#[derive(Debug)]
pub(super) struct Departure {
    own: SocketAddr,
    peer: SocketAddr,
    look: Option<JoinHandle<Peer>>,
    pause: Duration,
    rest: Pin<Box<Sleep>>,
    has_probed: bool,
}

impl Departure {
    pub(super) fn new(own: SocketAddr, peer: SocketAddr) -> Self {
        let rest = Box::pin(sleep(Duration::ZERO));
        Self { own, peer, look: None, pause: FIRST_PAUSE, rest, has_probed: false }
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
            let Some(look) = &mut self.look else {
                ready!(self.rest.as_mut().poll(context));
                let (own, peer) = (self.own, self.peer);
                self.look = Some(tokio::task::spawn_blocking(move || look_up(own, peer)));
                continue;
            };
            let found = ready!(Pin::new(look).poll(context)).unwrap_or(Peer::Unknown);
            self.look = None;
            if found == Peer::Gone {
                return Poll::Ready(());
            }
            if found == Peer::Unknown && may_probe && !self.has_probed {
                self.has_probed = true;
                // The send buffer is empty. A failure becomes the connection's error.
                let _ = stream.try_write(PROBE);
            }
            self.rest.as_mut().reset(Instant::now() + self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Reads the system's tables.
fn look_up(own: SocketAddr, peer: SocketAddr) -> Peer {
    let tables: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .collect();
    peer_state(tables.iter().flat_map(|table| table.lines()), own, peer)
}

/// The client waits if its row has an owner. Without a row for this end, the table tells nothing.
fn peer_state<'a>(rows: impl Iterator<Item = &'a str>, own: SocketAddr, peer: SocketAddr) -> Peer {
    let (own, peer) = (names(own), names(peer));
    let mut found = Peer::Unknown;
    for row in rows {
        let mut columns = row.split_ascii_whitespace().skip(1);
        let (Some(local), Some(remote)) = (columns.next(), columns.next()) else { continue };
        let is = |name: &str, names: &[String]| names.iter().any(|known| known == name);
        if is(local, &peer) && is(remote, &own) {
            let owner = columns.nth(6);
            return if owner.is_some_and(|inode| inode != "0") { Peer::Waiting } else { Peer::Gone };
        }
        if is(local, &own) && is(remote, &peer) {
            found = Peer::Gone;
        }
    }
    found
}

/// Returns an address as the tables write it. An IPv4 address may be in the IPv6 table.
fn names(address: SocketAddr) -> Vec<String> {
    let words = |octets: &[u8]| {
        let mut text = String::new();
        for word in octets.chunks_exact(4) {
            let _ = write!(text, "{:08X}", u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
        let _ = write!(text, ":{:04X}", address.port());
        text
    };
    match address.ip() {
        IpAddr::V4(ip) => vec![words(&ip.octets()), words(&ip.to_ipv6_mapped().octets())],
        IpAddr::V6(ip) => vec![words(&ip.octets())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "127.0.0.1:4141";
    const PEER: &str = "127.0.0.1:50000";

    fn row(local: &str, remote: &str, state: &str, inode: u32) -> String {
        let [local, remote] = [local, remote].map(|address| names(address.parse().unwrap()).remove(0));
        format!(
            "  1: {local} {remote} {state} 00000000:00000000 00:00000000 00000000  1000        0 {inode} 1 0"
        )
    }

    fn judged(rows: &[String]) -> Peer {
        peer_state(rows.iter().map(String::as_str), OWN.parse().unwrap(), PEER.parse().unwrap())
    }

    #[test]
    fn a_client_without_an_owner_is_gone() {
        let own = row(OWN, PEER, "08", 77);
        assert_eq!(judged(&[own.clone(), row(PEER, OWN, "05", 78)]), Peer::Waiting);
        assert_eq!(judged(&[own.clone(), row(PEER, OWN, "05", 0)]), Peer::Gone);
        assert_eq!(judged(&[own, row("127.0.0.1:50001", OWN, "05", 79)]), Peer::Gone);
    }

    #[test]
    fn an_empty_table_tells_nothing() {
        assert_eq!(judged(&[]), Peer::Unknown);
        assert_eq!(judged(&["  sl  local_address rem_address   st".to_owned()]), Peer::Unknown);
    }
}
