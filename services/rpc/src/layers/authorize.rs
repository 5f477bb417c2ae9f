//! The interceptor: decides about every call, leaves scope and guard in the request, and writes the audit log.

use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, HeaderValue, Request};
use tidegauge_auth::cache::Recent;
use tidegauge_auth::{Authenticator, Denied, Grant, GrantedTenants};
use tidegauge_core::clock::Clock;
use tidegauge_core::scope::tenant_denied;
use tidegauge_core::{ErrorKind, Permission, Principal, ServiceError, TenantId, TenantScope};
use tonic::body::Body;

use super::{Answer, Line, layer};
use crate::context::no_tenants;
use crate::methods::Methods;
use crate::{Guard, status};

/// Allowed calls of one credential, method and tenant choice: logged at INFO once in this time, at DEBUG in between.
/// Denied ones are logged at INFO, up to [`DENIED_PER_SECOND`].
const AUDIT_INTERVAL_NS: u64 = 60_000_000_000;
/// Denied calls logged a second, of callers with a valid credential and of others each; what is over is counted in the next
/// line, so that a flood of calls does not fill the disk of the log.
const DENIED_PER_SECOND: u32 = 50;
/// Combinations of those remembered for that.
const AUDIT_REMEMBERED: usize = 4_096;
/// Bytes of an unknown path in the audit log.
const AUDIT_PATH_BYTES_MAX: usize = 128;

type Audited = (Arc<str>, Arc<str>, Option<TenantId>);

layer!(
    AuthorizeLayer {
        methods: Arc<Methods>,
        authenticator: Arc<Authenticator>,
        clock: Arc<dyn Clock>,
        audited: Arc<Mutex<Recent<Audited, u64>>>,
        denied: Arc<[Mutex<Pace>; 2]>,
    },
    Authorize
);

/// Lines a second, and how many were left out.
#[derive(Debug, Default)]
struct Pace {
    second: u64,
    lines: u32,
    left_out: u64,
}

impl Pace {
    /// Whether another line may be written now; how many were left out since the last one.
    fn admit(&mut self, now_ns: u64) -> Option<u64> {
        let second = now_ns / 1_000_000_000;
        if second != self.second {
            (self.second, self.lines) = (second, 0);
        }
        if self.lines >= DENIED_PER_SECOND {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl AuthorizeLayer {
    pub(crate) fn new(methods: Arc<Methods>, authenticator: Arc<Authenticator>, clock: Arc<dyn Clock>) -> Self {
        let audited = Arc::new(Mutex::new(Recent::new(AUDIT_REMEMBERED)));
        Self { methods, authenticator, clock, audited, denied: Arc::default() }
    }

    /// Decides, and prepares the request for its handler.
    fn admit(&self, request: &mut Request<Body>) -> Result<(), ServiceError> {
        let Some(method) = self.methods.find(request) else {
            // Who is nobody does not learn which methods there are.
            let grant = self.authenticate(request.headers());
            let error = match &grant {
                Ok(_) => ServiceError::new(ErrorKind::Unimplemented, "METHOD_UNKNOWN", "there is no such method"),
                Err(denied) => (*denied).into(),
            };
            self.audit_denied(request, &clip(request.uri()), grant.as_ref().ok(), &error);
            return Err(error);
        };
        if method.permission == Permission::Public {
            return Ok(());
        }
        // Read before the grant: a change in between is then seen by the guard.
        let generation = self.authenticator.generation();
        let grant = match self.authenticate(request.headers()) {
            Ok(grant) => grant,
            Err(denied) => {
                let error = denied.into();
                self.audit_denied(request, &method.path, None, &error);
                return Err(error);
            }
        };
        let chosen = match decide(&grant, method.permission, request.headers()) {
            Ok(chosen) => chosen,
            Err(error) => {
                self.audit_denied(request, &method.path, Some(&grant), &error);
                return Err(error);
            }
        };
        let (scope, tenant) = chosen;
        self.audit_allowed(request, &method.path, &grant, scope.as_ref(), tenant);

        let guard = Guard::new(
            Arc::clone(&self.authenticator),
            Arc::clone(&self.clock),
            Arc::clone(&grant),
            scope.clone(),
            generation,
        );
        if let Some(value) = request.headers_mut().get_mut(http::header::AUTHORIZATION) {
            value.set_sensitive(true);
        }
        request.extensions_mut().insert(guard);
        if let Some(scope) = scope {
            request.extensions_mut().insert(scope);
        }
        Ok(())
    }

    fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<Grant>, Denied> {
        let value = single(headers, "authorization").map_err(|Several| Denied::Invalid)?;
        self.authenticator.authenticate(value.map(HeaderValue::as_bytes))
    }

    fn audit_allowed(
        &self,
        request: &Request<Body>,
        method: &Arc<str>,
        grant: &Grant,
        scope: Option<&TenantScope>,
        tenant: Option<TenantId>,
    ) {
        let now = self.clock.monotonic_ns();
        let who: Arc<str> = match &grant.via {
            Some(via) => format!("{}>{}", via.name, grant.principal.name).into(),
            None if grant.is_service() => Arc::clone(&grant.principal.name),
            None => Arc::clone(&grant.credential),
        };
        let audited = (who, Arc::clone(method), tenant);
        let first = {
            let mut recent = self.audited.lock().unwrap_or_else(PoisonError::into_inner);
            let first = recent.get(&audited).is_none_or(|at| now.saturating_sub(at) >= AUDIT_INTERVAL_NS);
            if first {
                recent.insert(audited, now);
            }
            first
        };
        macro_rules! log {
            ($level:expr) => {
                tracing::event!(
                    target: "tidegauge::audit",
                    $level,
                    decision = "allowed",
                    principal = %grant.principal.name,
                    role = grant.principal.role.as_str(),
                    via = grant.via.as_ref().map(|via| &*via.name),
                    credential = %grant.credential,
                    method = &**method,
                    tenants = %Shown(scope),
                    peer = ?peer(request),
                    "call allowed"
                )
            };
        }
        if first { log!(tracing::Level::INFO) } else { log!(tracing::Level::DEBUG) }
    }

    fn audit_denied(&self, request: &Request<Body>, method: &str, grant: Option<&Arc<Grant>>, error: &ServiceError) {
        let pace = &self.denied[usize::from(grant.is_some())];
        let admitted = pace.lock().unwrap_or_else(PoisonError::into_inner).admit(self.clock.monotonic_ns());
        let Some(left_out) = admitted else { return };
        let asked = request.headers().get("x-tenant-id").and_then(|value| value.to_str().ok()).map(clip_text);
        tracing::info!(
            target: "tidegauge::audit",
            decision = "denied",
            reason = error.reason,
            principal = grant.map(|grant| &*grant.principal.name),
            role = grant.map(|grant| grant.principal.role.as_str()),
            via = grant.and_then(|grant| grant.via.as_ref()).map(|via| &*via.name),
            credential = grant.map(|grant| &*grant.credential),
            method,
            tenant_asked = ?asked,
            peer = ?peer(request),
            left_out = (left_out > 0).then_some(left_out),
            "call denied"
        );
    }
}

impl<S> Authorize<S>
where
    S: tower::Service<Request<Body>, Response = http::Response<Body>, Error = std::convert::Infallible>,
    S::Future: Send + 'static,
{
    fn answer(&mut self, mut request: Request<Body>) -> Answer {
        match self.layer.admit(&mut request) {
            Ok(()) => Box::pin(self.inner.call(request)),
            Err(error) => Box::pin(async move { Ok(status(error).into_http()) }),
        }
    }
}

/// The decision about an authenticated call: its scope (none where the method needs no tenant and the credential
/// covers none) and the tenant it chose. Pure.
fn decide(
    grant: &Grant,
    permission: Permission,
    headers: &HeaderMap,
) -> Result<(Option<TenantScope>, Option<TenantId>), ServiceError> {
    if !permitted(&grant.principal, grant.via.as_ref(), permission) {
        let message = format!("the role {} does not allow this method", grant.principal.role.as_str());
        return Err(ServiceError::new(ErrorKind::PermissionDenied, "PERMISSION_MISSING", message));
    }
    let covered = scope_of(grant);
    // Several, a malformed one, one that does not exist and one of somebody else: all get the same answer.
    let chosen = match single(headers, "x-tenant-id").map_err(|Several| tenant_denied())? {
        None => None,
        Some(value) => {
            let text = value.to_str().map_err(|_| tenant_denied())?;
            Some(TenantId::parse(text).map_err(|_| tenant_denied())?)
        }
    };
    match (covered, chosen) {
        (Some(scope), Some(tenant)) => Ok((Some(scope.narrow(&tenant)?), Some(tenant))),
        (Some(scope), None) => Ok((Some(scope), None)),
        (None, Some(_)) => Err(tenant_denied()),
        (None, None) if permission == Permission::Authenticated => Ok((None, None)),
        (None, None) => Err(no_tenants()),
    }
}

/// Whether the caller may call a method with this permission. A service that acts for a user needs it itself, and the
/// user needs it too, except for internal methods, which no user ever calls.
fn permitted(principal: &Principal, via: Option<&Principal>, permission: Permission) -> bool {
    match via {
        None => principal.role.allows(permission),
        Some(service) => {
            service.role.allows(permission) && (permission == Permission::Internal || principal.role.allows(permission))
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the interceptor is one of the two makers of scopes")]
fn scope_of(grant: &Grant) -> Option<TenantScope> {
    match &grant.tenants {
        GrantedTenants::All => Some(TenantScope::granted_all(grant.principal.clone())),
        GrantedTenants::Only(tenants) => TenantScope::granted(grant.principal.clone(), tenants.to_vec()),
    }
}

/// A header stands there more than once: which one counts would be a guess.
struct Several;

fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a HeaderValue>, Several> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(Several),
    }
}

fn peer(request: &Request<Body>) -> Option<std::net::SocketAddr> {
    request.extensions().get::<Line>().and_then(|line| line.peer)
}

fn clip(uri: &http::Uri) -> String {
    clip_text(uri.path_and_query().map_or("", |path| path.as_str())).to_owned()
}

fn clip_text(text: &str) -> &str {
    let mut end = text.len().min(AUDIT_PATH_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A scope's tenants as the audit log shows them.
struct Shown<'a>(Option<&'a TenantScope>);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.map(TenantScope::tenants) {
            None => f.write_str("-"),
            Some(None) => f.write_str("*"),
            Some(Some(tenants)) => {
                for (at, tenant) in tenants.iter().enumerate() {
                    let comma = if at == 0 { "" } else { "," };
                    write!(f, "{comma}{tenant}")?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flood leaves a bounded number of lines, and the next line says how many are missing.
    #[test]
    fn denied_calls_are_logged_at_a_pace() {
        let mut pace = Pace::default();
        let second = 1_000_000_000;
        let lines = (0..1_000).filter(|i| pace.admit(7 * second + i).is_some()).count();
        assert_eq!(lines, DENIED_PER_SECOND as usize);
        assert_eq!(pace.admit(8 * second), Some(1_000 - u64::from(DENIED_PER_SECOND)));
        assert_eq!(pace.admit(8 * second + 1), Some(0));
    }
}
