//! Contract of the hot store: current values and live windows.

use async_trait::async_trait;

pub use crate::error::StoreError;
use crate::ids::{Key, MetricName, Ordinal, ShardId};
use crate::scope::{ScopedTenant, SystemAuthority};
use crate::sum::Sum;

/// Version of what hot-metric holds for a key: compared field by field in this order. All values are absolute, so a
/// higher version replaces a lower one and a repeated one changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct HotVersion {
    /// Lease generation of the key's shard.
    pub generation: u64,
    /// Ordinal up to which the values hold.
    pub ordinal: Ordinal,
    /// Counts the pushes within one ordinal (a boundary moves without a record), so that they stay ordered.
    pub push: u64,
}

/// The current value of a series: `METRIC#<m>#CURRENT`.
#[derive(Clone, PartialEq, Debug)]
pub struct CurrentValue {
    /// The metric.
    pub metric: MetricName,
    /// Value with the greatest (event time, ordinal, index).
    pub last_value: f64,
    /// Its event time, Unix nanoseconds.
    pub last_time_ns: i64,
    /// When the platform last changed this item, Unix nanoseconds.
    pub updated_at_ns: i64,
    /// Events of the series counted so far; survives restarts.
    pub event_count: u64,
}

/// One row of `dashboard_metrics` that is not in the lake yet.
#[derive(Clone, PartialEq, Debug)]
pub struct LiveWindow {
    /// Start of the window, Unix nanoseconds.
    pub start_ns: i64,
    /// End of the window, exclusive.
    pub end_ns: i64,
    /// The metric.
    pub metric: MetricName,
    /// Aggregates of the row.
    pub row: WindowRow,
}

/// Aggregates of one (window, metric): what live windows and lake rows hold.
#[derive(Clone, PartialEq, Debug)]
pub struct WindowRow {
    /// Events counted.
    pub count: u64,
    /// Sum of the values.
    pub sum: Sum,
    /// Smallest value; of zeros, the negative one is the smaller.
    pub min: f64,
    /// Largest value; of zeros, the positive one is the larger.
    pub max: f64,
    /// Value with the greatest (event time, ordinal, index).
    pub last: f64,
    /// Its event time, Unix nanoseconds.
    pub last_time_ns: i64,
    /// Events that came late.
    pub late: u64,
}

impl WindowRow {
    /// Sum divided by count; never outside of `min` and `max`.
    pub fn average(&self) -> f64 {
        self.sum.average(self.count, self.min, self.max)
    }
}

/// What is known of a key besides its values: freshness (I9) and the seam (I6).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyMeta {
    /// Version of everything held for the key.
    pub version: HotVersion,
    /// Every window that ends at or before it is in the lake; Unix nanoseconds.
    pub boundary_ns: i64,
    /// Watermark, Unix nanoseconds.
    pub watermark_ns: i64,
    /// Events counted (on time, late, backfilled) up to the version's ordinal: the ledger of I6.
    pub counted: u64,
    /// Of these, events for published or frozen windows that wait for a cut or for its end.
    pub pending: u64,
    /// Last epoch whose outputs may stand in the key's hour objects and hour index. It is told before anything of that epoch
    /// is written, so a footer of a later epoch means that this state is behind.
    pub index_version: u64,
    /// Whether outputs are being written just now: until this is false again two looks at the hour index may differ, and
    /// nothing that was read of it may be kept. While it is false the index does not change under one `index_version`.
    pub index_open: bool,
}

/// Everything that one version holds for a key.
#[derive(Clone, PartialEq, Debug)]
pub struct LiveSnapshot {
    /// Boundary, watermark, ledger.
    pub meta: KeyMeta,
    /// All rows that start at or after the boundary; in no order.
    pub windows: Vec<LiveWindow>,
    /// False while the key's windows may not all be there: no update of it has replaced them all so far.
    pub complete: bool,
}

/// A change of one key, applied atomically.
#[derive(Clone, PartialEq, Debug)]
pub struct KeyUpdate {
    /// The key.
    pub key: Key,
    /// Replaces the stored meta; its version must exceed the stored one, otherwise the whole update is ignored.
    pub meta: KeyMeta,
    /// True: `windows` are all unpublished windows of the key, older ones vanish. False: they replace or add.
    pub replaces_windows: bool,
    /// Changed current values.
    pub currents: Vec<CurrentValue>,
    /// Changed (or all) unpublished windows.
    pub windows: Vec<LiveWindow>,
}

/// A durable store of current values and live windows; hot-metric is its only writer and reader.
///
/// - `apply` returns Ok only when all updates are durable. Each key's update is atomic for readers: no reader sees its
///   meta without its windows. An update whose version is not above the stored one is ignored (idempotence, fencing).
///   Windows that end at or before the new boundary are removed in the same step.
/// - `live` is one consistent state of the key; a key never seen is not in it. A key is complete from its first update
///   with `replaces_windows` on.
/// - Reads see everything whose `apply` has returned.
/// - `hold_shard` notes durably that the store has held every key of a shard since; `held_shards` gives the notes back.
///   A store that lost its content has none, and so nobody takes a missing key for one that does not exist. Notes for
///   another number of shards are dropped by the next `hold_shard`: keys lie otherwise then.
#[async_trait]
pub trait HotStore: Send + Sync + std::fmt::Debug + 'static {
    /// Applies updates durably; the result tells per update whether it was newer and so applied.
    async fn apply(&self, authority: &SystemAuthority, updates: Vec<KeyUpdate>) -> Result<Vec<bool>, StoreError>;

    /// Every key with its meta, sorted; for takeover and for scopes over all tenants.
    async fn keys(&self, authority: &SystemAuthority) -> Result<Vec<(Key, KeyMeta)>, StoreError>;

    /// Current values of the named metrics, in their order; `None` where there is none.
    async fn currents(
        &self,
        tenant: &ScopedTenant,
        metrics: &[MetricName],
    ) -> Result<Vec<Option<CurrentValue>>, StoreError>;

    /// Current values sorted by metric, those after `after`, at most `limit`.
    async fn list(
        &self,
        tenant: &ScopedTenant,
        after: Option<&MetricName>,
        limit: usize,
    ) -> Result<Vec<CurrentValue>, StoreError>;

    /// The live state of every key of the tenant, sorted by key.
    async fn live(&self, tenant: &ScopedTenant) -> Result<Vec<(Key, LiveSnapshot)>, StoreError>;

    /// Notes durably that every key of `shard` (of `shards`) has been applied.
    async fn hold_shard(&self, authority: &SystemAuthority, shard: ShardId, shards: u32) -> Result<(), StoreError>;

    /// The shards noted by `hold_shard`, with the number of shards they were counted by; sorted.
    async fn held_shards(&self, authority: &SystemAuthority) -> Result<Vec<(ShardId, u32)>, StoreError>;
}
