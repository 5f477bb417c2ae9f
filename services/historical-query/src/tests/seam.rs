//! I6 against the model: whatever the writer does between any two steps of a reader, the formula holds.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::AsArray as _;
use arrow::datatypes::Int64Type;
use async_trait::async_trait;
use bytes::Bytes;
use tidegauge_core::clock::ManualClock;
use tidegauge_core::hot::LiveSnapshot;
use tidegauge_core::lake::{Expected, LakeStore, ObjectMeta, ObjectVersion, PinnedObject, StoreError};
use tidegauge_core::{ErrorKind, Key, ServiceError, TenantScope};
use tidegauge_proto::freshness::v1::Freshness;
use tokio::sync::Mutex;

use super::model::{Dice, Writer};
use super::world::{HandLive, MemoryLake, key, options, scope};
use crate::{How, LiveSource, QueryEngine, QueryOptions};

/// Writers that move whenever the reader does anything.
#[derive(Debug)]
struct Platform {
    lake: MemoryLake,
    live: HandLive,
    writers: Mutex<(Vec<Writer>, Dice)>,
    /// Of so many steps of the reader, one lets the writers move.
    pace: AtomicU64,
    steps: AtomicU64,
}

impl Platform {
    async fn tick(&self) {
        let (writers, dice) = &mut *self.writers.lock().await;
        // Mostly nothing, sometimes a burst: a reader must meet each step, not drown in them.
        if dice.below(self.pace.load(Ordering::Relaxed)) == 0 {
            let count = 1 + dice.below(4);
            self.advance(writers, dice, count).await;
        }
    }

    async fn advance(&self, writers: &mut [Writer], dice: &mut Dice, count: u64) {
        for _ in 0..count {
            let at = dice.below(writers.len() as u64) as usize;
            writers[at].step(dice, &self.lake, &self.live).await;
        }
        self.steps.fetch_add(count, Ordering::Relaxed);
    }

    /// Pushes come often, compared with all else.
    async fn push(&self) {
        let (writers, dice) = &mut *self.writers.lock().await;
        for writer in writers {
            if dice.below(2) == 0 {
                writer.push(&self.live);
            }
        }
    }

    async fn between_queries(&self, count: u64) {
        let (writers, dice) = &mut *self.writers.lock().await;
        self.advance(writers, dice, count).await;
    }
}

#[derive(Debug)]
struct Moving(Arc<Platform>);

#[derive(Debug)]
struct MovingObject(Arc<Platform>, Arc<dyn PinnedObject>);

#[async_trait]
impl PinnedObject for MovingObject {
    fn bytes(&self) -> u64 {
        self.1.bytes()
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.0.tick().await;
        self.1.read(range).await
    }
}

#[async_trait]
impl LakeStore for Moving {
    async fn get(&self, path: &str) -> Result<Option<(Bytes, ObjectVersion)>, StoreError> {
        self.0.tick().await;
        self.0.lake.get(path).await
    }

    async fn open(&self, path: &str) -> Result<Option<Arc<dyn PinnedObject>>, StoreError> {
        self.0.tick().await;
        let found = self.0.lake.open(path).await?;
        Ok(found.map(|object| Arc::new(MovingObject(Arc::clone(&self.0), object)) as Arc<dyn PinnedObject>))
    }

    async fn replace(&self, path: &str, _: &Expected, _: Bytes) -> Result<ObjectVersion, StoreError> {
        panic!("a query writes {path}")
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        panic!("a query deletes {path}")
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.0.tick().await;
        self.0.lake.list(prefix).await
    }
}

#[async_trait]
impl LiveSource for Moving {
    async fn live(&self, scope: &TenantScope) -> Result<Vec<(Key, LiveSnapshot)>, ServiceError> {
        self.0.push().await;
        let found = self.0.live.live(scope).await;
        self.0.tick().await;
        found
    }
}

const SUM: &str = "SELECT tenant_id, metric_name, SUM(event_count) AS one, SUM(event_count) AS two FROM dashboard_metrics GROUP BY 1, 2";
/// Rows are unique per tenant, metric and window, so a join of the table with itself loses and doubles nothing.
const JOIN: &str = "SELECT a.tenant_id, a.metric_name, SUM(a.event_count) AS one, SUM(b.event_count) AS two \
    FROM dashboard_metrics a FULL JOIN dashboard_metrics b ON a.tenant_id = b.tenant_id \
    AND a.metric_name = b.metric_name AND a.window_start = b.window_start GROUP BY 1, 2";
const UNION: &str = "SELECT tenant_id, metric_name, SUM(one) AS one, SUM(two) AS two FROM (\
    SELECT tenant_id, metric_name, event_count AS one, 0 AS two FROM dashboard_metrics UNION ALL \
    SELECT tenant_id, metric_name, 0 AS one, event_count AS two FROM dashboard_metrics WHERE month >= '02') GROUP BY 1, 2";
/// All of the model's time, by filters that name the days: they need no list of days.
const DAYS: &str = "SELECT tenant_id, metric_name, SUM(event_count) AS one, SUM(event_count) AS two FROM dashboard_metrics \
    WHERE window_start >= TIMESTAMP '2026-02-28 00:00:00' AND window_start < TIMESTAMP '2026-03-09 00:00:00' GROUP BY 1, 2";
const ROWS: &str = "SELECT tenant_id, metric_name, event_count AS one, event_count AS two FROM dashboard_metrics";

type Sums = BTreeMap<(String, String), (i64, i64)>;

async fn sums(engine: &QueryEngine, tenants: &[&str], sql: &str) -> Result<(Sums, Freshness), ServiceError> {
    let mut answer = engine.execute(&scope(tenants), sql, How::default()).await?;
    let mut sums = Sums::new();
    while let Some(batch) = answer.next().await? {
        for i in 0..batch.num_rows() {
            let text = |at: usize| batch.column(at).as_string::<i32>().value(i).to_owned();
            let count = |at: usize| batch.column(at).as_primitive::<Int64Type>().value(i);
            let sum = sums.entry((text(0), text(1))).or_default();
            *sum = (sum.0 + count(2), sum.1 + count(3));
        }
    }
    Ok((sums, answer.freshness()))
}

/// Runs a script of queries against moving writers; returns how many were answered.
async fn run(seed: u64, options: QueryOptions) -> (u64, u64) {
    // The metric of a key tells its rows apart from those of the tenant's other bucket.
    let metric_of = BTreeMap::from([("a", "ma"), ("a#1", "mb"), ("b", "mc")]);
    let writers = metric_of.iter().map(|(name, metric)| Writer::new(key(name), metric)).collect();
    let platform = Arc::new(Platform {
        lake: MemoryLake::default(),
        live: HandLive::default(),
        writers: Mutex::new((writers, Dice::new(seed))),
        pace: AtomicU64::new(1),
        steps: AtomicU64::new(0),
    });
    let source = || Arc::new(Moving(Arc::clone(&platform)));
    let engine = QueryEngine::start(options, source(), source(), Arc::new(ManualClock::at(0))).expect("an engine");
    let mut dice = Dice::new(seed ^ 0xABCD);
    let mut before: BTreeMap<String, i64> = BTreeMap::new();
    let (mut answered, mut aborted) = (0, 0);
    for _ in 0..30 {
        platform.between_queries(dice.below(60)).await;
        platform.pace.store(2 + dice.below(12), Ordering::Relaxed);
        let sql = [SUM, JOIN, UNION, ROWS, DAYS][dice.below(5) as usize];
        let tenants: &[&str] = if dice.below(3) == 0 { &["a"] } else { &["a", "b"] };
        let (sums, freshness) = match sums(&engine, tenants, sql).await {
            Ok(answer) => answer,
            Err(error) => {
                assert!(error.kind == ErrorKind::Aborted && error.retry_after.is_some(), "seed {seed}: {error:?}");
                aborted += 1;
                continue;
            }
        };
        answered += 1;
        assert!(freshness.missing_keys.is_empty());
        let mut expected = 0;
        for of_key in &freshness.keys {
            let key = Key { tenant: super::world::tenant(&of_key.tenant_id), bucket: of_key.bucket };
            let metric = metric_of[key.to_string().as_str()];
            let sum = sums.get(&(of_key.tenant_id.clone(), metric.to_owned())).copied().unwrap_or_default();
            assert_eq!(sum.0, sum.1, "seed {seed}: {key}: two scans of one query differ: {sql}");
            let (ledger, pending) = (of_key.counted_events as i64, of_key.pending_events as i64);
            let holds = (ledger - pending..=ledger).contains(&sum.0);
            assert!(holds, "seed {seed}: {key}: {ledger} - {pending} <= {} <= {ledger} does not hold: {sql}", sum.0);
            let earlier = before.insert(key.to_string(), sum.0).unwrap_or_default();
            assert!(earlier <= sum.0, "seed {seed}: {key}: {} after {earlier}: {sql}", sum.0);
            expected += usize::from(sum.0 > 0);
        }
        assert_eq!(sums.len(), expected, "seed {seed}: rows of a key that is not in the freshness");
    }
    assert!(platform.steps.load(Ordering::Relaxed) > 100);
    (answered, aborted)
}

/// Proves I6 and the equality of all scans of one query over thousands of interleavings of events, corrections, cuts,
/// object and index writes, boundaries, pushes, crashes and replays with the steps of readers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_seam_holds_whatever_happens_between_two_steps() {
    let (mut answered, mut aborted) = (0, 0);
    for seed in 1..=12 {
        let tries = QueryOptions { seam_tries: 30, ..options() };
        // Every third run holds no object open and keeps none: versions are compared instead.
        let bare = QueryOptions { pinned_objects: 1, cache_bytes: 0, ..tries.clone() };
        let (a, b) = run(seed, if seed % 3 == 0 { bare } else { tries }).await;
        println!("seed {seed}: {a} answered, {b} aborted");
        answered += a;
        aborted += b;
    }
    println!("{answered} answered, {aborted} aborted");
    assert!(answered > 10 * aborted, "{answered} answered, {aborted} aborted");
}

/// Proves that a lake that stays ahead of the live side ends a query with ABORTED and a time to retry, and that the
/// query is answered as soon as the live side follows.
#[tokio::test]
async fn a_lake_ahead_of_the_live_side_is_waited_for_within_bounds() {
    use super::world::{World, footer, hour_rows, publish, time};
    use tidegauge_core::time::Hour;
    let world = World::new();
    world.fill(&key("a"), 2).await;
    let count = "SELECT SUM(event_count) FROM dashboard_metrics";
    assert_eq!(world.number(&["a"], count).await, 300);
    let hour = Hour::of(time("2026-03-02T01:00:00Z"));
    publish(world.lake.as_ref(), &key("a"), hour, &hour_rows(hour, 1), &footer(&key("a"), 3, 1_000)).await;
    let error = world.refused(&["a"], count).await;
    assert_eq!((error.kind, error.reason), (ErrorKind::Aborted, "SEAM_MOVED"));
    assert!(error.retry_after.is_some() && error.message.contains("history of a "), "{error}");
    world.live.change(&key("a"), |live| {
        (live.meta.version.ordinal, live.meta.index_version) = (1_000, 3);
    });
    assert_eq!(world.number(&["a"], count).await, 302);
}

/// Proves that a new hour of an epoch that does not come to its end is seen by a reader that has kept the days of the key
/// and by one that has not, from the moment at which it stands in the lake: their answers are equal and never fall. An
/// epoch that was not told is waited for, whichever way its hour is found.
#[tokio::test]
async fn readers_with_and_without_a_kept_index_agree() {
    use super::world::{World, footer, hour_rows, publish, time};
    use tidegauge_core::time::Hour;
    const KEPT: &str = "SELECT SUM(event_count) FROM dashboard_metrics WHERE window_start < TIMESTAMP '2026-03-03'";
    let day = |day: i64| {
        format!("SELECT COALESCE(SUM(event_count), 0) FROM dashboard_metrics WHERE month = 1 AND day = {day}")
    };
    let world = World::new();
    let a = key("a");
    world.fill(&a, 2).await;
    assert_eq!(world.number(&["a"], KEPT).await, 300);
    assert_eq!(world.number(&["a"], &day(20)).await, 0);
    for (of, epoch) in [(20, 3), (21, 4)] {
        world.live.change(&a, |live| {
            (live.meta.index_version, live.meta.index_open) = (epoch, true);
            (live.meta.counted, live.meta.pending) = (400, 100);
        });
        let before = world.number(&["a"], KEPT).await;
        let hour = Hour::of(time(&format!("2026-01-{of}T07:00:00Z")));
        publish(world.lake.as_ref(), &a, hour, &hour_rows(hour, 5), &footer(&a, epoch, 300)).await;
        for open in [true, false] {
            world.live.change(&a, |live| live.meta.index_open = open);
            assert_eq!(world.number(&["a"], &day(of)).await, 10);
            assert_eq!(world.number(&["a"], KEPT).await, before + 10);
        }
    }
    // Written by a worker that hot-metric has not heard of for long.
    let hour = Hour::of(time("2026-01-22T07:00:00Z"));
    publish(world.lake.as_ref(), &a, hour, &hour_rows(hour, 5), &footer(&a, 5, 300)).await;
    assert_eq!(world.refused(&["a"], &day(22)).await.reason, "SEAM_MOVED");
    assert_eq!(world.number(&["a"], KEPT).await, 320);
    world.live.change(&a, |live| live.meta.index_version = 5);
    assert_eq!(world.number(&["a"], &day(22)).await, 10);
    assert_eq!(world.number(&["a"], KEPT).await, 330);
}

/// Proves that a lost hour index makes no answer short, whether or not the filters name the days: nobody needs to have
/// compared it with the lake before.
#[tokio::test]
async fn a_lost_index_makes_no_answer_short() {
    use super::world::World;
    let world = World::new();
    world.fill(&key("a"), 3).await;
    for path in world.lake.paths().into_iter().filter(|path| path.starts_with("_index/")) {
        world.lake.damage(&path, |_| None);
    }
    for filter in ["", " WHERE month = 3 AND day = 2", " WHERE tenant_id = 'a'"] {
        let count = format!("SELECT SUM(event_count) FROM dashboard_metrics{filter}");
        assert_eq!(world.number(&["a"], &count).await, 420, "{filter}");
    }
}
