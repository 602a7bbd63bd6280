//! The body of a response, read by JavaScript at its own pace.

use napi::bindgen_prelude::{BufferSlice, Either, Env};
use napi_derive::napi;
use qwen_client::{Read, Stream};
use serde_json::Value;

use super::types::error_value;

/// A response's body. When JavaScript drops it, the answer is cancelled.
#[napi]
pub struct ResponseBody {
    id: u32,
    stream: Option<Stream>,
}

#[napi]
impl ResponseBody {
    /// By which `readable` names it.
    #[napi(getter, catch_unwind)]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Takes what is there: bytes; `null` for nothing yet, to be followed by `readable`; `true` at the end; else an error.
    #[napi(catch_unwind)]
    pub fn read<'env>(
        &self,
        env: &'env Env,
    ) -> napi::Result<Either<BufferSlice<'env>, Either<bool, Option<Value>>>> {
        Ok(match self.stream.as_ref().map(Stream::read) {
            Some(Read::Data(bytes)) => Either::A(BufferSlice::copy_from(env, bytes)?),
            Some(Read::Pending) => Either::B(Either::B(None)),
            Some(Read::End) | None => Either::B(Either::A(true)),
            Some(Read::Failed(error)) => Either::B(Either::B(Some(error_value(&error)))),
        })
    }

    /// Drops the connection at once.
    #[napi(catch_unwind)]
    pub fn cancel(&mut self) {
        self.stream = None;
    }
}

impl ResponseBody {
    /// A body that is being read from the network.
    pub fn new(id: u32, stream: Stream) -> Self {
        Self { id, stream: Some(stream) }
    }
}
