//! Writes a layer to the database: as one sorted run beside what is there, which appears as a whole.
//!
//! fjall's journal is not used. With it every row costs several microseconds at its commit, and up to 64 MiB of journal
//! are read again at the next start; here a row that changes fifty times a second is written once a fold.

use std::collections::{BTreeMap, HashSet};

use fjall::{Database, Keyspace, Readable as _, Snapshot};
use tidegauge_core::hot::StoreError;
use tidegauge_core::ids::{Key, ShardId, TenantId};
use tidegauge_core::time::HOUR_NS;

use super::layers::{Layer, LayerKey};
use super::{keys, storage_error, values};

/// Names remembered as written; at most 16 bytes each. Forgetting them costs a repeated write, nothing else.
const NAMES_REMEMBERED_MAX: usize = 1 << 18;

/// The database and what is known of it.
pub(super) struct Folder {
    pub(super) db: Database,
    pub(super) items: Keyspace,
    names: HashSet<u128>,
}

/// Item key → new value, or nothing to remove it.
type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

impl Folder {
    pub(super) fn new(db: Database, items: Keyspace) -> Self {
        Self { db, items, names: HashSet::new() }
    }

    /// Writes a layer, durably. After an error nothing of it is there.
    pub(super) fn fold(&mut self, layer: &Layer) -> Result<(), StoreError> {
        let changes = self.changes(layer)?;
        let mut run = self.items.start_ingestion().map_err(storage_error)?;
        for (item, value) in changes {
            match value {
                Some(value) => run.write(item, value),
                None => run.write_tombstone(item),
            }
            .map_err(storage_error)?;
        }
        run.finish().map_err(storage_error)
    }

    fn changes(&mut self, layer: &Layer) -> Result<Changes, StoreError> {
        let snapshot = self.db.snapshot();
        let mut changes = Changes::new();
        for (key, changed) in &layer.keys {
            self.windows_gone(&snapshot, key, changed, &mut changes)?;
            for window in changed.windows.values() {
                let at = keys::window(key, window.start_ns, window.metric.as_str());
                changes.insert(at, Some(encoded(|bytes| values::encode_window(window, bytes))));
            }
            for current in changed.currents.values() {
                let at = keys::current(key, current.metric.as_str());
                changes.insert(at, Some(encoded(|bytes| values::encode_current(current, bytes))));
                if self.is_new(&key.tenant, current.metric.as_str()) {
                    changes.insert(keys::name(&key.tenant, current.metric.as_str()), Some(Vec::new()));
                }
            }
            changes.insert(keys::meta(key), Some(encoded(|bytes| values::encode_known(&changed.known, bytes))));
        }
        if let Some(held) = &layer.held {
            self.notes(&snapshot, held, &mut changes)?;
        }
        Ok(changes)
    }

    /// Removes the stored windows that a key's changes passed or replaced.
    fn windows_gone(
        &self,
        snapshot: &Snapshot,
        key: &Key,
        changed: &LayerKey,
        changes: &mut Changes,
    ) -> Result<(), StoreError> {
        let Some(before) = snapshot.get(&self.items, keys::meta(key)).map_err(storage_error)? else { return Ok(()) };
        let before_ns = values::decode_known(&before)?.meta.boundary_ns;
        let boundary_ns = changed.known.meta.boundary_ns;
        let (from, to, end_ns) = if changed.replaces_windows {
            (keys::windows_from(key, 0), keys::windows_end(key), i64::MAX)
        } else if boundary_ns > before_ns {
            // Stored windows end after the old boundary, and none is longer than an hour.
            let from = keys::windows_from(key, before_ns.saturating_sub(HOUR_NS));
            (from, keys::windows_from(key, boundary_ns), boundary_ns)
        } else {
            return Ok(());
        };
        for entry in snapshot.range(&self.items, from..to) {
            let (item, value) = entry.into_inner().map_err(storage_error)?;
            if values::window_end_ns(&value)? <= end_ns {
                changes.insert(item.to_vec(), None);
            }
        }
        Ok(())
    }

    fn notes(&self, snapshot: &Snapshot, held: &[(ShardId, u32)], changes: &mut Changes) -> Result<(), StoreError> {
        for entry in snapshot.prefix(&self.items, keys::SHARDS) {
            changes.insert(entry.key().map_err(storage_error)?.to_vec(), None);
        }
        for (shard, shards) in held {
            changes.insert(keys::shard(*shard), Some(values::encode_shards(*shards)));
        }
        Ok(())
    }

    /// Whether a name has to be written; notes it.
    fn is_new(&mut self, tenant: &TenantId, metric: &str) -> bool {
        let mut hasher = twox_hash::XxHash3_128::new();
        hasher.write(tenant.as_str().as_bytes());
        hasher.write(&[0]);
        hasher.write(metric.as_bytes());
        if self.names.len() >= NAMES_REMEMBERED_MAX {
            self.names.clear();
        }
        self.names.insert(hasher.finish_128())
    }

    /// Forgets the names: after an error they are not in the database.
    pub(super) fn forget_names(&mut self) {
        self.names.clear();
    }
}

fn encoded(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(128);
    write(&mut bytes);
    bytes
}
