//! From a credential to a grant.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use sha2::{Digest as _, Sha256};
use tidegauge_core::clock::Clock;
use tidegauge_core::scope::{Role, SystemAuthority};
use tidegauge_core::{Principal, TenantScope};

use crate::cache::Recent;
use crate::claims::{
    AUDIENCE_INTERNAL, Audience, Claims, ISSUER, Named, OnBehalfOf, SERVICE_PREFIX, user_name_problem,
};
use crate::files::{self, Look};
use crate::grant::Origin;
use crate::header::{self, KEY_PREFIX};
use crate::key::{SigningKey, seconds_ns, wall_seconds};
use crate::keyfile::{self, ApiKeys};
use crate::rules::Rules;
use crate::{AuthError, Denied, Grant, GrantedTenants, TenantClaim};

/// Time between two looks at the rules and key files.
const LOOK_INTERVAL_NS: u64 = 1_000_000_000;
/// Decisions remembered: verifying a signature costs fifty times what a look-up does.
const DECISIONS_REMEMBERED: usize = 4_096;
/// Life of a service token, in seconds.
const SERVICE_TOKEN_SECONDS: u64 = 60;

/// Where credentials are checked against.
#[derive(Clone, Debug)]
pub struct AuthOptions {
    /// `<data-dir>/auth`: the signing key (made if missing) and the API keys.
    pub folder: PathBuf,
    /// The rules file, if tenants are ruled by one.
    pub rules: Option<PathBuf>,
}

/// Checks credentials. One per process; shared.
///
/// Effective tenants are the credential's own, cut down to the user's lines in the rules file where one is configured;
/// a credential that names none takes the rules'; without both it covers none. Not cut down are the operator's
/// credential, that is role admin *and* all tenants, and service tokens, whose scope was cut down when it was made.
#[derive(Debug)]
pub struct Authenticator {
    clock: Arc<dyn Clock>,
    signing: SigningKey,
    rules_path: Option<PathBuf>,
    keys_path: PathBuf,
    current: RwLock<Arc<Tables>>,
    generation: AtomicU64,
    next_look_ns: AtomicU64,
    seen: Mutex<Seen>,
    decisions: Mutex<Decisions>,
}

/// Grants by hash of the credential, each with the generation of the tables it was made from.
type Decisions = Recent<[u8; 32], (u64, Arc<Grant>)>;

/// What the files say.
#[derive(Debug, PartialEq, Eq)]
struct Tables {
    rules: Option<Arc<Rules>>,
    keys: Arc<ApiKeys>,
}

#[derive(Debug)]
struct Seen {
    rules: Watched,
    keys: Watched,
}

/// A service token, ready for the header.
#[derive(Clone)]
pub struct ServiceToken {
    /// Value of the `authorization` header.
    pub authorization: String,
    /// From when on a new one should be made, Unix nanoseconds.
    pub refresh_at_ns: i64,
}

impl std::fmt::Debug for ServiceToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceToken").field("refresh_at_ns", &self.refresh_at_ns).finish_non_exhaustive()
    }
}

impl Authenticator {
    /// Reads the files; makes the signing key at the first start.
    ///
    /// # Errors
    /// [`AuthError`]: a file is missing, broken, or readable by others.
    pub fn open(options: AuthOptions, clock: Arc<dyn Clock>) -> Result<Self, AuthError> {
        let AuthOptions { folder, rules: rules_path } = options;
        let signing = SigningKey::open(&folder)?;
        let keys_path = keyfile::path_in(&folder);
        // Looked at before they are read: a change in between is then seen at the next look.
        let seen = Seen { rules: Watched::at(rules_path.as_deref())?, keys: Watched::at(Some(&keys_path))? };
        let tables = Tables { rules: read_rules(rules_path.as_deref())?, keys: Arc::new(keyfile::load(&keys_path)?) };
        let next_look_ns = AtomicU64::new(clock.monotonic_ns().saturating_add(LOOK_INTERVAL_NS));
        Ok(Self {
            clock,
            signing,
            rules_path,
            keys_path,
            current: RwLock::new(Arc::new(tables)),
            generation: AtomicU64::new(1),
            next_look_ns,
            seen: Mutex::new(seen),
            decisions: Mutex::new(Recent::new(DECISIONS_REMEMBERED)),
        })
    }

    /// The grant of an `authorization` header's value.
    ///
    /// # Errors
    /// [`Denied`]; the same for an unknown key, a wrong secret and a broken token.
    pub fn authenticate(&self, authorization: Option<&[u8]>) -> Result<Arc<Grant>, Denied> {
        let value = authorization.ok_or(Denied::Missing)?;
        let generation = self.generation();
        let hash: [u8; 32] = Sha256::digest(value).into();
        let remembered = self.decisions.lock().unwrap_or_else(PoisonError::into_inner).get(&hash);
        let grant = match remembered {
            Some((at, grant)) if at == generation => return self.unexpired(grant),
            Some((_, grant)) => self.recheck(&grant)?,
            None => Arc::new(self.judge(value)?),
        };
        let grant = self.unexpired(grant)?;
        let entry = (generation, Arc::clone(&grant));
        self.decisions.lock().unwrap_or_else(PoisonError::into_inner).insert(hash, entry);
        Ok(grant)
    }

    /// Makes a grant again from what it was made of, with the rules and keys of now.
    ///
    /// # Errors
    /// [`Denied`] when the key was removed or replaced, or the credential has expired.
    pub fn recheck(&self, grant: &Grant) -> Result<Arc<Grant>, Denied> {
        let tables = self.tables();
        let renewed = match &grant.origin {
            Origin::Service => grant.clone(),
            Origin::Token(claim) => {
                Grant { tenants: effective(claim, &grant.principal, tables.rules.as_deref()), ..grant.clone() }
            }
            Origin::Key { id, hash } => {
                let key = tables.keys.get(id).filter(|key| key.hash == *hash).ok_or(Denied::Invalid)?;
                key_grant(id, key, tables.rules.as_deref())
            }
        };
        self.unexpired(Arc::new(renewed))
    }

    /// Counts the changes of rules and keys that were taken up. Looks at the files at most once a second.
    pub fn generation(&self) -> u64 {
        let now = self.clock.monotonic_ns();
        let next = self.next_look_ns.load(Ordering::Relaxed);
        let taken = now >= next
            && self
                .next_look_ns
                .compare_exchange(next, now.saturating_add(LOOK_INTERVAL_NS), Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        if taken {
            self.look_again();
        }
        self.generation.load(Ordering::Acquire)
    }

    /// Makes a service token: the holder of the authority calls as itself, or on behalf of the scope's principal.
    ///
    /// # Errors
    /// [`AuthError::Signing`].
    pub fn service_token(
        &self,
        authority: &SystemAuthority,
        on_behalf_of: Option<&TenantScope>,
    ) -> Result<ServiceToken, AuthError> {
        let now = wall_seconds(self.clock.wall_ns());
        let token = self.signing.sign(&Claims {
            iss: ISSUER.to_owned(),
            aud: Audience::One(AUDIENCE_INTERNAL.to_owned()),
            sub: authority.principal().name.as_ref().to_owned(),
            iat: now,
            exp: now.saturating_add(SERVICE_TOKEN_SECONDS),
            nbf: None,
            jti: String::new(),
            role: Role::Service,
            tenants: Named::from(&TenantClaim::All),
            on_behalf_of: on_behalf_of.map(OnBehalfOf::from),
        })?;
        let refresh_at_ns = seconds_ns(now.saturating_add(SERVICE_TOKEN_SECONDS / 2));
        Ok(ServiceToken { authorization: format!("Bearer {token}"), refresh_at_ns })
    }

    fn judge(&self, value: &[u8]) -> Result<Grant, Denied> {
        let presented = header::parse(value).ok_or(Denied::Invalid)?;
        let grant = if presented.secret.starts_with(KEY_PREFIX) {
            self.judge_key(&presented.secret)?
        } else {
            self.judge_token(&presented.secret)?
        };
        match &presented.user {
            Some(user) if **user != *grant.principal.name => Err(Denied::Invalid),
            _ => Ok(grant),
        }
    }

    fn judge_key(&self, presented: &str) -> Result<Grant, Denied> {
        let (id, secret) = keyfile::split(presented).ok_or(Denied::Invalid)?;
        let hash = keyfile::secret_hash(secret);
        let tables = self.tables();
        match tables.keys.get_key_value(id) {
            Some((id, key)) if keyfile::same(&key.hash, &hash) => Ok(key_grant(id, key, tables.rules.as_deref())),
            _ => Err(Denied::Invalid),
        }
    }

    fn judge_token(&self, token: &str) -> Result<Grant, Denied> {
        let now_ns = self.clock.wall_ns();
        let claims = self.signing.verify(token, now_ns)?;
        let expires_at_ns = seconds_ns(claims.exp);
        if claims.aud.is_internal() {
            let lives_longer = claims.exp.saturating_sub(claims.iat) > SERVICE_TOKEN_SECONDS;
            if claims.role != Role::Service || !claims.sub.starts_with(SERVICE_PREFIX) || lives_longer {
                return Err(Denied::Invalid);
            }
            let service = Principal { name: claims.sub.into(), role: Role::Service };
            let (principal, via, tenants) = match claims.on_behalf_of {
                None => (service, None, GrantedTenants::All),
                Some(user) => {
                    let (principal, tenants) = user.into_parts().ok_or(Denied::Invalid)?;
                    (principal, Some(service), tenants)
                }
            };
            return Ok(Grant {
                principal,
                via,
                tenants,
                expires_at_ns,
                credential: "service".into(),
                origin: Origin::Service,
            });
        }
        let for_a_user = claims.aud.names_users() && claims.role != Role::Service && claims.on_behalf_of.is_none();
        if !for_a_user || user_name_problem(&claims.sub).is_some() {
            return Err(Denied::Invalid);
        }
        let claim = claims.tenants.claim().ok_or(Denied::Invalid)?;
        let principal = Principal { name: claims.sub.into(), role: claims.role };
        let tenants = effective(&claim, &principal, self.tables().rules.as_deref());
        let credential = format!("token:{}", claims.jti).into();
        Ok(Grant { principal, via: None, tenants, expires_at_ns, credential, origin: Origin::Token(claim) })
    }

    fn unexpired(&self, grant: Arc<Grant>) -> Result<Arc<Grant>, Denied> {
        if grant.expires_at_ns <= self.clock.wall_ns() { Err(Denied::Expired) } else { Ok(grant) }
    }

    fn tables(&self) -> Arc<Tables> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes up changed files, each by itself: a broken one keeps its former contents and holds up no other.
    fn look_again(&self) {
        let wall_ns = self.clock.wall_ns();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let rules_path = self.rules_path.as_deref();
        let rules = seen.rules.renew(wall_ns, rules_path, || read_rules(rules_path));
        let keys = seen.keys.renew(wall_ns, Some(&self.keys_path), || keyfile::load(&self.keys_path).map(Arc::new));
        let before = self.tables();
        let now = Tables {
            rules: rules.unwrap_or_else(|| before.rules.clone()),
            keys: keys.unwrap_or_else(|| Arc::clone(&before.keys)),
        };
        if *before != now {
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(now);
            let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
            tracing::info!(generation, "rules or API keys changed and were taken up");
        }
    }
}

/// How a file looked when it was last read well, and what was last reported about it.
#[derive(Debug, Default)]
struct Watched {
    look: Option<Look>,
    reported: Option<String>,
}

impl Watched {
    fn at(path: Option<&Path>) -> Result<Self, AuthError> {
        Ok(Self { look: look(path)?, reported: None })
    }

    /// Reads the file if it looks changed. A broken one is reported once, with its line, and read again at every look
    /// until it is mended.
    fn renew<T>(
        &mut self,
        wall_ns: i64,
        path: Option<&Path>,
        read: impl FnOnce() -> Result<T, AuthError>,
    ) -> Option<T> {
        let read = || -> Result<_, AuthError> {
            let now = look(path)?;
            let unchanged = self.look == now && now.is_none_or(|look| look.settled(wall_ns));
            if unchanged {
                return Ok(None);
            }
            let value = read()?;
            // Half a list is a list as well, and would take tenants away: what is being written is read at the next look.
            Ok((look(path)? == now).then_some((now, value)))
        };
        match read() {
            Ok(None) => {
                self.reported = None;
                None
            }
            Ok(Some((now, value))) => {
                (self.look, self.reported) = (now, None);
                Some(value)
            }
            Err(error) => {
                let problem = error.to_string();
                if self.reported.as_ref() != Some(&problem) {
                    tracing::error!(problem, "a changed file is broken, its former contents stay in force");
                    self.reported = Some(problem);
                }
                None
            }
        }
    }
}

fn look(path: Option<&Path>) -> Result<Option<Look>, AuthError> {
    path.map_or(Ok(None), Look::at)
}

fn read_rules(path: Option<&Path>) -> Result<Option<Arc<Rules>>, AuthError> {
    path.map(|path| Ok(Arc::new(Rules::parse(&files::read(path)?, path)?))).transpose()
}

fn key_grant(id: &Arc<str>, key: &keyfile::ApiKey, rules: Option<&Rules>) -> Grant {
    let principal = Principal { name: Arc::clone(&key.user), role: key.role };
    Grant {
        tenants: effective(&key.tenants, &principal, rules),
        principal,
        via: None,
        expires_at_ns: key.expires_at_ns,
        credential: format!("key:{id}").into(),
        origin: Origin::Key { id: Arc::clone(id), hash: key.hash },
    }
}

/// The tenants of a credential under the rules, see [`Authenticator`].
fn effective(claim: &TenantClaim, principal: &Principal, rules: Option<&Rules>) -> GrantedTenants {
    match (claim, rules) {
        (TenantClaim::All, None) => GrantedTenants::All,
        (TenantClaim::All, Some(_)) if principal.role == Role::Admin => GrantedTenants::All,
        (TenantClaim::All | TenantClaim::ByRules, Some(rules)) => {
            GrantedTenants::Only(rules.of(&principal.name).into())
        }
        (TenantClaim::ByRules, None) => GrantedTenants::Only(Arc::new([])),
        (TenantClaim::Only(tenants), None) => GrantedTenants::only(tenants.clone()),
        (TenantClaim::Only(tenants), Some(rules)) => {
            let ruled = rules.of(&principal.name);
            GrantedTenants::only(tenants.iter().filter(|tenant| ruled.binary_search(tenant).is_ok()).cloned().collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that a file which is written while it is read counts only when it is whole.
    #[test]
    fn a_file_in_the_making_is_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rules.csv");
        std::fs::write(&path, "half").expect("writable");
        let mut watched = Watched::default();
        let changing = watched.renew(0, Some(&path), || {
            std::fs::write(&path, "half and half").expect("writable");
            Ok("half")
        });
        assert_eq!(changing, None);
        assert_eq!(watched.renew(0, Some(&path), || Ok("whole")), Some("whole"));
    }
}
