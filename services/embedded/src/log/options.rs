//! Settings of the log.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidegauge_core::ShardId;
use tidegauge_core::limits;
use tidegauge_core::log::Position;

use crate::files::Space;

/// How to open a log. [`LogOptions::new`] gives the defaults of [`limits`].
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The log's own directory.
    pub dir: PathBuf,
    /// Number of shards; fixed once the log exists.
    pub shards: u32,
    /// Bytes of records in a segment before the next one is begun.
    pub segment_bytes: u64,
    /// Zeros written ahead of the records, so that a small commit changes no file size; 0 writes none.
    pub write_ahead_bytes: u64,
    /// Bytes of one group commit; a record is never divided.
    pub group_commit_bytes: usize,
    /// Bytes that may wait in one shard.
    pub queue_bytes: usize,
    /// How often a writer without work looks for a segment to end for its age, and for segments to delete.
    pub idle: Duration,
    /// How long acknowledged records are kept. A segment goes as a whole, so its first record stays up to an eighth longer.
    pub retention: Duration,
    /// Room on the disk that the log leaves to others.
    pub reserve: DiskReserve,
    /// Share of the disk, in percent, that the segments of one key may take when nothing needs them any more: over it they
    /// are the first to go when room is short.
    pub tenant_share_percent: u64,
    /// Bytes of sealed segments that a start checks whole, the newest ones first; the rest is checked while the log runs.
    pub start_check_bytes: u64,
    /// Bytes a second of that.
    pub scrub_bytes_per_second: u64,
    /// Positions that checkpoint or hot store know: a log that ends before one of them refuses to open.
    pub known: Vec<(ShardId, Position)>,
    /// What a failed sync does.
    pub abort: AbortHook,
}

impl LogOptions {
    /// The defaults for a log in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            shards: limits::SHARDS,
            segment_bytes: limits::SEGMENT_BYTES,
            write_ahead_bytes: 4 << 20,
            group_commit_bytes: limits::GROUP_COMMIT_BYTES,
            queue_bytes: limits::INGEST_QUEUE_BYTES,
            idle: Duration::from_secs(60),
            retention: limits::LOG_RETENTION,
            reserve: DiskReserve::default(),
            tenant_share_percent: limits::LOG_TENANT_SHARE_PERCENT,
            start_check_bytes: limits::LOG_START_CHECK_BYTES,
            scrub_bytes_per_second: limits::LOG_SCRUB_BYTES_PER_SECOND,
            known: Vec::new(),
            abort: AbortHook::default(),
        }
    }
}

/// Room that stays free; the larger of the two counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskReserve {
    /// Share of the disk, in percent.
    pub percent: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Default for DiskReserve {
    fn default() -> Self {
        Self { percent: limits::DISK_RESERVE_PERCENT, bytes: limits::DISK_RESERVE_BYTES }
    }
}

impl DiskReserve {
    /// No reserve: the disk may fill to the last byte.
    pub const NONE: Self = Self { percent: 0, bytes: 0 };

    /// Bytes that must stay free on a disk of `total` bytes.
    pub fn of(self, total: u64) -> u64 {
        (total / 100).saturating_mul(self.percent).max(self.bytes)
    }

    /// Whether `more` bytes may be taken.
    pub fn allows(self, space: Space, more: u64) -> bool {
        space.available >= self.of(space.total).saturating_add(more)
    }
}

/// What happens when a sync fails: after it nobody knows what is durable, so the process ends (I1).
#[derive(Clone)]
pub struct AbortHook(Arc<dyn Fn(&str) + Send + Sync>);

impl AbortHook {
    /// A hook that a test can watch. When it returns, the shard takes and answers nothing any more.
    pub fn new(hook: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }

    pub(super) fn call(&self, reason: &str) {
        tracing::error!(reason, "the log cannot be trusted any more, aborting the process");
        (self.0)(reason);
    }
}

impl Default for AbortHook {
    fn default() -> Self {
        Self(Arc::new(|reason| {
            // Said on standard error too: the log of a dying process may not be flushed.
            eprintln!("tidegauge: aborting: {reason}");
            std::process::abort()
        }))
    }
}

impl fmt::Debug for AbortHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AbortHook")
    }
}
