//! A world in which processes come and go, and a reader who checks every answer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegauge_core::clock::{Clock, ManualClock, SteadyClock};
use tidegauge_core::event::Mode;
use tidegauge_core::hot::WindowRow;
use tidegauge_core::log::{EventLog, NewRecord};
use tidegauge_core::scope::SystemAuthority;
use tidegauge_core::time::{MINUTE_NS, SECOND_NS};
use tidegauge_core::{Key, MetricName};
use tidegauge_lake::{object, paths};
use tokio_util::task::AbortOnDropHandle;

use super::backends::{Disk, Fuse, MemoryLog, Stores};
use super::hot::MemoryHot;
use crate::decide::tests::oracle::Oracle;
use crate::decide::tests::{T0, batch, key, raw, request};
use crate::options::{AggregationOptions, Backends};
use crate::service::{Aggregation, AggregationHandle};
use crate::verify::verify;

/// Version, ordinal and rows of an object.
type Decoded = (u64, u64, Arc<Vec<((i64, MetricName), WindowRow)>>);

/// A world in which processes come and go.
pub(super) struct World {
    pub(super) log: Arc<MemoryLog>,
    pub(super) disk: Arc<Disk>,
    pub(super) hot: MemoryHot,
    pub(super) clock: Arc<ManualClock>,
    pub(super) oracle: Oracle,
    answered: HashMap<Key, u64>,
    pub(super) answers: u64,
    decoded: Mutex<HashMap<String, Decoded>>,
    /// What a reader keeps of the hour index: by key, generation and index version.
    kept: HashMap<(Key, u64, u64), BTreeSet<String>>,
    /// Objects that were replaced before readers could reach them.
    beyond: Arc<Mutex<Vec<String>>>,
    /// Whether that may happen.
    pub(super) waits: bool,
    /// Lets the time pass.
    _time: Option<AbortOnDropHandle<()>>,
}

pub(super) fn options() -> AggregationOptions {
    AggregationOptions {
        allowed_lateness: Duration::from_secs(120),
        // Short beside the world's time, which runs fast: everything is always due.
        idle_timeout: Duration::from_millis(4),
        checkpoint_interval: Duration::from_millis(4),
        publish_interval: Duration::from_millis(4),
        read_bytes: 300,
        ..AggregationOptions::default()
    }
}

#[allow(clippy::disallowed_methods, reason = "a test composes its own process")]
pub(super) fn authority() -> SystemAuthority {
    SystemAuthority::for_worker("aggregation")
}

impl World {
    /// A world whose time runs fast.
    pub(super) fn new() -> Self {
        let mut world = Self::standing_still();
        let flow = world.clock.clone();
        let time = tokio::spawn(async move {
            let mut beat = tokio::time::interval(Duration::from_millis(1));
            loop {
                beat.tick().await;
                flow.advance(2 * SECOND_NS);
            }
        });
        world._time = Some(AbortOnDropHandle::new(time));
        world
    }

    /// A world whose time passes when the test says so.
    pub(super) fn standing_still() -> Self {
        let options = options();
        Self {
            log: Arc::default(),
            disk: Arc::default(),
            hot: MemoryHot::default(),
            clock: Arc::new(ManualClock::at(T0)),
            oracle: Oracle::new(options.settings().unwrap()),
            answered: HashMap::new(),
            answers: 0,
            decoded: Mutex::default(),
            kept: HashMap::new(),
            beyond: Arc::default(),
            waits: false,
            _time: None,
        }
    }

    pub(super) fn start(&self, fuse: Arc<Fuse>, options: AggregationOptions) -> (AggregationHandle, Arc<Stores>) {
        let stores = Stores::new(self.disk.clone(), fuse, self.hot.held.clone(), self.beyond.clone());
        let backends = Backends { log: self.log.clone(), checkpoints: stores.clone(), lake: stores.clone() };
        let hot = Arc::new(self.hot.clone());
        let handle =
            Aggregation::start_with(options, backends, hot, SteadyClock::start(self.clock.clone()), authority());
        (handle.unwrap(), stores)
    }

    /// Puts some records on the log: on time, late, history, duplicates, dead ones.
    pub(super) async fn send(&mut self, round: u64) {
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
    pub(super) fn read(&mut self) {
        let beyond = self.beyond.lock().unwrap().clone();
        assert!(self.waits || beyond.is_empty(), "readers have to wait: {beyond:?}");
        self.read_indexes();
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

    /// Looks at the hour indexes as a reader does that keeps them: while a key's is not open, it must be what it was before
    /// under the same version.
    fn read_indexes(&mut self) {
        // Held over both looks, as a push that is not acknowledged changes nothing.
        let held = self.hot.held.lock().unwrap();
        let objects = self.disk.objects.lock().unwrap();
        for (key, hot) in held.iter().filter(|(_, hot)| !hot.index_open && !self.waits) {
            // As a reader does: a day without an index is looked for in the lake.
            let bucket = format!("{:05}", key.bucket);
            let named = |path: &String| {
                let place = paths::parse_aggregated_object(path)?;
                let day = format!("_index/aggregated/{}/{bucket}/{}.json", place.tenant, place.hour.day());
                let index =
                    objects.get(&day).map(|(content, _)| String::from_utf8_lossy(content).contains(path.as_str()));
                (place.tenant == key.tenant && place.bucket == key.bucket && index.unwrap_or(true))
                    .then(|| path.clone())
            };
            let index: BTreeSet<String> = objects.keys().filter_map(named).collect();
            let state = (key.clone(), hot.version.generation, hot.index_version);
            let known = self.kept.entry(state).or_insert_with(|| index.clone());
            assert!(*known == index, "{key}: the index changed under {:?}, {}", hot.version, hot.index_version);
        }
    }

    /// Rows of a key in the lake; `None` if an object knows more than `ordinal`.
    pub(super) fn lake_rows(&self, key: &Key, ordinal: Option<u64>) -> Option<BTreeMap<(i64, MetricName), WindowRow>> {
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
    pub(super) async fn rest(&mut self, handle: &AggregationHandle) {
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

    pub(super) async fn verify(&self) {
        let stores = Stores::new(self.disk.clone(), Fuse::never(), Default::default(), Default::default());
        let backends = Backends { log: self.log.clone(), checkpoints: stores.clone(), lake: stores };
        let report = verify(&options(), &backends, &authority()).await.unwrap();
        assert_eq!(report.findings, []);
    }

    pub(super) fn compare(&self) {
        for (key, expected) in &self.oracle.keys {
            let rows = self.lake_rows(key, None).unwrap();
            let exact = |rows: &BTreeMap<(i64, MetricName), WindowRow>| {
                rows.iter()
                    .map(|(k, r)| (k.clone(), (r.count, r.min, r.max, r.last, r.last_time_ns, r.sum.clone())))
                    .collect::<Vec<_>>()
            };
            assert_eq!(exact(&rows), exact(&expected.rows), "{key}");
            let held = self.hot.held.lock().unwrap();
            let series: BTreeMap<_, _> = expected.series.iter().map(|(m, s)| (m.clone(), (s.0, s.1))).collect();
            assert_eq!(held[key].currents, series);
        }
    }
}
