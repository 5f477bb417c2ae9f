//! Contract of the checkpoint store: the durable state of a shard's worker.

use async_trait::async_trait;
use bytes::Bytes;

pub use crate::error::StoreError;
use crate::ids::{Epoch, LineageId, Ordinal, ShardId};
use crate::log::Position;

/// Keyspaces divide a shard's entries by owner; keys are unique within one. The numbers are stored: never reuse one.
pub type Keyspace = u8;

/// One change of an entry: `Some` puts, `None` deletes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The keyspace.
    pub keyspace: Keyspace,
    /// The key, 1 to 65,535 bytes.
    pub key: Bytes,
    /// The new value, or nothing.
    pub value: Option<Bytes>,
}

/// Proof of having acquired a shard: writes with an older lease are [`StoreError::Fenced`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// The shard.
    pub shard: ShardId,
    /// Raised at every acquisition: the lease generation.
    pub generation: u64,
}

/// Where a shard stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Identity of this history.
    pub lineage: LineageId,
    /// Last prepared epoch; 0 before the first.
    pub prepared: Epoch,
    /// Last completed epoch; `prepared` or one less.
    pub completed: Epoch,
    /// Position after the last record in the prepared epoch.
    pub position: Position,
    /// Ordinal of that record.
    pub ordinal: Ordinal,
}

/// What `acquire` hands over.
#[derive(Debug)]
pub struct Acquired {
    /// Proof for the writes that follow.
    pub lease: Lease,
    /// Where the shard stands.
    pub progress: Progress,
    /// All entries as of the prepared epoch, sorted by (keyspace, key).
    pub entries: Vec<(Keyspace, Bytes, Bytes)>,
}

/// A durable store of worker state, one history (lineage) per shard.
///
/// - `acquire` raises the generation durably before it returns: from then on older leases are fenced.
/// - `prepare` is one atomic, durable step: afterwards `acquire` finds exactly the old entries with the changes applied,
///   and `epoch`, `position`, `ordinal`; after an error or a crash it finds either that or the state before. It
///   requires `epoch == prepared + 1` and `completed == prepared`, otherwise [`StoreError::Conflict`].
/// - `complete` records that the prepared epoch's outputs are applied; idempotent.
/// - Damaged content is [`StoreError::Corrupt`] from `acquire`, with file and advice; nothing is skipped.
#[async_trait]
pub trait CheckpointStore: Send + Sync + std::fmt::Debug + 'static {
    /// Takes the shard over, creating an empty history with a fresh lineage if there is none.
    async fn acquire(&self, shard: ShardId) -> Result<Acquired, StoreError>;

    /// Persists an epoch.
    async fn prepare(
        &self,
        lease: &Lease,
        epoch: Epoch,
        position: &Position,
        ordinal: Ordinal,
        changes: Vec<Change>,
    ) -> Result<(), StoreError>;

    /// Records that the outputs of `epoch` are applied.
    async fn complete(&self, lease: &Lease, epoch: Epoch) -> Result<(), StoreError>;
}
