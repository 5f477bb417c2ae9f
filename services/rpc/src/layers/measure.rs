//! Counts calls and measures their time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::{Body as _, Frame, SizeHint};
use tidegauge_core::clock::Clock;
use tonic::Code;
use tonic::body::Body;

use super::{Answer, layer};
use crate::methods::Methods;

layer!(MeasureLayer { methods: Arc<Methods>, clock: Arc<dyn Clock> }, Measure);

impl MeasureLayer {
    pub(crate) fn new(methods: Arc<Methods>, clock: Arc<dyn Clock>) -> Self {
        Self { methods, clock }
    }
}

impl<S> Measure<S>
where
    S: tower::Service<Request<Body>, Response = http::Response<Body>, Error = std::convert::Infallible>,
    S::Future: Send + 'static,
{
    fn answer(&mut self, request: Request<Body>) -> Answer {
        // One label for all that is not a method, or a scanner could make any number of them.
        let method = self.layer.methods.find(&request).map_or_else(|| "unknown".into(), |m| Arc::clone(&m.path));
        let mut call = Call::begin(method, Arc::clone(&self.layer.clock));
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            call.see(response.headers());
            let (parts, body) = response.into_parts();
            // An empty body says that the status stands in the headers.
            if body.is_end_stream() {
                return Ok(http::Response::from_parts(parts, body));
            }
            Ok(http::Response::from_parts(parts, Body::new(Measured { inner: body, call })))
        })
    }
}

/// A call under way; its end is recorded when it is dropped.
struct Call {
    method: Arc<str>,
    clock: Arc<dyn Clock>,
    began_ns: u64,
    /// The call's code; without one the caller went away.
    code: Option<&'static str>,
}

impl Call {
    fn begin(method: Arc<str>, clock: Arc<dyn Clock>) -> Self {
        metrics::gauge!("tidegauge_rpc_in_flight", "method" => Arc::clone(&method)).increment(1.0);
        let began_ns = clock.monotonic_ns();
        Self { method, clock, began_ns, code: None }
    }

    /// Takes the code from headers or trailers.
    fn see(&mut self, headers: &HeaderMap) {
        if let Some(status) = headers.get("grpc-status") {
            self.code = Some(code_name(Code::from_bytes(status.as_bytes())));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let method = || Arc::clone(&self.method);
        let seconds = self.clock.monotonic_ns().saturating_sub(self.began_ns) as f64 / 1e9;
        let code = self.code.unwrap_or("CANCELLED");
        metrics::gauge!("tidegauge_rpc_in_flight", "method" => method()).decrement(1.0);
        metrics::counter!("tidegauge_rpc_requests_total", "method" => method(), "code" => code).increment(1);
        metrics::histogram!("tidegauge_rpc_seconds", "method" => method()).record(seconds);
    }
}

struct Measured {
    inner: Body,
    call: Call,
}

impl http_body::Body for Measured {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(trailers) = frame.trailers_ref()
        {
            self.call.see(trailers);
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

/// The canonical name of a code.
pub(super) const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
