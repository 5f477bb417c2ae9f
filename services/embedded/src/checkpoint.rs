//! The checkpoint store in files.

use std::path::Path;

use async_trait::async_trait;
use tidegauge_core::checkpoint::{Acquired, Change, CheckpointStore, Lease, StoreError};
use tidegauge_core::ids::{Epoch, Ordinal, ShardId};
use tidegauge_core::log::Position;

/// A [`CheckpointStore`] in one directory a shard.
#[derive(Debug)]
pub struct FileCheckpointStore {}

impl FileCheckpointStore {
    /// Opens the store in a directory, which is made if there is none.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the directory cannot be made or read.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Err(StoreError::Unavailable(format!("{} is not open", dir.display())))
    }
}

#[async_trait]
impl CheckpointStore for FileCheckpointStore {
    async fn acquire(&self, shard: ShardId) -> Result<Acquired, StoreError> {
        Err(StoreError::Unavailable(format!("shard {shard} is not open")))
    }

    async fn prepare(
        &self,
        lease: &Lease,
        _epoch: Epoch,
        _position: &Position,
        _ordinal: Ordinal,
        _changes: Vec<Change>,
    ) -> Result<(), StoreError> {
        Err(StoreError::Unavailable(format!("shard {} is not open", lease.shard)))
    }

    async fn complete(&self, lease: &Lease, _epoch: Epoch) -> Result<(), StoreError> {
        Err(StoreError::Unavailable(format!("shard {} is not open", lease.shard)))
    }
}
