//! Response bodies that JavaScript reads at its own pace.

use napi::bindgen_prelude::{BufferSlice, Either, Env};
use napi_derive::napi;
use qwen_client::{Stream, StreamRead};
use serde_json::Value;

use super::types::error_value;

/// Dropping the body in JavaScript cancels the answer.
#[napi]
pub struct ResponseBody {
    id: u32,
    stream: Option<Stream>,
}

#[napi]
impl ResponseBody {
    /// The id in `readable` messages.
    #[napi(getter, catch_unwind)]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Returns the available bytes, `null` if none have arrived (a `readable` message follows), `true` at the end, or
    /// an error.
    #[napi(catch_unwind)]
    pub fn read<'env>(
        &self,
        env: &'env Env,
    ) -> napi::Result<Either<BufferSlice<'env>, Either<bool, Option<Value>>>> {
        Ok(match self.stream.as_ref().map(Stream::read) {
            Some(StreamRead::Data(bytes)) => Either::A(BufferSlice::copy_from(env, bytes)?),
            Some(StreamRead::Pending) => Either::B(Either::B(None)),
            Some(StreamRead::End) | None => Either::B(Either::A(true)),
            Some(StreamRead::Failed(error)) => Either::B(Either::B(Some(error_value(&error)))),
        })
    }

    /// Closes the connection at once.
    #[napi(catch_unwind)]
    pub fn cancel(&mut self) {
        self.stream = None;
    }
}

impl ResponseBody {
    pub fn new(id: u32, stream: Stream) -> Self {
        Self { id, stream: Some(stream) }
    }
}
