//! The hour index: which objects a key has on a day, so that nobody lists directories to find out.
//!
//! One small JSON object a key and day, written by the key's owner after the objects it names, read by queries. It is
//! derived: lost or damaged, it is made again from the lake.

mod format;
mod rebuild;

use std::collections::BTreeMap;

use tidegauge_core::ids::{Epoch, Key};
use tidegauge_core::lake::{Expected, LakeStore, ObjectVersion, StoreError};
use tidegauge_core::scope::ScopedTenant;
use tidegauge_core::time::{Day, Hour};

pub use rebuild::{Rebuilt, day_from_lake, lake_days, rebuild, restore};

use crate::paths;

/// Times that an update reads and replaces before it gives up; see [`crate::apply`].
const TRIES_MAX: u32 = 4;

/// The objects of one key and day.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DayIndex {
    /// Whose objects these are.
    pub key: Key,
    /// The day.
    pub day: Day,
    /// One entry an object, sorted by hour and path.
    pub entries: Vec<IndexEntry>,
}

/// One object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndexEntry {
    /// The hour it holds.
    pub hour: Hour,
    /// Its path in the store.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Its rows; 0 if a rebuild could not read it.
    pub rows: u64,
    /// Epoch of its footer; 0 if a rebuild could not read it.
    pub epoch: Epoch,
    /// Its version when it was written; `None` after a rebuild. Says what to expect, not what must be read.
    pub version: Option<ObjectVersion>,
}

/// Why the index could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The index object is not what was written: [`rebuild`] it.
    #[error("hour index {path} is damaged: {why}")]
    Damaged {
        /// The index object.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// Written by a later version of the software.
    #[error("hour index {path} has format {found}, this version knows up to {known}: upgrade")]
    Newer {
        /// The index object.
        path: String,
        /// Its format.
        found: u32,
        /// The highest known format.
        known: u32,
    },
    /// Other writers kept changing the index.
    #[error("hour index {path} was changed by another writer {tries} times in a row")]
    Contended {
        /// The index object.
        path: String,
        /// How often it was read.
        tries: u32,
    },
    /// An entry belongs elsewhere; a defect of the caller.
    #[error("entry {entry} does not belong to the hour index {path}")]
    Misplaced {
        /// The index object.
        path: String,
        /// Path of the entry's object.
        entry: String,
    },
}

/// What an update did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Updated {
    /// Whether the index object was written; false when it said all that already.
    pub changed: bool,
    /// Whether it was absent or damaged and so was made from the lake.
    pub rebuilt: bool,
}

impl DayIndex {
    /// An index without entries.
    pub fn empty(key: Key, day: Day) -> Self {
        Self { key, day, entries: Vec::new() }
    }

    /// Adds entries or replaces those of the same path, unless what stands there is of a later epoch. Tells whether
    /// anything changed. Repeating it changes nothing.
    pub fn merge(&mut self, entries: &[IndexEntry]) -> bool {
        let mut changed = false;
        for entry in entries {
            match self.entries.iter_mut().find(|known| known.path == entry.path) {
                Some(known) if known.epoch > entry.epoch || known == entry => {}
                Some(known) => {
                    *known = entry.clone();
                    changed = true;
                }
                None => {
                    self.entries.push(entry.clone());
                    changed = true;
                }
            }
        }
        self.entries.sort_by(|a, b| (a.hour, &a.path).cmp(&(b.hour, &b.path)));
        changed
    }
}

/// Loads the index of a key and day; `None` if nothing was written on that day.
///
/// # Errors
/// [`IndexError`]; [`IndexError::Damaged`] is mended by the next [`update`] or by [`rebuild`], and does not hinder readers:
/// [`day_from_lake`] tells the same.
pub async fn load(
    store: &dyn LakeStore,
    tenant: &ScopedTenant,
    bucket: u32,
    day: Day,
) -> Result<Option<DayIndex>, IndexError> {
    let path = paths::aggregated_index(tenant, bucket, day);
    match store.get(&path).await? {
        Some((content, _)) => format::read(&path, &content, &key(tenant, bucket), day).map(Some),
        None => Ok(None),
    }
}

/// Enters objects of one day, after they were written. Idempotent. The first update of a day, and one that finds the
/// index damaged, looks into the lake for objects that the index should name too; without any, nothing is written.
///
/// # Errors
/// [`IndexError`].
pub async fn update(
    store: &dyn LakeStore,
    tenant: &ScopedTenant,
    bucket: u32,
    day: Day,
    entries: &[IndexEntry],
) -> Result<Updated, IndexError> {
    let path = paths::aggregated_index(tenant, bucket, day);
    if let Some(entry) = entries.iter().find(|entry| !belongs(entry, tenant, bucket, day)) {
        return Err(IndexError::Misplaced { path, entry: entry.path.clone() });
    }
    let key = key(tenant, bucket);
    for _ in 0..TRIES_MAX {
        let stored = store.get(&path).await?;
        let expected = match &stored {
            Some((_, version)) => Expected::Version(version.clone()),
            None => Expected::Absent,
        };
        let known = match stored.map(|(content, _)| format::read(&path, &content, &key, day)) {
            Some(Ok(known)) => Some(known),
            None | Some(Err(IndexError::Damaged { .. })) => None,
            Some(Err(other)) => return Err(other),
        };
        let rebuilt = known.is_none();
        let mut index = match known {
            Some(index) => index,
            None => rebuild::day_beside(store, tenant, bucket, day, entries).await?,
        };
        if !index.merge(entries) && (!rebuilt || index.entries.is_empty()) {
            return Ok(Updated { changed: false, rebuilt });
        }
        match store.replace(&path, &expected, format::write(&index)).await {
            Ok(_) => return Ok(Updated { changed: true, rebuilt }),
            Err(StoreError::Conflict(_)) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Err(IndexError::Contended { path, tries: TRIES_MAX })
}

/// The days that have an index, per bucket, in order.
///
/// # Errors
/// [`IndexError::Store`].
pub async fn days(store: &dyn LakeStore, tenant: &ScopedTenant) -> Result<BTreeMap<u32, Vec<Day>>, IndexError> {
    let mut days: BTreeMap<u32, Vec<Day>> = BTreeMap::new();
    for object in store.list(&paths::index_prefix(tenant)).await? {
        if let Some(found) = paths::parse_aggregated_index(&object.path) {
            days.entry(found.bucket).or_default().push(found.day);
        }
    }
    Ok(days)
}

fn key(tenant: &ScopedTenant, bucket: u32) -> Key {
    Key { tenant: tenant.id().clone(), bucket }
}

/// Whether the entry names an object of the key and day, at the path where it must be.
fn belongs(entry: &IndexEntry, tenant: &ScopedTenant, bucket: u32, day: Day) -> bool {
    entry.hour.day() == day && entry.path == paths::aggregated_object(tenant, bucket, entry.hour)
}
