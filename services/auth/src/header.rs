//! The value of an `authorization` header.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Bytes of a credential: a token naming every tenant of a large user fits, a payload does not.
pub(crate) const CREDENTIAL_BYTES_MAX: usize = 24 << 10;

/// Prefix of an API key.
pub(crate) const KEY_PREFIX: &str = "tgk_";

/// A credential as sent, not yet believed.
#[derive(PartialEq, Eq)]
pub(crate) struct Presented {
    /// The token or API key.
    pub(crate) secret: String,
    /// The user named beside it (Basic), who must be the credential's own.
    pub(crate) user: Option<String>,
}

/// Reads `Bearer <token or key>` or `Basic <base64 of user:token or key>`; the scheme's case does not matter.
pub(crate) fn parse(value: &[u8]) -> Option<Presented> {
    if value.len() > CREDENTIAL_BYTES_MAX {
        return None;
    }
    let text = std::str::from_utf8(value).ok()?;
    let (scheme, rest) = text.split_once(' ')?;
    let rest = rest.trim_matches(' ');
    if scheme.eq_ignore_ascii_case("bearer") {
        return acceptable(rest).then(|| Presented { secret: rest.to_owned(), user: None });
    }
    if scheme.eq_ignore_ascii_case("basic") {
        // Some clients leave the padding out.
        let decoded = STANDARD.decode(rest).or_else(|_| STANDARD_NO_PAD.decode(rest)).ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (user, secret) = decoded.split_once(':')?;
        let whole = acceptable(secret) && !user.is_empty();
        return whole.then(|| Presented { secret: secret.to_owned(), user: Some(user.to_owned()) });
    }
    None
}

fn acceptable(secret: &str) -> bool {
    !secret.is_empty() && secret.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The same credential as a `Bearer` header: what a Flight handshake answers to `Basic`.
///
/// `None` when the value is no credential by its form. It says nothing about validity: call it for a request that
/// passed the interceptor.
pub fn bearer_value(authorization: &[u8]) -> Option<String> {
    parse(authorization).map(|presented| format!("Bearer {}", presented.secret))
}

/// What the audit log calls a token or API key, `token:<jti>` or `key:<id>`, so that its owner finds it there.
///
/// `None` when the text is neither by its form. It says nothing about validity: nothing is verified.
pub fn audit_name(credential: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Payload {
        jti: String,
    }
    if let Some((id, _)) = crate::keyfile::split(credential) {
        return Some(format!("key:{id}"));
    }
    let payload = URL_SAFE_NO_PAD.decode(credential.split('.').nth(1)?).ok()?;
    let Payload { jti } = serde_json::from_slice(&payload).ok()?;
    Some(format!("token:{jti}"))
}
