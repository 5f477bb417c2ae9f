//! A shard with a log, a checkpoint, a lake and a hot store that are plain maps, and crashes between any two steps.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use tidegauge_core::checkpoint::Change;
use tidegauge_core::event::EventBatch;
use tidegauge_core::hot::{KeyMeta, KeyUpdate, WindowRow};
use tidegauge_core::time::Hour;
use tidegauge_core::{Key, MetricName};

use super::oracle::Oracle;
use super::{T0, raw};
use crate::decide::rows::NOTHING;
use crate::decide::{ApplyFailure, ApplyJob, HotKnown, Settings, Shard};

type LakeRows = BTreeMap<(i64, MetricName), WindowRow>;

#[derive(Debug, Default)]
struct LakeObject {
    epoch: u64,
    ordinal: u64,
    rows: LakeRows,
}

#[derive(Debug, Default)]
struct HotKey {
    meta: KeyMeta,
    windows: LakeRows,
    currents: BTreeMap<MetricName, (u64, f64, i64)>,
}

/// Where an epoch is cut short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Crash {
    BeforePrepare,
    AfterPrepare,
    AfterObjects(usize),
    BeforeBoundary,
    BeforeComplete,
    AfterComplete,
}

#[derive(Debug)]
pub(super) struct Sim {
    settings: Settings,
    pub(super) shard: Shard,
    log: Vec<(Key, EventBatch, Bytes)>,
    pub(super) now: i64,
    entries: BTreeMap<(u8, Bytes), Bytes>,
    prepared: u64,
    completed: u64,
    position: usize,
    generation: u64,
    lake: HashMap<(Key, Hour), LakeObject>,
    hot: HashMap<Key, HotKey>,
    hot_target: u64,
    pub(super) oracle: Oracle,
    answered: HashMap<Key, u64>,
    /// Objects of this hour cannot be written.
    pub(super) broken: Option<Hour>,
}

impl Sim {
    pub(super) fn new(settings: Settings) -> Self {
        let mut shard = Shard::new(settings.clone());
        shard.set_generation(1);
        Self {
            oracle: Oracle::new(settings.clone()),
            settings,
            shard,
            log: Vec::new(),
            now: T0,
            entries: BTreeMap::new(),
            prepared: 0,
            completed: 0,
            position: 0,
            generation: 1,
            lake: HashMap::new(),
            hot: HashMap::new(),
            hot_target: 0,
            answered: HashMap::new(),
            broken: None,
        }
    }

    pub(super) fn append(&mut self, key: &Key, batch: EventBatch) {
        self.oracle.take(key, &batch);
        let bytes = raw(&batch);
        self.log.push((key.clone(), batch, bytes));
    }

    pub(super) fn process(&mut self, records: usize) {
        for _ in 0..records {
            let Some((key, batch, bytes)) = self.log.get(self.shard.ordinal() as usize) else { return };
            self.shard.process(key, batch, bytes, self.now);
        }
    }

    pub(super) fn tick(&mut self, ns: i64) {
        self.now += ns;
        if self.shard.ordinal() as usize == self.log.len() {
            self.shard.advance_idle(self.now);
        }
    }

    pub(super) fn push(&mut self, items: usize) {
        if self.shard.ordinal() < self.hot_target {
            return;
        }
        for update in self.shard.collect_updates(items) {
            apply_hot(&mut self.hot, update, self.settings.window.ns());
        }
    }

    /// One epoch. A crash leaves the rest undone and restarts.
    pub(super) fn epoch(&mut self, crash: Option<Crash>) {
        self.push(usize::MAX);
        // While records are replayed that readers have seen counted, a cut would make some of them wait again.
        if self.shard.ordinal() >= self.hot_target {
            self.shard.relieve();
            self.shard.cut_due(self.prepared + 1, self.now);
            self.check_size();
        }
        let epoch = self.prepared + 1;
        let jobs = self.shard.apply_jobs(self.now);
        self.shard.announce(epoch, &jobs);
        let changes = self.shard.take_changes(epoch);
        let keys: std::collections::BTreeSet<_> = changes.iter().map(|c| (c.keyspace, c.key.clone())).collect();
        assert_eq!(keys.len(), changes.len(), "an entry is changed at most once in an epoch");
        if crash == Some(Crash::BeforePrepare) {
            return self.restart();
        }
        self.store(changes);
        (self.prepared, self.position) = (epoch, self.shard.ordinal() as usize);
        self.shard.prepared();
        if crash == Some(Crash::AfterPrepare) {
            return self.restart();
        }
        self.push(usize::MAX);
        let stop = if let Some(Crash::AfterObjects(count)) = crash { count } else { usize::MAX };
        let mut written = 0;
        let mut results = Vec::new();
        for job in &jobs {
            let mut failure = None;
            for hour in &job.hours {
                if written == stop {
                    return self.restart();
                }
                written += 1;
                self.check();
                failure = self.write(job, hour.hour).err().or(failure);
                self.check();
            }
            results.push((job.index, failure));
        }
        if crash == Some(Crash::BeforeBoundary) {
            return self.restart();
        }
        self.finish(results);
        self.check();
        self.push(usize::MAX);
        if crash == Some(Crash::BeforeComplete) {
            return self.restart();
        }
        self.completed = epoch;
        if crash == Some(Crash::AfterComplete) {
            self.restart();
        }
    }

    /// An epoch takes no more objects than it may, and no key may have an outbox of more: I8.
    fn check_size(&self) {
        let epoch = self.prepared + 1;
        let outboxes = self.shard.keys().iter().filter_map(|key| key.outbox()).filter(|outbox| outbox.epoch == epoch);
        let objects: usize = outboxes.map(|outbox| outbox.hours.len()).sum();
        // The last key of an epoch has an hour for each of its two kinds of rows.
        assert!(objects <= self.settings.epoch_objects_max + 1, "{objects} objects");
    }

    fn finish(&mut self, results: Vec<(u32, Option<ApplyFailure>)>) {
        for (index, failure) in results {
            match failure {
                None => self.shard.applied(index, self.now),
                Some(failure) => self.shard.parked(index, failure, self.now),
            }
        }
        for batch in self.shard.dead_jobs(i64::MAX) {
            self.shard.dead_applied(&batch);
        }
    }

    fn store(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change.value {
                Some(value) => self.entries.insert((change.keyspace, change.key), value),
                None => self.entries.remove(&(change.keyspace, change.key)),
            };
        }
    }

    fn write(&mut self, job: &ApplyJob, hour: Hour) -> Result<(), ApplyFailure> {
        let ordinal = self.position as u64;
        let object = self.lake.entry((job.key.clone(), hour)).or_default();
        assert!(object.epoch <= self.prepared && object.ordinal <= ordinal);
        if object.epoch >= job.epoch {
            return Ok(());
        }
        if self.broken == Some(hour) {
            return Err(ApplyFailure { parked: vec![hour.to_string()], ..ApplyFailure::default() });
        }
        for row in job.hours.iter().filter(|h| h.hour == hour).flat_map(|h| h.rows.iter()) {
            merge(object.rows.entry((row.start_ns, row.metric.clone())).or_insert(NOTHING), &row.row);
        }
        (object.epoch, object.ordinal) = (self.prepared, ordinal);
        Ok(())
    }

    /// The process died: everything in memory is gone.
    pub(super) fn restart(&mut self) {
        let entries: Vec<_> = self.entries.iter().map(|((s, k), v)| (*s, k.clone(), v.clone())).collect();
        self.shard = Shard::restore(self.settings.clone(), self.position as u64, &entries).unwrap();
        self.generation += 1;
        self.shard.set_generation(self.generation);
        let jobs = self.shard.apply_jobs(self.now);
        let mut results = Vec::new();
        for job in &jobs {
            let mut failure = None;
            for hour in &job.hours {
                failure = self.write(job, hour.hour).err().or(failure);
                self.check();
            }
            results.push((job.index, failure));
        }
        self.finish(results);
        self.completed = self.prepared;
        let held = |hot: &HotKey| HotKnown { ordinal: hot.meta.version.ordinal, boundary_ns: hot.meta.boundary_ns };
        let known: HashMap<Key, HotKnown> = self.hot.iter().map(|(k, hot)| (k.clone(), held(hot))).collect();
        self.hot_target = known.values().map(|known| known.ordinal).max().unwrap_or(0);
        self.shard.restart_hot(&known);
        self.check();
    }

    /// I3 for the state, I6 for what a reader sees now.
    pub(super) fn check(&mut self) {
        let ordinal = self.shard.ordinal();
        for state in self.shard.keys() {
            assert!(state.counters.conserved(), "{:?}", state.counters);
            assert_eq!(state.counters.counted(), self.oracle.ledger(&state.key, ordinal), "{}", state.key);
        }
        for (key, hot) in &self.hot {
            let ledger = self.oracle.ledger(key, hot.meta.version.ordinal);
            assert_eq!(hot.meta.counted, ledger);
            let objects = || self.lake.iter().filter(|((k, _), _)| k == key).map(|(_, object)| object);
            if objects().any(|object| object.ordinal > hot.meta.version.ordinal) {
                continue; // The reader takes its snapshot again.
            }
            let below = |start: &i64| start + self.settings.window.ns() <= hot.meta.boundary_ns;
            let published = objects().flat_map(|o| &o.rows).filter(|((start, _), _)| below(start));
            let published: u64 = published.map(|(_, row)| row.count).sum();
            let live: u64 = hot.windows.iter().filter(|((s, _), _)| !below(s)).map(|(_, row)| row.count).sum();
            let sum = published + live;
            assert!(sum <= ledger, "{key}: {sum} rows for {ledger} events");
            assert!(ledger - hot.meta.pending <= sum, "{key}: {sum} of {ledger}, {} pending", hot.meta.pending);
            let before = self.answered.entry(key.clone()).or_default();
            assert!(*before <= sum, "{key}: {before} were answered before, now {sum}");
            *before = sum;
        }
    }

    /// Lets everything come to rest, then compares lake, series and ledger with the oracle.
    pub(super) fn finish_and_compare(&mut self) {
        self.broken = None;
        self.process(self.log.len());
        for _ in 0..400 {
            self.tick(self.settings.idle_ns);
            self.push(usize::MAX);
            self.check();
            self.epoch(None);
            self.check();
            let open = self.shard.keys().iter().any(|key| key.state_rows() > 0);
            if self.shard.settled() && !open {
                break;
            }
        }
        assert!(self.shard.settled(), "everything is published in the end");
        self.epoch(None);
        self.push(usize::MAX);
        self.check();
        for (key, expected) in &self.oracle.keys {
            let state = self.shard.key(key).unwrap();
            assert_eq!(state.counters.duplicates, expected.duplicates);
            assert_eq!(state.counters.dead, expected.dead);
            let mut rows = LakeRows::new();
            for ((k, hour), object) in &self.lake {
                if k == key {
                    assert!(object.rows.keys().all(|(start, _)| Hour::of(*start) == *hour));
                    rows.extend(object.rows.clone());
                }
            }
            assert_eq!(rows.keys().collect::<Vec<_>>(), expected.rows.keys().collect::<Vec<_>>());
            for (place, row) in &rows {
                let want = &expected.rows[place];
                let exact = |r: &WindowRow| {
                    let bits = [r.min, r.max, r.last, r.average()].map(f64::to_bits);
                    (r.count, bits, r.last_time_ns, r.sum.clone())
                };
                assert_eq!(exact(row), exact(want), "{key} {place:?}");
            }
            assert_eq!(rows.values().map(|row| row.late).sum::<u64>(), state.counters.late);
            // A key is born with its first event that counts; hot-metric hears of no other.
            let Some(hot) = self.hot.get(key) else {
                assert_eq!(expected.counted, 0, "{key}: hot-metric has not heard of it");
                continue;
            };
            assert_eq!(hot.currents, expected.series, "running counts and last values");
            assert_eq!((hot.meta.counted, hot.meta.pending), (expected.counted, 0));
            assert_eq!(self.answered.get(key), Some(&expected.counted), "{key}: a reader was answered with all of it");
        }
        // The header of a cut that moves only the boundary may remain.
        let rows = |(space, key): &&(u8, Bytes)| [4, 5, 9].contains(space) || (*space == 8 && key.len() > 12);
        let left = self.entries.keys().filter(rows).count();
        assert_eq!(left, 0, "nothing stays in the checkpoint that is in the lake");
    }
}

fn apply_hot(hot: &mut HashMap<Key, HotKey>, update: KeyUpdate, window_ns: i64) {
    let known = hot.contains_key(&update.key);
    let held = hot.entry(update.key.clone()).or_default();
    assert!(known || update.replaces_windows, "a new key begins with a snapshot");
    assert!(update.meta.version > held.meta.version, "versions rise");
    assert!(update.meta.boundary_ns >= held.meta.boundary_ns || !known, "boundaries never go back");
    assert!(update.meta.watermark_ns >= held.meta.watermark_ns || !known, "watermarks never go back");
    assert!(update.meta.watermark_ns >= update.meta.boundary_ns, "what is published is closed");
    if update.replaces_windows {
        held.windows.clear();
    }
    for window in update.windows {
        held.windows.insert((window.start_ns, window.metric), window.row);
    }
    held.windows.retain(|(start, _), _| start + window_ns > update.meta.boundary_ns);
    for current in update.currents {
        held.currents.insert(current.metric, (current.event_count, current.last_value, current.last_time_ns));
    }
    held.meta = update.meta;
}

fn merge(row: &mut WindowRow, more: &WindowRow) {
    row.count += more.count;
    row.sum.merge(&more.sum);
    row.min = std::cmp::min_by(row.min, more.min, f64::total_cmp);
    row.max = std::cmp::max_by(row.max, more.max, f64::total_cmp);
    row.late += more.late;
    if more.last_time_ns >= row.last_time_ns {
        (row.last, row.last_time_ns) = (more.last, more.last_time_ns);
    }
}
