//! What the interceptor leaves in a request for its handler.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidegauge_auth::{Authenticator, Grant, GrantedTenants};
use tidegauge_core::clock::Clock;
use tidegauge_core::{ErrorKind, ServiceError, TenantScope};
use tonic::{Request, Status};

use crate::status;

/// The scope that the interceptor made for this request.
///
/// # Errors
/// PERMISSION_DENIED when the method asks for no tenants (`Public`, `Authenticated`) and the credential covers none.
pub fn scope<T>(request: &Request<T>) -> Result<TenantScope, Status> {
    request.extensions().get::<TenantScope>().cloned().ok_or_else(|| status(no_tenants()))
}

/// The answer to a valid credential that covers no tenant.
pub(crate) fn no_tenants() -> ServiceError {
    ServiceError::new(ErrorKind::PermissionDenied, "NO_TENANTS", "the credential covers no tenant")
}

/// Checks a long stream's credential again: expiry, changed rules, revoked keys, lost tenants.
///
/// The server checks every open call once a second by itself and ends it when the credential has gone; a handler that
/// takes commands over a stream checks before each.
#[derive(Clone, Debug)]
pub struct Guard {
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    authenticator: Arc<Authenticator>,
    clock: Arc<dyn Clock>,
    grant: Arc<Grant>,
    scope: Option<TenantScope>,
    /// Generation of rules and keys at which the scope was last found covered.
    seen: AtomicU64,
}

impl Guard {
    /// The guard of a request. Of a request that passed no interceptor (a handler called directly in a test), a guard
    /// that refuses everything.
    pub fn of<T>(request: &Request<T>) -> Self {
        request.extensions().get::<Self>().cloned().unwrap_or(Self { inner: None })
    }

    pub(crate) fn new(
        authenticator: Arc<Authenticator>,
        clock: Arc<dyn Clock>,
        grant: Arc<Grant>,
        scope: Option<TenantScope>,
        generation: u64,
    ) -> Self {
        let seen = AtomicU64::new(generation);
        Self { inner: Some(Arc::new(Inner { authenticator, clock, grant, scope, seen })) }
    }

    /// Whether the credential still covers the call. Two comparisons while nothing changed.
    ///
    /// # Errors
    /// UNAUTHENTICATED when it has expired or was revoked, PERMISSION_DENIED when it lost a tenant of the scope.
    pub fn check(&self) -> Result<(), Status> {
        self.decide().map_err(status)
    }

    /// Whether another service of the platform called, for itself or on behalf of a user.
    pub fn is_service(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.grant.is_service())
    }

    /// Whose credential it is.
    pub(crate) fn principal(&self) -> Option<&Arc<str>> {
        self.inner.as_ref().map(|inner| &inner.grant.principal.name)
    }

    pub(crate) fn decide(&self) -> Result<(), ServiceError> {
        let Some(inner) = &self.inner else {
            return Err(tidegauge_auth::Denied::Missing.into());
        };
        // A service token proves who opened the call; its short life keeps a stolen one from opening more. The call
        // itself lives as long as the service that made it.
        if inner.grant.is_service() {
            return Ok(());
        }
        if inner.grant.expires_at_ns <= inner.clock.wall_ns() {
            return Err(tidegauge_auth::Denied::Expired.into());
        }
        let generation = inner.authenticator.generation();
        if inner.seen.load(Ordering::Acquire) == generation {
            return Ok(());
        }
        let now = inner.authenticator.recheck(&inner.grant)?;
        // A changed role changes what was allowed: the caller opens a new call and is judged anew.
        if now.principal != inner.grant.principal {
            return Err(tidegauge_auth::Denied::Invalid.into());
        }
        if let Some(scope) = &inner.scope
            && !covers(&now.tenants, scope)
        {
            return Err(tidegauge_core::scope::tenant_denied());
        }
        inner.seen.store(generation, Ordering::Release);
        Ok(())
    }
}

/// Whether the grant covers every tenant of the scope.
fn covers(granted: &GrantedTenants, scope: &TenantScope) -> bool {
    match scope.tenants() {
        None => matches!(granted, GrantedTenants::All),
        Some(tenants) => tenants.iter().all(|tenant| granted.contains(tenant)),
    }
}
