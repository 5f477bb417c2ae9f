//! Contract of the event log.

use async_trait::async_trait;
use bytes::Bytes;

pub use crate::error::StoreError;
use crate::ids::{Key, ShardId};

/// A place in a shard: the place *after* which reading goes on. Opaque; order and meaning belong to the backend (a
/// byte offset here, a Kinesis sequence number there). The empty position stands before the first record kept.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Position(pub Bytes);

impl Position {
    /// Before the first record that the shard still keeps.
    pub const fn start() -> Self {
        Self(Bytes::new())
    }

    /// Whether this is [`Position::start`].
    pub fn is_start(&self) -> bool {
        self.0.is_empty()
    }
}

/// A record to append.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// Partition key; decides the shard. Records of one key keep their order.
    pub key: Key,
    /// The payload, at most [`crate::limits::RECORD_BYTES_MAX`] with its key.
    pub payload: Bytes,
}

/// A record read.
#[derive(Clone, Debug)]
pub struct LogRecord {
    /// Reading from here gives the next record.
    pub position: Position,
    /// Partition key.
    pub key: Key,
    /// The payload.
    pub payload: Bytes,
}

/// A run of records.
#[derive(Clone, Debug)]
pub struct ReadBatch {
    /// Records in order; empty only when nothing came within the time given.
    pub records: Vec<LogRecord>,
    /// Whether the reader has seen everything that is durable now.
    pub at_tip: bool,
}

/// How far a shard reaches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardStatus {
    /// The shard.
    pub shard: ShardId,
    /// Before the oldest record kept.
    pub oldest: Position,
    /// After the newest durable record.
    pub end: Position,
    /// Bytes between a position and the end cannot be told by every backend; this is the size of what is kept.
    pub bytes: u64,
    /// Bytes of it that nothing needs: kept for their time, unless room is short.
    pub unneeded_bytes: u64,
    /// Of these, about, by key: the keys that have most. A backend may not know.
    pub unneeded_by_key: Vec<(Key, u64)>,
    /// Bytes that were deleted before their time because room was short, since the log was opened.
    pub dropped_early_bytes: u64,
    /// Damage that the log found by itself in what it keeps; `None` while it knows of none.
    pub damage: Option<Damage>,
}

/// Damage in what a shard keeps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Segments (or what the backend keeps records in) that are damaged.
    pub segments: u64,
    /// The oldest of them: place, what is wrong, advice.
    pub first: String,
}

/// A sharded, durable, ordered log.
///
/// - `append` returns Ok only when **all** records are durable (I1): a power cut after it loses none. On an error none,
///   some or all of them may be on the log; a retry may duplicate (dedup, I2, is the reader's). Records of one call and
///   one key keep their order; a later call's records of a key stand after an earlier call's that returned. Calls in
///   flight at the same time take their order from the *first poll* of their futures: a caller that polls each future
///   once, in order, may then await them in any way.
/// - [`StoreError::Full`] and [`StoreError::Busy`] mean that nothing of the call is on the log.
/// - [`StoreError::Invalid`] for a record over its limit; nothing of the call is on the log.
/// - A failed sync aborts the process: after it nobody knows what is durable.
/// - `read` never returns a record that is not durable, nor one twice from the same position, and skips nothing: a
///   damaged record is [`StoreError::Corrupt`], a position that retention has passed is [`StoreError::NotFound`].
/// - `acknowledge` is idempotent and monotonic per shard: records before the position may be deleted once they are
///   older than the retention time, or when room is short. Nothing unacknowledged is ever deleted.
#[async_trait]
pub trait EventLog: Send + Sync + std::fmt::Debug + 'static {
    /// Number of shards; fixed while the log is open.
    fn shards(&self) -> u32;

    /// Appends records and waits until they are durable; positions are in the order of the records.
    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<(ShardId, Position)>, StoreError>;

    /// Reads records after `from`, up to about `bytes_max` (at least one record if there is one). With nothing to read
    /// it waits until something is durable or `wait` has passed.
    async fn read(
        &self,
        shard: ShardId,
        from: &Position,
        bytes_max: usize,
        wait: std::time::Duration,
    ) -> Result<ReadBatch, StoreError>;

    /// How far the shard reaches.
    async fn status(&self, shard: ShardId) -> Result<ShardStatus, StoreError>;

    /// Says that nothing up to and including `position` is needed any more.
    async fn acknowledge(&self, shard: ShardId, position: &Position) -> Result<(), StoreError>;
}
