//! How aggregation stands, for `GetStatus` and for the process.

use tidegauge_core::log::Damage;
use tidegauge_core::scope::TenantScope;
use tidegauge_core::{Epoch, Key, Ordinal, ShardId};

use crate::decide::Counters;

/// What the worker of a shard is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WorkerState {
    /// Taking the shard over.
    #[default]
    Starting,
    /// Reading and committing.
    Running,
    /// Has failed and begins again by itself.
    Retrying,
    /// Stopped for good.
    Stopped,
}

/// A shard.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ShardReport {
    /// What its worker is doing.
    pub state: WorkerState,
    /// Lease generation of its worker; 0 before it has one.
    pub generation: u64,
    /// Last epoch prepared.
    pub prepared: Epoch,
    /// Last epoch whose outputs are applied.
    pub completed: Epoch,
    /// Records processed on the lineage.
    pub ordinal: Ordinal,
    /// Whether the worker has read everything that is durable.
    pub at_tip: bool,
    /// Age of the newest record when it was processed.
    pub lag_ms: u64,
    /// Rows in memory.
    pub state_rows: u64,
    /// Log bytes kept.
    pub log_bytes: u64,
    /// Of these, bytes that nothing needs any more.
    pub log_unneeded_bytes: u64,
    /// Log bytes deleted before their time because room was short, since the start.
    pub log_early_deleted_bytes: u64,
    /// Damage that the log found in what it keeps.
    pub log_damage: Option<Damage>,
    /// Why the worker is not running; `None` while it is.
    pub stopped_because: Option<String>,
    /// Whether everything durable is processed and published as far as the watermarks allow.
    pub quiescent: bool,
}

/// A key.
#[derive(Clone, PartialEq, Debug)]
pub struct KeyReport {
    /// The key.
    pub key: Key,
    /// Its shard.
    pub shard: ShardId,
    /// Watermark, Unix nanoseconds; `None` before its birth.
    pub watermark_ns: Option<i64>,
    /// Boundary, Unix nanoseconds; `None` before its birth.
    pub boundary_ns: Option<i64>,
    /// Conservation counters.
    pub counters: Counters,
    /// Events that wait for a cut of a published window.
    pub pending: u64,
    /// Rows in memory.
    pub state_rows: u64,
    /// Whether its hour index has not been compared with the lake since the process began.
    pub index_unchecked: bool,
    /// Objects whose replacement keeps failing, the first eight and how many more.
    pub parked: Vec<String>,
    /// Why the key is stopped.
    pub stopped_because: Option<String>,
    /// Bytes of the log that are kept of it although nothing needs them, about.
    pub log_unneeded_bytes: u64,
}

/// Which keys are asked for: the first ones, in order, after one of them.
#[derive(Clone, Debug)]
pub(crate) struct KeysWanted {
    /// Whose; of all tenants without one.
    pub(crate) scope: Option<TenantScope>,
    /// Only keys after this one.
    pub(crate) after: Option<Key>,
    /// At most so many.
    pub(crate) limit: usize,
}

impl KeysWanted {
    /// Every key of every tenant.
    pub(crate) fn all() -> Self {
        Self { scope: None, after: None, limit: usize::MAX }
    }

    /// The keys that are wanted, sorted. Looks at all, and keeps no more than the answer has.
    pub(crate) fn of<'a>(&self, keys: impl Iterator<Item = &'a Key>) -> Vec<&'a Key> {
        let covered = keys.filter(|key| {
            self.scope.as_ref().is_none_or(|scope| scope.contains(&key.tenant))
                && self.after.as_ref().is_none_or(|after| *key > after)
        });
        let mut found = Vec::new();
        for key in covered {
            found.push(key);
            if found.len() >= self.limit.saturating_mul(2) {
                found.sort_unstable();
                found.truncate(self.limit);
            }
        }
        found.sort_unstable();
        found.truncate(self.limit);
        found
    }
}

/// Everything, or a page of it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Status {
    /// Shards by id.
    pub shards: Vec<(ShardId, ShardReport)>,
    /// Keys, sorted.
    pub keys: Vec<KeyReport>,
    /// Whether all shards are quiescent.
    pub quiescent: bool,
}
