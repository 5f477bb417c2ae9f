//! The events of one record into windows, and the watermark after them. The loop over events touches arrays only;
//! everything that costs more happens once per (record, window, metric).

use std::collections::HashMap;
use std::ops::Range;

use tidegauge_core::event::{EventBatch, EventColumns, Mode};
use tidegauge_core::limits::EVENT_TIME_MIN_NS;

use super::dead::DeadReason;
use super::key::{KeyState, NEVER};
use super::rows::{HOT, IdMap, Part, TOUCHED};
use super::series::NoSeries;
use super::settings::Settings;

/// Slots from here on are no slots.
const DEAD_HELD: u32 = u32::MAX - 3;
const DEAD_NAME: u32 = u32::MAX - 2;
const DEAD_FULL: u32 = u32::MAX - 1;
const UNKNOWN: u32 = u32::MAX;
/// Entries of the table from (window, metric) to slot; reached, it starts anew.
const TABLE_MAX: usize = 1 << 20;
/// Dictionaries up to this length index the table by themselves; of longer ones only the used entries do.
const DICTIONARY_DENSE: usize = 4_096;
/// Latest time that is taken seriously: far from overflow in every sum with a setting.
pub(super) const TIME_MAX: i64 = i64::MAX / 2;

/// How events of a window are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Count {
    OnTime,
    Late,
    Backfilled,
}

#[derive(Clone, Copy, Debug)]
struct LocalWindow {
    start: i64,
    end: i64,
    part: Part,
    count: Count,
}

#[derive(Clone, Copy, Debug)]
struct Touched {
    slot: u32,
    metric: u32,
    before: u64,
    part: Part,
    count: Count,
}

/// Buffers of [`Shard::process`], kept so that the steady state allocates nothing.
#[derive(Debug, Default, Clone)]
pub(super) struct Scratch {
    /// Positions of events that were never seen.
    pub(super) fresh: Vec<Range<u32>>,
    selected: Vec<Range<u32>>,
    windows: Vec<LocalWindow>,
    by_start: IdMap<i64, u32>,
    slots: Vec<u32>,
    interned: Vec<u32>,
    touched: Vec<Touched>,
    /// Positions of events that are set aside.
    pub(super) dead: Vec<(u32, DeadReason)>,
    compact: Vec<u32>,
    names: Vec<u32>,
    compact_by_id: HashMap<u32, u32>,
}

/// The work on one record.
pub(super) struct Record<'a> {
    pub(super) state: &'a mut KeyState,
    pub(super) scratch: &'a mut Scratch,
    pub(super) settings: &'a Settings,
    pub(super) batch: &'a EventBatch,
    /// Arrival, kept within what is believable.
    pub(super) arrival: i64,
    /// The decisions' time.
    pub(super) now: i64,
    /// Rows up to which the key may have new ones.
    pub(super) rows_max: usize,
}

impl Record<'_> {
    /// Counts the fresh events or sets them aside, then moves the watermark.
    pub(super) fn run(&mut self, ordinal: u64) {
        self.scratch.dead.clear();
        let newest = self.select();
        if self.scratch.selected.is_empty() {
            return;
        }
        let window = self.settings.window;
        if !self.state.born() && self.batch.mode == Mode::Backfill {
            let start = window.start_of(self.arrival - self.settings.lateness_ns);
            self.state.watermark = start;
            self.state.boundary = start;
            self.state.cut_through = start;
            self.state.heard = self.arrival.min(self.now);
        }
        let first_start = self.accumulate(ordinal);
        if self.batch.mode == Mode::Backfill || first_start == i64::MAX {
            return;
        }
        let newest = if self.scratch.dead.is_empty() { newest } else { self.newest_alive() };
        let watermark = newest.min(self.arrival) - self.settings.lateness_ns;
        let state = &mut *self.state;
        state.event_watermark = state.event_watermark.max(watermark);
        state.watermark = state.watermark.max(watermark);
        if !state.born() {
            state.boundary = first_start.min(window.start_of(state.watermark));
            state.cut_through = state.boundary;
        }
    }

    /// Chooses the fresh events that can be counted, sets the others aside; the newest time of the chosen.
    fn select(&mut self) -> i64 {
        let times = &self.batch.columns.times;
        let future = self.arrival.saturating_add(self.settings.future_ns).min(TIME_MAX);
        let oldest_allowed = match self.batch.mode {
            Mode::Live if self.state.event_watermark != NEVER => {
                self.state.event_watermark.saturating_sub(self.settings.horizon_ns)
            }
            _ => NEVER,
        };
        let Scratch { fresh, selected, dead, .. } = &mut *self.scratch;
        selected.clear();
        let (mut least, mut most) = (i64::MAX, i64::MIN);
        for range in fresh.iter() {
            for time in &times[range.start as usize..range.end as usize] {
                least = least.min(*time);
                most = most.max(*time);
            }
        }
        if least >= oldest_allowed.max(EVENT_TIME_MIN_NS) && most <= future {
            selected.extend(fresh.iter().filter(|range| !range.is_empty()).cloned());
            return most;
        }
        let mut newest = i64::MIN;
        for position in fresh.iter().cloned().flatten() {
            let time = times[position as usize];
            let reason = if time < EVENT_TIME_MIN_NS {
                DeadReason::Invalid
            } else if time > future {
                DeadReason::TooFarInFuture
            } else if time < oldest_allowed {
                DeadReason::TooOld
            } else {
                newest = newest.max(time);
                match selected.last_mut() {
                    Some(last) if last.end == position => last.end += 1,
                    _ => selected.push(position..position + 1),
                }
                continue;
            };
            dead.push((position, reason));
        }
        newest
    }

    /// Newest time of the events that were counted.
    fn newest_alive(&self) -> i64 {
        let dead: std::collections::HashSet<u32> = self.scratch.dead.iter().map(|(at, _)| *at).collect();
        let alive = self.scratch.selected.iter().cloned().flatten().filter(|at| !dead.contains(at));
        alive.map(|at| self.batch.columns.times[at as usize]).max().unwrap_or(i64::MIN)
    }

    /// Adds the selected events to their rows; the start of the earliest window touched, or `i64::MAX`.
    fn accumulate(&mut self, ordinal: u64) -> i64 {
        let columns = &self.batch.columns;
        let selected = std::mem::take(&mut self.scratch.selected);
        let compact = std::mem::take(&mut self.scratch.compact);
        let (ids, width, compact) = self.metric_ids(columns, &selected, compact);
        let ids: &[u32] = if ids { &compact } else { &columns.metric_ids };
        let (times, values) = (columns.times.as_slice(), columns.values.as_slice());

        self.restart_table();
        self.scratch.interned.clear();
        self.scratch.interned.resize(width, UNKNOWN);
        self.scratch.touched.clear();
        let mut first_start = i64::MAX;
        let (mut start, mut end, mut base) = (0_i64, 0_i64, 0_usize);
        for range in &selected {
            let (mut at, stop) = (range.start as usize, range.end as usize);
            while at < stop {
                if times[at] < start || times[at] >= end {
                    if (self.scratch.windows.len() + 1) * width > TABLE_MAX && !self.scratch.windows.is_empty() {
                        first_start = first_start.min(self.settle(ordinal));
                        self.restart_table();
                    }
                    (start, end, base) = self.window(times[at], width);
                }
                let slots = &self.scratch.slots[base..base + width];
                let slab = self.state.rows.slab_mut();
                while at < stop {
                    let time = times[at];
                    let slot = slots[ids[at] as usize];
                    if time < start || time >= end || slot >= DEAD_HELD {
                        break;
                    }
                    slab[slot as usize].add(time, values[at]);
                    at += 1;
                }
                if at < stop && times[at] >= start && times[at] < end {
                    match self.resolve(base, width, ids[at]) {
                        Ok(()) => {}
                        Err(reason) => {
                            self.scratch.dead.push((at as u32, reason));
                            at += 1;
                        }
                    }
                }
            }
        }
        first_start = first_start.min(self.settle(ordinal));
        self.scratch.selected = selected;
        self.scratch.compact = compact;
        first_start
    }

    /// Metric ids that index a table of the returned width: the record's own, or (true) those in the returned buffer.
    fn metric_ids(
        &mut self,
        columns: &EventColumns,
        selected: &[Range<u32>],
        mut compact: Vec<u32>,
    ) -> (bool, usize, Vec<u32>) {
        let Scratch { names, compact_by_id, .. } = &mut *self.scratch;
        names.clear();
        if columns.metrics.len() <= DICTIONARY_DENSE {
            return (false, columns.metrics.len(), compact);
        }
        compact_by_id.clear();
        compact.clear();
        compact.resize(columns.len(), 0);
        for position in selected.iter().cloned().flatten() {
            let id = columns.metric_ids[position as usize];
            compact[position as usize] = *compact_by_id.entry(id).or_insert_with(|| {
                names.push(id);
                names.len() as u32 - 1
            });
        }
        (true, names.len(), compact)
    }

    fn restart_table(&mut self) {
        self.scratch.windows.clear();
        self.scratch.by_start.clear();
        self.scratch.slots.clear();
    }

    /// The window of a time: start, end and where its slots begin in the table.
    fn window(&mut self, time: i64, width: usize) -> (i64, i64, usize) {
        const SCANNED: usize = 8;
        let scratch = &mut *self.scratch;
        let from = scratch.windows.len().saturating_sub(SCANNED);
        for (at, window) in scratch.windows.iter().enumerate().skip(from).rev() {
            if window.start <= time && time < window.end {
                return (window.start, window.end, at * width);
            }
        }
        let start = self.settings.window.start_of(time);
        let end = start + self.settings.window.ns();
        if let Some(at) = scratch.by_start.get(&start) {
            return (start, end, *at as usize * width);
        }
        let cut = end <= self.state.cut_through;
        let part = if cut { Part::Waiting } else { Part::Live };
        let count = match self.batch.mode {
            Mode::Backfill => Count::Backfilled,
            Mode::Live if end <= self.state.watermark => Count::Late,
            Mode::Live => Count::OnTime,
        };
        let at = scratch.windows.len();
        scratch.windows.push(LocalWindow { start, end, part, count });
        scratch.by_start.insert(start, at as u32);
        scratch.slots.resize((at + 1) * width, UNKNOWN);
        (start, end, at * width)
    }

    /// Finds the slot of a (window, metric) at its first event in the record.
    fn resolve(&mut self, base: usize, width: usize, id: u32) -> Result<(), DeadReason> {
        let place = base + id as usize;
        let dead = |slot| match slot {
            DEAD_FULL => DeadReason::TooManySeries,
            DEAD_HELD => DeadReason::KeyHeld,
            _ => DeadReason::Invalid,
        };
        if self.scratch.slots[place] != UNKNOWN {
            return Err(dead(self.scratch.slots[place]));
        }
        let mut metric = self.scratch.interned[id as usize];
        if metric == UNKNOWN {
            let local = self.scratch.names.get(id as usize).copied().unwrap_or(id);
            let name = &self.batch.columns.metrics[local as usize];
            metric = match self.state.series.intern(name, self.settings.series_max) {
                Ok(metric) => metric,
                Err(NoSeries::Full) => DEAD_FULL,
                Err(NoSeries::Name) => DEAD_NAME,
            };
            self.scratch.interned[id as usize] = metric;
        }
        let LocalWindow { start, part, count, .. } = self.scratch.windows[base / width];
        if metric < DEAD_HELD && self.state.rows.len() >= self.rows_max && !self.state.rows.holds(part, start, metric) {
            metric = DEAD_HELD;
        }
        if metric >= DEAD_HELD {
            self.scratch.slots[place] = metric;
            return Err(dead(metric));
        }
        let slot = self.state.rows.slot(part, start, metric);
        let row = self.state.rows.row_mut(slot);
        if row.flags & TOUCHED == 0 {
            row.flags |= TOUCHED;
            let before = row.data.count;
            self.scratch.touched.push(Touched { slot, metric, before, part, count });
        }
        self.scratch.slots[place] = slot;
        Ok(())
    }

    /// Carries what the touched rows gained into counters, series and dirty marks; the earliest start among them.
    fn settle(&mut self, ordinal: u64) -> i64 {
        let mut first_start = i64::MAX;
        let state = &mut *self.state;
        for touched in self.scratch.touched.drain(..) {
            let row = state.rows.row_mut(touched.slot);
            row.flags &= !TOUCHED;
            let gained = row.data.count - touched.before;
            first_start = first_start.min(row.start);
            match touched.count {
                Count::OnTime => state.counters.on_time += gained,
                Count::Late => {
                    row.data.late += gained;
                    state.counters.late += gained;
                }
                Count::Backfilled => state.counters.backfilled += gained,
            }
            if touched.part == Part::Waiting {
                state.waiting_events += gained;
            } else if !state.hot_snapshot && row.flags & HOT == 0 {
                row.flags |= HOT;
                state.hot_rows.push(touched.slot);
            }
            state.series.count(touched.metric, gained, &row.data, ordinal, self.now);
            state.rows.mark_durable(touched.part, touched.slot);
        }
        first_start
    }
}
