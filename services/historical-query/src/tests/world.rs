//! A lake in memory, a live side set by hand, and an engine over both.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use async_trait::async_trait;
use bytes::Bytes;
use tidegauge_core::clock::ManualClock;
use tidegauge_core::hot::{HotVersion, KeyMeta, LiveSnapshot, LiveWindow, WindowRow};
use tidegauge_core::lake::{Expected, LakeStore, ObjectMeta, ObjectVersion, PinnedObject, StoreError};
use tidegauge_core::scope::{Principal, Role};
use tidegauge_core::time::{Hour, MINUTE_NS, parse_rfc3339};
use tidegauge_core::{Key, LineageId, MetricName, ScopedTenant, ServiceError, SystemAuthority, TenantId, TenantScope};
use tidegauge_lake::{AggregatedRow, Footer, apply, index};

use crate::{How, LiveSource, QueryEngine, QueryOptions};

/// A lake store in memory.
#[derive(Debug, Default)]
pub(super) struct MemoryLake {
    objects: Mutex<BTreeMap<String, (Bytes, u64)>>,
}

#[derive(Debug)]
struct Pinned(Bytes);

#[async_trait]
impl PinnedObject for Pinned {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, StoreError> {
        Ok(self.0.slice(range.start as usize..range.end as usize))
    }
}

impl MemoryLake {
    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<String, (Bytes, u64)>) -> T) -> T {
        act(&mut self.objects.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn paths(&self) -> Vec<String> {
        self.with(|objects| objects.keys().cloned().collect())
    }

    /// Puts bytes in place of an object, as a failing disk would.
    pub(super) fn damage(&self, path: &str, content: impl FnOnce(&[u8]) -> Option<Vec<u8>>) {
        self.with(|objects| {
            let (old, version) = objects.remove(path).expect("an object to damage");
            if let Some(new) = content(&old) {
                objects.insert(path.to_owned(), (new.into(), version + 1));
            }
        });
    }
}

#[async_trait]
impl LakeStore for MemoryLake {
    async fn get(&self, path: &str) -> Result<Option<(Bytes, ObjectVersion)>, StoreError> {
        Ok(self.with(|o| o.get(path).map(|(bytes, v)| (bytes.clone(), ObjectVersion(v.to_string())))))
    }

    async fn open(&self, path: &str) -> Result<Option<Arc<dyn PinnedObject>>, StoreError> {
        Ok(self.with(|o| o.get(path).map(|(bytes, _)| Arc::new(Pinned(bytes.clone())) as Arc<dyn PinnedObject>)))
    }

    async fn replace(&self, path: &str, expected: &Expected, content: Bytes) -> Result<ObjectVersion, StoreError> {
        self.with(|objects| {
            let found = objects.get(path).map(|(_, v)| ObjectVersion(v.to_string()));
            let fits = match expected {
                Expected::Absent => found.is_none(),
                Expected::Version(version) => found.as_ref() == Some(version),
            };
            if !fits {
                return Err(StoreError::Conflict(path.to_owned()));
            }
            let version = objects.get(path).map_or(1, |(_, v)| v + 1);
            objects.insert(path.to_owned(), (content, version));
            Ok(ObjectVersion(version.to_string()))
        })
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.with(|o| o.remove(path));
        Ok(())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        Ok(self.with(|objects| {
            let below = objects.iter().filter(|(path, _)| path.starts_with(prefix));
            below.map(|(path, (bytes, _))| ObjectMeta { path: path.clone(), bytes: bytes.len() as u64 }).collect()
        }))
    }
}

/// A live side that tests write.
#[derive(Debug, Default)]
pub(super) struct HandLive {
    keys: Mutex<BTreeMap<Key, LiveSnapshot>>,
}

impl HandLive {
    pub(super) fn change(&self, key: &Key, act: impl FnOnce(&mut LiveSnapshot)) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let empty = || LiveSnapshot { meta: KeyMeta::default(), windows: Vec::new(), complete: true };
        act(keys.entry(key.clone()).or_insert_with(empty));
    }
}

#[async_trait]
impl LiveSource for HandLive {
    async fn live(&self, scope: &TenantScope) -> Result<Vec<(Key, LiveSnapshot)>, ServiceError> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(keys.iter().filter(|(k, _)| scope.contains(&k.tenant)).map(|(k, s)| (k.clone(), s.clone())).collect())
    }
}

pub(super) const LINEAGE: LineageId = LineageId(7);

pub(super) fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).expect("a tenant")
}

pub(super) fn key(name: &str) -> Key {
    Key::parse(name).expect("a key")
}

pub(super) fn scoped(tenant: &TenantId) -> ScopedTenant {
    SystemAuthority::for_worker("test").tenant(tenant)
}

/// The scope of user `u` over the tenants.
pub(super) fn scope(tenants: &[&str]) -> TenantScope {
    let principal = Principal { name: "u".into(), role: Role::Reader };
    TenantScope::granted(principal, tenants.iter().map(|t| tenant(t)).collect()).expect("a scope")
}

pub(super) fn time(text: &str) -> i64 {
    parse_rfc3339(text).expect("a time")
}

/// One event as a row.
pub(super) fn row(start_ns: i64, metric: &str, value: f64) -> AggregatedRow {
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
            last_time_ns: start_ns,
            late: 0,
        },
        revision: 0,
    }
}

pub(super) fn live_window(row: &AggregatedRow) -> LiveWindow {
    LiveWindow { start_ns: row.start_ns, end_ns: row.end_ns, metric: row.metric.clone(), row: row.row.clone() }
}

/// Publishes rows of one hour: object, then index.
pub(super) async fn publish(lake: &dyn LakeStore, key: &Key, hour: Hour, rows: &[AggregatedRow], footer: &Footer) {
    let tenant = scoped(&key.tenant);
    let applied = apply::apply_hour(lake, &tenant, key.bucket, hour, rows, footer).await.expect("applied");
    index::update(lake, &tenant, key.bucket, hour.day(), &[applied.entry]).await.expect("indexed");
}

pub(super) fn footer(key: &Key, epoch: u64, ordinal: u64) -> Footer {
    Footer {
        lineage: LINEAGE,
        epoch,
        ordinal,
        generation: 1,
        key: key.clone(),
        schema_version: tidegauge_lake::SCHEMA_VERSION,
    }
}

/// A lake, a live side and an engine.
pub(super) struct World {
    pub(super) lake: Arc<MemoryLake>,
    pub(super) live: Arc<HandLive>,
    pub(super) engine: Arc<QueryEngine>,
    pub(super) clock: Arc<ManualClock>,
}

pub(super) fn options() -> QueryOptions {
    let seam_pause = std::time::Duration::from_millis(1);
    QueryOptions { threads: Some(2), seam_tries: 3, seam_pause, ..QueryOptions::default() }
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(options())
    }

    pub(super) fn with(options: QueryOptions) -> Self {
        let (lake, live) = (Arc::new(MemoryLake::default()), Arc::new(HandLive::default()));
        let clock = Arc::new(ManualClock::at(time("2026-03-02T12:00:00Z")));
        let engine = QueryEngine::start(options, lake.clone(), live.clone(), clock.clone()).expect("an engine");
        Self { lake, live, engine: Arc::new(engine), clock }
    }

    /// Metrics `cpu` and `mem` of a key, a row a minute from midnight: `hours` full hours in the lake, then half an
    /// hour that is live. The value is the minute of the hour.
    pub(super) async fn fill(&self, key: &Key, hours: i64) {
        let midnight = time("2026-03-02T00:00:00Z");
        for n in 0..hours {
            let hour = Hour(Hour::of(midnight).0 + n);
            publish(
                self.lake.as_ref(),
                key,
                hour,
                &hour_rows(hour, 60),
                &footer(key, n as u64 + 1, 120 * (n as u64 + 1)),
            )
            .await;
        }
        let now = Hour(Hour::of(midnight).0 + hours);
        let ordinal = 120 * hours as u64 + 60;
        self.live.change(key, |snapshot| {
            snapshot.meta = KeyMeta {
                version: HotVersion { generation: 1, ordinal, push: 0 },
                boundary_ns: now.start_ns(),
                watermark_ns: now.start_ns() + MINUTE_NS,
                counted: ordinal,
                pending: 0,
                index_version: hours as u64,
                index_open: false,
            };
            snapshot.windows = hour_rows(now, 30).iter().map(live_window).collect();
        });
    }

    pub(super) async fn query(&self, tenants: &[&str], sql: &str) -> Result<Vec<RecordBatch>, ServiceError> {
        self.engine.execute(&scope(tenants), sql, How::default()).await?.collect().await
    }

    /// The rows as text, sorted as they came.
    pub(super) async fn table(&self, tenants: &[&str], sql: &str) -> String {
        let batches = self.query(tenants, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        pretty_format_batches(&batches).expect("a table").to_string()
    }

    /// The one number of the answer.
    pub(super) async fn number(&self, tenants: &[&str], sql: &str) -> i64 {
        let batches = self.query(tenants, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        number(&batches)
    }

    pub(super) async fn refused(&self, tenants: &[&str], sql: &str) -> ServiceError {
        match self.query(tenants, sql).await {
            Err(error) => error,
            Ok(_) => panic!("answered: {sql}"),
        }
    }
}

pub(super) fn hour_rows(hour: Hour, minutes: i64) -> Vec<AggregatedRow> {
    let minute =
        |metric: &'static str| (0..minutes).map(move |m| row(hour.start_ns() + m * MINUTE_NS, metric, m as f64));
    minute("cpu").chain(minute("mem")).collect()
}

/// The Int64 in the first row and column.
pub(super) fn number(batches: &[RecordBatch]) -> i64 {
    let column = batches.first().expect("a batch").column(0);
    let column = arrow::compute::cast(column, &arrow::datatypes::DataType::Int64).expect("a number");
    arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(&column).value(0)
}
