//! Which directories are known to be durable.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Directories remembered; beyond it all are forgotten, which only costs syncs.
const KNOWN_MAX: usize = 16_384;

/// Directories that were synced, with all above them up to the root, since the store was opened; whatever was renamed
/// into them later was synced at once.
#[derive(Debug, Default)]
pub(super) struct Directories {
    known: Mutex<HashSet<PathBuf>>,
}

impl Directories {
    /// Whether the directory is known to be durable.
    pub(super) fn contains(&self, directory: &Path) -> bool {
        self.lock().contains(directory)
    }

    /// Remembers a directory.
    pub(super) fn insert(&self, directory: &Path) {
        let mut known = self.lock();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(directory.to_owned());
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        // Nothing panics while the lock is held, and a set that lost an entry only costs a sync.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
