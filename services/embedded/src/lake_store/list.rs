//! Listing: a walk over the directories that can hold objects with the prefix.

use std::fs;
use std::io;
use std::path::Path;

use tidegauge_core::lake::{ObjectMeta, StoreError};

use super::path;

/// The objects whose path starts with the prefix, sorted by path.
pub(super) fn objects(root: &Path, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
    let mut found = Vec::new();
    let (directory, _) = path::split(prefix);
    match directory {
        Some(directory) => walk(&root.join(directory), &format!("{directory}/"), prefix, &mut found)?,
        None => walk(root, "", prefix, &mut found)?,
    }
    found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Adds the objects below one directory; `place` is its path with a slash at the end, or nothing for the root.
fn walk(directory: &Path, place: &str, prefix: &str, found: &mut Vec<ObjectMeta>) -> Result<(), StoreError> {
    let failed = |e| StoreError::io(format!("listing {}", directory.display()), e);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if gone(&e) => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        // Hidden names are ours or an editor's, others are no paths of a lake: neither is an object.
        let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else {
            continue;
        };
        let path = format!("{place}{name}");
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            let below = format!("{path}/");
            if below.starts_with(prefix) || prefix.starts_with(&below) {
                walk(&entry.path(), &below, prefix, found)?;
            }
        } else if kind.is_file() && path.starts_with(prefix) {
            match entry.metadata() {
                Ok(metadata) => found.push(ObjectMeta { path, bytes: metadata.len() }),
                Err(e) if gone(&e) => {}
                Err(e) => return Err(failed(e)),
            }
        }
    }
    Ok(())
}

/// Names of the folders in a directory, sorted; none if it is not there.
pub(super) fn folders(directory: &Path) -> Result<Vec<String>, StoreError> {
    let failed = |e| StoreError::io(format!("listing {}", directory.display()), e);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if gone(&e) => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
        if entry.file_type().map_err(failed)?.is_dir() {
            found.push(name.to_owned());
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Whether the thing is not there (any more).
fn gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
