//! What is durable in the write-ahead files but not in the database yet, in memory.
//!
//! The *active* layer takes the updates. When it is full it becomes the *folding* one, which no longer changes and is
//! written to the database as a whole. A read looks into the active layer, then the folding one, then the database.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tidegauge_core::hot::{CurrentValue, KeyUpdate, LiveWindow};
use tidegauge_core::ids::{Key, MetricName, ShardId, TenantId};

use super::values::Known;

/// What is known of every key, sorted, so that a tenant's buckets stand together.
pub(super) type KnownKeys = BTreeMap<Key, Known>;
/// Windows by start and metric.
pub(super) type Windows = HashMap<(i64, MetricName), LiveWindow>;

/// The changes of a key in one layer.
#[derive(Clone, Debug)]
pub(super) struct LayerKey {
    /// State of the key after these changes.
    pub(super) known: Known,
    /// Whether all windows below this layer are void.
    pub(super) replaces_windows: bool,
    pub(super) currents: HashMap<MetricName, CurrentValue>,
    pub(super) windows: Windows,
}

/// Changes of many keys.
#[derive(Debug, Default)]
pub(super) struct Layer {
    pub(super) keys: BTreeMap<Key, LayerKey>,
    /// Values and windows in all keys.
    pub(super) rows: usize,
    /// The shard notes, if they changed.
    pub(super) held: Option<Vec<(ShardId, u32)>>,
}

/// All that is not in the database, and what is known of it.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) known: KnownKeys,
    pub(super) held: Vec<(ShardId, u32)>,
    pub(super) active: Layer,
    pub(super) folding: Option<Arc<Layer>>,
}

/// Shared between the committer, which alone adds, the fold, and readers.
#[derive(Debug, Default)]
pub(super) struct Shared(RwLock<State>);

impl Shared {
    pub(super) fn new(state: State) -> Self {
        Self(RwLock::new(state))
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The keys of a tenant: one, unless it has buckets.
    pub(super) fn keys_of(&self, tenant: &TenantId) -> Vec<Key> {
        let key = |bucket| Key { tenant: tenant.clone(), bucket };
        self.known.range(key(0)..=key(u32::MAX)).map(|(key, _)| key.clone()).collect()
    }

    /// Whether an update is above what is held.
    pub(super) fn is_newer(&self, update: &KeyUpdate) -> bool {
        self.known.get(&update.key).is_none_or(|known| update.meta.version > known.meta.version)
    }

    /// Takes in an update that is newer.
    pub(super) fn apply(&mut self, update: KeyUpdate) {
        let before = self.known.get(&update.key).is_some_and(|known| known.complete);
        let known = Known { meta: update.meta.clone(), complete: update.replaces_windows || before };
        self.known.insert(update.key.clone(), known.clone());
        self.active.apply(update, known);
    }

    /// Notes a shard; notes by another number of shards are void.
    pub(super) fn hold(&mut self, shard: ShardId, shards: u32) {
        self.held.retain(|&(other, counted)| counted == shards && other != shard);
        self.held.push((shard, shards));
        self.held.sort();
        self.active.held = Some(self.held.clone());
    }
}

impl Layer {
    fn apply(&mut self, update: KeyUpdate, known: Known) {
        let KeyUpdate { key, meta, replaces_windows, currents, windows } = update;
        let held = self.keys.entry(key).or_insert_with(|| LayerKey {
            known: known.clone(),
            replaces_windows: false,
            currents: HashMap::new(),
            windows: HashMap::new(),
        });
        self.rows -= held.rows();
        if replaces_windows {
            held.replaces_windows = true;
            held.windows.clear();
        } else if meta.boundary_ns > held.known.meta.boundary_ns {
            held.windows.retain(|_, window| window.end_ns > meta.boundary_ns);
        }
        held.known = known;
        held.currents.extend(currents.into_iter().map(|value| (value.metric.clone(), value)));
        let open = windows.into_iter().filter(|window| window.end_ns > meta.boundary_ns);
        held.windows.extend(open.map(|window| ((window.start_ns, window.metric.clone()), window)));
        self.rows += held.rows();
    }
}

impl LayerKey {
    fn rows(&self) -> usize {
        self.currents.len() + self.windows.len()
    }

    /// Puts this layer's windows over those below it.
    pub(super) fn cover(&self, below: &mut Windows) {
        if self.replaces_windows {
            below.clear();
        }
        below.extend(self.windows.iter().map(|(place, window)| (place.clone(), window.clone())));
    }
}
