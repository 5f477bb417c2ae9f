//! Which objects a key has: the hour index, cached by the state that its writer tells.
//!
//! While the writer says that the index is open, every execution reads it anew, so that later answers name at least what
//! earlier ones did (I6); what is read once is the same for all scans of the execution. A day without an index is looked
//! for in the lake: a lost index makes no answer short, and nobody needs to have compared the two before.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::logical_expr::Expr;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tidegauge_core::ScopedTenant;
use tidegauge_core::hot::KeyMeta;
use tidegauge_core::lake::LakeStore;
use tidegauge_core::time::Day;
use tidegauge_lake::index::{self, IndexEntry, IndexError};
use tokio::sync::OnceCell;

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

/// The entries of a day, once one scan of the execution has read them.
type SeenDay = Arc<OnceCell<Arc<[IndexEntry]>>>;

/// What one execution has read of a key's index.
#[derive(Debug, Default)]
pub(crate) struct SeenIndex {
    days: OnceCell<Arc<[Day]>>,
    entries: Mutex<HashMap<Day, SeenDay>>,
}

impl SeenIndex {
    fn of_day(&self, day: Day) -> SeenDay {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(entries.entry(day).or_default())
    }
}

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
            Some(days) if !key.meta.index_open => days,
            // The days of an open index are read once, so that a scan with filters sees no day that one without does not.
            _ => {
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
        key.index.days.get_or_try_init(|| self.days_now(key)).await.cloned()
    }

    async fn days_now(&self, key: &KeyState) -> Result<Arc<[Day]>, Abort> {
        let state = state_of(key);
        if let Some(days) = state.as_ref().and_then(|state| self.days.get(state)) {
            return Ok(days);
        }
        let failed = |error: IndexError| unreadable(key, &error);
        let mut by_bucket: BTreeMap<u32, Vec<Day>> =
            index::days(self.store.as_ref(), &key.tenant).await.map_err(failed)?;
        let mut days: BTreeSet<Day> = by_bucket.remove(&key.key.bucket).unwrap_or_default().into_iter().collect();
        days.extend(index::lake_days(self.store.as_ref(), &key.tenant).await.map_err(failed)?);
        let days: Arc<[Day]> = days.into_iter().collect();
        if let Some(state) = state {
            self.days.insert(state, Arc::clone(&days), 64 + size_of_val(&*days));
        }
        Ok(days)
    }

    async fn entries_of(&self, key: &KeyState, day: Day) -> Result<Arc<[IndexEntry]>, Abort> {
        key.index.of_day(day).get_or_try_init(|| self.entries_now(key, day)).await.cloned()
    }

    async fn entries_now(&self, key: &KeyState, day: Day) -> Result<Arc<[IndexEntry]>, Abort> {
        let cached = state_of(key).map(|state| (state, day));
        if let Some(entries) = cached.as_ref().and_then(|cached| self.entries.get(cached)) {
            return Ok(entries);
        }
        metrics::counter!("tidegauge_query_index_loads_total").increment(1);
        let loaded = load(self.store.as_ref(), &key.tenant, key.key.bucket, day).await;
        let entries: Arc<[IndexEntry]> = loaded.map_err(|error| unreadable(key, &error))?.into();
        let bytes = 128 + entries.iter().map(|entry| size_of::<IndexEntry>() + entry.path.len() + 48).sum::<usize>();
        if let Some(cached) = cached {
            self.entries.insert(cached, Arc::clone(&entries), bytes);
        }
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
        Ok(Some(index)) => Ok(index.entries),
        // Nothing was written on that day, or its index was lost. Its owner makes it again in the background.
        Ok(None) => Ok(index::day_from_lake(store, tenant, bucket, day).await?.entries),
        // It only repeats what the lake says, and its owner writes it again with the next object of the day.
        Err(error @ IndexError::Damaged { .. }) => {
            tracing::warn!(%error, "an hour index is damaged, the lake is listed instead");
            Ok(index::day_from_lake(store, tenant, bucket, day).await?.entries)
        }
        Err(error) => Err(error),
    }
}

/// What a copy of the index is good for; `None` while it is good for this execution alone.
fn state_of(key: &KeyState) -> Option<IndexState> {
    let KeyMeta { version, index_version, index_open, .. } = key.meta;
    (!index_open).then(|| (key.key.to_string(), version.generation, index_version))
}

fn unreadable(key: &KeyState, error: &IndexError) -> Abort {
    tracing::warn!(key = %key.key, %error, "an hour index cannot be read");
    Abort::Unreadable(key.key.clone(), "the hour index")
}
