//! Which objects a key has: the hour index, cached by the counter that its writer raises.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::logical_expr::Expr;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tidegauge_core::ScopedTenant;
use tidegauge_core::hot::KeyMeta;
use tidegauge_core::lake::LakeStore;
use tidegauge_core::time::Day;
use tidegauge_lake::index::{self, IndexEntry, IndexError};

use crate::cache::ByteCache;
use crate::decide::prune::{self, Facts};
use crate::decide::seam::{Part, part_of};
use crate::error::Abort;
use crate::snapshot::KeyState;

/// Bytes of index entries that are kept.
const CACHE_BYTES: usize = 16 << 20;
/// Index objects read at once.
const READS: usize = 8;

/// State of a key's index: a cached copy is good for exactly this. The generation stands in it because a worker that
/// takes over may count anew from its checkpoint.
type IndexState = (String, u64, u64);

/// The hour index of all keys, cached.
#[derive(Debug)]
pub(crate) struct HourIndex {
    store: Arc<dyn LakeStore>,
    days: ByteCache<IndexState, Arc<[Day]>>,
    entries: ByteCache<(IndexState, Day), Arc<[IndexEntry]>>,
}

impl HourIndex {
    pub(crate) fn new(store: Arc<dyn LakeStore>) -> Self {
        Self { store, days: ByteCache::new(CACHE_BYTES / 8), entries: ByteCache::new(CACHE_BYTES) }
    }

    /// The objects of a key below its boundary that rows matching the filters can stand in, in order of time.
    ///
    /// The index is read after the snapshot was taken, so it names at least what stood in the lake then: objects come
    /// before their index, the index before the boundary.
    pub(crate) async fn objects(&self, key: &KeyState, filters: &[Expr]) -> Result<Vec<(IndexEntry, Part)>, Abort> {
        let facts = Facts::tenant(key.key.tenant.as_str());
        let last = Day::of(key.meta.boundary_ns.saturating_sub(1));
        let days = match prune::days(filters, &facts, last) {
            Some(days) => days,
            None => {
                let known = self.days_of(key).await?;
                let wanted = |day: &Day| *day <= last && prune::may_match(filters, &facts.day(*day));
                known.iter().copied().filter(wanted).collect()
            }
        };
        let loads = stream::iter(days).map(|day| self.entries_of(key, day)).buffered(READS);
        let loaded: Vec<Arc<[IndexEntry]>> = loads.try_collect().await?;
        let objects = loaded.iter().flat_map(|entries| entries.iter()).filter_map(|entry| {
            let part = part_of(entry.hour, key.meta.boundary_ns);
            let wanted = part != Part::Nothing && prune::may_match(filters, &facts.hour(entry.hour));
            wanted.then(|| (entry.clone(), part))
        });
        Ok(objects.collect())
    }

    async fn days_of(&self, key: &KeyState) -> Result<Arc<[Day]>, Abort> {
        let state = state_of(key);
        if let Some(days) = self.days.get(&state) {
            return Ok(days);
        }
        let by_bucket: BTreeMap<u32, Vec<Day>> =
            index::days(self.store.as_ref(), &key.tenant).await.map_err(|error| unreadable(key, &error))?;
        let days: Arc<[Day]> = by_bucket.get(&key.key.bucket).map_or(&[] as &[Day], Vec::as_slice).into();
        self.days.insert(state, Arc::clone(&days), 64 + size_of_val(&*days));
        Ok(days)
    }

    async fn entries_of(&self, key: &KeyState, day: Day) -> Result<Arc<[IndexEntry]>, Abort> {
        let cached = (state_of(key), day);
        if let Some(entries) = self.entries.get(&cached) {
            return Ok(entries);
        }
        metrics::counter!("tidegauge_query_index_loads_total").increment(1);
        let loaded = load(self.store.as_ref(), &key.tenant, key.key.bucket, day).await;
        let entries: Arc<[IndexEntry]> = loaded.map_err(|error| unreadable(key, &error))?.into();
        let bytes = 128 + entries.iter().map(|entry| size_of::<IndexEntry>() + entry.path.len() + 48).sum::<usize>();
        self.entries.insert(cached, Arc::clone(&entries), bytes);
        Ok(entries)
    }
}

async fn load(
    store: &dyn LakeStore,
    tenant: &ScopedTenant,
    bucket: u32,
    day: Day,
) -> Result<Vec<IndexEntry>, IndexError> {
    match index::load(store, tenant, bucket, day).await {
        Ok(index) => Ok(index.map(|index| index.entries).unwrap_or_default()),
        // It only repeats what the lake says, and its owner writes it again with the next object of the day.
        Err(error @ IndexError::Damaged { .. }) => {
            tracing::warn!(%error, "an hour index is damaged, the lake is listed instead");
            Ok(index::day_from_lake(store, tenant, bucket, day).await?.entries)
        }
        Err(error) => Err(error),
    }
}

fn state_of(key: &KeyState) -> IndexState {
    let KeyMeta { version, index_version, .. } = key.meta;
    (key.key.to_string(), version.generation, index_version)
}

fn unreadable(key: &KeyState, error: &IndexError) -> Abort {
    tracing::warn!(key = %key.key, %error, "an hour index cannot be read");
    Abort::Unreadable(key.key.clone(), "the hour index")
}
