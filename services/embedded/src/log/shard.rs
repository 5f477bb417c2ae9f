//! One shard as readers, writer and retention share it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tidegauge_core::clock::Clock;
use tidegauge_core::log::{Damage, ShardStatus, StoreError};
use tidegauge_core::{Key, ShardId};
use tokio::sync::watch;

use super::meter::Meter;
use super::options::{DiskReserve, LogOptions};
use super::position;
use super::queue::Queue;
use super::room::Room;
use super::segment::{Sealed, Segment, failed};
use super::tally::Tally;
use crate::files::Files;

/// A shard.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) id: ShardId,
    pub(super) dir: PathBuf,
    pub(super) options: Arc<LogOptions>,
    pub(super) files: Arc<dyn Files>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) meter: Meter,
    pub(super) queue: Queue,
    /// Whether the last commit was refused for want of space: `append` then asks before it queues.
    pub(super) full: AtomicBool,
    /// Position after the last durable record.
    pub(super) durable: watch::Sender<u64>,
    acknowledged: AtomicU64,
    /// Oldest first; never empty; the last one is written.
    segments: RwLock<VecDeque<Segment>>,
    retaining: Mutex<()>,
    /// What all shards share of the disk.
    pub(super) room: Arc<Room>,
    /// Bytes deleted before their time, since the log was opened.
    dropped_early: AtomicU64,
    /// Bytes of sealed segments that [`super::scrub`] has still to check.
    unchecked: AtomicU64,
    /// What it found, by the base of the segment; of segments that are kept.
    damaged: Mutex<BTreeMap<u64, String>>,
}

/// Which shard it is, and what it shares with the others.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) id: ShardId,
    pub(super) dir: PathBuf,
    pub(super) options: Arc<LogOptions>,
    pub(super) room: Arc<Room>,
}

/// A segment that could go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Whether most of it is of a key that has used up its share.
    pub(super) over_share: bool,
    pub(super) created_ns: i64,
}

/// What opening a shard found.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) segments: VecDeque<Segment>,
    /// Position after the last record.
    pub(super) end: u64,
    /// Bytes of the last segment's file.
    pub(super) filled: u64,
    /// Whose bytes the last segment holds.
    pub(super) tally: Tally,
}

impl Opened {
    /// The segments that are complete.
    pub(super) fn sealed(&self, shard: ShardId) -> impl Iterator<Item = Sealed> {
        self.segments.iter().zip(self.segments.iter().skip(1)).map(move |(segment, next)| Sealed {
            shard,
            base: segment.base,
            next: next.base,
            created_ns: segment.created_ns,
            path: segment.path.clone(),
        })
    }
}

impl Shard {
    pub(super) fn new(place: Place, files: Arc<dyn Files>, clock: Arc<dyn Clock>, opened: Opened) -> Self {
        let Place { id, dir, options, room } = place;
        let shard = Self {
            id,
            dir,
            files,
            clock,
            meter: Meter::new(id),
            queue: Queue::new(options.queue_bytes),
            options,
            full: AtomicBool::new(false),
            durable: watch::Sender::new(opened.end),
            acknowledged: AtomicU64::new(0),
            segments: RwLock::new(opened.segments),
            retaining: Mutex::new(()),
            room,
            dropped_early: AtomicU64::new(0),
            unchecked: AtomicU64::new(0),
            damaged: Mutex::default(),
        };
        shard.measure();
        shard
    }

    /// Position after the last durable record.
    pub(super) fn durable_end(&self) -> u64 {
        *self.durable.borrow()
    }

    /// Position before the oldest record kept.
    pub(super) fn oldest(&self) -> u64 {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).front().map_or(0, |segment| segment.base)
    }

    /// The segment that holds the record at `at`, and the base of the one after it.
    pub(super) fn segment_at(&self, at: u64) -> Option<(Segment, Option<u64>)> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let after = segments.partition_point(|segment| segment.base <= at);
        let segment = segments.get(after.checked_sub(1)?)?;
        Some((segment.clone(), segments.get(after).map(|next| next.base)))
    }

    /// Goes on in a new segment; the one before is complete.
    pub(super) fn push_segment(&self, segment: Segment, tally: Tally) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(sealed) = segments.back_mut() {
            sealed.active = None;
            sealed.tally = Some(Arc::new(tally));
        }
        segments.push_back(segment);
    }

    /// Whether the disk has room for `bytes` more without touching the reserve.
    ///
    /// # Errors
    /// What is missing.
    pub(super) fn check_reserve(&self, bytes: usize) -> Result<(), String> {
        let reserve = self.options.reserve;
        if reserve == DiskReserve::NONE {
            return Ok(());
        }
        match self.files.space(&self.dir) {
            Ok(space) if !reserve.allows(space, bytes as u64) => Err(format!(
                "{} bytes are free for {}, of which {} are kept in reserve",
                space.available,
                self.dir.display(),
                reserve.of(space.total)
            )),
            Ok(_) => Ok(()),
            Err(error) => {
                // The write itself will tell whether there is room.
                tracing::warn!(%error, dir = %self.dir.display(), "cannot tell the room on the disk");
                Ok(())
            }
        }
    }

    pub(super) fn status(&self) -> ShardStatus {
        let oldest = self.oldest();
        let end = self.durable_end();
        let bytes = end.saturating_sub(oldest);
        let (unneeded, keys) = self.unneeded();
        let mut unneeded_by_key: Vec<(Key, u64)> = keys
            .into_iter()
            .filter_map(|(key, bytes)| Some((Key::parse(std::str::from_utf8(&key).ok()?).ok()?, bytes)))
            .collect();
        unneeded_by_key.sort();
        ShardStatus {
            shard: self.id,
            oldest: position(oldest),
            end: position(end),
            bytes,
            unneeded_bytes: unneeded,
            unneeded_by_key,
            dropped_early_bytes: self.dropped_early.load(Ordering::Relaxed),
            damage: self.damage(),
        }
    }

    /// Notes whose bytes a segment holds.
    pub(super) fn note_tally(&self, base: u64, tally: Option<Tally>) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(segment) = segments.iter_mut().find(|segment| segment.base == base) {
            segment.tally = tally.map(Arc::new);
        }
    }

    /// Sealed segments that nothing needs, oldest first, with their bytes.
    fn unneeded_segments(&self) -> Vec<(Segment, u64)> {
        let acknowledged = self.acknowledged.load(Ordering::Acquire);
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let nexts = segments.iter().skip(1).map(|next| next.base);
        let sealed = segments.iter().zip(nexts).take_while(|(_, next)| *next <= acknowledged);
        sealed.map(|(segment, next)| (segment.clone(), next - segment.base)).collect()
    }

    /// Bytes that nothing needs, and those of the keys that have most of them.
    fn unneeded(&self) -> (u64, HashMap<Box<[u8]>, u64>) {
        let (mut all, mut keys) = (0, HashMap::<Box<[u8]>, u64>::new());
        for (segment, bytes) in self.unneeded_segments() {
            all += bytes;
            for (key, bytes) in segment.tally.iter().flat_map(|tally| tally.iter()) {
                *keys.entry(key.into()).or_default() += bytes;
            }
        }
        (all, keys)
    }

    /// What one key may have of the log that nothing needs, in bytes.
    pub(super) fn tenant_share(&self) -> u64 {
        match self.files.space(&self.dir) {
            Ok(space) => (space.total / 100).saturating_mul(self.options.tenant_share_percent),
            // Nobody is over a share that nobody knows.
            Err(_) => u64::MAX,
        }
    }

    /// The oldest segment, if nothing needs it.
    pub(super) fn dispensable(&self, share: u64) -> Option<Candidate> {
        let oldest = self.unneeded_segments().into_iter().next();
        let (segment, bytes) = oldest?;
        let owner = segment
            .tally
            .as_ref()
            .and_then(|tally| tally.iter().find(|(_, count)| *count >= bytes / 2).map(|(key, _)| key.to_vec()));
        let over_share = owner.is_some_and(|key| self.unneeded().1.get(&*key).is_some_and(|bytes| *bytes > share));
        Some(Candidate { over_share, created_ns: segment.created_ns })
    }

    /// Deletes the oldest segment before its time; false if something needs it.
    pub(super) fn drop_early(&self) -> Result<bool, StoreError> {
        let _one_at_a_time = self.retaining.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((segment, bytes)) = self.unneeded_segments().into_iter().next() else { return Ok(false) };
        let synced = self.delete(&segment)?;
        self.dropped_early.fetch_add(bytes, Ordering::Relaxed);
        self.meter.early_bytes.increment(bytes);
        self.meter.segments_deleted.increment(1);
        self.forget_damage();
        self.measure();
        tracing::info!(shard = self.id.0, bytes, path = %segment.path.display(), "room is short: a segment that nothing needs is deleted");
        synced.map(|()| true)
    }

    /// Deletes the oldest segment, which this is. The inner error is one of making that durable: it is gone all the same.
    fn delete(&self, segment: &Segment) -> Result<Result<(), StoreError>, StoreError> {
        self.files.remove(&segment.path).map_err(|source| failed("delete", &segment.path, source))?;
        self.segments.write().unwrap_or_else(PoisonError::into_inner).pop_front();
        Ok(self.files.sync_dir(&self.dir).map_err(|source| failed("sync", &self.dir, source)))
    }

    /// Changes how many bytes of sealed segments are not checked yet.
    pub(super) fn count_unchecked(&self, more: u64, fewer: u64) {
        let before = self.unchecked.fetch_add(more.wrapping_sub(fewer), Ordering::AcqRel);
        self.meter.unchecked_bytes.set(before.wrapping_add(more).wrapping_sub(fewer) as f64);
    }

    pub(super) fn unchecked(&self) -> u64 {
        self.unchecked.load(Ordering::Acquire)
    }

    fn damage(&self) -> Option<Damage> {
        let damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        damaged.values().next().map(|first| Damage { segments: damaged.len() as u64, first: first.clone() })
    }

    pub(super) fn is_damaged(&self) -> bool {
        !self.damaged.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Whether retention has deleted the segment that began at `base`.
    pub(super) fn is_deleted(&self, base: u64) -> bool {
        // A file goes before its segment does: whoever saw it gone waits for the rest.
        let _deleting = self.retaining.lock().unwrap_or_else(PoisonError::into_inner);
        base < self.oldest()
    }

    /// Notes damage in the sealed segment that begins at `base`; false if retention has deleted it.
    pub(super) fn note_damage(&self, base: u64, what: String) -> bool {
        let _deleting = self.retaining.lock().unwrap_or_else(PoisonError::into_inner);
        if base < self.oldest() {
            return false;
        }
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        damaged.insert(base, what);
        self.meter.damaged_segments.set(damaged.len() as f64);
        true
    }

    /// Forgets damage in a segment that could be checked after all.
    pub(super) fn clear_damage(&self, base: u64) {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        damaged.remove(&base);
        self.meter.damaged_segments.set(damaged.len() as f64);
    }

    /// Forgets damage in segments that are gone.
    fn forget_damage(&self) {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = self.oldest();
        damaged.retain(|base, _| *base >= oldest);
        self.meter.damaged_segments.set(damaged.len() as f64);
    }

    /// Raises what is acknowledged; never lowers it.
    pub(super) fn acknowledge(&self, upto: u64) {
        self.acknowledged.fetch_max(upto, Ordering::AcqRel);
    }

    /// Whether [`Shard::retain`] would delete something.
    pub(super) fn has_expired(&self) -> bool {
        self.expired().is_some()
    }

    fn expired(&self) -> Option<Segment> {
        let retention = i64::try_from(self.options.retention.as_nanos()).unwrap_or(i64::MAX);
        let cutoff = self.clock.wall_ns().saturating_sub(retention);
        let acknowledged = self.acknowledged.load(Ordering::Acquire);
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let (oldest, next) = (segments.front()?, segments.get(1)?);
        // The next segment was begun after the last record of this one.
        (next.base <= acknowledged && next.created_ns <= cutoff).then(|| oldest.clone())
    }

    /// Deletes the oldest segments while they are acknowledged as a whole and past the retention time.
    pub(super) fn retain(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.retaining.lock().unwrap_or_else(PoisonError::into_inner);
        let mut deleted = 0;
        let mut done = Ok(());
        while let (Some(segment), true) = (self.expired(), done.is_ok()) {
            match self.delete(&segment) {
                Ok(synced) => {
                    done = synced;
                    deleted += 1;
                }
                Err(error) => done = Err(error),
            }
        }
        if deleted > 0 {
            self.forget_damage();
            self.meter.segments_deleted.increment(deleted);
            self.measure();
            tracing::debug!(shard = self.id.0, deleted, "old segments of the log deleted");
        }
        done
    }

    /// Refreshes the gauge of kept bytes.
    pub(super) fn measure(&self) {
        self.meter.kept_bytes.set((self.durable_end().saturating_sub(self.oldest())) as f64);
    }

    /// Refreshes the gauge of the bytes that nothing needs: they change with checkpoints, deletions and new segments, not with
    /// every commit.
    pub(super) fn measure_unneeded(&self) {
        let bytes: u64 = self.unneeded_segments().iter().map(|(_, bytes)| bytes).sum();
        self.meter.unneeded_bytes.set(bytes as f64);
    }
}
