//! Decodes compressed bodies. Requests ask for `identity`, but some servers and proxies compress their answers anyway.

use std::io;
use std::pin::Pin;

use async_compression::tokio::bufread::{
    BrotliDecoder, DeflateDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder,
};
use futures_util::{TryStreamExt as _, stream};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use reqwest::{Body, Response, ResponseBuilderExt as _};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio_util::io::{ReaderStream, StreamReader};

type Bytes = Pin<Box<dyn AsyncBufRead + Send>>;

#[derive(Debug, Clone, Copy)]
enum Encoding {
    Brotli,
    Deflate,
    Gzip,
    Zstd,
}

impl Encoding {
    fn named(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "br" => Some(Self::Brotli),
            "deflate" => Some(Self::Deflate),
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Decodes `bytes`, which begin with `first`.
    fn decode(self, bytes: Bytes, first: u8) -> Bytes {
        match self {
            Self::Brotli => buffered(BrotliDecoder::new(bytes)),
            // Many servers leave out the zlib header that RFC 9110 section 8.4.1.2 asks for.
            Self::Deflate if first & 0x0f != 8 => buffered(DeflateDecoder::new(bytes)),
            Self::Deflate => buffered(ZlibDecoder::new(bytes)),
            Self::Gzip => {
                let mut decoder = GzipDecoder::new(bytes);
                decoder.multiple_members(true);
                buffered(decoder)
            }
            Self::Zstd => {
                let mut decoder = ZstdDecoder::new(bytes);
                decoder.multiple_members(true);
                buffered(decoder)
            }
        }
    }
}

/// Decodes the body of a response as its `Content-Encoding` says (RFC 9110 section 8.4). With an unknown encoding it stays
/// as it is.
#[must_use]
pub fn decoded(response: Response) -> Response {
    let names =
        response.headers().get_all(CONTENT_ENCODING).into_iter().filter_map(|value| value.to_str().ok());
    let names = names.flat_map(|list| list.split(',')).map(str::trim);
    let encodings: Option<Vec<_>> =
        names.filter(|name| !name.is_empty() && *name != "identity").map(Encoding::named).collect();
    let Some(encodings) = encodings.filter(|encodings| !encodings.is_empty()) else { return response };
    let head = http::Response::builder().status(response.status()).url(response.url().clone()).body(());
    let Ok(mut head) = head else { return response };
    head.headers_mut().clone_from(response.headers());
    head.headers_mut().remove(CONTENT_ENCODING);
    head.headers_mut().remove(CONTENT_LENGTH);
    let bytes = Box::pin(StreamReader::new(response.bytes_stream().map_err(io::Error::other)));
    let body = stream::once(decode_all(encodings, bytes)).map_ok(ReaderStream::new).try_flatten();
    head.map(|()| Body::wrap_stream(body)).into()
}

/// Undoes the encodings, the last one first.
async fn decode_all(encodings: Vec<Encoding>, mut bytes: Bytes) -> io::Result<Bytes> {
    for encoding in encodings.into_iter().rev() {
        // The answer to a HEAD request names an encoding but has no body to decode.
        let Some(first) = bytes.fill_buf().await?.first().copied() else { break };
        bytes = encoding.decode(bytes, first);
    }
    Ok(bytes)
}

fn buffered(reader: impl AsyncRead + Send + 'static) -> Bytes {
    Box::pin(BufReader::new(reader))
}
