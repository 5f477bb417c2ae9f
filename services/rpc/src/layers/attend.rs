//! Watches over a call from its request to the last byte of its answer.
//!
//! A call ends early, with a status that says why, when its credential is gone (looked at once a second), when the time
//! that the caller gave is over, or when its connection must close. A handler that panics answers INTERNAL.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{HeaderMap, Request};
use http_body::{Body as _, Frame, SizeHint};
use tidegauge_core::{ErrorKind, ServiceError};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;

use super::{Answer, layer};
use crate::guest::Guest;
use crate::{Guard, status};

/// Time between two looks at the credential of an open call.
const GUARD_INTERVAL: Duration = Duration::from_secs(1);

/// What a call knows of its connection.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// The other side; none for the in-memory channel.
    pub(crate) peer: Option<SocketAddr>,
    /// Whether it is the in-memory channel.
    pub(crate) internal: bool,
    /// Cancelled when open calls must end.
    pub(crate) ending: CancellationToken,
    /// The connection, if it is one from outside.
    pub(crate) guest: Option<Arc<Guest>>,
}

layer!(AttendLayer {}, Attend);

impl<S> Attend<S>
where
    S: tower::Service<Request<Body>, Response = http::Response<Body>, Error = std::convert::Infallible>,
    S::Future: Send + 'static,
{
    fn answer(&mut self, request: Request<Body>) -> Answer {
        let mut end = end_of(&request).boxed();
        let handler = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        Box::pin(async move {
            let answered = tokio::select! {
                biased;
                answered = handler => answered,
                error = &mut end => return Ok(status(error).into_http()),
            };
            let response = match answered {
                Ok(answered) => answered?,
                Err(_) => {
                    tracing::error!("a handler panicked");
                    let error = ServiceError::new(ErrorKind::Internal, "PANIC", "the server failed, see its log");
                    return Ok(status(error).into_http());
                }
            };
            let (parts, body) = response.into_parts();
            if body.is_end_stream() {
                return Ok(http::Response::from_parts(parts, body));
            }
            Ok(http::Response::from_parts(parts, Body::new(Attended { inner: Some(body), end })))
        })
    }
}

/// Resolves when the call must end, with the error that says why.
fn end_of(request: &Request<Body>) -> impl Future<Output = ServiceError> + Send + 'static {
    let line = request.extensions().get::<Line>().cloned();
    let guard = request.extensions().get::<Guard>().cloned();
    let time = timeout_of(request.headers());
    async move {
        tokio::select! {
            error = closed(line) => error,
            error = lost(guard) => error,
            error = over(time) => error,
        }
    }
}

/// Resolves when the calls of a connection must end, with the error that says so.
pub(crate) async fn closed(line: Option<Line>) -> ServiceError {
    match line {
        Some(line) => line.ending.cancelled().await,
        None => std::future::pending().await,
    }
    ServiceError::new(ErrorKind::Unavailable, "CONNECTION_ENDING", "the connection must close; call again on a new one")
}

async fn lost(guard: Option<Guard>) -> ServiceError {
    let Some(guard) = guard else { return std::future::pending().await };
    loop {
        let _ = tokio::time::timeout(GUARD_INTERVAL, std::future::pending::<()>()).await;
        if let Err(error) = guard.decide() {
            tracing::info!(target: "tidegauge::audit", decision = "ended", reason = error.reason, "call ended: its credential is gone");
            return error;
        }
    }
}

async fn over(time: Option<Duration>) -> ServiceError {
    match time {
        Some(time) => {
            let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
        }
        None => std::future::pending().await,
    }
    ServiceError::new(ErrorKind::DeadlineExceeded, "DEADLINE_EXCEEDED", "the time that the caller gave is over")
}

/// Reads `grpc-timeout`: at most eight digits and a unit. A malformed one counts as absent.
fn timeout_of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

struct Attended {
    /// None once the call has been ended: the handler's stream is dropped at once.
    inner: Option<Body>,
    end: BoxFuture<'static, ServiceError>,
}

impl http_body::Body for Attended {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        // The end goes first: a stream that always has a frame ready must end too.
        let Poll::Ready(error) = this.end.as_mut().poll(context) else {
            return Pin::new(inner).poll_frame(context);
        };
        this.inner = None;
        let mut trailers = HeaderMap::new();
        // Fails only for a text that no header can carry; ours are ASCII.
        let _ = status(error).add_header(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tonic::Code;
    use tonic_types::StatusExt as _;
    use tower::Service as _;

    use super::*;
    use crate::layers::attend_only;

    fn timeout(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().expect("a header"));
        timeout_of(&headers)
    }

    /// Proves that a handler which does not answer in the caller's time is dropped and answered for, with details, and
    /// that a malformed time is no time.
    #[tokio::test]
    async fn the_callers_time_ends_a_call() {
        let never =
            tower::service_fn(|_: Request<Body>| std::future::pending::<Result<http::Response<Body>, Infallible>>());
        let request = Request::builder().header("grpc-timeout", "20m").body(Body::empty()).expect("valid");
        let answer = attend_only(never).call(request).await.expect("infallible");
        let status = Status::from_header_map(answer.headers()).expect("a status");
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(status.get_details_error_info().expect("details").reason, "DEADLINE_EXCEEDED");

        assert_eq!(timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(timeout("7n"), Some(Duration::from_nanos(7)));
        for malformed in ["", "m", "1", "-1m", "+1m", "1 m", "100000000m", "1x", "1.5S"] {
            assert_eq!(timeout(malformed), None, "{malformed:?}");
        }
    }
}
