//! Adds `google.rpc` details where a library answered by itself.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::{Body as _, Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};

use super::measure::code_name;
use super::{Answer, layer};
use crate::status::explained;

layer!(ExplainLayer {}, Explain);

impl<S> Explain<S>
where
    S: tower::Service<Request<Body>, Response = http::Response<Body>, Error = std::convert::Infallible>,
    S::Future: Send + 'static,
{
    fn answer(&mut self, request: Request<Body>) -> Answer {
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            explain(response.headers_mut());
            let (parts, body) = response.into_parts();
            if body.is_end_stream() {
                return Ok(http::Response::from_parts(parts, body));
            }
            Ok(http::Response::from_parts(parts, Body::new(Explained { inner: body })))
        })
    }
}

struct Explained {
    inner: Body,
}

impl http_body::Body for Explained {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut polled = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &mut polled
            && let Some(trailers) = frame.trailers_mut()
        {
            explain(trailers);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Adds details to a bare error status in headers or trailers.
fn explain(headers: &mut HeaderMap) {
    let bare = match headers.get("grpc-status") {
        None => false,
        Some(code) => code.as_bytes() != b"0" && !headers.contains_key("grpc-status-details-bin"),
    };
    if !bare {
        return;
    }
    let Some(found) = Status::from_header_map(headers) else { return };
    let (code, reason) = meaning(found.code(), found.message());
    // Only fails for a text that no header can carry; what came out of a header can go into one.
    let _ = explained(code, reason, found.message()).add_header(headers);
}

/// What a library meant: its code, and the reason for programs.
fn meaning(code: Code, message: &str) -> (Code, &'static str) {
    let too_large = message.contains("message length too large") || message.contains("size limit");
    match code {
        // Too large once decompressed: tonic calls that exhausted, which would invite the client to try again.
        Code::OutOfRange | Code::ResourceExhausted if too_large => (Code::OutOfRange, "MESSAGE_TOO_LARGE"),
        other => (other, code_name(other)),
    }
}
