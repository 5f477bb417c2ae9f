//! A cache bounded in bytes; what was not used for longest leaves first.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Maps keys to values with a size; the sizes together stay within the limit.
#[derive(Debug)]
pub(crate) struct ByteCache<K, V> {
    limit: usize,
    state: Mutex<State<K, V>>,
}

#[derive(Debug)]
struct State<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// Keys by last use; ticks are unique.
    used: BTreeMap<u64, K>,
    tick: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    bytes: usize,
    tick: u64,
}

impl<K: Hash + Eq + Clone, V: Clone> ByteCache<K, V> {
    pub(crate) fn new(limit: usize) -> Self {
        let state = State { entries: HashMap::new(), used: BTreeMap::new(), tick: 0, bytes: 0 };
        Self { limit, state: Mutex::new(state) }
    }

    pub(crate) fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let mut state = self.lock();
        let State { entries, used, tick, .. } = &mut *state;
        let entry = entries.get_mut(key)?;
        *tick += 1;
        if let Some(key) = used.remove(&entry.tick) {
            used.insert(*tick, key);
        }
        entry.tick = *tick;
        Some(entry.value.clone())
    }

    /// Enters a value in place of an older one; a value larger than an eighth of the cache is not kept, it would push
    /// out everything else.
    pub(crate) fn insert(&self, key: K, value: V, bytes: usize) {
        if bytes > self.limit / 8 {
            return;
        }
        let mut state = self.lock();
        state.remove(&key);
        while state.bytes + bytes > self.limit {
            let Some((_, oldest)) = state.used.pop_first() else { break };
            state.remove(&oldest);
        }
        state.tick += 1;
        let tick = state.tick;
        state.bytes += bytes;
        state.used.insert(tick, key.clone());
        state.entries.insert(key, Entry { value, bytes, tick });
    }

    pub(crate) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, State<K, V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq, V> State<K, V> {
    fn remove(&mut self, key: &K) {
        if let Some(entry) = self.entries.remove(key) {
            self.used.remove(&entry.tick);
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that the bytes stay within the limit, that use keeps an entry, and that a giant is not taken in.
    #[test]
    fn the_cache_stays_within_its_bytes() {
        let cache = ByteCache::new(100);
        for n in 0..20 {
            cache.insert(n, n, 10);
            assert!(cache.get(&0).is_some(), "used all the time");
            assert!(cache.bytes() <= 100);
        }
        assert_eq!((cache.get(&1), cache.get(&19)), (None, Some(19)));
        cache.insert(7, 70, 12);
        cache.insert(7, 71, 8);
        assert_eq!((cache.get(&7), cache.bytes()), (Some(71), 98 - 10));
        cache.insert(99, 99, 50);
        assert_eq!(cache.get(&99), None);
    }
}
