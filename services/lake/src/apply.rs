//! The idempotent application of epochs to one hour object: step 2 of the commit protocol.
//!
//! [`apply_parts`] reads the object, decides ([`plan`], pure), and replaces it conditionally; it repeats when another
//! writer came between. What is in the object already (by its footer) is not merged again, so that a step that may or may
//! not have happened is simply done again.

mod cache;
mod decide;

use std::fmt;

use bytes::Bytes;
use tidegauge_core::ids::{Epoch, Key};
use tidegauge_core::lake::{Expected, LakeStore, ObjectVersion, StoreError};
use tidegauge_core::scope::ScopedTenant;
use tidegauge_core::time::Hour;

pub use cache::RowCache;
pub use decide::{Current, Part, Plan, Target, plan};

use crate::footer::Footer;
use crate::index::IndexEntry;
use crate::object::{self, ObjectError};
use crate::paths;
use crate::row::AggregatedRow;

/// Times that one application reads and replaces before it reports [`ApplyError::Contended`]. A key has one owner, so
/// even the second time is rare: an owner that lost its lease.
const TRIES_MAX: u32 = 4;

/// What an application left in the lake.
#[derive(Clone, PartialEq, Debug)]
pub struct Applied {
    /// The object as it stands, for the hour index.
    pub entry: IndexEntry,
    /// Whether everything was in the object already, so that it was not written.
    pub skipped: bool,
}

/// Why rows could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The store failed: the object may be the old or the new one. Apply again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Other writers kept changing the object. Apply again later.
    #[error("{path} was changed by another writer {tries} times in a row")]
    Contended {
        /// The object.
        path: String,
        /// How often it was read.
        tries: u32,
    },
    /// The object cannot be read, and is not replaced by a poorer one.
    #[error("{path} cannot be read: {source}; restore it, or move it away and reprocess the hour")]
    Unreadable {
        /// The object.
        path: String,
        /// Why.
        source: ObjectError,
    },
    /// The object was written by another history of checkpoints.
    #[error(
        "{path} was written by lineage {found}, this worker's is {ours}: state and lake do not belong together; \
         restore both from the same backup, or start with an empty lake"
    )]
    ForeignLineage {
        /// The object.
        path: String,
        /// Lineage in the footer.
        found: tidegauge_core::ids::LineageId,
        /// Lineage of the writer.
        ours: tidegauge_core::ids::LineageId,
    },
    /// The object is ahead of this worker's checkpoint, or has another past.
    #[error(
        "{path} holds {found}, this worker prepared {ours}: either the shard has a newer owner, or the state is older \
         than the lake; restore both from the same backup"
    )]
    Ahead {
        /// The object.
        path: String,
        /// Where the object stands.
        found: Standing,
        /// Where the worker stands.
        ours: Standing,
    },
    /// The object says that it belongs to another key.
    #[error("{path} holds the rows of {found}, not of {ours}: it was moved or copied; move it back")]
    WrongKey {
        /// The object.
        path: String,
        /// Key in the footer.
        found: Key,
        /// Key that was to be written.
        ours: Key,
    },
    /// The rows to apply break the contract; a defect of the caller.
    #[error("{path}: {why}")]
    Invalid {
        /// The object.
        path: String,
        /// What is wrong.
        why: String,
    },
}

impl ApplyError {
    /// Whether the key stops until somebody follows the advice; otherwise applying again may succeed.
    pub fn stops_key(&self) -> bool {
        !matches!(self, Self::Store(_) | Self::Contended { .. })
    }
}

/// Where a footer stands in its lineage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Epoch.
    pub epoch: Epoch,
    /// Ordinal of its last record.
    pub ordinal: u64,
    /// Lease generation of the writer.
    pub generation: u64,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {} at ordinal {} (generation {})", self.epoch, self.ordinal, self.generation)
    }
}

/// Applies the rows of the epoch in flight to one hour object.
///
/// `footer.epoch` must be the **last prepared epoch**: an object that is ahead of it is refused
/// ([`ApplyError::Ahead`]). Rows that were parked, and so carry an older epoch, go through [`apply_parts`].
///
/// # Errors
/// [`ApplyError`]; [`ApplyError::stops_key`] tells what to do.
pub async fn apply_hour(
    store: &dyn LakeStore,
    tenant: &ScopedTenant,
    bucket: u32,
    hour: Hour,
    additions: &[AggregatedRow],
    footer: &Footer,
) -> Result<Applied, ApplyError> {
    let parts = [Part { epoch: footer.epoch, rows: additions }];
    apply_parts(store, None, &Target { tenant, bucket, hour }, &parts, footer).await
}

/// Applies everything that waits for one hour object: the rows of the epoch in flight and those that were parked by
/// earlier ones, each under the epoch that first carried it. Only parts above the object's footer are merged.
///
/// `footer` describes the last prepared epoch and becomes the object's footer; so `parts` must be **all** rows that wait
/// for the object. With a cache, an object that this worker wrote last is not read again.
///
/// # Errors
/// [`ApplyError`]; [`ApplyError::stops_key`] tells what to do.
pub async fn apply_parts(
    store: &dyn LakeStore,
    cache: Option<&RowCache>,
    target: &Target<'_>,
    parts: &[Part<'_>],
    footer: &Footer,
) -> Result<Applied, ApplyError> {
    let path = target.path();
    for _ in 0..TRIES_MAX {
        // What is taken from the cache is put back only if it proved to be what the store holds.
        let cached = cache.and_then(|cache| cache.take(&path));
        let was_cached = cached.is_some();
        let current = match cached {
            Some(current) => Some(current),
            None => read(store, &path).await?,
        };
        let plan = match plan(target, current, parts, footer) {
            // A stale cached row must not decide about an object that changed meanwhile.
            Err(_) | Ok(Plan::Skip(_)) if was_cached => continue,
            other => other?,
        };
        let (expected, content, rows) = match plan {
            Plan::Skip(current) => {
                let entry = current.entry(target.hour, path.clone());
                if let Some(cache) = cache {
                    cache.put(path, current);
                }
                return Ok(Applied { entry, skipped: true });
            }
            Plan::Write { expected, content, rows } => (expected, content, rows),
        };
        let bytes = content.len() as u64;
        match store.replace(&path, &expected, content).await {
            Ok(version) => {
                let current = Current { rows, footer: footer.clone(), bytes, version };
                let entry = current.entry(target.hour, path.clone());
                if let Some(cache) = cache {
                    cache.put(path, current);
                }
                return Ok(Applied { entry, skipped: false });
            }
            Err(StoreError::Conflict(_)) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Err(ApplyError::Contended { path, tries: TRIES_MAX })
}

/// Reads and decodes the object at a path; `None` if there is none.
///
/// # Errors
/// [`ApplyError::Store`] or [`ApplyError::Unreadable`].
pub async fn read(store: &dyn LakeStore, path: &str) -> Result<Option<Current>, ApplyError> {
    match store.get(path).await? {
        Some((content, version)) => Current::decode(path, content, version).map(Some),
        None => Ok(None),
    }
}

impl Target<'_> {
    /// Path of the object.
    pub fn path(&self) -> String {
        paths::aggregated_object(self.tenant, self.bucket, self.hour)
    }
}

impl Current {
    /// Decodes what the store returned.
    ///
    /// # Errors
    /// [`ApplyError::Unreadable`].
    pub fn decode(path: &str, content: Bytes, version: ObjectVersion) -> Result<Self, ApplyError> {
        let bytes = content.len() as u64;
        let unreadable = |source| ApplyError::Unreadable { path: path.to_owned(), source };
        let (rows, footer) = object::decode(content).map_err(unreadable)?;
        Ok(Self { rows, footer, bytes, version })
    }

    fn entry(&self, hour: Hour, path: String) -> IndexEntry {
        IndexEntry {
            hour,
            path,
            bytes: self.bytes,
            rows: self.rows.len() as u64,
            epoch: self.footer.epoch,
            version: Some(self.version.clone()),
        }
    }
}

/// What a conditional replace of this object expects.
fn expected(current: Option<&Current>) -> Expected {
    current.map_or(Expected::Absent, |current| Expected::Version(current.version.clone()))
}
