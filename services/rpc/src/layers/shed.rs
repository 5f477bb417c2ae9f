//! Bounds the calls in flight.

use std::sync::Arc;

use http::Request;
use tidegauge_core::{ErrorKind, ServiceError, limits};
use tokio::sync::Semaphore;
use tonic::body::Body;

use super::{Answer, Line, keep, layer};
use crate::status;

// Calls of our own services have places of their own: a full house outside must not stop the work inside that would
// empty it.
layer!(ShedLayer { outside: Arc<Semaphore>, inside: Arc<Semaphore> }, Shed);

impl Default for ShedLayer {
    fn default() -> Self {
        let places = || Arc::new(Semaphore::new(limits::CALLS_IN_FLIGHT_MAX));
        Self { outside: places(), inside: places() }
    }
}

impl<S> Shed<S>
where
    S: tower::Service<Request<Body>, Response = http::Response<Body>, Error = std::convert::Infallible>,
    S::Future: Send + 'static,
{
    fn answer(&mut self, request: Request<Body>) -> Answer {
        // Bounded a connection, and short: a probe must not find the server ill because strangers hold the places.
        if super::room::is_health_check(&request) {
            return Box::pin(self.inner.call(request));
        }
        let internal = request.extensions().get::<Line>().is_some_and(|line| line.internal);
        let places = if internal { &self.layer.inside } else { &self.layer.outside };
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            let message = "the server has as many calls in flight as it can bear";
            let error = ServiceError::new(ErrorKind::ResourceExhausted, "OVERLOADED", message);
            return Box::pin(async move { Ok(status(error).into_http()) });
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            // The place is free when the answer has been sent, not when it begins.
            Ok(answer.await?.map(|body| keep::until_sent(body, place)))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Full};
    use tonic::{Code, Status};
    use tonic_types::StatusExt as _;
    use tower::{Layer as _, Service as _};

    use super::*;

    /// Proves that a place is taken until the answer has been sent, that the next call is refused with RetryInfo, and
    /// that calls from inside do not need the places of those outside.
    #[tokio::test]
    async fn refuses_what_is_too_much() {
        let places = || Arc::new(Semaphore::new(1));
        let service = tower::service_fn(|_: Request<Body>| async {
            Ok::<_, Infallible>(http::Response::new(Body::new(Full::new(Bytes::from_static(b"x")))))
        });
        let mut shed = ShedLayer { outside: places(), inside: places() }.layer(service);
        let first = shed.call(Request::new(Body::empty())).await.expect("infallible");

        let refused = shed.call(Request::new(Body::empty())).await.expect("infallible");
        let status = Status::from_header_map(refused.headers()).expect("a status");
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.get_details_retry_info().is_some());

        let mut inside = Request::new(Body::empty());
        inside.extensions_mut().insert(Line { peer: None, internal: true, ending: Default::default(), guest: None });
        let inside = shed.call(inside).await.expect("infallible");
        assert!(inside.headers().get("grpc-status").is_none());

        first.into_body().collect().await.expect("sent");
        let next = shed.call(Request::new(Body::empty())).await.expect("infallible");
        assert!(next.headers().get("grpc-status").is_none());
    }
}
