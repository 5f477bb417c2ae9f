//! Authorization as a value that must be held.
//!
//! A [`TenantScope`] proves that a principal may act for a set of tenants. It has two makers: the interceptor in
//! `tidegauge-rpc` (from a request's credentials) and [`SystemAuthority`], created once at composition. Everywhere else
//! `clippy.toml` bans the constructors. Stores and tables take a scope, or a [`ScopedTenant`] taken from one, so that
//! unscoped access does not compile.

use std::fmt;
use std::sync::Arc;

use crate::error::{ErrorKind, ServiceError};
use crate::ids::TenantId;

/// What a method needs. Declared per method where the service is mounted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Permission {
    /// No credential needed. Only `grpc.health.v1.Health/Check`.
    Public,
    /// Any valid credential, with or without tenants (reflection, health watch, handshake).
    Authenticated,
    /// Publish events.
    Publish,
    /// Read current values, live windows and status of the own tenants.
    Read,
    /// Run SQL.
    Query,
    /// Operate: reprocess, redrive, dead letters.
    Operate,
    /// Called by another service of the platform only; carried by service tokens.
    Internal,
}

/// Role named in a token or API key; a fixed set of permissions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Publishes events.
    Writer,
    /// Reads and queries.
    Reader,
    /// Publishes, reads, queries and operates.
    Admin,
    /// A service of the platform: everything, including internal methods.
    Service,
}

impl Role {
    /// Whether the role includes the permission.
    pub const fn allows(self, permission: Permission) -> bool {
        use Permission::{Authenticated, Internal, Operate, Public, Publish, Query, Read};
        match permission {
            Public | Authenticated => true,
            Publish => matches!(self, Self::Writer | Self::Admin | Self::Service),
            Read | Query => matches!(self, Self::Reader | Self::Admin | Self::Service),
            Operate => matches!(self, Self::Admin | Self::Service),
            Internal => matches!(self, Self::Service),
        }
    }

    /// The role's name, as in tokens and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Writer => "writer",
            Self::Reader => "reader",
            Self::Admin => "admin",
            Self::Service => "service",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "writer" => Ok(Self::Writer),
            "reader" => Ok(Self::Reader),
            "admin" => Ok(Self::Admin),
            other => Err(format!("{other:?} is no role; use writer, reader or admin")),
        }
    }
}

/// Who acts: a user, an API key or a service of the platform.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Principal {
    /// The name in the credential (`sub` of a token, user of a key, `service:<name>`).
    pub name: Arc<str>,
    /// What the principal may do.
    pub role: Role,
}

/// The tenants of a scope.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Tenants {
    All,
    Only(Arc<[TenantId]>),
}

/// Proof that a principal may act for a non-empty set of tenants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TenantScope {
    principal: Principal,
    tenants: Tenants,
}

impl TenantScope {
    /// Makes a scope over the given tenants; sorted and without doubles. For the interceptor only.
    ///
    /// Returns `None` for an empty set: there is no scope over nothing.
    pub fn granted(principal: Principal, mut tenants: Vec<TenantId>) -> Option<Self> {
        tenants.sort();
        tenants.dedup();
        (!tenants.is_empty()).then(|| Self { principal, tenants: Tenants::Only(tenants.into()) })
    }

    /// Makes a scope over all tenants. For the interceptor only, from a credential that says so.
    pub fn granted_all(principal: Principal) -> Self {
        Self { principal, tenants: Tenants::All }
    }

    /// Who acts.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Whether the scope covers the tenant.
    pub fn contains(&self, tenant: &TenantId) -> bool {
        match &self.tenants {
            Tenants::All => true,
            Tenants::Only(tenants) => tenants.binary_search(tenant).is_ok(),
        }
    }

    /// The tenants by name, sorted; `None` when the scope covers all tenants.
    pub fn tenants(&self) -> Option<&[TenantId]> {
        match &self.tenants {
            Tenants::All => None,
            Tenants::Only(tenants) => Some(tenants),
        }
    }

    /// The named tenants, each with its proof; `None` when the scope covers all tenants.
    pub fn each(&self) -> Option<Vec<ScopedTenant>> {
        self.tenants().map(|tenants| tenants.iter().cloned().map(ScopedTenant).collect())
    }

    /// The one tenant of the scope.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] with reason `TENANT_NOT_CHOSEN` when the scope covers several: the caller must
    /// choose with `x-tenant-id`.
    pub fn one(&self) -> Result<ScopedTenant, ServiceError> {
        match &self.tenants {
            Tenants::Only(tenants) if tenants.len() == 1 => Ok(ScopedTenant(tenants[0].clone())),
            _ => Err(ServiceError::new(
                ErrorKind::InvalidArgument,
                "TENANT_NOT_CHOSEN",
                "the credential covers several tenants; choose one with the header x-tenant-id",
            )),
        }
    }

    /// Proof for one tenant of the scope.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`], the same whether or not the tenant exists.
    pub fn tenant(&self, tenant: &TenantId) -> Result<ScopedTenant, ServiceError> {
        if self.contains(tenant) { Ok(ScopedTenant(tenant.clone())) } else { Err(tenant_denied()) }
    }

    /// The same principal, narrowed to one tenant of the scope.
    ///
    /// # Errors
    /// As [`TenantScope::tenant`].
    pub fn narrow(&self, tenant: &TenantId) -> Result<Self, ServiceError> {
        let ScopedTenant(tenant) = self.tenant(tenant)?;
        Ok(Self { principal: self.principal.clone(), tenants: Tenants::Only(Arc::new([tenant])) })
    }

    /// The same principal, narrowed to some tenants of the scope.
    ///
    /// # Errors
    /// As [`TenantScope::tenant`], for the first tenant that is not covered and for an empty list.
    pub fn narrow_to(&self, tenants: &[TenantId]) -> Result<Self, ServiceError> {
        if tenants.is_empty() || !tenants.iter().all(|tenant| self.contains(tenant)) {
            return Err(tenant_denied());
        }
        let mut tenants = tenants.to_vec();
        tenants.sort();
        tenants.dedup();
        Ok(Self { principal: self.principal.clone(), tenants: Tenants::Only(tenants.into()) })
    }
}

/// The one answer to a tenant outside the scope.
pub fn tenant_denied() -> ServiceError {
    ServiceError::new(
        ErrorKind::PermissionDenied,
        "TENANT_DENIED",
        "the credential does not cover the requested tenant",
    )
}

/// One tenant, with the proof that a scope covers it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScopedTenant(TenantId);

impl ScopedTenant {
    /// The tenant.
    pub fn id(&self) -> &TenantId {
        &self.0
    }
}

impl fmt::Debug for ScopedTenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The platform's own authority, handed to named background workers.
///
/// Made once for each worker, where the process is composed (and in tests), and audited there; calls that a worker makes with
/// it pass the interceptor and are audited by the worker's name.
#[derive(Clone, Debug)]
pub struct SystemAuthority {
    worker: Arc<str>,
}

impl SystemAuthority {
    /// Makes the authority of one named worker. For the composition only.
    pub fn for_worker(worker: &str) -> Self {
        Self { worker: worker.into() }
    }

    /// The worker's principal, `service:<worker>`.
    pub fn principal(&self) -> Principal {
        Principal { name: format!("service:{}", self.worker).into(), role: Role::Service }
    }

    /// Proof for one tenant.
    pub fn tenant(&self, tenant: &TenantId) -> ScopedTenant {
        ScopedTenant(tenant.clone())
    }

    /// A scope over all tenants.
    #[expect(clippy::disallowed_methods, reason = "the second of the two makers of scopes")]
    pub fn scope_all(&self) -> TenantScope {
        TenantScope::granted_all(self.principal())
    }
}
