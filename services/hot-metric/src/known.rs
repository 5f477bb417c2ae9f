//! What the store holds, in memory: the meta of every key (freshness of every answer) and which shards it holds whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use tidegauge_core::hot::KeyMeta;
use tidegauge_core::ids::{Key, ShardId, TenantId};
use tidegauge_proto::convert::hot::freshness;
use tidegauge_proto::freshness::v1::Freshness;
use tokio::sync::watch;

/// Keys and shards. Changed by update streams after their commits.
#[derive(Debug)]
pub(crate) struct Known {
    keys: RwLock<BTreeMap<Key, KeyMeta>>,
    held: watch::Sender<Held>,
}

/// The shards of which every key is held.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Held {
    /// Number of shards of the log, if known.
    shards: Option<u32>,
    held: BTreeSet<u32>,
}

impl Held {
    /// From the store's notes: those of one number of shards, the store keeps no others.
    fn new(notes: Vec<(ShardId, u32)>) -> Self {
        let mut held = Self::default();
        for (shard, shards) in notes {
            held.hold(shard, shards);
        }
        held
    }

    /// Notes a shard; notes by another number of shards are void.
    fn hold(&mut self, shard: ShardId, shards: u32) {
        self.count_by(shards);
        self.held.insert(shard.0);
    }

    fn count_by(&mut self, shards: u32) {
        if self.shards != Some(shards) {
            *self = Self { shards: Some(shards), held: BTreeSet::new() };
        }
    }

    fn is_held(&self, shard: ShardId) -> bool {
        self.held.contains(&shard.0)
    }

    /// Whether every key that exists is held.
    fn is_whole(&self) -> bool {
        self.shards.is_some_and(|shards| self.held.len() == shards as usize)
    }
}

impl Known {
    pub(crate) fn new(keys: Vec<(Key, KeyMeta)>, notes: Vec<(ShardId, u32)>) -> Self {
        let (held, _) = watch::channel(Held::new(notes));
        Self { keys: RwLock::new(keys.into_iter().collect()), held }
    }

    fn keys(&self) -> RwLockReadGuard<'_, BTreeMap<Key, KeyMeta>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what became durable.
    pub(crate) fn update(&self, changed: Vec<(Key, KeyMeta)>) {
        self.keys.write().unwrap_or_else(PoisonError::into_inner).extend(changed);
    }

    /// Freshness of a tenant. Taken before its values are read, it promises no more than they hold.
    pub(crate) fn freshness(&self, tenant: &TenantId) -> Freshness {
        freshness(self.keys().range(keys_of(tenant)))
    }

    /// Whether several keys hold the tenant's series.
    pub(crate) fn has_buckets(&self, tenant: &TenantId) -> bool {
        self.keys().range(keys_of(tenant)).nth(1).is_some()
    }

    /// Every tenant, sorted.
    pub(crate) fn tenants(&self) -> Vec<TenantId> {
        let mut tenants: Vec<TenantId> = self.keys().keys().map(|key| key.tenant.clone()).collect();
        tenants.dedup();
        tenants
    }

    /// What is held of a shard's keys.
    pub(crate) fn of_shard(&self, shard: ShardId, shards: u32) -> Vec<(Key, KeyMeta)> {
        let keys = self.keys();
        let of_shard = keys.iter().filter(|(key, _)| key.shard(shards) == shard);
        of_shard.map(|(key, meta)| (key.clone(), meta.clone())).collect()
    }

    /// The number of shards that a hello told: by another one, nothing is held.
    pub(crate) fn count_by(&self, shards: u32) {
        self.held.send_if_modified(|held| {
            let before = held.clone();
            held.count_by(shards);
            *held != before
        });
    }

    pub(crate) fn hold(&self, shard: ShardId, shards: u32) {
        self.held.send_modify(|held| held.hold(shard, shards));
    }

    pub(crate) fn is_held(&self, shard: ShardId) -> bool {
        self.held.borrow().is_held(shard)
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.held.borrow().is_whole()
    }

    /// Waits until everything is held, at most so long; tells whether it is.
    pub(crate) async fn wait_whole(&self, at_most: Duration) -> bool {
        let mut held = self.held.subscribe();
        let whole = held.wait_for(Held::is_whole);
        matches!(tokio::time::timeout(at_most, whole).await, Ok(Ok(_)))
    }
}

fn keys_of(tenant: &TenantId) -> std::ops::RangeInclusive<Key> {
    let key = |bucket| Key { tenant: tenant.clone(), bucket };
    key(0)..=key(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only with a note of every shard, all by one count, a missing key is known not to exist.
    #[test]
    fn whole_needs_every_shard_by_one_count() {
        let mut held = Held::default();
        assert!(!held.is_whole(), "nothing is known of the shards");
        held.count_by(2);
        held.hold(ShardId(1), 2);
        assert!(!held.is_whole());
        held.hold(ShardId(0), 2);
        assert!(held.is_whole());
        held.count_by(2);
        assert!(held.is_whole(), "the same count changes nothing");
        held.count_by(4);
        assert!(!held.is_whole(), "keys lie otherwise now");
        assert!(Held::new(vec![(ShardId(0), 1)]).is_whole(), "notes survive a restart");
    }

    #[test]
    fn a_tenants_keys_are_its_own() {
        let key = |text| Key::parse(text).expect("valid");
        let meta = |boundary_ns| KeyMeta { boundary_ns, ..KeyMeta::default() };
        let keys = vec![(key("a"), meta(5)), (key("a#2"), meta(3)), (key("ab"), meta(1))];
        let known = Known::new(keys, Vec::new());
        let freshness = known.freshness(&key("a").tenant);
        assert_eq!(freshness.keys.len(), 2);
        assert_eq!(freshness.complete_through.map(|time| time.nanos), Some(3));
        assert!(known.has_buckets(&key("a").tenant) && !known.has_buckets(&key("ab").tenant));
        assert_eq!(known.tenants(), [key("a").tenant, key("ab").tenant]);
        assert_eq!(known.freshness(&key("b").tenant), Freshness::default());
    }
}
