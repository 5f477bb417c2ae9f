//! The hot store on fjall: current values and live windows of the embedded profile.
//!
//! One thread writes, with one sync for all who wait (`committer`); what it writes is decided beforehand (`plan`).
//! Readers take a snapshot of the database, so that a key's meta and its windows always belong together. The meta of
//! every key is also held in memory, so that the check of a version reads nothing.
//!
//! The store can be filled again from the state of aggregation: damaged, it may be moved away.

mod committer;
mod keys;
mod plan;
mod values;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, Readable, Snapshot};
use tidegauge_core::hot::{CurrentValue, HotStore, KeyMeta, KeyUpdate, LiveSnapshot, StoreError};
use tidegauge_core::ids::{Key, MetricName, ShardId, TenantId};
use tidegauge_core::scope::{ScopedTenant, SystemAuthority};
use tokio::sync::{mpsc, oneshot};

use self::committer::{Call, Committer, QUEUE_CALLS, Shared};
use self::plan::{KnownKeys, NameCache};

/// Cache of blocks that were read: what is current is in the memtable anyway.
const CACHE_BYTES: u64 = 16 << 20;
/// Memtable: small, because the same rows are written again and again and shrink when it is flushed.
const MEMTABLE_BYTES: u64 = 8 << 20;
/// fjall's threads for flushes and compactions: one of each.
const WORKER_THREADS: usize = 2;

/// A [`HotStore`] in one fjall database.
pub struct FjallHotStore {
    reader: Reader,
    /// Taken when the store closes, so that the committer ends.
    calls: Option<mpsc::Sender<Call>>,
    committer: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for FjallHotStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys = self.reader.shared.with_known(KnownKeys::len);
        f.debug_struct("FjallHotStore").field("keys", &keys).finish_non_exhaustive()
    }
}

impl FjallHotStore {
    /// Opens the store in a directory, which is made if there is none.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when its content is damaged, [`StoreError::Unavailable`] when it is open elsewhere.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir).map_err(|e| StoreError::io(format!("making {}", dir.display()), e))?;
        let builder = Database::builder(dir).cache_size(CACHE_BYTES).worker_threads(WORKER_THREADS);
        let db = builder.open().map_err(|error| open_error(dir, error))?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        let items = db.keyspace("items", options).map_err(|error| open_error(dir, error))?;

        let mut known = KnownKeys::new();
        for entry in items.prefix(keys::METAS) {
            let (item, value) = entry.into_inner().map_err(storage_error)?;
            let key = keys::parse_meta(&item).ok_or_else(|| unreadable_key(&item))?;
            known.insert(key, values::decode_known(&value)?);
        }
        let mut held = Vec::new();
        for entry in items.prefix(keys::SHARDS) {
            let (item, value) = entry.into_inner().map_err(storage_error)?;
            let shard = keys::parse_shard(&item).ok_or_else(|| unreadable_key(&item))?;
            held.push((shard, values::decode_shards(&value)?));
        }

        let shared = Arc::new(Shared::new(known, held));
        let (calls, waiting) = mpsc::channel(QUEUE_CALLS);
        let reader = Reader { db: db.clone(), items: items.clone(), shared: Arc::clone(&shared) };
        let committer = Committer { db, items, shared, dir: dir.to_owned(), names: NameCache::default() };
        let committer = std::thread::Builder::new()
            .name("hot-committer".to_owned())
            .spawn(move || committer.run(waiting))
            .map_err(|e| StoreError::io("starting the hot store's thread", e))?;
        Ok(Self { reader, calls: Some(calls), committer: Some(committer) })
    }

    async fn call<T>(
        &self,
        call: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Call,
    ) -> Result<T, StoreError> {
        let (done, answer) = oneshot::channel();
        let calls = self.calls.as_ref().ok_or_else(closed)?;
        calls.send(call(done)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Reads on a thread that may block.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let reader = self.reader.clone();
        let read = tokio::task::spawn_blocking(move || read(&reader));
        read.await.map_err(|e| StoreError::Unavailable(format!("a read of the hot store ended: {e}")))?
    }
}

impl Drop for FjallHotStore {
    /// Waits until what was taken is durable, so that the directory can be opened again at once.
    fn drop(&mut self) {
        self.calls = None;
        if let Some(committer) = self.committer.take() {
            let _ = committer.join();
        }
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the hot store is closed".to_owned())
}

fn unreadable_key(item: &[u8]) -> StoreError {
    StoreError::Corrupt(format!(
        "the hot store holds the key {:?}, which cannot be read",
        item.escape_ascii().to_string()
    ))
}

fn storage_error(error: fjall::Error) -> StoreError {
    match error {
        fjall::Error::Io(source) => StoreError::io("reading the hot store", source),
        other => StoreError::Corrupt(format!("the hot store cannot be read: {other}")),
    }
}

fn open_error(dir: &Path, error: fjall::Error) -> StoreError {
    let dir = dir.display();
    match error {
        fjall::Error::Locked => StoreError::Unavailable(format!("{dir} is open in another process")),
        fjall::Error::Io(source) => StoreError::io(format!("opening {dir}"), source),
        other => StoreError::Corrupt(format!(
            "{dir} cannot be opened ({other}); move it away, aggregation fills an empty one from its state"
        )),
    }
}

#[async_trait]
impl HotStore for FjallHotStore {
    async fn apply(&self, _authority: &SystemAuthority, updates: Vec<KeyUpdate>) -> Result<Vec<bool>, StoreError> {
        // Checked here, because further on an error would fail the calls that share the commit.
        for window in updates.iter().flat_map(|update| &update.windows) {
            if window.start_ns < 0 || window.end_ns <= window.start_ns {
                let (start, end) = (window.start_ns, window.end_ns);
                return Err(StoreError::Invalid(format!("a window from {start} to {end} cannot be stored")));
            }
        }
        if updates.is_empty() {
            return Ok(Vec::new());
        }
        self.call(|done| Call::Apply { updates, done }).await
    }

    async fn keys(&self, _authority: &SystemAuthority) -> Result<Vec<(Key, KeyMeta)>, StoreError> {
        let all = |known: &KnownKeys| known.iter().map(|(key, known)| (key.clone(), known.meta.clone())).collect();
        Ok(self.reader.shared.with_known(all))
    }

    async fn currents(
        &self,
        tenant: &ScopedTenant,
        metrics: &[MetricName],
    ) -> Result<Vec<Option<CurrentValue>>, StoreError> {
        let (tenant, metrics) = (tenant.id().clone(), metrics.to_vec());
        self.read(move |reader| {
            let keys = reader.keys_of(&tenant);
            let snapshot = reader.db.snapshot();
            metrics.iter().map(|metric| reader.current(&snapshot, &keys, metric)).collect()
        })
        .await
    }

    async fn list(
        &self,
        tenant: &ScopedTenant,
        after: Option<&MetricName>,
        limit: usize,
    ) -> Result<Vec<CurrentValue>, StoreError> {
        let (tenant, after) = (tenant.id().clone(), after.cloned());
        self.read(move |reader| reader.list(&tenant, after.as_ref(), limit)).await
    }

    async fn live(&self, tenant: &ScopedTenant) -> Result<Vec<(Key, LiveSnapshot)>, StoreError> {
        let tenant = tenant.id().clone();
        self.read(move |reader| reader.live(&tenant)).await
    }

    async fn hold_shard(&self, _authority: &SystemAuthority, shard: ShardId, shards: u32) -> Result<(), StoreError> {
        self.call(|done| Call::Hold { shard, shards, done }).await
    }

    async fn held_shards(&self, _authority: &SystemAuthority) -> Result<Vec<(ShardId, u32)>, StoreError> {
        Ok(self.reader.shared.held())
    }
}

/// Reads of one snapshot.
#[derive(Clone)]
struct Reader {
    db: Database,
    items: Keyspace,
    shared: Arc<Shared>,
}

impl Reader {
    /// The tenant's keys: one, unless it has buckets.
    fn keys_of(&self, tenant: &TenantId) -> Vec<Key> {
        let key = |bucket| Key { tenant: tenant.clone(), bucket };
        self.shared.with_known(|known| known.range(key(0)..=key(u32::MAX)).map(|(key, _)| key.clone()).collect())
    }

    /// A metric's current value. Where the tenant's number of buckets has changed, several keys hold a part of it.
    fn current(
        &self,
        snapshot: &Snapshot,
        keys: &[Key],
        metric: &MetricName,
    ) -> Result<Option<CurrentValue>, StoreError> {
        let mut found: Option<CurrentValue> = None;
        for key in keys {
            let item = keys::current(key, metric.as_str());
            let Some(value) = snapshot.get(&self.items, item).map_err(storage_error)? else { continue };
            let part = values::decode_current(&value)?;
            if part.metric != *metric {
                continue; // Another name with the same hash.
            }
            found = Some(match found {
                None => part,
                Some(other) => merge_parts(other, part),
            });
        }
        Ok(found)
    }

    fn list(
        &self,
        tenant: &TenantId,
        after: Option<&MetricName>,
        limit: usize,
    ) -> Result<Vec<CurrentValue>, StoreError> {
        let keys = self.keys_of(tenant);
        let snapshot = self.db.snapshot();
        let range = keys::names_after(tenant, after.map(MetricName::as_str))..keys::names_end(tenant);
        let mut listed = Vec::new();
        for entry in snapshot.range(&self.items, range) {
            if listed.len() == limit {
                break;
            }
            let item = entry.key().map_err(storage_error)?;
            let metric = keys::parse_name(&item).and_then(|name| MetricName::parse(name).ok());
            let metric = metric.ok_or_else(|| unreadable_key(&item))?;
            listed.extend(self.current(&snapshot, &keys, &metric)?);
        }
        Ok(listed)
    }

    fn live(&self, tenant: &TenantId) -> Result<Vec<(Key, LiveSnapshot)>, StoreError> {
        let keys = self.keys_of(tenant);
        let snapshot = self.db.snapshot();
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            let meta = snapshot.get(&self.items, keys::meta(&key)).map_err(storage_error)?;
            let meta = meta.ok_or_else(|| StoreError::Corrupt(format!("the hot store lost the state of {key}")))?;
            let known = values::decode_known(&meta)?;
            let mut windows = Vec::new();
            for entry in snapshot.range(&self.items, keys::windows_from(&key, 0)..keys::windows_end(&key)) {
                let window = values::decode_window(&entry.value().map_err(storage_error)?)?;
                if window.end_ns > known.meta.boundary_ns {
                    windows.push(window);
                }
            }
            found.push((key, LiveSnapshot { meta: known.meta, windows, complete: known.complete }));
        }
        Ok(found)
    }
}

/// Joins two keys' parts of a series: counts add up, the later value stays.
fn merge_parts(a: CurrentValue, b: CurrentValue) -> CurrentValue {
    let event_count = a.event_count + b.event_count;
    let updated_at_ns = a.updated_at_ns.max(b.updated_at_ns);
    let later = if b.last_time_ns >= a.last_time_ns { b } else { a };
    CurrentValue { event_count, updated_at_ns, ..later }
}
