//! One shard's directory: manifest, base and deltas. Everything here blocks.
//!
//! A write goes to files that no manifest names yet, is synced with its directory, and then counts from the rename of
//! the manifest on. Whatever a crash leaves behind is a file without a name in the manifest, deleted at the next
//! `acquire`.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegauge_core::checkpoint::{Acquired, Change, Lease, StoreError};
use tidegauge_core::ids::{Epoch, LineageId, Ordinal, ShardId};
use tidegauge_core::limits::CHECKPOINT_FILES_AT_ONCE;
use tidegauge_core::log::Position;

use super::Compaction;
use super::blocks::{ADVICE, BlockReader, BlockWriter, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use super::files::StateFiles;
use super::manifest::{DataFile, Manifest};
use super::merge::{Merge, Source};

const MANIFEST: &str = "manifest";
/// Hidden, so that no reader takes it for the manifest.
const MANIFEST_NEW: &str = ".manifest.new";
/// No manifest is longer: one names at most a few hundred files.
const MANIFEST_BYTES_MAX: u64 = 16 << 20;

/// A shard of the store.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) id: ShardId,
    dir: PathBuf,
    files: Arc<dyn StateFiles>,
    /// Held while data files are read: all shards together open those of one (see `limits::CHECKPOINT_FILES_AT_ONCE`).
    reading: Arc<Mutex<()>>,
    /// The manifest as it stands on disk; `None` before the first `acquire`, and after an error that leaves open which
    /// manifest stands there.
    manifest: Option<Manifest>,
    /// Whether a merge is under way.
    pub(super) merging: Option<MergeJob>,
    /// A new base that waits for the next manifest.
    merged: Option<(MergeJob, DataFile)>,
}

/// What a merge reads and writes: named files, which never change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct MergeJob {
    lineage: LineageId,
    inputs: Vec<DataFile>,
    name: String,
    epoch: Epoch,
}

impl Shard {
    pub(super) fn new(id: ShardId, dir: PathBuf, files: Arc<dyn StateFiles>, reading: Arc<Mutex<()>>) -> Self {
        Self { id, dir, files, reading, manifest: None, merging: None, merged: None }
    }

    /// Takes the shard over.
    pub(super) fn acquire(&mut self) -> Result<Acquired, StoreError> {
        self.manifest = None;
        let mut manifest = self.load()?;
        let inputs: Vec<DataFile> = manifest.files().cloned().collect();
        let mut entries = Vec::new();
        {
            let _one_at_a_time = lock(&self.reading);
            for round in inputs.chunks(CHECKPOINT_FILES_AT_ONCE) {
                let older = Source::Memory(std::mem::take(&mut entries).into_iter());
                let mut merge = open(&*self.files, &self.dir, manifest.progress.lineage, older, round)?;
                while let Some(entry) = merge.next()? {
                    entries.push(entry);
                }
            }
        }
        manifest.generation += 1;
        let lease = Lease { shard: self.id, generation: manifest.generation };
        let progress = manifest.progress.clone();
        self.replace_manifest(manifest)?;
        self.remove_unnamed();
        Ok(Acquired { lease, progress, entries })
    }

    /// Where the checkpoint on disk stands on the log.
    pub(super) fn position(&self) -> Result<Position, StoreError> {
        Ok(self.load()?.progress.position)
    }

    /// Persists an epoch.
    pub(super) fn prepare(
        &mut self,
        lease: &Lease,
        epoch: Epoch,
        position: &Position,
        ordinal: Ordinal,
        changes: Vec<Change>,
    ) -> Result<(), StoreError> {
        let mut manifest = self.held(lease)?.clone();
        let progress = &manifest.progress;
        if progress.completed != progress.prepared || epoch != progress.prepared + 1 {
            let (prepared, completed) = (progress.prepared, progress.completed);
            let what = format!("shard {} at epoch {prepared}, complete to {completed}: epoch {epoch}", self.id);
            return Err(StoreError::Conflict(what));
        }
        let changes = sorted(changes)?;

        let name = format!("delta-{epoch:020}-{}", manifest.generation);
        let delta = self.write_delta(&name, manifest.progress.lineage, epoch, &changes);
        let delta = delta.inspect_err(|_| self.remove(&name))?;
        manifest.deltas.push(delta);
        manifest.progress.prepared = epoch;
        manifest.progress.position = position.clone();
        manifest.progress.ordinal = ordinal;
        self.replace_manifest(manifest).inspect_err(|_| {
            // While it is open which manifest stands on disk, the delta may be named there.
            if self.manifest.is_some() {
                self.remove(&name);
            }
        })
    }

    /// Records that the prepared epoch's outputs are applied.
    pub(super) fn complete(&mut self, lease: &Lease, epoch: Epoch) -> Result<(), StoreError> {
        let mut manifest = self.held(lease)?.clone();
        if epoch <= manifest.progress.completed {
            return Ok(());
        }
        if epoch != manifest.progress.prepared {
            let prepared = manifest.progress.prepared;
            return Err(StoreError::Conflict(format!("shard {} at epoch {prepared}: epoch {epoch}", self.id)));
        }
        manifest.progress.completed = epoch;
        self.replace_manifest(manifest)
    }

    /// The manifest, if the lease is the newest one.
    fn held(&self, lease: &Lease) -> Result<&Manifest, StoreError> {
        match &self.manifest {
            Some(manifest) if manifest.generation == lease.generation => Ok(manifest),
            Some(manifest) => Err(StoreError::Fenced(format!(
                "shard {} has lease {}, this is lease {}",
                self.id, manifest.generation, lease.generation
            ))),
            None => Err(StoreError::Fenced(format!("shard {} must be acquired first", self.id))),
        }
    }

    /// The manifest on disk, or that of a new history.
    fn load(&self) -> Result<Manifest, StoreError> {
        let listing = self.files.list(&self.dir).map_err(|e| self.io("listing", &self.dir, e))?;
        if !listing.iter().any(|name| name == MANIFEST) {
            if let Some(name) = listing.iter().find(|name| is_data(name)) {
                let dir = self.dir.display();
                return Err(StoreError::Corrupt(format!("{dir} holds {name}, but no manifest; {ADVICE}")));
            }
            self.files.create_dir(&self.dir).map_err(|e| self.io("making", &self.dir, e))?;
            let mut id = [0; 16];
            getrandom::fill(&mut id).map_err(|e| StoreError::io("drawing a lineage id", e.into()))?;
            return Ok(Manifest::new(LineageId(u128::from_le_bytes(id))));
        }
        let path = self.dir.join(MANIFEST);
        let mut bytes = Vec::new();
        let file = self.files.open(&path).map_err(|e| self.io("opening", &path, e))?;
        let read = file.take(MANIFEST_BYTES_MAX).read_to_end(&mut bytes);
        read.map_err(|e| self.io("reading", &path, e))?;
        Manifest::decode(&bytes).map_err(|what| StoreError::Corrupt(format!("{}: {what}; {ADVICE}", path.display())))
    }

    /// Writes a delta and makes it durable with its name.
    fn write_delta(
        &self,
        name: &str,
        lineage: LineageId,
        epoch: Epoch,
        changes: &[Change],
    ) -> Result<DataFile, StoreError> {
        let path = self.dir.join(name);
        let write = || {
            let names = self.files.open_dir(&self.dir)?;
            let mut writer = BlockWriter::begin(self.files.create(&path)?, name.to_owned(), lineage, epoch)?;
            for change in changes {
                writer.add(change.keyspace, &change.key, change.value.as_deref())?;
            }
            let delta = writer.finish()?;
            names.sync()?;
            Ok(delta)
        };
        write().map_err(|e| self.io("writing", &path, e))
    }

    /// Puts a manifest in the place of the one on disk, with a finished merge taken in. Until the rename an error
    /// leaves the old one; from there on it is open which one stands, and the shard must be acquired again.
    fn replace_manifest(&mut self, mut manifest: Manifest) -> Result<(), StoreError> {
        let replaced = self.take_merged(&mut manifest);
        let new = self.dir.join(MANIFEST_NEW);
        let write = || {
            let names = self.files.open_dir(&self.dir)?;
            let mut file = self.files.create(&new)?;
            file.append(&manifest.encode())?;
            file.sync()?;
            Ok(names)
        };
        let names = match write() {
            Ok(names) => names,
            Err(error) => {
                self.remove(MANIFEST_NEW);
                return Err(self.io("writing", &new, error));
            }
        };
        let before = self.manifest.take();
        let path = self.dir.join(MANIFEST);
        self.files.rename(&new, &path).map_err(|e| self.io("replacing", &path, e))?;
        names.sync().map_err(|e| self.io("syncing", &self.dir, e))?;
        self.manifest = Some(manifest);
        if replaced {
            self.merged = None;
            for file in before.iter().flat_map(Manifest::files) {
                if !self.manifest.as_ref().is_some_and(|now| now.names(&file.name)) {
                    self.remove(&file.name);
                }
            }
        }
        Ok(())
    }

    /// Lets a finished merge stand for the files that it read.
    fn take_merged(&mut self, manifest: &mut Manifest) -> bool {
        let Some((job, base)) = &self.merged else { return false };
        let current: Vec<&DataFile> = manifest.files().take(job.inputs.len()).collect();
        if !current.into_iter().eq(&job.inputs) || manifest.progress.lineage != job.lineage {
            // The directory was changed under the running program; the merge is of another time.
            self.merged = None;
            return false;
        }
        let deltas = job.inputs.len() - usize::from(manifest.base.is_some());
        manifest.deltas.drain(..deltas);
        manifest.base = Some(base.clone());
        true
    }

    /// The merge that is due now, if none is under way or done. It is noted as under way.
    pub(super) fn begin_merge(&mut self, compaction: &Compaction) -> Option<MergeJob> {
        let manifest = self.manifest.as_ref()?;
        if self.merging.is_some() || self.merged.is_some() || !compaction.is_due(manifest) {
            return None;
        }
        // The oldest ones; what is left is due again soon.
        let inputs: Vec<DataFile> = manifest.files().take(CHECKPOINT_FILES_AT_ONCE).cloned().collect();
        let epoch = inputs.last()?.epoch;
        let job = MergeJob {
            lineage: manifest.progress.lineage,
            inputs,
            name: format!("base-{epoch:020}-{}", manifest.generation),
            epoch,
        };
        self.merging = Some(job.clone());
        Some(job)
    }

    /// Notes how a merge ended.
    pub(super) fn end_merge(&mut self, job: &MergeJob, outcome: Result<DataFile, StoreError>) {
        if self.merging.as_ref() == Some(job) {
            self.merging = None;
        }
        match outcome {
            Ok(base) => self.merged = Some((job.clone(), base)),
            Err(error) => {
                self.remove(&job.name);
                // Unavailable: the store is closing, the next one begins anew.
                if !matches!(error, StoreError::Unavailable(_)) {
                    tracing::error!(shard = %self.id, %error, "the state of a shard could not be compacted");
                }
            }
        }
    }

    /// Whether deltas have piled up so far that no more may be added before a merge.
    pub(super) fn is_overdue(&self, compaction: &Compaction) -> bool {
        let deltas = self.manifest.as_ref().map_or(0, |manifest| manifest.deltas.len());
        deltas >= 4 * compaction.deltas_max && self.merged.is_none()
    }

    /// What a merge works with, to be used without the shard's lock.
    pub(super) fn place(&self) -> (PathBuf, Arc<dyn StateFiles>, Arc<Mutex<()>>) {
        (self.dir.clone(), Arc::clone(&self.files), Arc::clone(&self.reading))
    }

    /// Deletes what no manifest names and no merge writes.
    fn remove_unnamed(&self) {
        let Some(manifest) = &self.manifest else { return };
        let busy = |name: &str| {
            self.merging.as_ref().is_some_and(|job| job.name == name)
                || self.merged.as_ref().is_some_and(|(_, base)| base.name == name)
        };
        for name in self.files.list(&self.dir).unwrap_or_default() {
            if (is_data(&name) || name == MANIFEST_NEW) && !manifest.names(&name) && !busy(&name) {
                self.remove(&name);
            }
        }
    }

    /// Removes a file that nothing names. One that stays is removed by the next `acquire`.
    fn remove(&self, name: &str) {
        if let Err(error) = self.files.remove(&self.dir.join(name))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(shard = %self.id, name, %error, "a file that is not needed any more stays");
        }
    }

    fn io(&self, doing: &str, path: &Path, error: std::io::Error) -> StoreError {
        StoreError::io(format!("{doing} {}", path.display()), error)
    }
}

/// The lock guards no data.
fn lock(reading: &Mutex<()>) -> MutexGuard<'_, ()> {
    reading.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Merges named files into a new base. Streams: in memory is one section a file.
pub(super) fn run_merge(
    job: &MergeJob,
    dir: &Path,
    files: &dyn StateFiles,
    reading: &Mutex<()>,
    go_on: impl Fn() -> bool,
) -> Result<DataFile, StoreError> {
    let path = dir.join(&job.name);
    let io = |error| StoreError::io(format!("writing {}", path.display()), error);
    let _one_at_a_time = lock(reading);
    let older = Source::Memory(Vec::new().into_iter());
    let mut merge = open(files, dir, job.lineage, older, &job.inputs)?;
    let names = files.open_dir(dir).map_err(io)?;
    let file = files.create(&path).map_err(io)?;
    let mut writer = BlockWriter::begin(file, job.name.clone(), job.lineage, job.epoch).map_err(io)?;
    while let Some((keyspace, key, value)) = merge.next()? {
        writer.add(keyspace, &key, Some(&value)).map_err(io)?;
        if !go_on() {
            return Err(StoreError::Unavailable("the checkpoint store is closing".to_owned()));
        }
    }
    let base = writer.finish().map_err(io)?;
    names.sync().map_err(io)?;
    Ok(base)
}

/// Opens files to be read side by side, over what older ones have left.
fn open(
    files: &dyn StateFiles,
    dir: &Path,
    lineage: LineageId,
    older: Source,
    inputs: &[DataFile],
) -> Result<Merge, StoreError> {
    let mut readers = Vec::with_capacity(1 + inputs.len());
    readers.push(older);
    for input in inputs {
        let path = dir.join(&input.name);
        let file = files.open(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                StoreError::Corrupt(format!("{} is missing, but the manifest names it; {ADVICE}", path.display()))
            }
            _ => StoreError::io(format!("opening {}", path.display()), error),
        })?;
        readers.push(Source::File(BlockReader::begin(file, path, input.clone(), lineage)?));
    }
    Merge::new(readers)
}

/// Sorts the changes; of several for one key the last one counts.
fn sorted(mut changes: Vec<Change>) -> Result<Vec<Change>, StoreError> {
    for Change { keyspace, key, value } in &changes {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            let bytes = key.len();
            return Err(StoreError::Invalid(format!("a key of keyspace {keyspace} has {bytes} bytes")));
        }
        if value.as_ref().is_some_and(|value| value.len() > VALUE_BYTES_MAX) {
            return Err(StoreError::Invalid(format!("a value of keyspace {keyspace} is longer than 2 GiB")));
        }
    }
    // Stable, so the last of equal keys stays last; reversed, deduplication keeps it.
    changes.sort_by(|a, b| (a.keyspace, &a.key).cmp(&(b.keyspace, &b.key)));
    changes.reverse();
    changes.dedup_by(|older, newer| (older.keyspace, &older.key) == (newer.keyspace, &newer.key));
    changes.reverse();
    Ok(changes)
}

fn is_data(name: &str) -> bool {
    name.starts_with("delta-") || name.starts_with("base-")
}
