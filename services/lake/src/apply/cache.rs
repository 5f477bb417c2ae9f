//! Decoded objects that this worker wrote last.

use std::collections::{BTreeMap, HashMap};
use std::mem::size_of;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Current;
use crate::row::AggregatedRow;

/// A cache of decoded objects by path, bounded in bytes; the one used longest ago leaves first.
///
/// An entry carries the version it was decoded from. It is used without asking the store: if the object changed
/// meanwhile, the conditional replace fails and the object is read. Entries are taken out while they are in use.
#[derive(Debug)]
pub struct RowCache {
    bytes_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    objects: HashMap<String, (u64, usize, Current)>,
    by_use: BTreeMap<u64, String>,
    uses: u64,
    bytes: usize,
}

impl RowCache {
    /// A cache of at most so many bytes of rows.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, inner: Mutex::default() }
    }

    /// Takes an object out.
    pub fn take(&self, path: &str) -> Option<Current> {
        self.lock().remove(path)
    }

    /// Puts an object in, and others out until all fit. One that is too large by itself is not kept.
    pub fn put(&self, path: String, current: Current) {
        let bytes = weight(&path, &current);
        let mut inner = self.lock();
        inner.remove(&path);
        if bytes > self.bytes_max {
            return;
        }
        while inner.bytes + bytes > self.bytes_max {
            let Some((_, oldest)) = inner.by_use.pop_first() else {
                break;
            };
            inner.remove(&oldest);
        }
        inner.uses += 1;
        let used = inner.uses;
        inner.bytes += bytes;
        inner.by_use.insert(used, path.clone());
        inner.objects.insert(path, (used, bytes, current));
    }

    /// Forgets everything, for example when a lease was lost.
    pub fn clear(&self) {
        *self.lock() = Inner::default();
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while the lock is held; a poisoned cache would still be consistent.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn remove(&mut self, path: &str) -> Option<Current> {
        let (used, bytes, current) = self.objects.remove(path)?;
        self.by_use.remove(&used);
        self.bytes -= bytes;
        Some(current)
    }
}

/// Bytes that an entry holds: rows by capacity, and each metric name once.
fn weight(path: &str, current: &Current) -> usize {
    let mut names = 0;
    let mut previous = "";
    for row in &current.rows {
        if row.metric.as_str() != previous {
            previous = row.metric.as_str();
            names += previous.len() + 16;
        }
    }
    current.rows.capacity() * size_of::<AggregatedRow>() + names + 2 * path.len() + 256
}
