//! A way to a server that can be blocked, broken or bent, and mended again at the same address.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::port::ClosedPort;

/// What becomes of a connection.
#[derive(Debug, Clone)]
pub enum Way {
    /// It leads to a server.
    To(SocketAddr),
    /// Nobody listens.
    Away,
    /// It is accepted and ended.
    Ends,
    /// It is accepted, and nothing is ever said.
    Silent,
    /// The request is taken, and answered with these bytes; then it ends.
    Says(Vec<u8>),
    /// The request is taken, and answered with these bytes; then come single bytes, and no end.
    Drips(Vec<u8>),
    /// The request is taken, and answered with these bytes over and over.
    Repeats(Vec<u8>),
}

/// An open gate. It closes with this value.
pub struct Gate {
    address: SocketAddr,
    way: watch::Sender<Way>,
    /// Bytes in both directions go on while this is false.
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

    /// Connections that are open now end with this, as with a change of network.
    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }

    /// From now on no byte gets through, and nobody is told.
    pub fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    /// Connections that were accepted.
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

/// Reads one request whole, so that the end of the connection is no reset.
async fn take_request(stream: &mut TcpStream) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        // What is no HTTP says what it wants at once.
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
