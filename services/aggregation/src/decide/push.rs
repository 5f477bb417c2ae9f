//! What hot-metric is told: absolute values of what changed, coalesced per item.

use std::collections::HashMap;

use tidegauge_core::hot::{CurrentValue, HotVersion, KeyMeta, KeyUpdate, LiveWindow};
use tidegauge_core::{Key, Ordinal};

use super::key::KeyState;
use super::rows::{HOT, Part};
use super::shard::Shard;

/// What hot-metric holds of a key when it is met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HotKnown {
    /// Ordinal up to which it has the current values.
    pub ordinal: Ordinal,
    /// The boundary that readers see, Unix nanoseconds.
    pub boundary_ns: i64,
}

impl Shard {
    /// Sets the lease generation, under which pushes are numbered.
    pub fn set_generation(&mut self, generation: u64) {
        self.generation = generation;
        self.push = 0;
    }

    /// Begins anew with a hot-metric that holds the given versions: every key will be sent whole.
    pub fn restart_hot(&mut self, known: &HashMap<Key, HotKnown>) {
        for index in 0..self.keys.len() {
            let key = &mut self.keys[index];
            key.hot_snapshot = true;
            key.hot_known = known.get(&key.key).copied();
            self.queue_hot(index);
        }
    }

    /// Nobody hears until [`Shard::restart_hot`]: what changes need not be noted, for every key will be sent whole.
    pub fn pause_hot(&mut self) {
        for key in &mut self.keys {
            key.hot_snapshot = true;
            key.hot_rows = Vec::new();
        }
    }

    /// Number of entries that the queue for hot-metric has ever had, and of those taken from it.
    pub fn hot_progress(&self) -> (u64, u64) {
        (self.hot_queued, self.hot_taken)
    }

    /// Whether there is something to tell.
    pub fn has_updates(&self) -> bool {
        !self.hot_queue.is_empty()
    }

    /// Takes changes from the queue, about `items` values and windows (a key is never split).
    pub fn collect_updates(&mut self, items: usize) -> Vec<KeyUpdate> {
        self.push += 1;
        let version = HotVersion { generation: self.generation, ordinal: self.ordinal, push: self.push };
        let window_ns = self.settings.window.ns();
        let mut updates = Vec::new();
        let mut taken = 0;
        while taken < items {
            let Some(index) = self.hot_queue.pop_front() else { break };
            self.hot_taken += 1;
            let key = &mut self.keys[index as usize];
            key.hot_queued = false;
            let update =
                if key.hot_snapshot { snapshot(key, version, window_ns) } else { changes(key, version, window_ns) };
            taken += 1 + update.currents.len() + update.windows.len();
            updates.push(update);
        }
        updates
    }
}

fn meta(key: &KeyState, version: HotVersion) -> KeyMeta {
    KeyMeta {
        version,
        boundary_ns: key.boundary,
        watermark_ns: key.shown_watermark(),
        counted: key.counters.counted(),
        pending: key.pending(),
        index_version: key.index_version,
        index_open: key.index_open,
    }
}

fn snapshot(key: &mut KeyState, version: HotVersion, window_ns: i64) -> KeyUpdate {
    key.hot_snapshot = false;
    key.hot_rows.clear();
    key.series.hot.clear();
    let mut currents = Vec::new();
    for series in &mut key.series.all {
        series.flags &= !HOT;
        if series.count > 0 && key.hot_known.is_none_or(|known| series.ordinal > known.ordinal) {
            currents.push(current(series));
        }
    }
    let mut slots = Vec::new();
    for part in [Part::Frozen, Part::Live] {
        for window in key.rows.table(part).windows.values() {
            slots.extend(window.slots.values().copied());
        }
    }
    let windows = slots.iter().filter_map(|slot| window(key, *slot, window_ns)).collect();
    KeyUpdate { key: key.key.clone(), meta: meta(key, version), replaces_windows: true, currents, windows }
}

fn changes(key: &mut KeyState, version: HotVersion, window_ns: i64) -> KeyUpdate {
    let changed = std::mem::take(&mut key.series.hot);
    let mut currents = Vec::with_capacity(changed.len());
    for id in changed {
        let series = &mut key.series.all[id as usize];
        series.flags &= !HOT;
        currents.push(current(series));
    }
    let slots = std::mem::take(&mut key.hot_rows);
    // A slot may have been freed, or freed and used again, since it was noted: its flag tells.
    let windows = slots
        .iter()
        .filter(|slot| key.rows.get(**slot).is_some_and(|row| row.flags & HOT != 0))
        .copied()
        .collect::<Vec<_>>();
    let windows = windows.iter().filter_map(|slot| window(key, *slot, window_ns)).collect();
    KeyUpdate { key: key.key.clone(), meta: meta(key, version), replaces_windows: false, currents, windows }
}

fn current(series: &super::series::Series) -> CurrentValue {
    CurrentValue {
        metric: series.name.clone(),
        last_value: series.last,
        last_time_ns: series.last_time,
        updated_at_ns: series.updated_at,
        event_count: series.count,
    }
}

fn window(key: &mut KeyState, slot: u32, window_ns: i64) -> Option<LiveWindow> {
    let row = key.rows.row_mut(slot);
    row.flags &= !HOT;
    let (start_ns, metric, data) = (row.start, row.metric, row.data.clone());
    (data.count > 0).then(|| LiveWindow {
        start_ns,
        end_ns: start_ns + window_ns,
        metric: key.series.name(metric).clone(),
        row: data,
    })
}
