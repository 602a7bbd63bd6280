//! Serves one connection.

use std::convert::Infallible;
use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::exchange::{Exchange, MAX_HEAD};
use super::refusal::GatewayRefusal;
use super::socket::{Progress, Socket};

/// Largest read and write, in bytes.
const BUFFER: usize = 128 * 1024;
/// Time for reading further bytes after the last answer. Closing a connection with unread bytes resets it, and the client
/// may lose the answer.
const LINGER: Duration = Duration::from_secs(2);

/// Serves a connection until it ends. If `closing` changes, the current request is the last one.
pub(super) async fn serve(exchange: Arc<Exchange>, stream: TcpStream, mut closing: watch::Receiver<bool>) {
    // Small answers are sent at once.
    let _ = stream.set_nodelay(true);
    let progress = Progress::default();
    let service = {
        let progress = progress.clone();
        service_fn(move |request| {
            let (exchange, progress) = (Arc::clone(&exchange), progress.clone());
            async move { Ok::<_, Infallible>(exchange.answer(progress, request).await) }
        })
    };
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        // The socket notices clients that leave during an answer.
        .half_close(true)
        .max_header_size(MAX_HEAD)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(Socket::new(stream, progress)), service);
    let ended = {
        let mut is_closed = pin!(closing.wait_for(|closing| *closing));
        let mut is_closing = false;
        poll_fn(|context| {
            if !is_closing && is_closed.as_mut().poll(context).is_ready() {
                is_closing = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            Pin::new(&mut connection).poll(context)
        })
        .await
    };
    let socket = connection.into_parts().io.into_inner();
    let refusal = ended.as_ref().err().and_then(|error| refusal(error, &socket));
    finish(socket, refusal).await;
}

/// Returns the answer to a head that is invalid, too large or too slow.
fn refusal(error: &hyper::Error, socket: &Socket) -> Option<GatewayRefusal> {
    let is_slow = std::error::Error::source(error)
        .and_then(|cause| cause.downcast_ref::<std::io::Error>())
        .is_some_and(|cause| cause.kind() == std::io::ErrorKind::TimedOut);
    if error.is_parse_too_large() {
        Some(GatewayRefusal::head_too_large(MAX_HEAD))
    } else if error.is_parse() || socket.has_refused() {
        Some(GatewayRefusal::malformed("head"))
    } else {
        (is_slow && socket.has_head_bytes()).then(|| GatewayRefusal::too_slow("head"))
    }
}

/// Sends the last answer and lets the client read it.
async fn finish(socket: Socket, refusal: Option<GatewayRefusal>) {
    let is_at_end = socket.is_at_end();
    let mut stream = socket.into_inner();
    let farewell = async {
        if let Some(refusal) = refusal {
            stream.write_all(&refusal.to_bytes()).await?;
        }
        stream.shutdown().await?;
        let mut rest = vec![0; 16 * 1024];
        while !is_at_end && stream.read(&mut rest).await? > 0 {}
        Ok::<(), std::io::Error>(())
    };
    // The client may have disconnected.
    let _ = tokio::time::timeout(LINGER, farewell).await;
}
