//! The hot store: current values and live windows of the embedded profile.
//!
//! A commit goes into a write-ahead file with one sync for all who wait, and into a layer in memory; full layers are
//! folded into a fjall database, as one sorted run each. So a commit costs an append, a row that changes fifty times a
//! second is written to the database once a fold, memory holds two layers at most, and a start reads two short files.
//! (Through fjall's own journal a push of 2,000 rows took 8 ms instead of 1, and a start 300 ms.)
//!
//! Reads look into the layers and one snapshot of the database, taken together: a key's state and its windows always
//! belong together. The state of every key is held in memory, so that the check of a version reads nothing.
//!
//! The store can be filled again from the state of aggregation: damaged, it may be moved away.

mod committer;
mod entries;
mod fold;
mod keys;
mod layers;
mod read;
#[cfg(test)]
mod tests;
mod values;
mod wal;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use async_trait::async_trait;
use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use tidegauge_core::descriptors::DescriptorBudget;
use tidegauge_core::hot::{CurrentValue, HotStore, KeyMeta, KeyUpdate, LiveSnapshot, StoreError};
use tidegauge_core::ids::{Key, MetricName, ShardId};
use tidegauge_core::scope::{ScopedTenant, SystemAuthority};
use tokio::sync::{mpsc, oneshot};

use self::committer::{Call, Committer, QUEUE_CALLS};
use self::entries::Entry;
use self::fold::{Fold, Folder};
use self::layers::{Shared, State};
use self::read::Reader;
use self::wal::Wal;

/// Cache of the database's blocks: what changes is in the layers anyway.
const CACHE_BYTES: u64 = 16 << 20;
/// fjall's threads, for compactions.
const WORKER_THREADS: usize = 1;

/// When a layer is full.
#[derive(Clone, Copy, Debug)]
pub struct HotStoreOptions {
    /// Values and windows of a layer: bounds memory, at about 300 bytes each.
    pub fold_rows: usize,
    /// Bytes of a write-ahead file: bounds what a start reads.
    pub fold_bytes: u64,
}

impl Default for HotStoreOptions {
    fn default() -> Self {
        Self { fold_rows: 32_768, fold_bytes: 8 << 20 }
    }
}

/// A [`HotStore`] in one directory.
pub struct FjallHotStore {
    reader: Reader,
    /// Taken when the store closes, so that the committer ends.
    calls: Option<mpsc::Sender<Call>>,
    committer: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for FjallHotStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FjallHotStore").field("keys", &self.reader.shared.read().known.len()).finish_non_exhaustive()
    }
}

impl FjallHotStore {
    /// Opens the store in a directory, which is made if there is none.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when its content is damaged, [`StoreError::Unavailable`] when it is open elsewhere.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(dir, HotStoreOptions::default())
    }

    /// Opens the store, which keeps so many files of its database open at most.
    ///
    /// # Errors
    /// As [`FjallHotStore::open`].
    pub fn open_within(dir: &Path, tables: usize) -> Result<Self, StoreError> {
        Self::open_folding(dir, HotStoreOptions::default(), tables, |folder| Arc::new(Mutex::new(folder)))
    }

    /// Opens the store with other settings.
    ///
    /// # Errors
    /// As [`FjallHotStore::open`].
    pub fn open_with(dir: &Path, options: HotStoreOptions) -> Result<Self, StoreError> {
        let tables = DescriptorBudget::default().hot_tables;
        Self::open_folding(dir, options, tables, |folder| Arc::new(Mutex::new(folder)))
    }

    /// Opens the store with something around its fold.
    fn open_folding(
        dir: &Path,
        options: HotStoreOptions,
        tables: usize,
        around: impl FnOnce(Folder) -> Arc<Mutex<dyn Fold>>,
    ) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir).map_err(|e| StoreError::io(format!("making {}", dir.display()), e))?;
        let builder = Database::builder(dir.join("db"))
            .cache_size(CACHE_BYTES)
            .max_cached_files(Some(tables))
            .worker_threads(WORKER_THREADS);
        let db = builder.open().map_err(|error| open_error(dir, error))?;
        let items = db.keyspace("items", KeyspaceCreateOptions::default).map_err(|error| open_error(dir, error))?;

        // From here on the database's lock keeps other processes out of the directory.
        let mut state = stored(&items)?;
        let (older, next) = replay(dir, &mut state)?;
        let older_bytes = older.iter().map(|path| path.metadata().map_or(0, |found| found.len())).sum();
        let wal = Wal::create(dir, next)?;

        let shared = Arc::new(Shared::new(state));
        let reader = Reader { db: db.clone(), items: items.clone(), shared: Arc::clone(&shared) };
        let folder = around(Folder::new(dir.to_owned(), db, items));
        let dir = dir.to_owned();
        let committer = Committer {
            options,
            dir: dir.clone(),
            shared,
            folder,
            wal,
            older,
            older_bytes,
            folding: None,
            refusing: false,
        };
        let (calls, waiting) = mpsc::channel(QUEUE_CALLS);
        let run = move || {
            // Without it nothing is taken any more, and readers would be shown old values as if they were new.
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| committer.run(waiting)));
            ended.unwrap_or_else(|_| abort(&dir, &"its thread ended with a panic"));
        };
        let committer = std::thread::Builder::new()
            .name("hot-committer".to_owned())
            .spawn(run)
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

/// What the database holds.
fn stored(items: &Keyspace) -> Result<State, StoreError> {
    let mut state = State::default();
    for entry in items.prefix(keys::METAS) {
        let (item, value) = entry.into_inner().map_err(storage_error)?;
        let key = keys::parse_meta(&item).ok_or_else(|| unreadable_key(&item))?;
        state.known.insert(key, values::decode_known(&value)?);
    }
    for entry in items.prefix(keys::SHARDS) {
        let (item, value) = entry.into_inner().map_err(storage_error)?;
        let shard = keys::parse_shard(&item).ok_or_else(|| unreadable_key(&item))?;
        state.held.push((shard, values::decode_shards(&value)?));
    }
    Ok(state)
}

/// Takes the write-ahead files in, in order. Returns them, and the number of the next one.
///
/// What was folded before its file was removed is found by its version, and changes nothing.
fn replay(dir: &Path, state: &mut State) -> Result<(Vec<PathBuf>, u64), StoreError> {
    let files = wal::list(dir)?;
    let next = files.last().map_or(1, |(number, _)| number + 1);
    let last = files.len().saturating_sub(1);
    for (index, (_, path)) in files.iter().enumerate() {
        wal::replay(path, index == last, |entry| match entry {
            Entry::Update(update) if state.is_newer(&update) => state.apply(update),
            Entry::Update(_) => {}
            Entry::Hold(shard, shards) => state.hold(shard, shards),
        })?;
    }
    Ok((files.into_iter().map(|(_, path)| path).filter(|path| path.exists()).collect(), next))
}

fn closed() -> StoreError {
    StoreError::Unavailable("the hot store is closed".to_owned())
}

fn unreadable_key(item: &[u8]) -> StoreError {
    StoreError::Corrupt(format!("the hot store holds the key \"{}\", which cannot be read", item.escape_ascii()))
}

/// Ends the process: what is in memory cannot be trusted or go on any more, what is on disk can.
fn abort(path: &Path, error: &dyn std::fmt::Display) -> ! {
    tracing::error!(path = %path.display(), %error, "the hot store cannot go on, the process ends; start it again");
    std::process::abort()
}

fn storage_error(error: fjall::Error) -> StoreError {
    match io_error(error) {
        Ok(source) => StoreError::io("working on the hot store", source),
        Err(other) => {
            StoreError::Corrupt(format!("the hot store's database does not work: {other}; {}", values::ADVICE))
        }
    }
}

/// The operating system's error, which may stand inside another one: a full disk or too many open files are no damage.
fn io_error(error: fjall::Error) -> Result<std::io::Error, fjall::Error> {
    use std::error::Error as _;
    match error {
        fjall::Error::Io(source) => Ok(source),
        fjall::Error::Storage(inner) => match inner.source().and_then(|cause| cause.downcast_ref::<std::io::Error>()) {
            Some(cause) => Ok(std::io::Error::new(cause.kind(), cause.to_string())),
            None => Err(fjall::Error::Storage(inner)),
        },
        other => Err(other),
    }
}

fn open_error(dir: &Path, error: fjall::Error) -> StoreError {
    let dir = dir.display();
    match io_error(error) {
        Err(fjall::Error::Locked) => StoreError::Unavailable(format!("{dir} is open in another process")),
        Ok(source) => StoreError::io(format!("opening {dir}"), source),
        Err(other) => StoreError::Corrupt(format!("{dir} cannot be opened ({other}); {}", values::ADVICE)),
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
        let state = self.reader.shared.read();
        Ok(state.known.iter().map(|(key, known)| (key.clone(), known.meta.clone())).collect())
    }

    async fn currents(
        &self,
        tenant: &ScopedTenant,
        metrics: &[MetricName],
    ) -> Result<Vec<Option<CurrentValue>>, StoreError> {
        let (tenant, metrics) = (tenant.id().clone(), metrics.to_vec());
        self.read(move |reader| reader.currents(&tenant, &metrics)).await
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
        Ok(self.reader.shared.read().held.clone())
    }
}
