//! Lives and deaths of a worker.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tidegauge_core::clock::{Clock, ManualClock};
use tidegauge_core::event::Mode;
use tidegauge_core::hot::WindowRow;
use tidegauge_core::log::{EventLog, NewRecord};
use tidegauge_core::scope::SystemAuthority;
use tidegauge_core::time::{MINUTE_NS, SECOND_NS};
use tidegauge_core::{Key, MetricName};
use tidegauge_lake::{object, paths};

use super::backends::{Disk, Fuse, MemoryLog, Stores};
use super::hot::MemoryHot;
use crate::decide::tests::oracle::Oracle;
use crate::decide::tests::{T0, batch, key, raw, request};
use crate::options::{AggregationOptions, Backends};
use crate::service::{Aggregation, AggregationHandle};
use crate::status::KeyReport;
use crate::verify::verify;

/// Version, ordinal and rows of an object.
type Decoded = (u64, u64, Arc<Vec<((i64, MetricName), WindowRow)>>);

/// A world in which processes come and go.
struct World {
    log: Arc<MemoryLog>,
    disk: Arc<Disk>,
    hot: MemoryHot,
    clock: Arc<ManualClock>,
    oracle: Oracle,
    answered: HashMap<Key, u64>,
    answers: u64,
    decoded: Mutex<HashMap<String, Decoded>>,
    /// Objects that were replaced before readers could reach them.
    beyond: Arc<Mutex<Vec<String>>>,
    /// Whether that may happen.
    waits: bool,
    _time: tokio_util::task::AbortOnDropHandle<()>,
}

pub(super) fn options() -> AggregationOptions {
    AggregationOptions {
        allowed_lateness: Duration::from_secs(120),
        // Short beside the world's time, which runs fast: everything is always due.
        idle_timeout: Duration::from_millis(4),
        checkpoint_interval: Duration::from_millis(4),
        publish_interval: Duration::from_millis(4),
        publish_objects_per_second: 1_000_000,
        read_bytes: 300,
        ..AggregationOptions::default()
    }
}

#[allow(clippy::disallowed_methods, reason = "a test composes its own process")]
pub(super) fn authority() -> SystemAuthority {
    SystemAuthority::for_worker("aggregation")
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at(T0));
        let flow = clock.clone();
        let time = tokio::spawn(async move {
            let mut beat = tokio::time::interval(Duration::from_millis(1));
            loop {
                beat.tick().await;
                flow.advance(2 * SECOND_NS);
            }
        });
        let options = options();
        Self {
            log: Arc::default(),
            disk: Arc::default(),
            hot: MemoryHot::default(),
            clock,
            oracle: Oracle::new(options.settings().unwrap()),
            answered: HashMap::new(),
            answers: 0,
            decoded: Mutex::default(),
            beyond: Arc::default(),
            waits: false,
            _time: tokio_util::task::AbortOnDropHandle::new(time),
        }
    }

    fn start(&self, fuse: Arc<Fuse>, options: AggregationOptions) -> (AggregationHandle, Arc<Stores>) {
        let stores = Stores::new(self.disk.clone(), fuse, self.hot.held.clone(), self.beyond.clone());
        let backends = Backends { log: self.log.clone(), checkpoints: stores.clone(), lake: stores.clone() };
        let hot = Arc::new(self.hot.clone());
        let handle = Aggregation::start_with(options, backends, hot, self.clock.clone(), authority());
        (handle.unwrap(), stores)
    }

    /// Puts some records on the log: on time, late, history, duplicates, dead ones.
    async fn send(&mut self, round: u64) {
        let now = self.clock.wall_ns();
        for name in ["a", "b"] {
            let key = key(name);
            let near = [(0, now, 1.0), (1, now - SECOND_NS, 2.0), (0, now - MINUTE_NS, 3.0)];
            let mut live = batch(&key, Mode::Live, now, &near);
            live.request = request(1, false, 2 * round + 1, u128::from(round));
            let minutes = |minutes: i64| now + minutes * MINUTE_NS;
            // Before the birth of the key, long before it, in the future; and late, but after the birth.
            let old = [(2, minutes(-20), 4.0), (0, minutes(-70), 5.0), (1, minutes(30), 6.0), (0, minutes(-5), 9.0)];
            let mut late = batch(&key, Mode::Live, now, &old);
            late.request = request(1, false, 2 * round + 2, 0);
            let history = batch(&key, Mode::Backfill, now, &[(0, now - 90 * MINUTE_NS, 7.0), (3, now, 8.0)]);
            for record in [live.clone(), late, live, history] {
                self.oracle.take(&key, &record);
                let payload = raw(&record);
                self.log.append(vec![NewRecord { key: key.clone(), payload }]).await.unwrap();
            }
        }
    }

    /// A reader's answer for every key, checked by I6.
    fn read(&mut self) {
        let beyond = self.beyond.lock().unwrap().clone();
        assert!(self.waits || beyond.is_empty(), "readers have to wait: {beyond:?}");
        let held = self.hot.held.lock().unwrap().clone();
        for (key, hot) in held {
            let Some(lake) = self.lake_rows(&key, Some(hot.version.ordinal)) else { continue };
            let ledger = self.oracle.ledger(&key, hot.version.ordinal);
            assert_eq!(hot.counted, ledger, "{key} at {:?}", hot.version);
            let below = |start: i64| start + MINUTE_NS <= hot.boundary_ns;
            let published: u64 = lake.iter().filter(|((s, _), _)| below(*s)).map(|(_, row)| row.count).sum();
            let live: u64 = hot.windows.iter().filter(|((s, _), _)| !below(*s)).map(|(_, row)| row.count).sum();
            let sum = published + live;
            assert!(sum <= ledger && ledger - hot.pending <= sum, "{key}: {sum} of {ledger}, pending {}", hot.pending);
            let before = self.answered.entry(key).or_default();
            assert!(*before <= sum, "{before} were answered before, now {sum}");
            *before = sum;
            self.answers += 1;
        }
    }

    /// Rows of a key in the lake; `None` if an object knows more than `ordinal`.
    fn lake_rows(&self, key: &Key, ordinal: Option<u64>) -> Option<BTreeMap<(i64, MetricName), WindowRow>> {
        let mut rows = BTreeMap::new();
        let mut decoded = self.decoded.lock().unwrap();
        for (path, (content, version)) in self.disk.objects.lock().unwrap().iter() {
            let place = paths::parse_aggregated_object(path);
            if place.is_none_or(|place| place.tenant != key.tenant) {
                continue;
            }
            let known = decoded.get(path).filter(|(known, ..)| known == version).cloned();
            let (_, object_ordinal, found) = known.unwrap_or_else(|| {
                let (rows, footer) = object::decode(content.clone()).unwrap();
                let rows = rows.into_iter().map(|row| ((row.start_ns, row.metric), row.row)).collect();
                let fresh: Decoded = (*version, footer.ordinal, Arc::new(rows));
                decoded.insert(path.clone(), fresh.clone());
                fresh
            });
            if ordinal.is_some_and(|ordinal| object_ordinal > ordinal) {
                return None;
            }
            rows.extend(found.iter().cloned());
        }
        Some(rows)
    }

    /// Waits until the worker has nothing left to do, reading all the while.
    async fn rest(&mut self, handle: &AggregationHandle) {
        let waited = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                self.read();
                let status = handle.status().await;
                if status.quiescent && status.keys.iter().all(|key| key.state_rows == 0 && key.pending == 0) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        });
        if waited.await.is_err() {
            panic!("the worker does not come to rest: {:#?}", handle.status().await);
        }
        self.read();
    }

    async fn verify(&self) {
        let stores = Stores::new(self.disk.clone(), Fuse::never(), Default::default(), Default::default());
        let backends = Backends { log: self.log.clone(), checkpoints: stores.clone(), lake: stores };
        let report = verify(&options(), &backends, &authority()).await.unwrap();
        assert_eq!(report.findings, []);
    }

    fn compare(&self) {
        for (key, expected) in &self.oracle.keys {
            let rows = self.lake_rows(key, None).unwrap();
            let exact = |rows: &BTreeMap<(i64, MetricName), WindowRow>| {
                rows.iter()
                    .map(|(k, r)| (k.clone(), (r.count, r.min, r.max, r.last, r.last_time_ns, r.sum)))
                    .collect::<Vec<_>>()
            };
            assert_eq!(exact(&rows), exact(&expected.rows), "{key}");
            let held = self.hot.held.lock().unwrap();
            let series: BTreeMap<_, _> = expected.series.iter().map(|(m, s)| (m.clone(), (s.0, s.1))).collect();
            assert_eq!(held[key].currents, series);
        }
    }
}

/// Reads while the process lives, until it has died or come to rest.
async fn live_until_dead(world: &mut World, handle: &AggregationHandle, fuse: &Fuse) -> bool {
    for _ in 0..100_000 {
        if fuse.is_blown() {
            return true;
        }
        world.read();
        let status = handle.status().await;
        if status.quiescent && status.keys.len() == 2 && status.keys.iter().all(|key| key.state_rows == 0) {
            return false;
        }
        tokio::task::yield_now().await;
    }
    panic!("neither dead nor at rest");
}

/// The process dies at every operation on checkpoint store and lake, once before and once after it is done; each time
/// another process takes over, gets more records, and in the end rows, counts and every answer on the way are right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dying_at_any_operation_loses_and_doubles_nothing() {
    let mut deaths = 0;
    for half_operations in 2.. {
        let mut world = World::new();
        world.send(0).await;
        let fuse = Fuse::after(half_operations);
        let (first, _) = world.start(fuse.clone(), options());
        let died = live_until_dead(&mut world, &first, &fuse).await;
        drop(first);
        // Whatever the moment of its death: what it left behind adds up.
        world.verify().await;
        world.send(1).await;
        let (second, _) = world.start(Fuse::never(), options());
        world.rest(&second).await;
        world.compare();
        second.drain().await;
        world.compare();
        world.verify().await;
        assert!(world.answers > 0);
        deaths += u32::from(died);
        if !died {
            break;
        }
    }
    assert!(deaths > 40, "{deaths} deaths");
}

/// Killed again and again while records keep coming, with a hot-metric that drops its streams.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_series_of_deaths_under_load() {
    let mut world = World::new();
    world.hot.batches_per_stream = Some(3);
    for round in 0..40 {
        let fuse = Fuse::after(3 + (round as i64 * 37) % 90);
        let (handle, _) = world.start(fuse.clone(), options());
        for part in 0..3 {
            world.send(3 * round + part).await;
            for _ in 0..20 {
                world.read();
                tokio::task::yield_now().await;
            }
        }
        drop(handle);
    }
    let (last, _) = world.start(Fuse::never(), options());
    world.rest(&last).await;
    world.compare();
    last.drain().await;
    world.verify().await;
}

/// What readers have seen counted is not made to wait again by a cut while the records are replayed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_takes_nothing_back() {
    let mut world = World::new();
    let never = Duration::from_secs(1 << 24);
    let lazy = AggregationOptions { checkpoint_interval: never, publish_interval: never, ..options() };
    let (first, _) = world.start(Fuse::never(), lazy);
    for round in 0..30 {
        world.send(round).await;
        world.clock.advance(MINUTE_NS);
    }
    let all = world.oracle.keys.values().flat_map(|key| key.ledger.last()).map(|(ordinal, _)| *ordinal).max().unwrap();
    let heard = tokio::time::timeout(Duration::from_secs(30), async {
        while world.hot.held.lock().unwrap().values().all(|held| held.version.ordinal < all) {
            tokio::task::yield_now().await;
        }
    });
    heard.await.unwrap();
    world.read();
    drop(first);
    // Record by record, while epochs are due all the time and do not wait for hot-metric: then readers may have to.
    world.waits = true;
    world.log.slow.store(true, std::sync::atomic::Ordering::SeqCst);
    let hasty = AggregationOptions { read_bytes: 1, hot_wait_max: Duration::from_millis(1), ..options() };
    let (second, _) = world.start(Fuse::never(), hasty);
    world.rest(&second).await;
    world.compare();
    second.drain().await;
}

/// A process dies with a cut prepared of which hot-metric has not heard. The next one replaces no object of it before
/// hot-metric has: readers could not reach its footer, and every query on the key would have to wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_is_announced_before_it_is_applied_also_after_a_takeover() {
    let mut world = World::new();
    let (first, _) = world.start(Fuse::never(), options());
    world.send(0).await;
    world.rest(&first).await;
    world.hot.stuck.send_replace(true);
    world.send(1).await;
    let prepared = tokio::time::timeout(Duration::from_secs(30), async {
        while world.disk.checkpoint.lock().unwrap().rows_on_their_way() == 0 {
            tokio::task::yield_now().await;
        }
    });
    prepared.await.unwrap();
    drop(first);
    world.hot.stuck.send_replace(false);
    // Record by record: the replay takes its time.
    world.log.slow.store(true, std::sync::atomic::Ordering::SeqCst);
    let (second, _) = world.start(Fuse::never(), options());
    world.rest(&second).await;
    world.compare();
    second.drain().await;
    world.verify().await;
}

/// One object that cannot be written holds up its own key: the other's boundary moves, the parked rows stay visible as
/// live windows, and when the object can be written again everything is there once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_object_parks_its_key_alone() {
    let mut world = World::new();
    let (handle, stores) = world.start(Fuse::never(), options());
    *stores.broken.lock().unwrap() = Some("aggregated/tenant_id=a/".to_owned());
    world.send(0).await;
    let parked = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            world.read();
            let status = handle.status().await;
            let of = |name: &str| status.keys.iter().find(|k| k.key == key(name)).cloned();
            if let (Some(a), Some(b)) = (of("a"), of("b"))
                && !a.parked.is_empty()
                && b.state_rows == 0
                && b.boundary_ns > a.boundary_ns
            {
                return a;
            }
            tokio::task::yield_now().await;
        }
    });
    let parked = parked.await.unwrap();
    assert!(parked.parked[0].contains("tenant_id=a"), "{parked:?}");
    world.send(1).await;
    // A process that restarts meanwhile parks again.
    handle.drain().await;
    let (handle, _) = world.start(Fuse::never(), options());
    world.rest(&handle).await;
    world.compare();
    handle.drain().await;
}

/// I7: an object that nobody can read stops its key. However much that key is sent, the others of its shard go on, and
/// what it has no room for is kept as dead letters. Mended, it goes on too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_key_does_not_fill_its_shard() {
    const WINDOWS: i64 = 200;
    let mut world = World::new();
    let tight = AggregationOptions { state_rows_max: 60, ..options() };
    let (handle, stores) = world.start(Fuse::never(), tight);
    *stores.unreadable.lock().unwrap() = Some("aggregated/tenant_id=a/".to_owned());
    let log = world.log.clone();
    let append = async |name: &str, minutes: i64| {
        let record = batch(&key(name), Mode::Backfill, T0, &[(0, T0 - minutes * MINUTE_NS, 1.0)]);
        log.append(vec![NewRecord { key: key(name), payload: raw(&record) }]).await.unwrap();
    };
    let reached = async |what: &str, done: &dyn Fn(&KeyReport, &KeyReport) -> bool| {
        let reached = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                let keys = handle.status().await.keys;
                if let [a, b] = keys.as_slice()
                    && done(a, b)
                {
                    return;
                }
                tokio::task::yield_now().await;
            }
        });
        if reached.await.is_err() {
            panic!("{what}: {:#?}", handle.status().await);
        }
    };
    append("b", 10).await;
    append("a", 10).await;
    reached("the key stops", &|a, _| a.stopped_because.is_some()).await;
    for window in 0..WINDOWS {
        append("a", 10 + window).await;
        append("b", 10 + window).await;
    }
    let all = WINDOWS as u64 + 1;
    reached("the other key is published", &|_, b| b.counters.backfilled == all && b.state_rows == 0).await;
    reached("all is processed", &|a, _| a.counters.on_log == all && a.counters.dead > 0).await;
    reached("the room is kept", &|a, _| a.state_rows <= 30).await;

    *stores.unreadable.lock().unwrap() = None;
    reached("the key goes on", &|a, _| a.stopped_because.is_none() && a.state_rows == 0).await;
    append("a", 1_000).await;
    reached("it counts again", &|a, _| a.counters.on_log == all + 1 && a.state_rows == 0).await;
    handle.drain().await;
    world.verify().await;
}

/// A record that is no record is one dead letter; it stands in the lake with its bytes, and so do single dead events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_stand_in_the_lake() {
    let mut world = World::new();
    world.send(0).await;
    let garbage = Bytes::from_static(b"\xFFnonsense");
    world.log.append(vec![NewRecord { key: key("a"), payload: garbage.clone() }]).await.unwrap();
    let (handle, _) = world.start(Fuse::never(), options());
    world.rest(&handle).await;
    let status = handle.status().await;
    let counters = status.keys.iter().find(|k| k.key == key("a")).unwrap().counters;
    assert_eq!(counters.dead, world.oracle.keys[&key("a")].dead + 1);
    assert!(counters.conserved());
    handle.drain().await;
    world.verify().await;
    let mut letters = Vec::new();
    for (path, (content, _)) in world.disk.objects.lock().unwrap().iter() {
        if paths::parse_dead_letter_object(path).is_some_and(|p| p.tenant == Some(key("a").tenant)) {
            letters.extend(tidegauge_lake::dead_letter::decode(content.clone()).unwrap());
        }
    }
    assert_eq!(letters.len() as u64, counters.dead);
    assert!(letters.iter().any(|letter| letter.payload == garbage && letter.reason == "UNDECODABLE"));
    assert!(letters.iter().any(|letter| letter.reason == "TOO_FAR_IN_FUTURE" && letter.event_index == Some(2)));
}

/// With room for few rows cuts are forced and watermarks pressed, and still nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn little_room_forces_cuts() {
    let mut world = World::new();
    let tight = AggregationOptions {
        state_rows_max: 5,
        publish_interval: Duration::from_secs(3_600),
        idle_timeout: Duration::from_secs(100_000),
        checkpoint_interval: Duration::from_millis(4),
        ..options()
    };
    let (handle, _) = world.start(Fuse::never(), tight);
    for round in 0..10 {
        world.send(round).await;
        world.read();
    }
    let total: u64 = world.oracle.keys.values().map(|key| key.counted).sum();
    let done = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            world.read();
            let status = handle.status().await;
            if status.keys.iter().map(|key| key.counters.counted()).sum::<u64>() == total {
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    done.await.unwrap();
    drop(handle);
    let (handle, _) = world.start(Fuse::never(), options());
    world.rest(&handle).await;
    world.compare();
    handle.drain().await;
}
