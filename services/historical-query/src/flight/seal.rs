//! Tickets and handles: sealed, so that they need no memory on the server and show nothing to who holds them.
//!
//! Layout: version byte, 12-byte nonce, AES-256-GCM ciphertext with tag over JSON. The version and the kind are
//! authenticated with it: a handle is no ticket.

use std::collections::HashSet;

use bytes::Bytes;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use tidegauge_core::scope::tenant_denied;
use tidegauge_core::{ErrorKind, ServiceError, TenantId, TenantScope};

const VERSION: u8 = 1;

/// What a sealed value is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Fetches a result.
    Ticket,
    /// Names a prepared statement.
    Statement,
}

impl Kind {
    const fn authenticated(self) -> &'static [u8] {
        match self {
            Self::Ticket => b"tidegauge.flight.ticket.v1",
            Self::Statement => b"tidegauge.flight.statement.v1",
        }
    }
}

/// A query with the right to run it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Sealed {
    /// The text.
    pub(crate) sql: String,
    /// Whose it is.
    pub(crate) principal: String,
    /// For which tenants; `None` for all.
    pub(crate) tenants: Option<Vec<TenantId>>,
    /// Until when, Unix nanoseconds.
    pub(crate) expires_at_ns: i64,
    /// Fingerprint of the schema that was announced.
    pub(crate) schema: u64,
    /// Whether an answer without unreadable keys is wanted.
    pub(crate) allow_partial: bool,
}

/// Seals and opens.
pub(crate) struct Sealer {
    key: LessSafeKey,
    random: SystemRandom,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer")
    }
}

impl Sealer {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("a key of AES-256 has 32 bytes");
        Self { key: LessSafeKey::new(key), random: SystemRandom::new() }
    }

    pub(crate) fn seal(&self, kind: Kind, content: &Sealed) -> Result<Bytes, ServiceError> {
        let failed = || ServiceError::new(ErrorKind::Internal, "SEALING", "a ticket could not be sealed");
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| failed())?;
        let mut sealed = vec![VERSION];
        sealed.extend_from_slice(&nonce);
        let mut content = serde_json::to_vec(content).map_err(|_| failed())?;
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key
            .seal_in_place_append_tag(nonce, Aad::from(kind.authenticated()), &mut content)
            .map_err(|_| failed())?;
        sealed.append(&mut content);
        Ok(sealed.into())
    }

    /// Opens a sealed value for the caller and narrows its scope to the one it was sealed for.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for bytes that were not sealed here, FAILED_PRECONDITION when expired, PERMISSION_DENIED for
    /// another principal or tenants that the caller does not have (any more).
    pub(crate) fn open(
        &self,
        kind: Kind,
        bytes: &[u8],
        caller: &TenantScope,
        now_ns: i64,
    ) -> Result<(Sealed, TenantScope), ServiceError> {
        let unknown = || {
            let what = match kind {
                Kind::Ticket => "the ticket",
                Kind::Statement => "the handle of the prepared statement",
            };
            ServiceError::new(
                ErrorKind::InvalidArgument,
                "TICKET_INVALID",
                format!("{what} was not made by this server"),
            )
        };
        let (version, rest) = bytes.split_first().ok_or_else(unknown)?;
        if *version != VERSION || rest.len() < NONCE_LEN {
            return Err(unknown());
        }
        let (nonce, content) = rest.split_at(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| unknown())?;
        let mut content = content.to_vec();
        let plain =
            self.key.open_in_place(nonce, Aad::from(kind.authenticated()), &mut content).map_err(|_| unknown())?;
        let sealed: Sealed = serde_json::from_slice(plain).map_err(|_| unknown())?;
        if *sealed.principal != *caller.principal().name {
            return Err(tenant_denied());
        }
        if sealed.expires_at_ns <= now_ns {
            let message = "the ticket or prepared statement has expired, ask for a new one";
            return Err(ServiceError::new(ErrorKind::FailedPrecondition, "TICKET_EXPIRED", message));
        }
        let scope = narrowed(caller, sealed.tenants.as_deref())?;
        Ok((sealed, scope))
    }
}

/// The caller's scope, narrowed to the tenants a ticket was made for.
fn narrowed(caller: &TenantScope, tenants: Option<&[TenantId]>) -> Result<TenantScope, ServiceError> {
    match (caller.tenants(), tenants) {
        (None, None) => Ok(caller.clone()),
        (Some(_), None) => Err(tenant_denied()),
        (Some(now), Some(then)) if HashSet::<&TenantId>::from_iter(now) == HashSet::from_iter(then) => {
            Ok(caller.clone())
        }
        (_, Some(then)) => caller.narrow_to(then),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests make their own scopes")]

    use tidegauge_core::scope::{Principal, Role};

    use super::*;

    fn scope(name: &str, tenants: &[&str]) -> TenantScope {
        let principal = Principal { name: name.into(), role: Role::Reader };
        let tenants = tenants.iter().map(|t| TenantId::parse(t).expect("a tenant")).collect();
        TenantScope::granted(principal, tenants).expect("a scope")
    }

    fn sealed(scope: &TenantScope) -> Sealed {
        Sealed {
            sql: "SELECT 1".to_owned(),
            principal: scope.principal().name.to_string(),
            tenants: scope.tenants().map(<[_]>::to_vec),
            expires_at_ns: 100,
            schema: 7,
            allow_partial: false,
        }
    }

    /// Proves that a sealed value opens for its principal within its scope and life, and for nobody and nothing else,
    /// whatever bit of it is changed.
    #[test]
    fn a_ticket_is_bound_to_principal_scope_and_time() {
        let sealer = Sealer::new(&[7; 32]);
        let alice = scope("alice", &["a", "b"]);
        let content = sealed(&alice);
        let ticket = sealer.seal(Kind::Ticket, &content).expect("sealed");
        let (opened, narrowed) = sealer.open(Kind::Ticket, &ticket, &alice, 99).expect("opened");
        assert_eq!((opened, &narrowed), (content, &alice));
        // A wider caller runs it for the tenants it was made for.
        let (_, narrowed) = sealer.open(Kind::Ticket, &ticket, &scope("alice", &["a", "b", "c"]), 99).expect("opened");
        assert_eq!(narrowed.tenants(), alice.tenants());

        let reason = |kind, bytes: &[u8], caller: &TenantScope, now| {
            sealer.open(kind, bytes, caller, now).expect_err("refused").reason
        };
        assert_eq!(reason(Kind::Ticket, &ticket, &alice, 100), "TICKET_EXPIRED");
        assert_eq!(reason(Kind::Statement, &ticket, &alice, 99), "TICKET_INVALID");
        assert_eq!(reason(Kind::Ticket, &ticket, &scope("bob", &["a", "b"]), 99), "TENANT_DENIED");
        assert_eq!(reason(Kind::Ticket, &ticket, &scope("alice", &["a"]), 99), "TENANT_DENIED");
        let all = sealer.seal(Kind::Ticket, &Sealed { tenants: None, ..sealed(&alice) }).expect("sealed");
        assert_eq!(reason(Kind::Ticket, &all, &alice, 99), "TENANT_DENIED");
        let foreign = Sealer::new(&[8; 32]).seal(Kind::Ticket, &sealed(&alice)).expect("sealed");
        assert_eq!(reason(Kind::Ticket, &foreign, &alice, 99), "TICKET_INVALID");
        for bit in 0..ticket.len() * 8 {
            let mut flipped = ticket.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(reason(Kind::Ticket, &flipped, &alice, 99), "TICKET_INVALID");
        }
        for cut in 0..ticket.len() {
            assert_eq!(reason(Kind::Ticket, &ticket[..cut], &alice, 99), "TICKET_INVALID");
        }
    }
}
