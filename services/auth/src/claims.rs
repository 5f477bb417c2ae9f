//! What stands in our tokens.

use serde::{Deserialize, Serialize};
use tidegauge_core::scope::Role;
use tidegauge_core::{Principal, TenantId, TenantScope};

use crate::{GrantedTenants, TenantClaim};

/// `iss` of tokens that this platform signs.
pub(crate) const ISSUER: &str = "tidegauge";
/// `aud` of users' tokens.
pub(crate) const AUDIENCE: &str = "tidegauge";
/// `aud` of service tokens: a user's token never passes for one.
pub(crate) const AUDIENCE_INTERNAL: &str = "tidegauge-internal";
/// Start of a service's principal.
pub(crate) const SERVICE_PREFIX: &str = "service:";
/// Bytes of a user's name.
const USER_BYTES_MAX: usize = 255;

/// The payload of a token. Times are Unix seconds.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    pub(crate) aud: Audience,
    pub(crate) sub: String,
    pub(crate) iat: u64,
    pub(crate) exp: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) nbf: Option<u64>,
    #[serde(default)]
    pub(crate) jti: String,
    pub(crate) role: Role,
    #[serde(flatten)]
    pub(crate) tenants: Named,
    /// The user for whom a service calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) on_behalf_of: Option<OnBehalfOf>,
}

/// One audience or several, as the standard allows.
#[derive(Serialize, Deserialize, Debug)]
#[serde(untagged)]
pub(crate) enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    pub(crate) fn is_internal(&self) -> bool {
        matches!(self, Self::One(one) if one == AUDIENCE_INTERNAL)
    }

    pub(crate) fn names_users(&self) -> bool {
        match self {
            Self::One(one) => one == AUDIENCE,
            Self::Many(many) => many.iter().any(|one| one == AUDIENCE),
        }
    }
}

/// The tenants that a token names: a list, or all, or none of the two.
#[derive(Serialize, Deserialize, Debug, Default)]
pub(crate) struct Named {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenants: Option<Vec<TenantId>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    all_tenants: bool,
}

impl Named {
    /// The claim; `None` when it says both.
    pub(crate) fn claim(self) -> Option<TenantClaim> {
        match (self.tenants, self.all_tenants) {
            (Some(_), true) => None,
            (None, true) => Some(TenantClaim::All),
            (Some(tenants), false) => Some(TenantClaim::Only(tenants)),
            (None, false) => Some(TenantClaim::ByRules),
        }
    }
}

impl From<&TenantClaim> for Named {
    fn from(claim: &TenantClaim) -> Self {
        match claim {
            TenantClaim::All => Self { tenants: None, all_tenants: true },
            TenantClaim::Only(tenants) => Self { tenants: Some(tenants.clone()), all_tenants: false },
            TenantClaim::ByRules => Self::default(),
        }
    }
}

/// A user's scope, carried by a service token. The rules were applied when the scope was made.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct OnBehalfOf {
    sub: String,
    role: Role,
    #[serde(flatten)]
    tenants: Named,
}

impl From<&TenantScope> for OnBehalfOf {
    fn from(scope: &TenantScope) -> Self {
        let claim = scope.tenants().map_or(TenantClaim::All, |tenants| TenantClaim::Only(tenants.to_vec()));
        let principal = scope.principal();
        Self { sub: principal.name.as_ref().to_owned(), role: principal.role, tenants: Named::from(&claim) }
    }
}

impl OnBehalfOf {
    /// The user and the tenants; `None` when it names no tenants.
    pub(crate) fn into_parts(self) -> Option<(Principal, GrantedTenants)> {
        let tenants = match self.tenants.claim()? {
            TenantClaim::All => GrantedTenants::All,
            TenantClaim::Only(tenants) => GrantedTenants::only(tenants),
            TenantClaim::ByRules => return None,
        };
        Some((Principal { name: self.sub.into(), role: self.role }, tenants))
    }
}

/// What is wrong with a user's name, if anything is: it must be printable, of 1 to 255 bytes, and not like a service's.
pub fn user_name_problem(user: &str) -> Option<&'static str> {
    if user.is_empty() {
        return Some("must not be empty");
    }
    if user.len() > USER_BYTES_MAX {
        return Some("is longer than 255 bytes");
    }
    if user.chars().any(char::is_control) || user.contains(':') {
        return Some("must not contain control characters or a colon");
    }
    None
}
