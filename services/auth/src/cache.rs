//! A bounded memory of recent decisions.

use std::collections::HashMap;
use std::hash::Hash;

/// Remembers between `capacity` and twice as many of the entries used last.
///
/// Two maps: new and used entries stand in `young`; when it is full it becomes `old`, and the former `old` is
/// forgotten. Every operation costs one or two look-ups, and no entry outlives two rounds without being used.
#[derive(Debug)]
pub struct Recent<K, V> {
    capacity: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Hash + Eq + Clone, V: Clone> Recent<K, V> {
    /// An empty memory.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), young: HashMap::new(), old: HashMap::new() }
    }

    /// The entry of a key; an old one becomes young.
    pub fn get(&mut self, key: &K) -> Option<V> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let value = self.old.remove(key)?;
        self.insert(key.clone(), value.clone());
        Some(value)
    }

    /// Sets the entry of a key.
    pub fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.capacity && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    /// Entries held.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that the memory is bounded and keeps what is used.
    #[test]
    fn stays_bounded_and_keeps_used_entries() {
        let mut recent = Recent::new(10);
        recent.insert(u32::MAX, 1);
        for key in 0..10_000_u32 {
            recent.insert(key, key);
            assert_eq!(recent.get(&u32::MAX), Some(1), "an entry in use was forgotten");
            assert!(recent.len() <= 20);
        }
        assert_eq!(recent.get(&0), None);
    }
}
