//! Rows of a key: one per (window, metric), in a slab that the hot loop indexes.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use tidegauge_core::Sum;
use tidegauge_core::hot::WindowRow;

/// Metrics of one durable block of rows: a changed row is written with its neighbours, so that a checkpoint has few
/// entries and a wide window is not rewritten whole.
pub(super) const BLOCK: u32 = 64;

/// Hasher for our own dense ids and window numbers: nobody outside chooses them, so one multiplication is enough.
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.write_u64(u64::from(id));
    }

    fn write_u64(&mut self, id: u64) {
        let mixed = (self.0.rotate_left(5) ^ id).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 32);
    }

    fn write_i64(&mut self, id: i64) {
        self.write_u64(id.cast_unsigned());
    }
}

/// A map by our own ids.
pub(super) type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// What a row is part of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    /// Not cut yet: open, or closed and unpublished.
    Live,
    /// Corrections and backfill sums of cut or published windows; waits for the next cut.
    Waiting,
    /// Cut, on its way into the lake; still a live window for readers, changes no more.
    Frozen,
}

/// Flag: changed since hot-metric was told.
pub(super) const HOT: u8 = 1;
/// Flag: changed since the last epoch was encoded.
pub(super) const DURABLE: u8 = 2;

/// Flag: changed by the record at hand. A dictionary may name a metric twice, and then several ids lead to one row.
pub(super) const TOUCHED: u8 = 4;

/// One row.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) start: i64,
    pub(super) metric: u32,
    pub(super) flags: u8,
    pub(super) data: WindowRow,
}

/// Aggregates of no event.
pub(super) const NOTHING: WindowRow = WindowRow {
    count: 0,
    sum: Sum::ZERO,
    min: f64::INFINITY,
    max: f64::NEG_INFINITY,
    last: 0.0,
    last_time_ns: i64::MIN,
    late: 0,
};

impl Row {
    /// Adds an event. Events come in the order of (ordinal, index), so that at equal times the later one is the last.
    #[inline]
    pub(super) fn add(&mut self, time: i64, value: f64) {
        let data = &mut self.data;
        data.count += 1;
        data.sum.add(value);
        // The total order tells 0 from -0: the result does not depend on the order of the events.
        if value <= data.min && value.total_cmp(&data.min).is_lt() {
            data.min = value;
        }
        if value >= data.max && value.total_cmp(&data.max).is_gt() {
            data.max = value;
        }
        if time >= data.last_time_ns {
            data.last_time_ns = time;
            data.last = value;
        }
    }
}

/// Rows of one window.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    /// Slot by metric.
    pub(super) slots: IdMap<u32, u32>,
    /// Blocks with rows changed since the last epoch.
    pub(super) dirty: Vec<u32>,
    /// Blocks that stand in the checkpoint.
    pub(super) stored: Vec<u32>,
}

/// Windows of one [`Part`].
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) windows: BTreeMap<i64, Window>,
    /// Rows in all windows.
    pub(super) rows: usize,
    /// Windows with dirty blocks.
    pub(super) dirty: Vec<i64>,
}

/// All rows of a key.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    slab: Vec<Row>,
    free: Vec<u32>,
    pub(super) live: Table,
    pub(super) waiting: Table,
    pub(super) frozen: Table,
}

impl Rows {
    /// The row in a slot.
    #[inline]
    pub(super) fn row(&self, slot: u32) -> &Row {
        &self.slab[slot as usize]
    }

    /// The row in a slot, if there is such a slot.
    pub(super) fn get(&self, slot: u32) -> Option<&Row> {
        self.slab.get(slot as usize)
    }

    /// The row in a slot.
    #[inline]
    pub(super) fn row_mut(&mut self, slot: u32) -> &mut Row {
        &mut self.slab[slot as usize]
    }

    /// All slots, for the hot loop.
    pub(super) fn slab_mut(&mut self) -> &mut [Row] {
        &mut self.slab
    }

    /// Rows in memory.
    pub(super) fn len(&self) -> usize {
        self.live.rows + self.waiting.rows + self.frozen.rows
    }

    pub(super) fn table(&self, part: Part) -> &Table {
        match part {
            Part::Live => &self.live,
            Part::Waiting => &self.waiting,
            Part::Frozen => &self.frozen,
        }
    }

    pub(super) fn table_mut(&mut self, part: Part) -> &mut Table {
        match part {
            Part::Live => &mut self.live,
            Part::Waiting => &mut self.waiting,
            Part::Frozen => &mut self.frozen,
        }
    }

    /// Whether there is such a row.
    pub(super) fn holds(&self, part: Part, start: i64, metric: u32) -> bool {
        self.table(part).windows.get(&start).is_some_and(|window| window.slots.contains_key(&metric))
    }

    /// The slot of a row, made if there is none.
    pub(super) fn slot(&mut self, part: Part, start: i64, metric: u32) -> u32 {
        let table = match part {
            Part::Live => &mut self.live,
            Part::Waiting => &mut self.waiting,
            Part::Frozen => &mut self.frozen,
        };
        let window = table.windows.entry(start).or_default();
        if let Some(slot) = window.slots.get(&metric) {
            return *slot;
        }
        let row = Row { start, metric, flags: 0, data: NOTHING };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slab[slot as usize] = row;
                slot
            }
            None => {
                self.slab.push(row);
                (self.slab.len() - 1) as u32
            }
        };
        window.slots.insert(metric, slot);
        table.rows += 1;
        slot
    }

    /// Notes that a row must be in the next epoch.
    pub(super) fn mark_durable(&mut self, part: Part, slot: u32) {
        let row = &mut self.slab[slot as usize];
        if row.flags & DURABLE != 0 {
            return;
        }
        row.flags |= DURABLE;
        let (start, block) = (row.start, row.metric / BLOCK);
        let table = self.table_mut(part);
        if let Some(window) = table.windows.get_mut(&start) {
            if window.dirty.is_empty() {
                table.dirty.push(start);
            }
            if window.dirty.last() != Some(&block) {
                window.dirty.push(block);
            }
        }
    }

    /// Takes windows that end at or before `end` out of a part, oldest first.
    pub(super) fn take_windows(&mut self, part: Part, length: i64, end: i64) -> Vec<(i64, Window)> {
        let table = self.table_mut(part);
        let mut taken = Vec::new();
        while let Some(entry) = table.windows.first_entry() {
            if *entry.key() + length > end {
                break;
            }
            let (start, window) = entry.remove_entry();
            table.rows -= window.slots.len();
            taken.push((start, window));
        }
        if !taken.is_empty() {
            let windows = &table.windows;
            table.dirty.retain(|start| windows.contains_key(start));
        }
        taken
    }

    /// Puts a window among the frozen ones.
    pub(super) fn freeze(&mut self, start: i64, mut window: Window) {
        window.dirty = Vec::new();
        window.stored = Vec::new();
        for slot in window.slots.values() {
            self.slab[*slot as usize].flags &= !DURABLE;
        }
        self.frozen.rows += window.slots.len();
        self.frozen.windows.insert(start, window);
    }

    /// Frees the slots of a window that was taken out.
    pub(super) fn release(&mut self, window: &Window) {
        for slot in window.slots.values() {
            let row = &mut self.slab[*slot as usize];
            row.flags = 0;
            row.data = NOTHING;
            self.free.push(*slot);
        }
        // A burst of history must not hold its memory for ever.
        if self.free.len() == self.slab.len() {
            self.slab = Vec::new();
            self.free = Vec::new();
        }
    }
}
