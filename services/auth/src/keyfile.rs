//! API keys: `tgk_<id>_<secret>` for the caller, the SHA-256 of the secret in `<data-dir>/auth/api-keys.json`.
//!
//! The secret has 256 random bits, so a plain hash is as strong as a slow one.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tidegauge_core::clock::Clock;
use tidegauge_core::scope::Role;

use crate::claims::{Named, user_name_problem};
use crate::files::{self, Place};
use crate::header::KEY_PREFIX;
use crate::key::{check_request, hex, random_hex};
use crate::{AuthError, TenantClaim};

/// Version of the file's layout.
const VERSION: u32 = 1;

/// Where the keys of an `auth` folder are kept.
pub(crate) fn path_in(folder: &Path) -> PathBuf {
    folder.join("api-keys.json")
}

#[derive(Serialize, Deserialize)]
struct KeyFile {
    version: u32,
    keys: Vec<StoredKey>,
}

#[derive(Serialize, Deserialize)]
struct StoredKey {
    id: String,
    /// SHA-256 of the secret, hex.
    sha256: String,
    user: String,
    role: Role,
    #[serde(flatten)]
    tenants: Named,
    created_ns: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_ns: Option<i64>,
}

/// A key that may be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ApiKey {
    pub(crate) hash: [u8; 32],
    pub(crate) user: Arc<str>,
    pub(crate) role: Role,
    pub(crate) tenants: TenantClaim,
    pub(crate) expires_at_ns: i64,
}

/// The keys by id.
pub(crate) type ApiKeys = HashMap<Arc<str>, ApiKey>;

/// Reads the keys; a missing file has none.
pub(crate) fn load(path: &Path) -> Result<ApiKeys, AuthError> {
    let invalid = |problem: String| AuthError::invalid(path, None, problem);
    let mut keys = ApiKeys::new();
    for stored in read(path)?.keys {
        let StoredKey { id, sha256, user, role, tenants, expires_ns, .. } = stored;
        if role == Role::Service || user_name_problem(&user).is_some() {
            return Err(invalid(format!("key {id} is for a user that cannot have one")));
        }
        let hash = unhex(&sha256).ok_or_else(|| invalid(format!("key {id} has no SHA-256 hash")))?;
        let tenants = tenants.claim().ok_or_else(|| invalid(format!("key {id} names both tenants and all tenants")))?;
        let key = ApiKey { hash, user: user.into(), role, tenants, expires_at_ns: expires_ns.unwrap_or(i64::MAX) };
        if keys.insert(id.as_str().into(), key).is_some() {
            return Err(invalid(format!("key {id} stands there twice")));
        }
    }
    Ok(keys)
}

fn read(path: &Path) -> Result<KeyFile, AuthError> {
    let text = match files::read_private(path) {
        Err(AuthError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(KeyFile { version: VERSION, keys: Vec::new() });
        }
        other => other?,
    };
    let file: KeyFile = serde_json::from_str(&text)
        .map_err(|error| AuthError::invalid(path, Some(error.line()), format!("is no key file: {error}")))?;
    if file.version != VERSION {
        return Err(AuthError::invalid(path, None, format!("has version {}, known is {VERSION}", file.version)));
    }
    Ok(file)
}

/// Makes an API key and adds its hash to the key file of `folder` (`<data-dir>/auth`). Returns the key, which is shown
/// once and stored nowhere. A running server takes the file up within a second.
///
/// # Errors
/// [`AuthError`], as [`crate::create_token`].
pub fn create_key(
    folder: &Path,
    user: &str,
    tenants: &TenantClaim,
    role: Role,
    ttl: Option<Duration>,
    clock: &dyn Clock,
) -> Result<String, AuthError> {
    check_request(user, tenants, role, ttl)?;
    files::make_private_folder(folder)?;
    let lock_path = folder.join("api-keys.lock");
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
    let lock = lock.map_err(|error| AuthError::io("opening", &lock_path, error))?;
    // Two commands at once would each write a file without the other's key.
    lock.lock().map_err(|error| AuthError::io("locking", &lock_path, error))?;

    let path = path_in(folder);
    let mut file = read(&path)?;
    let (id, secret) = (random_hex::<8>()?, random_hex::<32>()?);
    let now = clock.wall_ns();
    file.keys.push(StoredKey {
        id: id.clone(),
        sha256: hex(&secret_hash(&secret)),
        user: user.to_owned(),
        role,
        tenants: Named::from(tenants),
        created_ns: now,
        expires_ns: ttl.map(|ttl| now.saturating_add(i64::try_from(ttl.as_nanos()).unwrap_or(i64::MAX))),
    });
    let text =
        serde_json::to_string_pretty(&file).map_err(|error| AuthError::invalid(&path, None, error.to_string()))?;
    files::write_private(&path, &text, Place::Any)?;
    Ok(format!("{KEY_PREFIX}{id}_{secret}"))
}

/// Splits a key as presented into id and secret.
pub(crate) fn split(presented: &str) -> Option<(&str, &str)> {
    let (id, secret) = presented.strip_prefix(KEY_PREFIX)?.split_once('_')?;
    (id.len() == 16 && secret.len() == 64).then_some((id, secret))
}

pub(crate) fn secret_hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// Compares in a time that does not depend on where the hashes differ.
pub(crate) fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let differences = a.iter().zip(b).fold(0, |seen, (a, b)| std::hint::black_box(seen | (a ^ b)));
    std::hint::black_box(differences) == 0
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}
