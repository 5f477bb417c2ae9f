//! The checkpoint store in files: the durable state of the workers of the embedded profile.
//!
//! A directory a shard: a manifest, at most one base (all entries up to an epoch) and a delta for every epoch since.
//! Replacing the manifest is the atomic step of every write. When the deltas outgrow the base, they are merged into a
//! new one aside, which enters with a later manifest; memory stays bounded and no epoch waits.
//!
//! The data directory's lock on `state/` keeps other processes out; leases fence workers of this process.

mod blocks;
pub mod files;
mod manifest;
mod merge;
mod shard;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tidegauge_core::checkpoint::{Acquired, Change, CheckpointStore, Lease, StoreError};
use tidegauge_core::ids::{Epoch, Ordinal, ShardId};
use tidegauge_core::log::Position;

use self::files::{DiskFiles, StateFiles};
use self::manifest::Manifest;
use self::shard::{MergeJob, Shard};

/// When deltas are merged into a new base.
#[derive(Clone, Copy, Debug)]
pub struct Compaction {
    /// Number of deltas from which on they are merged: what an `acquire` has to open.
    pub deltas_max: usize,
    /// Below this many bytes of deltas only their number counts.
    pub bytes_min: u64,
    /// Merge before `prepare` returns, instead of aside: for tests that want the same file operations every time.
    pub inline: bool,
}

impl Default for Compaction {
    fn default() -> Self {
        Self { deltas_max: 32, bytes_min: 1 << 20, inline: false }
    }
}

impl Compaction {
    fn is_due(&self, manifest: &Manifest) -> bool {
        let base = manifest.base.as_ref().map_or(0, |base| base.bytes);
        let deltas: u64 = manifest.deltas.iter().map(|delta| delta.bytes).sum();
        manifest.deltas.len() >= self.deltas_max || deltas > base.max(self.bytes_min)
    }
}

/// A [`CheckpointStore`] in one directory a shard.
#[derive(Debug)]
pub struct FileCheckpointStore {
    dir: PathBuf,
    files: Arc<dyn StateFiles>,
    compaction: Compaction,
    shards: Mutex<HashMap<ShardId, Arc<ShardCell>>>,
    /// Held while the data files of a shard are read, so that few are open at once.
    reading: Arc<Mutex<()>>,
    /// Set when the store is dropped, so that merges stop.
    closing: Arc<AtomicBool>,
}

/// A shard, and who waits for the end of its merge.
#[derive(Debug)]
struct ShardCell {
    shard: Mutex<Shard>,
    merge_ended: Condvar,
}

impl ShardCell {
    fn lock(&self) -> MutexGuard<'_, Shard> {
        self.shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FileCheckpointStore {
    /// Opens the store in a directory, which is made if there is none. Shards are read when they are acquired.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the directory cannot be made.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::with_files(dir, Arc::new(DiskFiles), Compaction::default())
    }

    /// Opens the store over other file operations.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the directory cannot be made.
    pub fn with_files(dir: &Path, files: Arc<dyn StateFiles>, compaction: Compaction) -> Result<Self, StoreError> {
        files.create_dir(dir).map_err(|e| StoreError::io(format!("making {}", dir.display()), e))?;
        let closing = Arc::new(AtomicBool::new(false));
        Ok(Self { dir: dir.to_owned(), files, compaction, shards: Mutex::default(), reading: Arc::default(), closing })
    }

    /// Where the checkpoints of shards `0..shards` stand on the log, without acquiring anything: the log must not end
    /// before.
    ///
    /// # Errors
    /// As `acquire`, for a manifest that is damaged or cannot be read.
    pub fn known_positions(&self, shards: u32) -> Result<Vec<(ShardId, Position)>, StoreError> {
        let known = |id| Ok((id, self.cell(id).lock().position()?));
        (0..shards).map(ShardId).map(known).collect()
    }

    fn cell(&self, id: ShardId) -> Arc<ShardCell> {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let cell = shards.entry(id).or_insert_with(|| {
            let dir = self.dir.join(format!("shard-{:04}", id.0));
            let shard = Shard::new(id, dir, Arc::clone(&self.files), Arc::clone(&self.reading));
            Arc::new(ShardCell { shard: Mutex::new(shard), merge_ended: Condvar::new() })
        });
        Arc::clone(cell)
    }

    /// Works on a shard on a thread that may block.
    async fn on_shard<T: Send + 'static>(
        &self,
        id: ShardId,
        work: impl FnOnce(&Arc<ShardCell>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let cell = self.cell(id);
        let work = tokio::task::spawn_blocking(move || work(&cell));
        work.await.map_err(|e| StoreError::Unavailable(format!("work on shard {id} ended: {e}")))?
    }
}

impl Drop for FileCheckpointStore {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
    }
}

#[async_trait]
impl CheckpointStore for FileCheckpointStore {
    async fn acquire(&self, shard: ShardId) -> Result<Acquired, StoreError> {
        self.on_shard(shard, |cell| cell.lock().acquire()).await
    }

    async fn prepare(
        &self,
        lease: &Lease,
        epoch: Epoch,
        position: &Position,
        ordinal: Ordinal,
        changes: Vec<Change>,
    ) -> Result<(), StoreError> {
        let (lease, position) = (*lease, position.clone());
        let (compaction, closing) = (self.compaction, Arc::clone(&self.closing));
        let work = move |cell: &Arc<ShardCell>| {
            let mut shard = catch_up(cell, cell.lock(), &compaction, &closing)?;
            shard.prepare(&lease, epoch, &position, ordinal, changes)?;
            Ok(shard.begin_merge(&compaction).map(|job| Merging { cell: Arc::clone(cell), job, closing }))
        };
        if let Some(merging) = self.on_shard(lease.shard, work).await? {
            let merge = tokio::task::spawn_blocking(move || merging.run());
            if self.compaction.inline {
                merge.await.map_err(|e| StoreError::Unavailable(format!("a merge ended: {e}")))?;
            }
        }
        Ok(())
    }

    async fn complete(&self, lease: &Lease, epoch: Epoch) -> Result<(), StoreError> {
        let lease = *lease;
        self.on_shard(lease.shard, move |cell| cell.lock().complete(&lease, epoch)).await
    }
}

/// Lets no delta be added while far too many wait for a merge (I8): waits for the one under way, or merges now, and
/// gives its error to the caller.
fn catch_up<'a>(
    cell: &'a Arc<ShardCell>,
    mut shard: MutexGuard<'a, Shard>,
    compaction: &Compaction,
    closing: &Arc<AtomicBool>,
) -> Result<MutexGuard<'a, Shard>, StoreError> {
    while shard.is_overdue(compaction) {
        if shard.merging.is_some() {
            shard = cell.merge_ended.wait(shard).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        let Some(job) = shard.begin_merge(compaction) else { break };
        drop(shard);
        Merging { cell: Arc::clone(cell), job, closing: Arc::clone(closing) }.run();
        shard = cell.lock();
        if shard.is_overdue(compaction) && shard.merging.is_none() {
            let what = format!("shard {} could not be compacted, see the log", shard.id);
            return Err(StoreError::Unavailable(what));
        }
    }
    Ok(shard)
}

/// A merge under way. Dropped without having run, it is noted as ended.
struct Merging {
    cell: Arc<ShardCell>,
    job: MergeJob,
    closing: Arc<AtomicBool>,
}

impl Merging {
    fn run(self) {
        let (dir, files, reading) = self.cell.lock().place();
        let go_on = || !self.closing.load(Ordering::Relaxed);
        let outcome = shard::run_merge(&self.job, &dir, &*files, &reading, go_on);
        self.cell.lock().end_merge(&self.job, outcome);
    }
}

impl Drop for Merging {
    fn drop(&mut self) {
        let mut shard = self.cell.lock();
        if shard.merging.as_ref() == Some(&self.job) {
            shard.merging = None;
        }
        drop(shard);
        self.cell.merge_ended.notify_all();
    }
}
