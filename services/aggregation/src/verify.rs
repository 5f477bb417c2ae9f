//! Proof of conservation (I3) over a stopped data directory: what log, checkpoint and lake hold must add up.
//!
//! [`verify`] walks the backends and gathers [`Facts`]; [`check`] compares them, purely. Nothing is changed, except that
//! acquiring a shard raises its lease generation.

mod check;
mod walk;

use std::collections::BTreeMap;

use tidegauge_core::checkpoint::StoreError;
use tidegauge_core::ids::{Epoch, Ordinal};
use tidegauge_core::{Key, MetricName, ShardId, TenantId};

use crate::decide::{Counters, KeyState, KeySums, RestoreError};
use crate::options::OptionsError;

pub use check::check;
pub use walk::verify;

/// What was found about a key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyFacts {
    /// As of the checkpoint.
    pub counters: Counters,
    /// Events that the log still holds from before the checkpoint.
    pub log_events: u64,
    /// Events in rows of the lake.
    pub lake_events: u64,
    /// Late events in rows of the lake.
    pub lake_late: u64,
    /// Events in rows of the state: not cut yet.
    pub state_events: u64,
    /// Late events in rows of the state.
    pub state_late: u64,
    /// Events in outputs that are prepared and not in the lake yet.
    pub outbox_events: u64,
    /// Late events in these outputs.
    pub outbox_late: u64,
    /// Events in the running counts of the series.
    pub series_events: u64,
    /// Per metric: events in its running count, and in all rows, wherever they are.
    pub metrics: BTreeMap<MetricName, (u64, u64)>,
    /// Counters after the rest of the log was worked through in memory.
    pub replayed: Counters,
    /// What the state holds then.
    pub replayed_sums: KeySums,
}

impl KeyFacts {
    /// What the state of a key says.
    fn of_state(key: &KeyState) -> Self {
        let sums = key.sums();
        Self {
            counters: key.counters,
            state_events: sums.rows,
            state_late: sums.rows_late,
            series_events: sums.series,
            metrics: key.counts_by_metric(),
            ..Self::default()
        }
    }
}

/// What was found about a shard.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// The last prepared epoch.
    pub prepared: Epoch,
    /// Records before the checkpoint, by its own count.
    pub ordinal: Ordinal,
    /// Records before the checkpoint that the log still holds.
    pub log_records: u64,
    /// Records after the checkpoint.
    pub log_records_after: u64,
    /// Whether the log reaches the checkpoint's position.
    pub reaches_checkpoint: bool,
    /// Keys.
    pub keys: BTreeMap<Key, KeyFacts>,
    /// Dead events in the lake and in the state, by tenant.
    pub dead: BTreeMap<TenantId, u64>,
    /// Objects that cannot be read, belong elsewhere, are ahead of the checkpoint or missing from their index.
    pub objects: Vec<Finding>,
}

impl Facts {
    /// Records before the checkpoint that retention has removed from the log. It may remove what every checkpoint is beyond.
    pub fn removed_records(&self) -> u64 {
        self.ordinal.saturating_sub(self.log_records)
    }
}

/// Something that does not add up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The shard.
    pub shard: ShardId,
    /// What it is about: a key, a tenant, a path or the shard.
    pub subject: String,
    /// What is wrong, with the numbers.
    pub problem: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "shard {}, {}: {}", self.shard, self.subject, self.problem)
    }
}

/// The outcome.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VerifyReport {
    /// What was found, by shard.
    pub shards: Vec<(ShardId, Facts)>,
    /// What does not add up; empty when all is well.
    pub findings: Vec<Finding>,
}

impl VerifyReport {
    /// Whether everything adds up.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Why the proof could not be made.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A setting that cannot be.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// A backend could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state could not be restored.
    #[error("shard {shard}: {source}")]
    Restore {
        /// The shard.
        shard: ShardId,
        /// Why.
        source: RestoreError,
    },
}
