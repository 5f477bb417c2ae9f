//! A model of the writer of one key, as section 6 of the design describes it: it counts events, cuts, applies objects
//! and index one by one through the lake crate, moves the boundary, pushes to the live side, crashes and replays.

use std::collections::{BTreeMap, VecDeque};

use tidegauge_core::Key;
use tidegauge_core::hot::{HotVersion, KeyMeta, LiveSnapshot};
use tidegauge_core::time::{Hour, MINUTE_NS};
use tidegauge_lake::index::IndexEntry;
use tidegauge_lake::{AggregatedRow, Footer, SCHEMA_VERSION, apply, index, merge};

use super::world::{HandLive, LINEAGE, MemoryLake, live_window, row, scoped, time};

/// Deterministic numbers for the scripts.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// An event: minute since the model's start, and which metric.
#[derive(Clone, Copy, Debug)]
struct Event {
    minute: i64,
    metric: &'static str,
}

#[derive(Clone, Debug)]
enum Step {
    Object(Hour, Vec<AggregatedRow>),
    Index(Hour),
    Boundary(i64),
}

/// What a cut still has to do; its epoch is prepared.
#[derive(Clone, Debug)]
struct Cut {
    footer: Footer,
    boundary: i64,
    steps: VecDeque<Step>,
    /// Events that are pending until the cut ends.
    corrections: u64,
}

type Rows = BTreeMap<(String, i64), AggregatedRow>;

/// What a checkpoint keeps.
#[derive(Clone, Debug)]
struct State {
    ordinal: u64,
    epoch: u64,
    /// Unpublished windows, those of a cut under way included.
    windows: Rows,
    /// Events for published or frozen windows.
    corrections: Rows,
    corrected: u64,
    boundary: i64,
    /// The last epoch with outputs, and whether they are on their way.
    index_version: u64,
    index_open: bool,
    cut: Option<Cut>,
}

/// The writer of one key.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) key: Key,
    metric: &'static str,
    log: Vec<Event>,
    state: State,
    checkpoint: State,
    generation: u64,
    /// Entries written but not yet in the index; lost in a crash and made again.
    written: BTreeMap<Hour, IndexEntry>,
    pushed: HotVersion,
    now: i64,
}

fn start() -> i64 {
    // A cut soon crosses an hour, a day and a month.
    time("2026-02-28T22:40:00Z")
}

impl Writer {
    pub(super) fn new(key: Key, metric: &'static str) -> Self {
        let state = State {
            ordinal: 0,
            epoch: 0,
            windows: Rows::new(),
            corrections: Rows::new(),
            corrected: 0,
            boundary: start(),
            index_version: 0,
            index_open: false,
            cut: None,
        };
        Self {
            key,
            metric,
            log: Vec::new(),
            checkpoint: state.clone(),
            state,
            generation: 1,
            written: BTreeMap::new(),
            pushed: HotVersion::default(),
            now: 0,
        }
    }

    /// Does one thing that may happen between any two steps of a reader.
    pub(super) async fn step(&mut self, dice: &mut Dice, lake: &MemoryLake, live: &HandLive) {
        match dice.below(20) {
            0..=6 => self.emit(dice),
            7..=10 => self.push(live),
            11..=17 => self.publish(dice, lake).await,
            18 => self.now += 1 + dice.below(25) as i64,
            _ => self.crash(),
        }
        self.replay();
    }

    fn emit(&mut self, dice: &mut Dice) {
        // Mostly now, sometimes late or long ago.
        let back = match dice.below(10) {
            0 => dice.below(90) as i64,
            1..=2 => dice.below(12) as i64,
            _ => 0,
        };
        self.log.push(Event { minute: (self.now - back).max(0), metric: self.metric });
    }

    fn replay(&mut self) {
        while let Some(event) = self.log.get(self.state.ordinal as usize).copied() {
            let new = row(start() + event.minute * MINUTE_NS, event.metric, 1.0);
            let state = &mut self.state;
            state.ordinal += 1;
            let frozen = state.cut.as_ref().map_or(state.boundary, |cut| cut.boundary);
            let target = if new.start_ns < frozen {
                state.corrected += 1;
                &mut state.corrections
            } else {
                &mut state.windows
            };
            add(target, new);
        }
    }

    /// Pushes an absolute state, never behind what was pushed.
    pub(super) fn push(&mut self, live: &HandLive) {
        let State { ordinal, boundary, index_version, index_open, corrected, .. } = self.state;
        if ordinal < self.pushed.ordinal {
            return;
        }
        self.pushed = HotVersion { generation: self.generation, ordinal, push: self.pushed.push + 1 };
        let applying = self.state.cut.as_ref().map_or(0, |cut| cut.corrections);
        let meta = KeyMeta {
            version: self.pushed,
            boundary_ns: boundary,
            watermark_ns: boundary,
            counted: ordinal,
            pending: corrected + applying,
            index_version,
            index_open,
        };
        let windows = self.state.windows.values().filter(|w| w.start_ns >= boundary).map(live_window).collect();
        live.change(&self.key, |live| *live = LiveSnapshot { meta, windows, complete: true });
    }

    async fn publish(&mut self, dice: &mut Dice, lake: &MemoryLake) {
        let Some(cut) = &mut self.state.cut else { return self.prepare(dice) };
        let tenant = scoped(&self.key.tenant);
        match cut.steps.front().cloned() {
            Some(Step::Object(hour, rows)) => {
                let applied = apply::apply_hour(lake, &tenant, self.key.bucket, hour, &rows, &cut.footer).await;
                self.written.insert(hour, applied.expect("applied").entry);
            }
            Some(Step::Index(hour)) => {
                let entry = self.written[&hour].clone();
                index::update(lake, &tenant, self.key.bucket, hour.day(), &[entry]).await.expect("indexed");
            }
            Some(Step::Boundary(boundary)) => {
                self.state.boundary = boundary;
                self.state.index_open = false;
                self.state.windows.retain(|_, window| window.start_ns >= boundary);
                self.state.cut = None;
                self.written.clear();
                self.checkpoint = self.state.clone();
                return;
            }
            None => {}
        }
        cut.steps.pop_front();
    }

    /// Prepares an epoch: from here on a crash comes back to it.
    fn prepare(&mut self, dice: &mut Dice) {
        // A cut before the replay has caught up with the live side would freeze windows whose events were shown.
        if self.state.ordinal < self.pushed.ordinal {
            return;
        }
        let closed = start() + (self.now - 5).max(0) * MINUTE_NS;
        let boundary = closed.max(self.state.boundary);
        let mut rows = std::mem::take(&mut self.state.corrections);
        for window in self.state.windows.values().filter(|w| w.start_ns < boundary) {
            add(&mut rows, window.clone());
        }
        self.state.epoch += 1;
        let mut hours: BTreeMap<Hour, Vec<AggregatedRow>> = BTreeMap::new();
        for row in rows.into_values() {
            hours.entry(Hour::of(row.start_ns)).or_default().push(row);
        }
        let mut objects: Vec<(Hour, Vec<AggregatedRow>)> = hours.into_iter().collect();
        if dice.below(2) == 0 {
            objects.reverse();
        }
        let index = objects.iter().map(|(hour, _)| Step::Index(*hour)).collect::<Vec<_>>();
        let objects = objects.into_iter().map(|(hour, rows)| Step::Object(hour, rows));
        let footer = Footer {
            lineage: LINEAGE,
            epoch: self.state.epoch,
            ordinal: self.state.ordinal,
            generation: self.generation,
            key: self.key.clone(),
            schema_version: SCHEMA_VERSION,
        };
        let corrections = std::mem::take(&mut self.state.corrected);
        let steps = objects.chain(index).chain([Step::Boundary(boundary)]).collect();
        self.state.cut = Some(Cut { footer, boundary, steps, corrections });
        (self.state.index_version, self.state.index_open) = (self.state.epoch, true);
        self.checkpoint = self.state.clone();
    }

    fn crash(&mut self) {
        self.state = self.checkpoint.clone();
        self.written.clear();
        self.generation += 1;
    }
}

fn add(rows: &mut Rows, new: AggregatedRow) {
    let key = (new.metric.as_str().to_owned(), new.start_ns);
    match rows.remove(&key) {
        None => _ = rows.insert(key, new),
        Some(old) => {
            let merged = merge::merge_rows(vec![old], &[new]);
            rows.extend(merged.into_iter().map(|row| (key.clone(), row)));
        }
    }
}
