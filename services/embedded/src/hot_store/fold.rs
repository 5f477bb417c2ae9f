//! Writes a layer to the database: as one sorted run beside what is there, which appears as a whole.
//!
//! fjall's journal is not used. With it every row costs several microseconds at its commit, and up to 64 MiB of journal
//! are read again at the next start; here a row that changes fifty times a second is written once a fold.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use fjall::{Database, Keyspace, PersistMode, Readable as _, Snapshot};
use tidegauge_core::hot::StoreError;
use tidegauge_core::ids::{Key, ShardId, TenantId};
use tidegauge_core::time::HOUR_NS;

use super::layers::{Layer, LayerKey};
use super::{abort, keys, storage_error, values};

/// Names remembered as written; at most 16 bytes each. Forgetting them costs a repeated write, nothing else.
const NAMES_REMEMBERED_MAX: usize = 1 << 18;

/// Bytes that a run may need: those of a row with long names, and some for the run itself.
const ROW_BYTES: u64 = 512;
const RUN_BYTES: u64 = 64 << 10;

/// Puts layers where they stay.
pub(super) trait Fold: Send {
    /// Writes a layer, durably. After an error nothing of it can be seen, and the same layer may be tried again.
    fn fold(&mut self, layer: &Layer) -> Result<(), StoreError>;
}

/// The database and what is known of it.
pub(super) struct Folder {
    dir: PathBuf,
    db: Database,
    items: Keyspace,
    /// Hashes of names that stand in the database.
    names: HashSet<u128>,
}

/// What a layer changes.
#[derive(Default)]
struct Changes {
    /// Item key → new value, or nothing to remove it.
    items: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Hashes of the names among them.
    names: Vec<u128>,
}

impl Fold for Folder {
    fn fold(&mut self, layer: &Layer) -> Result<(), StoreError> {
        self.check_space(layer)?;
        let changes = self.changes(layer)?;
        let mut run = self.items.start_ingestion().map_err(storage_error)?;
        for (item, value) in changes.items {
            match value {
                Some(value) => run.write(item, value),
                None => run.write_tombstone(item),
            }
            .map_err(storage_error)?;
        }
        run.finish().map_err(storage_error)?;
        if self.names.len() + changes.names.len() > NAMES_REMEMBERED_MAX {
            self.names.clear();
        }
        self.names.extend(changes.names);
        // Writes nothing, but tells whether the database's own thread still lives. It does not come back after an error
        // of a compaction; runs would pile up. Now that the disk takes writes, a restart mends it and loses nothing.
        if let Err(error) = self.db.persist(PersistMode::Buffer) {
            abort(&self.dir, &error);
        }
        Ok(())
    }
}

impl Folder {
    pub(super) fn new(dir: PathBuf, db: Database, items: Keyspace) -> Self {
        Self { dir, db, items, names: HashSet::new() }
    }

    /// A run that fails half-way leaves its file until the next start; on a full disk none is begun.
    fn check_space(&self, layer: &Layer) -> Result<(), StoreError> {
        let needed = layer.rows as u64 * ROW_BYTES + RUN_BYTES;
        let dir = self.dir.display();
        match fs4::available_space(&self.dir) {
            Ok(free) if free < needed => {
                Err(StoreError::Full(format!("{free} bytes are free for {dir}, a fold may need {needed}")))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(StoreError::io(format!("looking for room in {dir}"), error)),
        }
    }

    fn changes(&self, layer: &Layer) -> Result<Changes, StoreError> {
        let snapshot = self.db.snapshot();
        let mut changes = Changes::default();
        for (key, changed) in &layer.keys {
            self.windows_gone(&snapshot, key, changed, &mut changes)?;
            for window in changed.windows.values() {
                let at = keys::window(key, window.start_ns, window.metric.as_str());
                changes.items.insert(at, Some(encoded(|bytes| values::encode_window(window, bytes))));
            }
            for current in changed.currents.values() {
                let at = keys::current(key, current.metric.as_str());
                changes.items.insert(at, Some(encoded(|bytes| values::encode_current(current, bytes))));
                let hash = hash_of_name(&key.tenant, current.metric.as_str());
                if !self.names.contains(&hash) {
                    changes.items.insert(keys::name(&key.tenant, current.metric.as_str()), Some(Vec::new()));
                    changes.names.push(hash);
                }
            }
            changes.items.insert(keys::meta(key), Some(encoded(|bytes| values::encode_known(&changed.known, bytes))));
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
                changes.items.insert(item.to_vec(), None);
            }
        }
        Ok(())
    }

    fn notes(&self, snapshot: &Snapshot, held: &[(ShardId, u32)], changes: &mut Changes) -> Result<(), StoreError> {
        for entry in snapshot.prefix(&self.items, keys::SHARDS) {
            changes.items.insert(entry.key().map_err(storage_error)?.to_vec(), None);
        }
        for (shard, shards) in held {
            changes.items.insert(keys::shard(*shard), Some(values::encode_shards(*shards)));
        }
        Ok(())
    }
}

fn hash_of_name(tenant: &TenantId, metric: &str) -> u128 {
    let mut hasher = twox_hash::XxHash3_128::new();
    hasher.write(tenant.as_str().as_bytes());
    hasher.write(&[0]);
    hasher.write(metric.as_bytes());
    hasher.finish_128()
}

fn encoded(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(128);
    write(&mut bytes);
    bytes
}
