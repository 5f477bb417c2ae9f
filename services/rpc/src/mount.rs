//! A service with a permission for each of its methods.

use std::convert::Infallible;
use std::fmt;

use http::{Request, Response};
use tidegauge_core::Permission;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::RoutesBuilder;
use tower::Service;

/// A tonic service and the permission that each of its methods needs.
///
/// The interceptor cannot see a service's methods, and a rule over path patterns can be fooled: so the permission is
/// declared where the service is mounted, method by method, and the start is refused when one is missing.
pub struct Mount {
    pub(crate) service: &'static str,
    pub(crate) permissions: &'static [(&'static str, Permission)],
    add: Box<dyn FnOnce(&mut RoutesBuilder) + Send>,
}

impl Mount {
    /// Mounts `service`; `permissions` names each method of its contract (`"Publish"`) exactly once.
    pub fn new<S>(service: S, permissions: &'static [(&'static str, Permission)]) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        Self {
            service: S::NAME,
            permissions,
            add: Box::new(move |routes| {
                routes.add_service(service);
            }),
        }
    }

    /// The full name of the service, `tidegauge.ingest.v1.IngestService`.
    pub fn service(&self) -> &'static str {
        self.service
    }

    pub(crate) fn add_to(self, routes: &mut RoutesBuilder) {
        (self.add)(routes);
    }
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mount").field("service", &self.service).field("permissions", &self.permissions).finish()
    }
}
