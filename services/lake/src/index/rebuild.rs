//! The index made from the lake.

use std::collections::{BTreeMap, BTreeSet};

use tidegauge_core::lake::{Expected, LakeStore, ObjectMeta, StoreError};
use tidegauge_core::scope::ScopedTenant;
use tidegauge_core::time::Day;

use super::{DayIndex, IndexEntry, IndexError, format, key};
use crate::footer::Footer;
use crate::object::{self, ObjectError};
use crate::paths::{self, AggregatedPath};

/// What a rebuild found and did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rebuilt {
    /// Days that have objects.
    pub days: usize,
    /// Objects found.
    pub objects: usize,
    /// Days whose index was absent, damaged or wrong, and was written or removed.
    pub changed: Vec<Day>,
    /// Objects whose footer could not be read. The index names them, so that a query fails rather than answers short.
    pub unreadable: Vec<String>,
}

/// Makes the index of a key from its objects: lists them, reads their footers, and writes each day's index that does not
/// say the same. For the owner of the key, while it writes nothing else for it.
///
/// # Errors
/// [`IndexError::Store`]; [`IndexError::Contended`] if somebody writes meanwhile.
pub async fn rebuild(store: &dyn LakeStore, tenant: &ScopedTenant, bucket: u32) -> Result<Rebuilt, IndexError> {
    let listed = store.list(&paths::aggregated_prefix(tenant)).await?;
    let mut by_day: BTreeMap<Day, Vec<IndexEntry>> = BTreeMap::new();
    let mut rebuilt = Rebuilt::default();
    for (meta, place) in objects_of(listed, tenant, bucket) {
        let Some((entry, readable)) = entry_of(store, meta, &place).await? else {
            continue;
        };
        rebuilt.objects += 1;
        if !readable {
            rebuilt.unreadable.push(entry.path.clone());
        }
        by_day.entry(place.hour.day()).or_default().push(entry);
    }
    rebuilt.days = by_day.len();
    let known = super::days(store, tenant).await?.remove(&bucket).unwrap_or_default();
    let days: BTreeSet<Day> = by_day.keys().copied().chain(known).collect();
    for day in days {
        let mut index = DayIndex::empty(key(tenant, bucket), day);
        index.merge(&by_day.remove(&day).unwrap_or_default());
        if write_day(store, tenant, index).await? {
            rebuilt.changed.push(day);
        }
    }
    Ok(rebuilt)
}

/// Makes the index of every day that has objects of the key and no index, and tells which days that were. For the owner of
/// the key, also while it writes: each day is entered as by [`super::update`]. Costs a listing of the key's index objects
/// and of the tenant's folders down to days; only days without an index are looked into.
///
/// # Errors
/// As [`super::update`].
pub async fn restore(store: &dyn LakeStore, tenant: &ScopedTenant, bucket: u32) -> Result<Vec<Day>, IndexError> {
    let known: BTreeSet<Day> =
        super::days(store, tenant).await?.remove(&bucket).unwrap_or_default().into_iter().collect();
    let mut restored = Vec::new();
    for day in lake_days(store, tenant).await? {
        if !known.contains(&day) && super::update(store, tenant, bucket, day, &[]).await?.changed {
            restored.push(day);
        }
    }
    Ok(restored)
}

/// The days that have a folder in the tenant's part of the lake, in order: those with objects, of whichever bucket, and
/// perhaps a few without. Looks at folders only, about fifteen a year.
///
/// # Errors
/// [`IndexError::Store`].
pub async fn lake_days(store: &dyn LakeStore, tenant: &ScopedTenant) -> Result<Vec<Day>, IndexError> {
    let root = paths::aggregated_prefix(tenant);
    let mut days = Vec::new();
    for of_year in store.folders(&root).await? {
        let Some(year) = paths::parse_folder(&of_year, "year") else { continue };
        let of_year = format!("{root}{of_year}/");
        for of_month in store.folders(&of_year).await? {
            let Some(month) = paths::parse_folder(&of_month, "month") else { continue };
            for of_day in store.folders(&format!("{of_year}{of_month}/")).await? {
                let Some(day) = paths::parse_folder(&of_day, "day") else { continue };
                let day = i32::try_from(year).ok().and_then(|year| Day::from_civil(year, month, day));
                // Only what the builder of paths writes: another spelling of the same day is none of ours.
                let place = format!("{of_year}{of_month}/{of_day}/");
                days.extend(day.filter(|day| paths::aggregated_day_prefix(tenant, *day) == place));
            }
        }
    }
    days.sort_unstable();
    Ok(days)
}

/// The index of one day as the lake has it; not written. For readers that find the day's index damaged.
///
/// # Errors
/// [`IndexError::Store`].
pub async fn day_from_lake(
    store: &dyn LakeStore,
    tenant: &ScopedTenant,
    bucket: u32,
    day: Day,
) -> Result<DayIndex, IndexError> {
    day_beside(store, tenant, bucket, day, &[]).await
}

/// As [`day_from_lake`], without the objects of `known`, which need not be opened to be entered.
pub(super) async fn day_beside(
    store: &dyn LakeStore,
    tenant: &ScopedTenant,
    bucket: u32,
    day: Day,
    known: &[IndexEntry],
) -> Result<DayIndex, IndexError> {
    let listed = store.list(&paths::aggregated_day_prefix(tenant, day)).await?;
    let mut entries = Vec::new();
    let is_known = |path: &str| known.iter().any(|entry| entry.path == path);
    for (meta, place) in objects_of(listed, tenant, bucket).filter(|(meta, _)| !is_known(&meta.path)) {
        entries.extend(entry_of(store, meta, &place).await?.map(|(entry, _)| entry));
    }
    let mut index = DayIndex::empty(key(tenant, bucket), day);
    index.merge(&entries);
    Ok(index)
}

/// The listed objects that are hour objects of the key; other files are none of ours.
fn objects_of(
    listed: Vec<ObjectMeta>,
    tenant: &ScopedTenant,
    bucket: u32,
) -> impl Iterator<Item = (ObjectMeta, AggregatedPath)> {
    listed.into_iter().filter_map(move |meta| {
        let place = paths::parse_aggregated_object(&meta.path)?;
        (place.bucket == bucket && place.tenant == *tenant.id()).then_some((meta, place))
    })
}

/// The entry of a listed object, and whether its footer could be read; `None` if it is gone.
async fn entry_of(
    store: &dyn LakeStore,
    meta: ObjectMeta,
    place: &AggregatedPath,
) -> Result<Option<(IndexEntry, bool)>, IndexError> {
    let Some(object) = store.open(&meta.path).await? else {
        return Ok(None);
    };
    let read = object::read_metadata(object.as_ref()).await?.and_then(|metadata| {
        let footer = Footer::of(&metadata)?;
        if footer.key.tenant != place.tenant || footer.key.bucket != place.bucket {
            return Err(ObjectError::Footer(format!("is of {}", footer.key)));
        }
        let rows = u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0);
        Ok((rows, footer.epoch))
    });
    let readable = read.is_ok();
    let (rows, epoch) = read.unwrap_or((0, 0));
    let entry = IndexEntry { hour: place.hour, path: meta.path, bytes: object.bytes(), rows, epoch, version: None };
    Ok(Some((entry, readable)))
}

/// Writes a day's index unless what stands there says the same; an index without entries is removed.
async fn write_day(store: &dyn LakeStore, tenant: &ScopedTenant, index: DayIndex) -> Result<bool, IndexError> {
    let path = paths::aggregated_index(tenant, index.key.bucket, index.day);
    let stored = store.get(&path).await?;
    let expected = match &stored {
        Some((_, version)) => Expected::Version(version.clone()),
        None => Expected::Absent,
    };
    let known = match stored.map(|(content, _)| format::read(&path, &content, &index.key, index.day)) {
        Some(Err(error @ IndexError::Newer { .. })) => return Err(error),
        Some(read) => read.ok(),
        None => None,
    };
    if index.entries.is_empty() {
        store.delete(&path).await?;
        return Ok(expected != Expected::Absent);
    }
    if known.is_some_and(|known| same(&known, &index)) {
        return Ok(false);
    }
    match store.replace(&path, &expected, format::write(&index)).await {
        Ok(_) => Ok(true),
        Err(StoreError::Conflict(_)) => Err(IndexError::Contended { path, tries: 1 }),
        Err(other) => Err(other.into()),
    }
}

/// Whether both name the same objects; what a rebuild cannot know (the version) does not count.
fn same(known: &DayIndex, found: &DayIndex) -> bool {
    let without_version = |index: &DayIndex| -> Vec<IndexEntry> {
        index.entries.iter().map(|entry| IndexEntry { version: None, ..entry.clone() }).collect()
    };
    without_version(known) == without_version(found)
}
