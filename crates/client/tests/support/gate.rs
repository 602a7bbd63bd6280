//! A TCP relay to a server that can be blocked or broken, and repaired at the same address.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::port::ClosedPort;

/// The treatment of a connection.
#[derive(Debug, Clone)]
pub enum Way {
    /// It leads to a server.
    To(SocketAddr),
    /// It is refused.
    Away,
    /// It is accepted and closed.
    Ends,
    /// It is accepted, and no byte is ever sent.
    Silent,
    /// The request is read and answered with these bytes; then the connection closes.
    Says(Vec<u8>),
    /// The request is read and answered with these bytes; then single bytes follow without end.
    Drips(Vec<u8>),
    /// The request is read and answered with these bytes over and over.
    Repeats(Vec<u8>),
}

/// An open gate. Dropping this value closes it.
pub struct Gate {
    address: SocketAddr,
    way: watch::Sender<Way>,
    /// While true, no byte passes in either direction.
    frozen: watch::Sender<bool>,
    task: AbortHandle,
    taken: Arc<Mutex<usize>>,
}

impl Gate {
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (way, ways) = watch::channel(Way::To(server));
        let (frozen, freezing) = watch::channel(false);
        let taken = Arc::new(Mutex::new(0));
        let task = tokio::spawn(serve(address, listener, ways, freezing, Arc::clone(&taken))).abort_handle();
        Self { address, way, frozen, task, taken }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all open connections, as a change of network does.
    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }

    /// Stops all bytes from now on, without closing anything.
    pub fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    /// Counts the accepted connections.
    pub fn taken(&self) -> usize {
        *self.taken.lock().unwrap()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    address: SocketAddr,
    mut listener: TcpListener,
    mut ways: watch::Receiver<Way>,
    frozen: watch::Receiver<bool>,
    taken: Arc<Mutex<usize>>,
) {
    loop {
        let way = ways.borrow_and_update().clone();
        if matches!(way, Way::Away) {
            drop(listener);
            let closed = ClosedPort::at(address);
            if ways.changed().await.is_err() {
                return;
            }
            listener = closed.listen();
            continue;
        }
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                *taken.lock().unwrap() += 1;
                let (mut until, frozen) = (ways.clone(), frozen.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = go(stream, way, frozen) => {}
                        _ = until.changed() => {}
                    }
                });
            }
            changed = ways.changed() => if changed.is_err() { return },
        }
    }
}

async fn go(mut stream: TcpStream, way: Way, mut frozen: watch::Receiver<bool>) {
    match way {
        Way::To(server) => {
            let Ok(mut onward) = TcpStream::connect(server).await else { return };
            let is_over = tokio::select! {
                _ = copy_bidirectional(&mut stream, &mut onward) => true,
                changed = frozen.wait_for(|frozen| *frozen) => changed.is_err(),
            };
            if !is_over {
                std::future::pending::<()>().await;
            }
        }
        Way::Away | Way::Ends => {}
        Way::Silent => std::future::pending().await,
        Way::Says(bytes) => {
            take_request(&mut stream).await;
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
        Way::Repeats(bytes) => {
            take_request(&mut stream).await;
            while stream.write_all(&bytes).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        Way::Drips(bytes) => {
            take_request(&mut stream).await;
            let _ = stream.write_all(&bytes).await;
            while stream.write_all(b" ").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Reads one whole request, so that closing the connection causes no reset.
async fn take_request(stream: &mut TcpStream) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        // Other protocols than HTTP send their whole request at once.
        if request.first().is_some_and(|first: &u8| !first.is_ascii_alphabetic()) {
            return;
        }
        let text = String::from_utf8_lossy(&request).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            if body.len() >= length.and_then(|length| length.trim().parse().ok()).unwrap_or(0) {
                return;
            }
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => request.extend_from_slice(&buffer[..count]),
        }
    }
}
