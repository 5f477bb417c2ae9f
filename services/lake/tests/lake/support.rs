//! What the tests share: rows, footers and a store in memory.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tidegauge_core::hot::WindowRow;
use tidegauge_core::ids::{Key, LineageId, MetricName};
use tidegauge_core::lake::{Expected, LakeStore, ObjectMeta, ObjectVersion, PinnedObject, StoreError};
use tidegauge_core::scope::{ScopedTenant, SystemAuthority};
use tidegauge_core::time::{Hour, MINUTE_NS};
use tidegauge_lake::{AggregatedRow, Footer, SCHEMA_VERSION};

/// 2026-03-02T07.
pub(crate) const HOUR: Hour = Hour(492_343);

pub(crate) fn tenant(name: &str) -> ScopedTenant {
    SystemAuthority::for_worker("test").tenant(&Key::parse(name).expect("a key").tenant)
}

pub(crate) fn footer(epoch: u64) -> Footer {
    Footer {
        lineage: LineageId(0x1234),
        epoch,
        ordinal: epoch * 100,
        generation: 3,
        key: Key::parse("tenant-001").expect("a key"),
        schema_version: SCHEMA_VERSION,
    }
}

/// A row of the hour: one event, late if `late`, at `offset_ns` in its minute.
pub(crate) fn event_row(minute: i64, metric: &str, value: f64, offset_ns: i64, late: bool) -> AggregatedRow {
    let start_ns = HOUR.start_ns() + minute * MINUTE_NS;
    AggregatedRow {
        start_ns,
        end_ns: start_ns + MINUTE_NS,
        metric: MetricName::parse(metric).expect("a metric"),
        row: WindowRow {
            count: 1,
            sum: value.into(),
            min: value,
            max: value,
            last: value,
            last_time_ns: start_ns + offset_ns,
            late: u64::from(late),
        },
        revision: 0,
    }
}

/// Rows of an ordinary hour: `metrics` metrics, each with a row a minute; sorted.
pub(crate) fn hour_rows(metrics: usize) -> Vec<AggregatedRow> {
    let row = |metric: usize, minute: usize| {
        let mut row = event_row(minute as i64, &format!("metric-{metric:05}"), 0.0, 59_123_456_789, false);
        let value = (metric * 60 + minute) as f64;
        row.row = WindowRow {
            count: 100 + (metric * 7 + minute * 13) as u64 % 50,
            sum: (value * 1.1).into(),
            min: value.sin(),
            max: value.sqrt() + 1.0,
            last: value.cos(),
            ..row.row
        };
        AggregatedRow { revision: 1, ..row }
    };
    (0..metrics).flat_map(|metric| (0..60).map(move |minute| row(metric, minute))).collect()
}

/// A store in memory that counts its calls and can fail or let another writer in.
#[derive(Debug, Default)]
pub(crate) struct MemoryStore {
    objects: Mutex<BTreeMap<String, (Bytes, u64)>>,
    versions: AtomicU64,
    pub(crate) gets: AtomicU64,
    pub(crate) replaces: AtomicU64,
    /// Contents that another writer puts just before the next replaces, one each.
    pub(crate) intruders: Mutex<Vec<Bytes>>,
    /// The next replace fails after it has happened.
    pub(crate) fail_after: Mutex<bool>,
}

impl MemoryStore {
    pub(crate) fn put(&self, path: &str, content: impl Into<Bytes>) {
        let version = self.versions.fetch_add(1, Ordering::SeqCst);
        self.objects.lock().expect("lock").insert(path.to_owned(), (content.into(), version));
    }

    pub(crate) fn content(&self, path: &str) -> Option<Bytes> {
        self.objects.lock().expect("lock").get(path).map(|(content, _)| content.clone())
    }

    pub(crate) fn remove(&self, path: &str) {
        self.objects.lock().expect("lock").remove(path);
    }
}

#[derive(Debug)]
struct Pinned(Bytes);

impl PinnedObject for Pinned {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read<'life, 'fut>(
        &'life self,
        range: Range<u64>,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Bytes, StoreError>> + Send + 'fut>>
    where
        'life: 'fut,
        Self: 'fut,
    {
        let content = self.0.slice(range.start as usize..range.end as usize);
        Box::pin(async move { Ok(content) })
    }
}

type Answer<'fut, T> = std::pin::Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'fut>>;

// Written out as `async_trait` expands it: the crate under test does not depend on that crate.
impl LakeStore for MemoryStore {
    fn get<'a, 'b, 'fut>(&'a self, path: &'b str) -> Answer<'fut, Option<(Bytes, ObjectVersion)>>
    where
        'a: 'fut,
        'b: 'fut,
        Self: 'fut,
    {
        self.gets.fetch_add(1, Ordering::SeqCst);
        let found = self.objects.lock().expect("lock").get(path).cloned();
        Box::pin(async move { Ok(found.map(|(content, version)| (content, ObjectVersion(version.to_string())))) })
    }

    fn open<'a, 'b, 'fut>(&'a self, path: &'b str) -> Answer<'fut, Option<Arc<dyn PinnedObject>>>
    where
        'a: 'fut,
        'b: 'fut,
        Self: 'fut,
    {
        let found = self.content(path);
        Box::pin(async move { Ok(found.map(|content| Arc::new(Pinned(content)) as Arc<dyn PinnedObject>)) })
    }

    fn replace<'a, 'b, 'c, 'fut>(
        &'a self,
        path: &'b str,
        expected: &'c Expected,
        content: Bytes,
    ) -> Answer<'fut, ObjectVersion>
    where
        'a: 'fut,
        'b: 'fut,
        'c: 'fut,
        Self: 'fut,
    {
        self.replaces.fetch_add(1, Ordering::SeqCst);
        if let Some(intruder) = self.intruders.lock().expect("lock").pop() {
            self.put(path, intruder);
        }
        let mut objects = self.objects.lock().expect("lock");
        let found = match objects.get(path) {
            Some((_, version)) => Expected::Version(ObjectVersion(version.to_string())),
            None => Expected::Absent,
        };
        let result = if found == *expected {
            let version = self.versions.fetch_add(1, Ordering::SeqCst);
            objects.insert(path.to_owned(), (content, version));
            match std::mem::take(&mut *self.fail_after.lock().expect("lock")) {
                true => Err(StoreError::Unavailable("the answer was lost".to_owned())),
                false => Ok(ObjectVersion(version.to_string())),
            }
        } else {
            Err(StoreError::Conflict(path.to_owned()))
        };
        Box::pin(async move { result })
    }

    fn delete<'a, 'b, 'fut>(&'a self, path: &'b str) -> Answer<'fut, ()>
    where
        'a: 'fut,
        'b: 'fut,
        Self: 'fut,
    {
        self.remove(path);
        Box::pin(async move { Ok(()) })
    }

    fn list<'a, 'b, 'fut>(&'a self, prefix: &'b str) -> Answer<'fut, Vec<ObjectMeta>>
    where
        'a: 'fut,
        'b: 'fut,
        Self: 'fut,
    {
        let objects = self.objects.lock().expect("lock");
        let listed = objects
            .iter()
            .filter(|(path, _)| path.starts_with(prefix))
            .map(|(path, (content, _))| ObjectMeta { path: path.clone(), bytes: content.len() as u64 })
            .collect();
        Box::pin(async move { Ok(listed) })
    }
}
