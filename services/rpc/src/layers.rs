//! The layers around every service, in their one order. The same stack serves TCP and the in-memory channel.

mod attend;
mod authorize;
mod explain;
mod framing;
mod keep;
mod measure;
mod room;
mod shed;

use std::convert::Infallible;
use std::sync::Arc;

use http::{Request, Response};
use tidegauge_auth::Authenticator;
use tidegauge_core::clock::Clock;
use tonic::body::Body;
use tonic::service::Routes;
use tower::ServiceBuilder;
use tower::util::BoxCloneSyncService;

pub(crate) use attend::{Line, closed};

use crate::methods::Methods;

/// The services with everything around them.
pub(crate) type Stack = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// A layer's answer in the making.
pub(crate) type Answer = futures::future::BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// Puts the layers around the routes. A request passes them from the first to the last, an answer the other way.
pub(crate) fn stack(
    routes: Routes,
    methods: Arc<Methods>,
    authenticator: Arc<Authenticator>,
    clock: Arc<dyn Clock>,
) -> Stack {
    let service = ServiceBuilder::new()
        // Outermost, so that it counts every call with the code that the caller sees, refused ones too, and measures
        // the time that the caller waits.
        .layer(measure::MeasureLayer::new(Arc::clone(&methods), Arc::clone(&clock)))
        // Before everything that may answer by itself: tonic, the codec and the router know nothing of google.rpc
        // details, and no answer may leave without them.
        .layer(explain::ExplainLayer {})
        // Before the credential is looked at: a flood must not cost a signature check a call.
        .layer(shed::ShedLayer::default())
        // The one interceptor. Before everything that acts on the request; behind it a call is allowed, has its scope,
        // and its path is exactly that of a declared method.
        .layer(authorize::AuthorizeLayer::new(methods, authenticator, clock))
        // Behind the interceptor, which tells whose call it is: nobody may use up the places and the memory of others.
        .layer(room::RoomLayer::default())
        // Innermost, because it needs the guard that the interceptor left, and because what it watches over is the
        // handler: it ends a call whose credential, time or connection has come to an end, and catches a panic.
        .layer(attend::AttendLayer {})
        .service(routes);
    BoxCloneSyncService::new(service)
}

/// A service with nothing but the innermost layer.
#[cfg(test)]
pub(crate) fn attend_only<S>(service: S) -> Stack
where
    S: tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    BoxCloneSyncService::new(tower::Layer::layer(&attend::AttendLayer {}, service))
}

/// Declares a tower layer `$layer` that wraps a service into `$service`, whose call is `$service::answer`.
macro_rules! layer {
    ($layer:ident { $($field:ident: $type:ty),* $(,)? }, $service:ident) => {
        /// See the module.
        #[derive(Clone)]
        pub(crate) struct $layer { $($field: $type),* }

        impl<S> tower::Layer<S> for $layer {
            type Service = $service<S>;
            fn layer(&self, inner: S) -> $service<S> {
                $service { layer: self.clone(), inner }
            }
        }

        /// See the module.
        #[derive(Clone)]
        pub(crate) struct $service<S> {
            #[allow(dead_code, reason = "layers without settings do not read it")]
            layer: $layer,
            inner: S,
        }

        impl<S> tower::Service<http::Request<tonic::body::Body>> for $service<S>
        where
            S: tower::Service<
                    http::Request<tonic::body::Body>,
                    Response = http::Response<tonic::body::Body>,
                    Error = std::convert::Infallible,
                > + Clone + Send + 'static,
            S::Future: Send + 'static,
        {
            type Response = http::Response<tonic::body::Body>;
            type Error = std::convert::Infallible;
            type Future = crate::layers::Answer;

            fn poll_ready(
                &mut self,
                context: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Result<(), std::convert::Infallible>> {
                self.inner.poll_ready(context)
            }

            fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
                self.answer(request)
            }
        }
    };
}
use layer;
