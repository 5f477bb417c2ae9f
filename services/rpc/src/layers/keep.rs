//! An answer's body that keeps something until it has been sent, or dropped.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

/// The body, and what is given back after it.
struct Keeping<T> {
    inner: Body,
    _kept: T,
}

/// Keeps `kept` until the body has been sent.
pub(super) fn until_sent<T: Send + Unpin + 'static>(body: Body, kept: T) -> Body {
    Body::new(Keeping { inner: body, _kept: kept })
}

impl<T: Unpin> http_body::Body for Keeping<T> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
