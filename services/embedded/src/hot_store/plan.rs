//! What a group of updates changes in the store: decided without writing anything.

use std::collections::{BTreeMap, HashSet};

use tidegauge_core::hot::{KeyUpdate, StoreError};
use tidegauge_core::ids::{Key, TenantId};
use tidegauge_core::time::HOUR_NS;

use super::keys;
use super::values::{self, Known};

/// Names remembered as written; at most 16 bytes each. Forgetting them costs a repeated write, nothing else.
const NAMES_REMEMBERED_MAX: usize = 1 << 18;

/// What is known of every key, sorted, so that a tenant's buckets stand together.
pub(super) type KnownKeys = BTreeMap<Key, Known>;

/// Reads stored windows: (item key, end of the window) in a range of item keys.
pub(super) trait StoredWindows {
    fn ends(&self, from: &[u8], to: &[u8]) -> Result<Vec<(Vec<u8>, i64)>, StoreError>;
}

/// Names already in the order of names.
#[derive(Debug, Default)]
pub(super) struct NameCache(HashSet<u128>);

impl NameCache {
    /// Whether the name has to be written; notes it.
    fn is_new(&mut self, tenant: &TenantId, metric: &str) -> bool {
        let mut hasher = twox_hash::XxHash3_128::new();
        hasher.write(tenant.as_str().as_bytes());
        hasher.write(&[0]);
        hasher.write(metric.as_bytes());
        if self.0.len() >= NAMES_REMEMBERED_MAX {
            self.0.clear();
        }
        self.0.insert(hasher.finish_128())
    }
}

/// The changes of one commit. Of several changes of an item the last one stays, because one commit of the store must
/// not write an item twice.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Item key → new value, or nothing to remove it.
    pub(super) changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// New state of the changed keys.
    pub(super) known: KnownKeys,
}

impl Plan {
    /// Adds an update. Returns false, and adds nothing, if its version is not above the one held.
    pub(super) fn add(
        &mut self,
        update: KeyUpdate,
        known: &KnownKeys,
        stored: &impl StoredWindows,
        names: &mut NameCache,
    ) -> Result<bool, StoreError> {
        let KeyUpdate { key, meta, replaces_windows, currents, windows } = update;
        let before = self.known.get(&key).or_else(|| known.get(&key));
        if before.is_some_and(|before| meta.version <= before.meta.version) {
            return Ok(false);
        }

        let complete = replaces_windows || before.is_some_and(|before| before.complete);
        if let Some(before) = before {
            let from = if replaces_windows { 0 } else { before.meta.boundary_ns.saturating_sub(HOUR_NS) };
            let passed = meta.boundary_ns > before.meta.boundary_ns;
            if replaces_windows {
                self.remove_windows(stored, &keys::windows_from(&key, from), &keys::windows_end(&key), i64::MAX)?;
            } else if passed {
                // Stored windows end after the old boundary, and none is longer than an hour.
                let end = keys::windows_from(&key, meta.boundary_ns);
                self.remove_windows(stored, &keys::windows_from(&key, from), &end, meta.boundary_ns)?;
            }
        }

        for current in currents {
            if names.is_new(&key.tenant, current.metric.as_str()) {
                self.changes.insert(keys::name(&key.tenant, current.metric.as_str()), Some(Vec::new()));
            }
            let at = keys::current(&key, current.metric.as_str());
            self.changes.insert(at, Some(values::encode_current(&current)));
        }
        for window in windows.iter().filter(|window| window.end_ns > meta.boundary_ns) {
            let at = keys::window(&key, window.start_ns, window.metric.as_str());
            self.changes.insert(at, Some(values::encode_window(window)));
        }
        let now = Known { meta, complete };
        self.changes.insert(keys::meta(&key), Some(values::encode_known(&now)));
        self.known.insert(key, now);
        Ok(true)
    }

    /// Removes windows in a range of item keys that end at or before `end_ns`, stored ones and ones of this plan.
    fn remove_windows(
        &mut self,
        stored: &impl StoredWindows,
        from: &[u8],
        to: &[u8],
        end_ns: i64,
    ) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        let mut gone = stored.ends(from, to)?;
        // What this plan says of an item counts more than what is stored of it.
        gone.retain(|(item, _)| !self.changes.contains_key(item));
        for (item, value) in self.changes.range(from.to_vec()..to.to_vec()) {
            if let Some(value) = value {
                gone.push((item.clone(), values::window_end_ns(value)?));
            }
        }
        for (item, end) in gone {
            if end <= end_ns {
                self.changes.insert(item, None);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tidegauge_core::hot::{HotVersion, KeyMeta, LiveWindow, WindowRow};
    use tidegauge_core::ids::MetricName;
    use tidegauge_core::time::MINUTE_NS;

    use super::*;

    const START: i64 = 1_772_434_800_000_000_000;

    /// Stored items of a test.
    #[derive(Default)]
    struct Store(BTreeMap<Vec<u8>, Vec<u8>>);

    impl StoredWindows for Store {
        fn ends(&self, from: &[u8], to: &[u8]) -> Result<Vec<(Vec<u8>, i64)>, StoreError> {
            let range = self.0.range(from.to_vec()..to.to_vec());
            range.map(|(k, v)| Ok((k.clone(), values::window_end_ns(v)?))).collect()
        }
    }

    fn update(ordinal: u64, boundary: i64, replaces_windows: bool, minutes: &[i64]) -> KeyUpdate {
        let window = |minute: &i64| LiveWindow {
            start_ns: START + minute * MINUTE_NS,
            end_ns: START + (minute + 1) * MINUTE_NS,
            metric: MetricName::parse("m").expect("valid"),
            row: WindowRow { count: ordinal, sum: 0.0, min: 0.0, max: 0.0, last: 0.0, last_time_ns: 0, late: 0 },
        };
        KeyUpdate {
            key: Key::parse("t").expect("valid"),
            meta: KeyMeta {
                version: HotVersion { generation: 1, ordinal, push: 0 },
                boundary_ns: START + boundary * MINUTE_NS,
                ..KeyMeta::default()
            },
            replaces_windows,
            currents: Vec::new(),
            windows: minutes.iter().map(window).collect(),
        }
    }

    /// Minutes of the windows that are there after the groups of updates, each group committed as one plan.
    fn minutes_after(groups: Vec<Vec<KeyUpdate>>) -> (Vec<i64>, bool) {
        let (mut store, mut known, mut names) = (Store::default(), KnownKeys::new(), NameCache::default());
        for group in groups {
            let mut plan = Plan::default();
            for update in group {
                plan.add(update, &known, &store, &mut names).expect("plans");
            }
            known.append(&mut plan.known);
            for (item, value) in plan.changes {
                match value {
                    Some(value) => store.0.insert(item, value),
                    None => store.0.remove(&item),
                };
            }
        }
        let windows = store.0.iter().filter(|(item, _)| item.starts_with(b"W"));
        let minutes = windows.map(|(_, value)| values::decode_window(value).expect("reads").start_ns - START);
        let complete = known.values().all(|known| known.complete);
        (minutes.map(|ns| ns / MINUTE_NS).collect(), complete)
    }

    /// Whether updates are committed one by one or together, the same windows are there afterwards.
    #[test]
    fn grouping_changes_nothing() {
        let updates = || {
            vec![
                update(1, 0, true, &[0, 1, 2, 3]),
                update(2, 2, false, &[1, 2, 4]),
                update(2, 9, false, &[7]), // repeated version: ignored
                update(3, 2, true, &[3, 5]),
                update(4, 4, false, &[3, 6]),
            ]
        };
        let expected = (vec![5, 6], true);
        assert_eq!(minutes_after(vec![updates()]), expected);
        assert_eq!(minutes_after(updates().into_iter().map(|u| vec![u]).collect()), expected);
        for split in 1..5 {
            let mut first = updates();
            let second = first.split_off(split);
            assert_eq!(minutes_after(vec![first, second]), expected, "split at {split}");
        }
    }

    /// A key that began with a delta is not complete until a snapshot has come.
    #[test]
    fn only_a_snapshot_makes_a_key_complete() {
        assert_eq!(minutes_after(vec![vec![update(1, 0, false, &[1])]]), (vec![1], false));
        let groups = vec![vec![update(1, 0, false, &[1])], vec![update(2, 0, true, &[1, 2])]];
        assert_eq!(minutes_after(groups), (vec![1, 2], true));
    }
}
