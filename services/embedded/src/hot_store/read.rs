//! Reads: the layers over one snapshot of the database.

use std::collections::BTreeSet;
use std::sync::Arc;

use fjall::{Database, Keyspace, Readable as _, Snapshot};
use tidegauge_core::hot::{CurrentValue, LiveSnapshot, StoreError};
use tidegauge_core::ids::{Key, MetricName, TenantId};

use super::layers::{Layer, LayerKey, Shared, State, Windows};
use super::{keys, storage_error, unreadable_key, values};

/// Items that a walk may pass over at first, and more for each one that was asked for: finding an item by itself costs
/// five times what passing one over does.
const PASSED_OVER_FIRST: usize = 64;
const PASSED_OVER_EACH: usize = 4;

/// Reads the store.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) db: Database,
    pub(super) items: Keyspace,
    pub(super) shared: Arc<Shared>,
}

/// What is below the active layer, at one moment.
struct Below {
    snapshot: Snapshot,
    folding: Option<Arc<Layer>>,
}

impl Below {
    fn folding(&self, key: &Key) -> Option<&LayerKey> {
        self.folding.as_ref()?.keys.get(key)
    }
}

impl Reader {
    /// Takes what is below while the state is held: a fold that ends meanwhile is then in the snapshot, in the layer,
    /// or in both, but never in neither.
    fn below(&self, state: &State) -> Below {
        Below { snapshot: self.db.snapshot(), folding: state.folding.clone() }
    }

    /// Current values of the named metrics, in their order. Where the tenant's number of buckets has changed, several
    /// keys hold a part of a series.
    pub(super) fn currents(
        &self,
        tenant: &TenantId,
        metrics: &[MetricName],
    ) -> Result<Vec<Option<CurrentValue>>, StoreError> {
        let (tops, below) = {
            let state = self.shared.read();
            let top = |key: Key| {
                let active = state.active.keys.get(&key);
                let value = |metric| active.and_then(|active| active.currents.get(metric)).cloned();
                let values: Vec<Option<CurrentValue>> = metrics.iter().map(value).collect();
                (key, values)
            };
            let tops: Vec<_> = state.keys_of(tenant).into_iter().map(top).collect();
            (tops, self.below(&state))
        };
        let mut found: Vec<Option<CurrentValue>> = vec![None; metrics.len()];
        for (key, mut parts) in tops {
            self.fill_below(&below, &key, metrics, &mut parts)?;
            for (found, part) in found.iter_mut().zip(parts) {
                *found = match (found.take(), part) {
                    (Some(a), Some(b)) => Some(merge_parts(a, b)),
                    (a, b) => a.or(b),
                };
            }
        }
        Ok(found)
    }

    /// Puts a key's values from below the active layer where there are none yet.
    fn fill_below(
        &self,
        below: &Below,
        key: &Key,
        metrics: &[MetricName],
        parts: &mut [Option<CurrentValue>],
    ) -> Result<(), StoreError> {
        let folding = below.folding(key);
        let mut wanted = Vec::new();
        for (at, (metric, part)) in metrics.iter().zip(parts.iter_mut()).enumerate() {
            if part.is_none() {
                *part = folding.and_then(|folding| folding.currents.get(metric)).cloned();
            }
            if part.is_none() {
                wanted.push((keys::current(key, metric.as_str()), at));
            }
        }
        wanted.sort();
        let mut keep = |at: usize, value: &[u8]| {
            let value = values::decode_current(value)?;
            // Another name with the same hash is not this one.
            parts[at] = (value.metric == metrics[at]).then_some(value);
            Ok::<_, StoreError>(())
        };
        // A page of a list stands side by side: one walk finds all of it. Scattered names are found one by one.
        let mut rest = wanted.as_slice();
        let (Some((first, _)), Some((last, _))) = (rest.first(), rest.last()) else { return Ok(()) };
        let mut may_pass = PASSED_OVER_FIRST;
        for entry in below.snapshot.range(&self.items, first.as_slice()..=last.as_slice()) {
            let (item, value) = entry.into_inner().map_err(storage_error)?;
            // Those before it are not there.
            while rest.first().is_some_and(|(wanted, _)| wanted.as_slice() < &*item) {
                rest = &rest[1..];
            }
            let mut asked_for = false;
            // A name may be asked for twice.
            while rest.first().is_some_and(|(wanted, _)| wanted.as_slice() == &*item) {
                keep(rest[0].1, &value)?;
                rest = &rest[1..];
                asked_for = true;
            }
            may_pass = if asked_for { may_pass + PASSED_OVER_EACH } else { may_pass - 1 };
            if may_pass == 0 || rest.is_empty() {
                break;
            }
        }
        for (item, at) in rest {
            if let Some(value) = below.snapshot.get(&self.items, item).map_err(storage_error)? {
                keep(*at, &value)?;
            }
        }
        Ok(())
    }

    /// Current values of the first `limit` metrics after `after`, sorted by name.
    pub(super) fn list(
        &self,
        tenant: &TenantId,
        after: Option<&MetricName>,
        limit: usize,
    ) -> Result<Vec<CurrentValue>, StoreError> {
        let mut names = BTreeSet::new();
        let below = {
            let state = self.shared.read();
            for key in state.keys_of(tenant) {
                first_names(&mut names, state.active.keys.get(&key), after, limit);
            }
            self.below(&state)
        };
        if let Some(folding) = &below.folding {
            for (_, layer) in folding.keys.iter().filter(|(key, _)| key.tenant == *tenant) {
                first_names(&mut names, Some(layer), after, limit);
            }
        }
        let range = keys::names_after(tenant, after.map(MetricName::as_str))..keys::names_end(tenant);
        for entry in below.snapshot.range(&self.items, range).take(limit) {
            let item = entry.key().map_err(storage_error)?;
            let metric = keys::parse_name(&item).and_then(|name| MetricName::parse(name).ok());
            names.insert(metric.ok_or_else(|| unreadable_key(&item))?);
        }
        let names: Vec<MetricName> = names.into_iter().take(limit).collect();
        Ok(self.currents(tenant, &names)?.into_iter().flatten().collect())
    }

    /// The live state of every key of the tenant.
    pub(super) fn live(&self, tenant: &TenantId) -> Result<Vec<(Key, LiveSnapshot)>, StoreError> {
        let (tops, below) = {
            let state = self.shared.read();
            let top = |key: Key| {
                let known = state.known.get(&key)?.clone();
                let active = state.active.keys.get(&key).cloned();
                Some((key, known, active))
            };
            let tops: Vec<_> = state.keys_of(tenant).into_iter().filter_map(top).collect();
            (tops, self.below(&state))
        };
        let mut live = Vec::with_capacity(tops.len());
        for (key, known, active) in tops {
            let mut windows = Windows::new();
            let layers = [below.folding(&key), active.as_ref()];
            if !layers.iter().flatten().any(|layer| layer.replaces_windows) {
                let range = keys::windows_from(&key, 0)..keys::windows_end(&key);
                for entry in below.snapshot.range(&self.items, range) {
                    let window = values::decode_window(&entry.value().map_err(storage_error)?)?;
                    windows.insert((window.start_ns, window.metric.clone()), window);
                }
            }
            for layer in layers.into_iter().flatten() {
                layer.cover(&mut windows);
            }
            let boundary_ns = known.meta.boundary_ns;
            let windows = windows.into_values().filter(|window| window.end_ns > boundary_ns).collect();
            live.push((key, LiveSnapshot { meta: known.meta, windows, complete: known.complete }));
        }
        Ok(live)
    }
}

/// Adds the first names of a layer after `after`; keeps no more than the first `limit` of all.
fn first_names(names: &mut BTreeSet<MetricName>, layer: Option<&LayerKey>, after: Option<&MetricName>, limit: usize) {
    for name in layer.iter().flat_map(|layer| layer.currents.keys()) {
        let before_last = names.len() < limit || names.last().is_some_and(|last| name < last);
        if before_last && after.is_none_or(|after| name > after) {
            names.insert(name.clone());
            if names.len() > limit {
                names.pop_last();
            }
        }
    }
}

/// Joins two keys' parts of a series: counts add up, the later value stays.
fn merge_parts(a: CurrentValue, b: CurrentValue) -> CurrentValue {
    let event_count = a.event_count + b.event_count;
    let updated_at_ns = a.updated_at_ns.max(b.updated_at_ns);
    let later = if b.last_time_ns >= a.last_time_ns { b } else { a };
    CurrentValue { event_count, updated_at_ns, ..later }
}
