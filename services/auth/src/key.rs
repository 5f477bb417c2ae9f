//! The signing key, and the tokens made with it.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use sha2::{Digest as _, Sha256};
use tidegauge_core::clock::Clock;
use tidegauge_core::scope::Role;

use crate::claims::{AUDIENCE, AUDIENCE_INTERNAL, Audience, Claims, ISSUER, Named, user_name_problem};
use crate::files::{self, Place};
use crate::header::CREDENTIAL_BYTES_MAX;
use crate::{AuthError, Denied, TenantClaim};

const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

/// The Ed25519 key of one installation, `<data-dir>/auth/signing-key`.
pub(crate) struct SigningKey {
    kid: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
}

impl SigningKey {
    /// Reads the key, or makes it when the folder has none yet.
    pub(crate) fn open(folder: &Path) -> Result<Self, AuthError> {
        files::make_private_folder(folder)?;
        let path = folder.join("signing-key");
        let text = match files::read_private(&path) {
            Err(AuthError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                // Another process may come first: then its key counts.
                files::write_private(&path, &generate()?, Place::Empty)?;
                files::read_private(&path)?
            }
            other => other?,
        };
        Self::parse(&text).ok_or_else(|| AuthError::invalid(&path, None, "is no Ed25519 private key in PKCS#8 PEM"))
    }

    fn parse(text: &str) -> Option<Self> {
        let body = text.trim().strip_prefix(PEM_BEGIN)?.strip_suffix(PEM_END)?;
        let der = STANDARD.decode(body.split_ascii_whitespace().collect::<String>()).ok()?;
        let public = ed25519_dalek::SigningKey::from_pkcs8_der(&der).ok()?.verifying_key();
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE, AUDIENCE_INTERNAL]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // Times are compared with the injected clock, see `verify`; the library would read the system's.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        Some(Self {
            kid: hex(&Sha256::digest(public.as_bytes())[..8]),
            encoding: EncodingKey::from_ed_der(&der),
            decoding: DecodingKey::from_ed_der(public.as_bytes()),
            validation,
        })
    }

    pub(crate) fn sign(&self, claims: &Claims) -> Result<String, AuthError> {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, claims, &self.encoding).map_err(|error| AuthError::Signing(error.to_string()))
    }

    /// The claims of a token that this key signed and whose time is now.
    pub(crate) fn verify(&self, token: &str, wall_ns: i64) -> Result<Claims, Denied> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| Denied::Invalid)?;
        // An extension that must be understood is not.
        if header.alg != Algorithm::EdDSA || header.kid.as_ref() != Some(&self.kid) || header.crit.is_some() {
            return Err(Denied::Invalid);
        }
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &self.validation)
            .map_err(|_| Denied::Invalid)?
            .claims;
        if seconds_ns(claims.exp) <= wall_ns {
            return Err(Denied::Expired);
        }
        match claims.nbf {
            Some(nbf) if wall_ns < seconds_ns(nbf) => Err(Denied::Invalid),
            _ => Ok(claims),
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// Signs a token offline, with the key in `folder` (`<data-dir>/auth`, made if it is not there).
///
/// # Errors
/// [`AuthError`]: the key cannot be read, the user's name is not allowed, `tenants` is an empty list or too long a one, the
/// life is shorter than a second, or `role` is [`Role::Service`], which only a running process gives itself.
pub fn create_token(
    folder: &Path,
    user: &str,
    tenants: &TenantClaim,
    role: Role,
    ttl: Duration,
    clock: &dyn Clock,
) -> Result<String, AuthError> {
    check_request(user, tenants, role, Some(ttl))?;
    let key = SigningKey::open(folder)?;
    let now = wall_seconds(clock.wall_ns());
    let token = key.sign(&Claims {
        iss: ISSUER.to_owned(),
        aud: Audience::One(AUDIENCE.to_owned()),
        sub: user.to_owned(),
        iat: now,
        exp: now.saturating_add(ttl.as_secs()),
        nbf: None,
        jti: random_hex::<8>()?,
        role,
        tenants: Named::from(tenants),
        on_behalf_of: None,
    })?;
    // With the scheme and, for Basic, the user's name and a third more.
    if token.len() > CREDENTIAL_BYTES_MAX / 3 * 2 {
        let problem =
            "the token would be longer than a header carries; name fewer tenants, or let the rules file name them";
        return Err(AuthError::Refused(problem.to_owned()));
    }
    Ok(token)
}

/// Whether a credential for a user may be made at all.
pub(crate) fn check_request(
    user: &str,
    tenants: &TenantClaim,
    role: Role,
    ttl: Option<Duration>,
) -> Result<(), AuthError> {
    if let Some(problem) = user_name_problem(user) {
        return Err(AuthError::Refused(format!("the user name {user:?} {problem}")));
    }
    if role == Role::Service {
        return Err(AuthError::Refused("the role service is for the platform's own processes".to_owned()));
    }
    if matches!(tenants, TenantClaim::Only(tenants) if tenants.is_empty()) {
        return Err(AuthError::Refused("a credential for no tenant grants nothing".to_owned()));
    }
    if ttl.is_some_and(|ttl| ttl < Duration::from_secs(1)) {
        return Err(AuthError::Refused("a credential must live for at least a second".to_owned()));
    }
    Ok(())
}

fn generate() -> Result<String, AuthError> {
    let key = ed25519_dalek::SigningKey::from_bytes(&random::<32>()?);
    let der = key.to_pkcs8_der().map_err(|error| AuthError::Signing(error.to_string()))?;
    Ok(format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", STANDARD.encode(der.as_bytes())))
}

/// Bytes from the operating system's generator.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], AuthError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| AuthError::Signing(error.to_string()))?;
    Ok(bytes)
}

pub(crate) fn random_hex<const N: usize>() -> Result<String, AuthError> {
    Ok(hex(&random::<N>()?))
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}

pub(crate) fn seconds_ns(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000_000)
}

pub(crate) fn wall_seconds(wall_ns: i64) -> u64 {
    u64::try_from(wall_ns.div_euclid(1_000_000_000)).unwrap_or(0)
}
