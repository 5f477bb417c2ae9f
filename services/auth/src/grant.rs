//! What a credential grants.

use std::sync::Arc;

use tidegauge_core::{Principal, TenantId};

/// The tenants that a new credential shall name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TenantClaim {
    /// Every tenant, present and future.
    All,
    /// These tenants; at least one.
    Only(Vec<TenantId>),
    /// None named: the rules file decides, and without one the credential grants nothing.
    ByRules,
}

/// The tenants of a grant, after the rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GrantedTenants {
    /// Every tenant.
    All,
    /// These tenants, sorted and without doubles; may be empty.
    Only(Arc<[TenantId]>),
}

impl GrantedTenants {
    /// Whether the tenant is among them.
    pub fn contains(&self, tenant: &TenantId) -> bool {
        match self {
            Self::All => true,
            Self::Only(tenants) => tenants.binary_search(tenant).is_ok(),
        }
    }

    pub(crate) fn only(mut tenants: Vec<TenantId>) -> Self {
        tenants.sort();
        tenants.dedup();
        Self::Only(tenants.into())
    }
}

/// What a valid credential grants at this moment. Cheap to share; never holds the credential itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Who acts: the user, or, on behalf of a user, that user.
    pub principal: Principal,
    /// The service that acts on behalf of the principal, if one does. Both need the permission of a method.
    pub via: Option<Principal>,
    /// For which tenants.
    pub tenants: GrantedTenants,
    /// Until when, Unix nanoseconds; `i64::MAX` for a key without an end.
    pub expires_at_ns: i64,
    /// Names the credential in the audit log: `token:<jti>`, `key:<id>`, `service`.
    pub credential: Arc<str>,
    pub(crate) origin: Origin,
}

impl Grant {
    /// Whether a platform service's token made this grant.
    pub fn is_service(&self) -> bool {
        matches!(self.origin, Origin::Service)
    }
}

/// What a grant was made from, kept so that it can be made again when rules or keys change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// A user's token and its claim.
    Token(TenantClaim),
    /// An API key, by id and hash; the key file has the rest.
    Key {
        /// Id of the key.
        id: Arc<str>,
        /// Hash of its secret: a key that was replaced is another one.
        hash: [u8; 32],
    },
    /// A service token.
    Service,
}
