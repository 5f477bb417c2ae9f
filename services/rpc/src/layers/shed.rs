//! Bounds the calls in flight.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use http_body::{Frame, SizeHint};
use tidegauge_core::{ErrorKind, ServiceError, limits};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;

use super::{Answer, Line, layer};
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
        let internal = request.extensions().get::<Line>().is_some_and(|line| line.internal);
        let places = if internal { &self.layer.inside } else { &self.layer.outside };
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            let message = "the server has as many calls in flight as it can bear";
            let error = ServiceError::new(ErrorKind::ResourceExhausted, "OVERLOADED", message);
            return Box::pin(async move { Ok(status(error).into_http()) });
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let (parts, body) = answer.await?.into_parts();
            // The place is free when the answer has been sent, not when it begins.
            Ok(http::Response::from_parts(parts, Body::new(Placed { inner: body, _place: place })))
        })
    }
}

struct Placed {
    inner: Body,
    _place: OwnedSemaphorePermit,
}

impl http_body::Body for Placed {
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
