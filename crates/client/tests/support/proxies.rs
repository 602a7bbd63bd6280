//! Proxies that work.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use super::tls::NAME;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// The requests for tunnels that a proxy got.
pub type Asked = Arc<Mutex<Vec<String>>>;

/// An HTTP proxy that makes tunnels, after it has refused some.
pub async fn connect(refusals: usize) -> (SocketAddr, Asked) {
    let asked = Asked::default();
    let list = Arc::clone(&asked);
    let address = serve(move |stream| {
        let list = Arc::clone(&list);
        async move {
            let mut stream = BufReader::new(stream);
            let mut request = String::new();
            while !request.ends_with("\r\n\r\n") {
                if stream.read_line(&mut request).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let Some(target) = request.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next())
            else {
                return;
            };
            let target = target.replace(NAME, "127.0.0.1");
            let count = {
                let mut list = list.lock().unwrap();
                list.push(request);
                list.len()
            };
            if count <= refusals {
                let _ = stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await;
                return;
            }
            let Ok(mut server) = TcpStream::connect(target).await else { return };
            if stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.is_ok() {
                let _ = copy_bidirectional(&mut stream, &mut server).await;
            }
        }
    })
    .await;
    (address, asked)
}

/// A SOCKS 5 proxy (RFC 1928) that knows only [`NAME`].
pub async fn socks() -> SocketAddr {
    serve(|mut stream| async move {
        let _ = tunnel_by_socks(&mut stream).await;
    })
    .await
}

async fn tunnel_by_socks(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut greeting = [0; 2];
    stream.read_exact(&mut greeting).await?;
    let mut methods = vec![0; usize::from(greeting[1])];
    stream.read_exact(&mut methods).await?;
    stream.write_all(&[5, 0]).await?;
    let mut request = vec![0; 5 + NAME.len() + 2];
    stream.read_exact(&mut request).await?;
    let (head, port) = request.split_at(5 + NAME.len());
    let (name, port) = (&head[5..], u16::from_be_bytes([port[0], port[1]]));
    if head[..4] != [5, 1, 0, 3] || name != NAME.as_bytes() {
        return Ok(());
    }
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    copy_bidirectional(stream, &mut server).await.map(drop)
}

async fn serve<F: Future<Output = ()> + Send + 'static>(
    tunnel: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(tunnel(stream));
        }
    });
    address
}
