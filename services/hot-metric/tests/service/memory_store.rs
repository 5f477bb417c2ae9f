//! A hot store in memory whose commits a test can hold up. It passes the conformance suite like every other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tidegauge_core::conformance::hot::{self, Backend};
use tidegauge_core::hot::{CurrentValue, HotStore, KeyMeta, KeyUpdate, LiveSnapshot, LiveWindow, StoreError};
use tidegauge_core::ids::{Key, MetricName, ShardId};
use tidegauge_core::scope::{ScopedTenant, SystemAuthority};
use tokio::sync::{Semaphore, watch};

#[derive(Clone, Debug, Default)]
struct KeyState {
    meta: KeyMeta,
    complete: bool,
    currents: BTreeMap<MetricName, CurrentValue>,
    windows: BTreeMap<(i64, MetricName), LiveWindow>,
}

#[derive(Debug)]
pub(crate) struct MemoryStore {
    keys: Mutex<BTreeMap<Key, KeyState>>,
    held: Mutex<Vec<(ShardId, u32)>>,
    /// A commit takes a permit and gives it back.
    pub(crate) gate: Semaphore,
    /// Commits that have come to the gate.
    pub(crate) begun: watch::Sender<usize>,
    pub(crate) commits: AtomicUsize,
}

impl MemoryStore {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            keys: Mutex::default(),
            held: Mutex::default(),
            gate: Semaphore::new(1),
            begun: watch::Sender::new(0),
            commits: AtomicUsize::new(0),
        })
    }

    fn of<T>(&self, tenant: &ScopedTenant, read: impl FnOnce(Vec<(&Key, &KeyState)>) -> T) -> T {
        let keys = self.keys.lock().expect("lock");
        read(keys.iter().filter(|(key, _)| key.tenant == *tenant.id()).collect())
    }
}

/// A series of several keys is their sum; the later value stays.
fn merged(keys: &[(&Key, &KeyState)], metric: &MetricName) -> Option<CurrentValue> {
    let parts = keys.iter().filter_map(|(_, state)| state.currents.get(metric)).cloned();
    parts.reduce(|a, b| {
        let event_count = a.event_count + b.event_count;
        CurrentValue { event_count, ..if b.last_time_ns >= a.last_time_ns { b } else { a } }
    })
}

#[async_trait]
impl HotStore for MemoryStore {
    async fn apply(&self, _: &SystemAuthority, updates: Vec<KeyUpdate>) -> Result<Vec<bool>, StoreError> {
        self.begun.send_modify(|begun| *begun += 1);
        let _open = self.gate.acquire().await.expect("never closed");
        self.commits.fetch_add(1, Ordering::SeqCst);
        let mut keys = self.keys.lock().expect("lock");
        let apply = |update: KeyUpdate| {
            let known = keys.contains_key(&update.key);
            let state = keys.entry(update.key).or_default();
            if known && update.meta.version <= state.meta.version {
                return false;
            }
            state.meta = update.meta;
            if update.replaces_windows {
                state.windows.clear();
                state.complete = true;
            }
            state.currents.extend(update.currents.into_iter().map(|value| (value.metric.clone(), value)));
            let windows = update.windows.into_iter().map(|window| ((window.start_ns, window.metric.clone()), window));
            state.windows.extend(windows);
            let boundary = state.meta.boundary_ns;
            state.windows.retain(|_, window| window.end_ns > boundary);
            true
        };
        Ok(updates.into_iter().map(apply).collect())
    }

    async fn keys(&self, _: &SystemAuthority) -> Result<Vec<(Key, KeyMeta)>, StoreError> {
        let keys = self.keys.lock().expect("lock");
        Ok(keys.iter().map(|(key, state)| (key.clone(), state.meta.clone())).collect())
    }

    async fn currents(
        &self,
        tenant: &ScopedTenant,
        metrics: &[MetricName],
    ) -> Result<Vec<Option<CurrentValue>>, StoreError> {
        Ok(self.of(tenant, |keys| metrics.iter().map(|metric| merged(&keys, metric)).collect()))
    }

    async fn list(
        &self,
        tenant: &ScopedTenant,
        after: Option<&MetricName>,
        limit: usize,
    ) -> Result<Vec<CurrentValue>, StoreError> {
        Ok(self.of(tenant, |keys| {
            let mut names: Vec<&MetricName> = keys.iter().flat_map(|(_, state)| state.currents.keys()).collect();
            names.sort();
            names.dedup();
            let later = names.into_iter().filter(|name| after.is_none_or(|after| *name > after));
            later.take(limit).filter_map(|name| merged(&keys, name)).collect()
        }))
    }

    async fn live(&self, tenant: &ScopedTenant) -> Result<Vec<(Key, LiveSnapshot)>, StoreError> {
        Ok(self.of(tenant, |keys| {
            let snapshot = |state: &KeyState| LiveSnapshot {
                meta: state.meta.clone(),
                windows: state.windows.values().cloned().collect(),
                complete: state.complete,
            };
            keys.into_iter().map(|(key, state)| (key.clone(), snapshot(state))).collect()
        }))
    }

    async fn hold_shard(&self, _: &SystemAuthority, shard: ShardId, shards: u32) -> Result<(), StoreError> {
        let mut held = self.held.lock().expect("lock");
        held.retain(|(other, counted)| *counted == shards && *other != shard);
        held.push((shard, shards));
        held.sort();
        Ok(())
    }

    async fn held_shards(&self, _: &SystemAuthority) -> Result<Vec<(ShardId, u32)>, StoreError> {
        Ok(self.held.lock().expect("lock").clone())
    }
}

struct InMemory;

#[async_trait]
impl Backend for InMemory {
    async fn empty(&self) -> Arc<dyn HotStore> {
        MemoryStore::new()
    }

    async fn reopen(&self, store: Arc<dyn HotStore>) -> Arc<dyn HotStore> {
        store
    }
}

#[tokio::test]
async fn the_store_of_these_tests_is_one() {
    hot::all(&InMemory).await;
}
