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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    use http_body_util::{BodyExt as _, StreamBody};
    use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
    use tidegauge_core::Permission;
    use tidegauge_core::clock::ManualClock;
    use tower::{Layer as _, Service as _};

    use super::*;
    use crate::health::Board;

    #[derive(Default)]
    struct Counts(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

    impl Counts {
        fn cell(&self, key: &Key) -> Arc<AtomicU64> {
            let labels: Vec<_> = key.labels().map(|label| label.value().to_owned()).collect();
            let name = format!("{} {}", key.name(), labels.join(" "));
            Arc::clone(self.0.lock().expect("not poisoned").entry(name).or_default())
        }

        fn all(&self) -> BTreeMap<String, u64> {
            let cells = self.0.lock().expect("not poisoned");
            cells.iter().map(|(name, cell)| (name.clone(), cell.load(Ordering::SeqCst))).collect()
        }
    }

    impl Recorder for Counts {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(self.cell(key))
        }
        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(self.cell(key))
        }
        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    /// Proves that each call is counted once with its method and the code that the caller saw: from headers, from
    /// trailers, or cancelled; that unknown paths share one label; and that nothing stays in flight.
    #[tokio::test]
    async fn counts_each_call_once_with_its_code() {
        let counts = Counts::default();
        let _recorded = metrics::set_default_local_recorder(&counts);
        let board = Board::new(std::iter::empty());
        let methods = Methods::declared(&[board.mount()], &crate::descriptors::methods()).expect("declared");
        let check = "/grpc.health.v1.Health/Check";
        let path = |path: &str| Request::post(path).body(Body::empty()).expect("valid");
        assert_eq!(methods.find(&path(check)).map(|method| method.permission), Some(Permission::Public));

        let handler = tower::service_fn(|request: Request<Body>| async move {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", "5".parse().expect("valid"));
            let mut response = http::Response::new(Body::empty());
            if request.headers().contains_key("stream") {
                let frames = [Ok::<_, Infallible>(Frame::data(Bytes::new())), Ok(Frame::trailers(headers))];
                *response.body_mut() = Body::new(StreamBody::new(futures::stream::iter(frames)));
            } else {
                *response.headers_mut() = headers;
            }
            Ok::<_, Infallible>(response)
        });
        let layer = MeasureLayer::new(Arc::new(methods), Arc::new(ManualClock::default()));
        let mut measured = layer.layer(handler);
        let stream = || {
            let mut request = path(check);
            request.headers_mut().insert("stream", "1".parse().expect("valid"));
            request
        };
        measured.call(path(check)).await.expect("infallible");
        measured.call(path("/a/b")).await.expect("infallible");
        measured.call(path("/c/d")).await.expect("infallible");
        let answer = measured.call(stream()).await.expect("infallible");
        answer.into_body().collect().await.expect("read to its trailers");
        drop(measured.call(stream()).await.expect("infallible"));
        drop(measured.call(stream()));

        let wanted = [
            (format!("tidegauge_rpc_in_flight {check}"), 0),
            ("tidegauge_rpc_in_flight unknown".to_owned(), 0),
            (format!("tidegauge_rpc_requests_total {check} CANCELLED"), 2),
            (format!("tidegauge_rpc_requests_total {check} NOT_FOUND"), 2),
            ("tidegauge_rpc_requests_total unknown NOT_FOUND".to_owned(), 2),
        ];
        assert_eq!(counts.all(), wanted.into());
    }
}
