//! Shares the server's room between those who call: connections, places for calls, and memory for messages that have not
//! arrived whole.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tidegauge_core::{ErrorKind, ServiceError, TenantScope, limits};
use tonic::Status;
use tonic::body::Body;

use super::framing::Framing;
use super::{Answer, Line, keep, layer};
use crate::guest::Guest;
use crate::share::{Holder, Room, Share};
use crate::{Guard, status};

/// Bytes of an unfinished message that need no room, because the call's place stands for them.
const BYTES_FREE: usize = 64 << 10;
/// Room is taken in steps, so that not every frame needs the lock.
const BYTES_STEP: usize = 256 << 10;

/// Share of the memory for unfinished messages that one principal may hold.
const PRINCIPAL_SHARE: usize = 4;

/// The short one of the public methods.
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

layer!(RoomLayer { places: Arc<Room>, bytes: Arc<Room> }, Roomed);

impl Default for RoomLayer {
    fn default() -> Self {
        Self::new(limits::CALLS_IN_FLIGHT_MAX, limits::UNFINISHED_BYTES_MAX)
    }
}

impl RoomLayer {
    fn new(places: usize, bytes: usize) -> Self {
        Self { places: Room::new(places), bytes: Room::with_one(bytes, bytes / PRINCIPAL_SHARE) }
    }
}

impl<S> Roomed<S>
where
    S: tower::Service<Request<Body>, Response = Response<Body>, Error = std::convert::Infallible>,
    S::Future: Send + 'static,
{
    fn answer(&mut self, request: Request<Body>) -> Answer {
        let line = request.extensions().get::<Line>();
        if line.is_some_and(|line| line.internal) {
            return Box::pin(self.inner.call(request));
        }
        let guest = line.and_then(|line| line.guest.clone());
        let scope = request.extensions().get::<TenantScope>();
        let guard = request.extensions().get::<Guard>();
        // A credential without tenants has no scope, but somebody's it is.
        let principal = scope.map(|scope| &scope.principal().name).or(guard.and_then(Guard::principal)).cloned();
        let holder = Holder::of(scope, principal.as_ref());
        // A probe must not find the server ill because strangers hold the public places with watches.
        if holder == Holder::Public && is_health_check(&request) {
            let open = guest.as_ref().map(Guest::enter_public);
            if open.as_ref().is_some_and(Option::is_none) {
                let error = overloaded("the connection asks for health more often than it waits for answers");
                return Box::pin(async move { Ok(status(error).into_http()) });
            }
            let answer = tokio::time::timeout(limits::PUBLIC_CALL_TIME_MAX, self.inner.call(request));
            return Box::pin(async move {
                match answer.await {
                    Ok(answer) => Ok(answer?.map(|body| keep::until_sent(body, open))),
                    Err(_) => {
                        let message = "the request did not arrive in time";
                        let error = ServiceError::new(ErrorKind::DeadlineExceeded, "DEADLINE_EXCEEDED", message);
                        Ok(status(error).into_http())
                    }
                }
            });
        }
        let entered = guest.zip(principal.as_ref()).map(|(guest, principal)| guest.enter(&holder, principal));
        let open = match entered.transpose() {
            Ok(open) => open,
            Err(error) => return Box::pin(async move { Ok(status(error).into_http()) }),
        };
        let mut place = Share::nothing(&self.layer.places, &holder);
        if !place.hold(1) {
            let error = overloaded("the tenant has as many calls in flight as the others leave places");
            return Box::pin(async move { Ok(status(error).into_http()) });
        }
        let bytes = &self.layer.bytes;
        let share = match &principal {
            Some(principal) => Share::nothing_of(bytes, &holder, principal),
            None => Share::nothing(bytes, &holder),
        };
        let request = request.map(|body| Body::new(Arriving { inner: Some(body), framing: Framing::default(), share }));
        let answer = self.inner.call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| keep::until_sent(body, (place, open)))) })
    }
}

/// Whether a request asks for health, which needs no credential.
pub(super) fn is_health_check(request: &Request<Body>) -> bool {
    request.uri().path() == HEALTH_CHECK
}

fn overloaded(message: &'static str) -> ServiceError {
    ServiceError::new(ErrorKind::ResourceExhausted, "OVERLOADED", message)
}

/// A request's body.
struct Arriving {
    /// None after a refusal.
    inner: Option<Body>,
    framing: Framing,
    share: Share,
}

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        let polled = Pin::new(inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            this.framing.take(data);
            let steps = this.framing.unfinished().saturating_sub(BYTES_FREE).div_ceil(BYTES_STEP);
            if !this.share.hold(steps * BYTES_STEP) {
                this.inner = None;
                this.share.hold(0);
                let error = overloaded("the tenant's unfinished messages take all the memory that the others leave");
                return Poll::Ready(Some(Err(status(error))));
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::StreamExt as _;
    use http_body_util::{BodyExt as _, Full, StreamBody};
    use tidegauge_core::scope::Role;
    use tidegauge_core::{Principal, TenantId};
    use tonic::Code;
    use tower::{Layer as _, Service as _};

    use super::*;

    fn request(tenant: &str, frames: impl futures::Stream<Item = Bytes> + Send + 'static) -> Request<Body> {
        let tenant = TenantId::parse(tenant).expect("a tenant");
        let principal = Principal { name: "test".into(), role: Role::Writer };
        #[expect(clippy::disallowed_methods, reason = "the test stands for the interceptor")]
        let scope = TenantScope::granted(principal, vec![tenant]).expect("a scope");
        let body = StreamBody::new(frames.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes))));
        let mut request = Request::new(Body::new(body));
        request.extensions_mut().insert(scope);
        request
    }

    /// Tenants with messages that never end are refused by themselves, with RetryInfo, while others send; a message that is
    /// whole takes no room.
    #[tokio::test]
    async fn unfinished_messages_have_a_limit_each() {
        use tonic_types::StatusExt as _;

        let mut service = RoomLayer::new(100, 4 << 20).layer(tower::service_fn(|request: Request<Body>| async {
            let mut body = request.into_body();
            // Reads until the sender pauses for good or the room is used up.
            let mut code = Code::Ok;
            while let Some(frame) = body.frame().await {
                if let Err(status) = frame {
                    assert!(status.get_details_retry_info().is_some(), "{status:?}");
                    code = status.code();
                }
            }
            Ok::<_, Infallible>(Response::new(Body::new(Full::new(Bytes::from(vec![code as i32 as u8])))))
        }));
        let header = |length: u32| Bytes::from([&[0], &length.to_be_bytes()[..]].concat());
        let block = Bytes::from(vec![1; 1 << 20]);
        let mut sent = async |request| {
            let answer = service.call(request).await.expect("infallible");
            let body = answer.into_body().collect().await.expect("sent").to_bytes();
            Code::from_i32(i32::from(body[0]))
        };
        let endless = [header(16 << 20)].into_iter().chain(std::iter::repeat_n(block.clone(), 15));
        assert_eq!(sent(request("greedy", futures::stream::iter(endless))).await, Code::ResourceExhausted);
        let whole = (0..20).flat_map(move |_| [header(1 << 20), block.clone()]);
        assert_eq!(sent(request("modest", futures::stream::iter(whole))).await, Code::Ok);
    }

    /// A place is held until the answer has been sent.
    #[tokio::test]
    async fn places_are_shared() {
        let mut service = RoomLayer::new(4, 1 << 20).layer(tower::service_fn(|_: Request<Body>| async {
            Ok::<_, Infallible>(Response::new(Body::new(Full::new(Bytes::from_static(b"x")))))
        }));
        let mut call =
            async |tenant: &str| service.call(request(tenant, futures::stream::empty())).await.expect("infallible");
        let is_refused = |answer: &Response<Body>| answer.headers().contains_key("grpc-status");
        let (first, second, third) = (call("a").await, call("a").await, call("a").await);
        assert!(!is_refused(&first) && !is_refused(&second) && is_refused(&third));
        let others = (call("b").await, call("c").await);
        assert!(!is_refused(&others.0) && !is_refused(&others.1));
        assert!(is_refused(&call("d").await), "no place is left");
        let mut check = Request::new(Body::empty());
        *check.uri_mut() = HEALTH_CHECK.parse().expect("a path");
        let check = service.call(check).await.expect("infallible");
        assert!(!is_refused(&check), "a probe is answered in a full house");
        first.into_body().collect().await.expect("sent");
    }
}
