//! Backends in memory, with a fuse: from a chosen operation on, everything fails, as if the process had died.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tidegauge_core::ShardId;
use tidegauge_core::checkpoint::{Acquired, Change, CheckpointStore, Lease, Progress, StoreError};
use tidegauge_core::ids::{Epoch, LineageId, Ordinal};
use tidegauge_core::lake::{Expected, LakeStore, ObjectMeta, ObjectVersion, PinnedObject};
use tidegauge_core::log::{EventLog, LogRecord, NewRecord, Position, ReadBatch, ShardStatus};
use tidegauge_lake::{object, paths};
use tokio::sync::watch;

use super::hot::Held;
use crate::decide::keyspace;

/// Blows after a number of operations. Even numbers: the last one is done, its answer lost; odd: it is not done.
#[derive(Debug)]
pub(super) struct Fuse(AtomicI64);

impl Fuse {
    pub(super) fn after(half_operations: i64) -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(half_operations)))
    }

    pub(super) fn never() -> Arc<Self> {
        Self::after(i64::MAX)
    }

    /// Whether an operation is done, and whether its answer arrives.
    fn take(&self) -> (bool, bool) {
        let left = self.0.fetch_sub(2, Ordering::SeqCst);
        (left >= 2, left >= 3)
    }

    pub(super) fn is_blown(&self) -> bool {
        self.0.load(Ordering::SeqCst) < 2
    }
}

fn dead() -> StoreError {
    StoreError::Unavailable("the process is dead".to_owned())
}

/// What survives.
#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) checkpoint: Mutex<Stored>,
    pub(super) objects: Mutex<BTreeMap<String, (Bytes, u64)>>,
}

#[derive(Debug, Default)]
pub(super) struct Stored {
    generation: u64,
    progress: Option<Progress>,
    pub(super) entries: BTreeMap<(u8, Bytes), Bytes>,
}

impl Stored {
    /// Entries with rows of outputs of the epoch in flight.
    pub(super) fn rows_on_their_way(&self) -> usize {
        let open = self.progress.as_ref().is_some_and(|progress| progress.completed < progress.prepared);
        let rows = self.entries.keys().filter(|(space, key)| *space == keyspace::OUTPUTS && key.len() > 12);
        if open { rows.count() } else { 0 }
    }
}

/// One process's access to the disk.
#[derive(Debug)]
pub(super) struct Stores {
    pub(super) disk: Arc<Disk>,
    pub(super) fuse: Arc<Fuse>,
    /// Replaces of paths that contain this text fail.
    pub(super) broken: Mutex<Option<String>>,
    /// Paths that contain this text hold what nobody can read.
    pub(super) unreadable: Mutex<Option<String>>,
    /// What readers can reach: an object beyond it makes them wait.
    held: Held,
    /// Objects that were replaced before readers could reach them.
    beyond: Arc<Mutex<Vec<String>>>,
}

impl Stores {
    pub(super) fn new(disk: Arc<Disk>, fuse: Arc<Fuse>, held: Held, beyond: Arc<Mutex<Vec<String>>>) -> Arc<Self> {
        Arc::new(Self { disk, fuse, broken: Mutex::default(), unreadable: Mutex::default(), held, beyond })
    }

    fn note_if_beyond(&self, path: &str, content: &Bytes) {
        if paths::parse_aggregated_object(path).is_none() {
            return;
        }
        let (_, footer) = object::decode(content.clone()).unwrap();
        let as_of = self.held.lock().unwrap().get(&footer.key).map(|held| held.version);
        if as_of.is_some_and(|as_of| footer.generation >= as_of.generation && footer.ordinal > as_of.ordinal) {
            self.beyond.lock().unwrap().push(format!("{path}: {footer:?} while readers are at {as_of:?}"));
        }
    }

    fn guard<T>(&self, operation: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let (done, answered) = self.fuse.take();
        let result = if done { operation() } else { return Err(dead()) };
        if answered { result } else { Err(dead()) }
    }
}

#[async_trait]
impl CheckpointStore for Stores {
    async fn acquire(&self, _: ShardId) -> Result<Acquired, StoreError> {
        self.guard(|| {
            let mut stored = self.disk.checkpoint.lock().unwrap();
            stored.generation += 1;
            let progress = stored.progress.get_or_insert(Progress {
                lineage: LineageId(7),
                prepared: 0,
                completed: 0,
                position: Position::start(),
                ordinal: 0,
            });
            let progress = progress.clone();
            let lease = Lease { shard: ShardId(0), generation: stored.generation };
            let entries = stored.entries.iter().map(|((s, k), v)| (*s, k.clone(), v.clone())).collect();
            Ok(Acquired { lease, progress, entries })
        })
    }

    async fn prepare(
        &self,
        lease: &Lease,
        epoch: Epoch,
        position: &Position,
        ordinal: Ordinal,
        changes: Vec<Change>,
    ) -> Result<(), StoreError> {
        self.guard(|| {
            let mut stored = self.disk.checkpoint.lock().unwrap();
            if stored.generation != lease.generation {
                return Err(StoreError::Fenced("lease".to_owned()));
            }
            let progress = stored.progress.as_mut().unwrap();
            if epoch != progress.prepared + 1 || progress.completed != progress.prepared {
                return Err(StoreError::Conflict("epoch".to_owned()));
            }
            progress.prepared = epoch;
            progress.position = position.clone();
            progress.ordinal = ordinal;
            for change in changes {
                match change.value {
                    Some(value) => stored.entries.insert((change.keyspace, change.key), value),
                    None => stored.entries.remove(&(change.keyspace, change.key)),
                };
            }
            Ok(())
        })
    }

    async fn complete(&self, lease: &Lease, epoch: Epoch) -> Result<(), StoreError> {
        self.guard(|| {
            let mut stored = self.disk.checkpoint.lock().unwrap();
            if stored.generation != lease.generation {
                return Err(StoreError::Fenced("lease".to_owned()));
            }
            let progress = stored.progress.as_mut().unwrap();
            assert_eq!(progress.prepared, epoch);
            progress.completed = epoch;
            Ok(())
        })
    }
}

#[async_trait]
impl LakeStore for Stores {
    async fn get(&self, path: &str) -> Result<Option<(Bytes, ObjectVersion)>, StoreError> {
        if self.unreadable.lock().unwrap().as_ref().is_some_and(|text| path.contains(text)) {
            return Ok(Some((Bytes::from_static(b"garbage"), ObjectVersion("0".to_owned()))));
        }
        self.guard(|| {
            let objects = self.disk.objects.lock().unwrap();
            Ok(objects.get(path).map(|(content, version)| (content.clone(), ObjectVersion(version.to_string()))))
        })
    }

    async fn open(&self, path: &str) -> Result<Option<Arc<dyn PinnedObject>>, StoreError> {
        let found = self.get(path).await?;
        Ok(found.map(|(content, _)| Arc::new(Pinned(content)) as Arc<dyn PinnedObject>))
    }

    async fn replace(&self, path: &str, expected: &Expected, content: Bytes) -> Result<ObjectVersion, StoreError> {
        let broken = self.broken.lock().unwrap().as_ref().is_some_and(|broken| path.contains(broken));
        if broken {
            return Err(StoreError::Unavailable(path.to_owned()));
        }
        self.guard(|| {
            self.note_if_beyond(path, &content);
            let mut objects = self.disk.objects.lock().unwrap();
            let found = objects.get(path).map(|(_, version)| *version);
            let wanted = match expected {
                Expected::Absent => None,
                Expected::Version(version) => version.0.parse().ok(),
            };
            if found != wanted {
                return Err(StoreError::Conflict(path.to_owned()));
            }
            let version = found.unwrap_or(0) + 1;
            objects.insert(path.to_owned(), (content, version));
            Ok(ObjectVersion(version.to_string()))
        })
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.guard(|| {
            self.disk.objects.lock().unwrap().remove(path);
            Ok(())
        })
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.guard(|| {
            let objects = self.disk.objects.lock().unwrap();
            let found = objects.iter().filter(|(path, _)| path.starts_with(prefix));
            Ok(found.map(|(path, (c, _))| ObjectMeta { path: path.clone(), bytes: c.len() as u64 }).collect())
        })
    }
}

#[derive(Debug)]
struct Pinned(Bytes);

#[async_trait]
impl PinnedObject for Pinned {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    async fn read(&self, range: std::ops::Range<u64>) -> Result<Bytes, StoreError> {
        Ok(self.0.slice(range.start as usize..range.end as usize))
    }
}

/// A log of one shard.
#[derive(Debug)]
pub(super) struct MemoryLog {
    records: Mutex<Vec<NewRecord>>,
    length: watch::Sender<usize>,
    /// Every read takes a beat of the world's time.
    pub(super) slow: AtomicBool,
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self { records: Mutex::default(), length: watch::Sender::new(0), slow: AtomicBool::new(false) }
    }
}

fn position(index: usize) -> Position {
    Position(Bytes::copy_from_slice(&(index as u64).to_be_bytes()))
}

#[async_trait]
impl EventLog for MemoryLog {
    fn shards(&self) -> u32 {
        1
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<(ShardId, Position)>, StoreError> {
        let mut log = self.records.lock().unwrap();
        let from = log.len();
        log.extend(records);
        self.length.send_replace(log.len());
        Ok((from..log.len()).map(|index| (ShardId(0), position(index + 1))).collect())
    }

    async fn read(
        &self,
        _: ShardId,
        from: &Position,
        bytes_max: usize,
        wait: Duration,
    ) -> Result<ReadBatch, StoreError> {
        let from = if from.is_start() { 0 } else { u64::from_be_bytes(from.0.as_ref().try_into().unwrap()) as usize };
        if self.slow.load(Ordering::SeqCst) {
            let mut beats = tokio::time::interval(Duration::from_millis(1));
            beats.tick().await;
            beats.tick().await;
        }
        let mut length = self.length.subscribe();
        let _ = tokio::time::timeout(wait, length.wait_for(|length| *length > from)).await;
        let log = self.records.lock().unwrap();
        let mut bytes = 0;
        let mut records = Vec::new();
        for (index, record) in log.iter().enumerate().skip(from) {
            if bytes > 0 && bytes + record.payload.len() > bytes_max {
                break;
            }
            bytes += record.payload.len();
            let (key, payload) = (record.key.clone(), record.payload.clone());
            records.push(LogRecord { position: position(index + 1), key, payload });
        }
        let at_tip = from + records.len() == log.len();
        Ok(ReadBatch { records, at_tip })
    }

    async fn status(&self, shard: ShardId) -> Result<ShardStatus, StoreError> {
        let end = self.records.lock().unwrap().len();
        let (oldest, end) = (position(0), position(end));
        Ok(ShardStatus {
            shard,
            oldest,
            end,
            bytes: 0,
            unneeded_bytes: 0,
            unneeded_by_key: Vec::new(),
            dropped_early_bytes: 0,
            damage: None,
        })
    }

    async fn acknowledge(&self, _: ShardId, _: &Position) -> Result<(), StoreError> {
        Ok(())
    }
}
