//! Which paths a lake has.

use tidegauge_core::lake::StoreError;

/// Bytes of a path: the limit of an S3 key.
const PATH_BYTES_MAX: usize = 1_024;

/// Bytes of one part: the limit of local file systems.
const PART_BYTES_MAX: usize = 255;

/// Checks the path of an object.
pub(super) fn check(path: &str) -> Result<(), StoreError> {
    let why = if path.len() > PATH_BYTES_MAX { Some("is too long") } else { path.split('/').find_map(refuse) };
    why.map_or(Ok(()), |why| Err(StoreError::Invalid(format!("path {path:?} {why}"))))
}

/// Checks a prefix: whole parts, and the beginning of one, possibly empty.
pub(super) fn check_prefix(prefix: &str) -> Result<(), StoreError> {
    let (directory, last) = split(prefix);
    if directory.is_some() || !last.is_empty() {
        check(prefix.strip_suffix('/').unwrap_or(prefix))?;
    }
    Ok(())
}

/// A prefix's directory and the beginning of a name in it.
pub(super) fn split(prefix: &str) -> (Option<&str>, &str) {
    match prefix.rsplit_once('/') {
        Some((directory, last)) => (Some(directory), last),
        None => (None, prefix),
    }
}

/// Why a part is refused.
fn refuse(part: &str) -> Option<&'static str> {
    if part.is_empty() {
        return Some("is absolute or has an empty part");
    }
    if part.starts_with('.') {
        return Some("has a hidden part");
    }
    if part.len() > PART_BYTES_MAX {
        return Some("has a part that is too long");
    }
    part.chars().any(|c| c.is_control() || c == '\\').then_some("has a control character or backslash")
}
