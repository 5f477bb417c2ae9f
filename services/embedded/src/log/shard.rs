//! One shard as readers, writer and retention share it.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tidegauge_core::ShardId;
use tidegauge_core::clock::Clock;
use tidegauge_core::log::{Damage, ShardStatus, StoreError};
use tokio::sync::watch;

use super::meter::Meter;
use super::options::{DiskReserve, LogOptions};
use super::position;
use super::queue::Queue;
use super::segment::{Sealed, Segment, failed};
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
    /// Bytes of sealed segments that [`super::scrub`] has still to check.
    unchecked: AtomicU64,
    /// What it found, by the base of the segment; of segments that are kept.
    damaged: Mutex<BTreeMap<u64, String>>,
}

/// What opening a shard found.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) segments: VecDeque<Segment>,
    /// Position after the last record.
    pub(super) end: u64,
    /// Bytes of the last segment's file.
    pub(super) filled: u64,
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
    pub(super) fn new(
        id: ShardId,
        dir: PathBuf,
        options: Arc<LogOptions>,
        files: Arc<dyn Files>,
        clock: Arc<dyn Clock>,
        opened: Opened,
    ) -> Self {
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
    pub(super) fn push_segment(&self, segment: Segment) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(sealed) = segments.back_mut() {
            sealed.active = None;
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
        ShardStatus { shard: self.id, oldest: position(oldest), end: position(end), bytes, damage: self.damage() }
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
        while let Some(segment) = self.expired() {
            if let Err(source) = self.files.remove(&segment.path) {
                done = Err(failed("delete", &segment.path, source));
                break;
            }
            self.segments.write().unwrap_or_else(PoisonError::into_inner).pop_front();
            deleted += 1;
        }
        if deleted > 0 {
            self.forget_damage();
            done = done.and(self.files.sync_dir(&self.dir).map_err(|source| failed("sync", &self.dir, source)));
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
}
