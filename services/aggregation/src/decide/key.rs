//! State of one key.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidegauge_core::{Key, MetricName};

use super::counters::Counters;
use super::cut::Outbox;
use super::dedup::Producers;
use super::push::HotKnown;
use super::rows::{Part, Rows};
use super::series::SeriesSet;

/// Before any time.
pub(super) const NEVER: i64 = i64::MIN;

/// The unit of state: windows, dedup, watermark and boundary of a key.
#[derive(Clone, Debug)]
pub struct KeyState {
    /// The key.
    pub key: Key,
    /// Its number in the shard's checkpoint.
    pub(super) number: u32,
    /// Conservation.
    pub counters: Counters,
    /// [`NEVER`] before birth.
    pub(super) watermark: i64,
    /// The part of the watermark that events set; [`NEVER`] before the first LIVE event.
    pub(super) event_watermark: i64,
    /// The watermark in the epoch that is being made durable, and in the last one that is.
    pub(super) prepared_watermark: i64,
    pub(super) durable_watermark: i64,
    /// [`NEVER`] before birth.
    pub(super) boundary: i64,
    /// Windows that end at or before it are cut.
    pub(super) cut_through: i64,
    /// Largest arrival seen.
    pub(super) arrival: i64,
    /// When a LIVE record came last, by the decisions' clock and never after it.
    pub(super) heard: i64,
    /// When it was cut last.
    pub(super) cut_at: i64,
    /// Events in waiting rows.
    pub(super) waiting_events: u64,
    /// Last epoch whose outputs may stand in the lake.
    pub(super) index_version: u64,
    /// Outputs are being written, or a session before this one may still be at it.
    pub(super) index_open: bool,
    pub(super) series: SeriesSet,
    pub(super) rows: Rows,
    pub(super) producers: Producers,
    /// What is on its way into the lake.
    pub(super) outbox: Option<Outbox>,
    /// The last cut left something for the next epoch.
    pub(super) unfinished: bool,
    /// Its outbox is stuck although others are written: see [`super::Shard::hold_stuck`].
    pub(super) held: bool,

    /// Meta changed since the last epoch.
    pub(super) meta_dirty: bool,
    /// Stands in the shard's list of dirty keys.
    pub(super) listed: bool,
    /// Durable blocks of rows that are no more.
    pub(super) dropped_blocks: Vec<(Part, i64, u32)>,
    /// Durable entries of outputs that are applied.
    pub(super) dropped_outputs: Vec<Bytes>,
    /// Rows changed since hot-metric was told.
    pub(super) hot_rows: Vec<u32>,
    /// Stands in the shard's queue for hot-metric.
    pub(super) hot_queued: bool,
    /// Hot-metric has to be sent all windows.
    pub(super) hot_snapshot: bool,
    /// What hot-metric held of it when it was met last; `None` if it did not know the key.
    pub(super) hot_known: Option<HotKnown>,
}

/// Sums of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KeySums {
    /// Events in rows that are not cut.
    pub rows: u64,
    /// Late events in them.
    pub rows_late: u64,
    /// Events in running counts.
    pub series: u64,
}

impl KeyState {
    pub(super) fn new(key: Key, number: u32, now: i64) -> Self {
        Self {
            key,
            number,
            counters: Counters::default(),
            watermark: NEVER,
            event_watermark: NEVER,
            prepared_watermark: NEVER,
            durable_watermark: NEVER,
            boundary: NEVER,
            cut_through: NEVER,
            arrival: NEVER,
            heard: NEVER,
            cut_at: now,
            waiting_events: 0,
            index_version: 0,
            index_open: false,
            series: SeriesSet::default(),
            rows: Rows::default(),
            producers: Producers::default(),
            outbox: None,
            unfinished: false,
            held: false,
            meta_dirty: true,
            listed: false,
            dropped_blocks: Vec::new(),
            dropped_outputs: Vec::new(),
            hot_rows: Vec::new(),
            hot_queued: false,
            hot_snapshot: true,
            hot_known: None,
        }
    }

    /// Whether the key has a watermark and a boundary.
    pub fn born(&self) -> bool {
        self.boundary != NEVER
    }

    /// Watermark and boundary; `None` before birth.
    pub fn times(&self) -> Option<(i64, i64)> {
        self.born().then_some((self.watermark, self.boundary))
    }

    /// The watermark as others may see it: without what would be decided anew after a crash, because no durable epoch
    /// records it. So it never goes back.
    pub fn shown_watermark(&self) -> i64 {
        self.event_watermark.max(self.durable_watermark).max(self.boundary)
    }

    /// Last epoch whose outputs may stand in the lake; 0 if none has had any.
    pub fn index_version(&self) -> u64 {
        self.index_version
    }

    /// Makes the ledger wrong, as a defect would.
    #[cfg(test)]
    pub(crate) fn inflate(&mut self, events: u64) {
        self.counters.on_log += events;
        self.counters.on_time += events;
        self.series.all[0].count += events;
    }

    /// What the producers take in memory, as a number of plain sequences.
    #[cfg(test)]
    pub(super) fn dedup_weight(&self) -> usize {
        self.producers.weight()
    }

    /// Events counted that are not in the rows which readers see.
    pub fn pending(&self) -> u64 {
        self.waiting_events + self.outbox.as_ref().map_or(0, |outbox| outbox.correction_events)
    }

    /// Rows in memory.
    pub fn state_rows(&self) -> usize {
        self.rows.len()
    }

    /// What is on its way into the lake.
    pub fn outbox(&self) -> Option<&Outbox> {
        self.outbox.as_ref()
    }

    /// Sums over the rows that are not cut, and over the series.
    pub fn sums(&self) -> KeySums {
        let mut sums =
            KeySums { series: self.series.all.iter().map(|series| series.count).sum(), ..KeySums::default() };
        for part in [Part::Live, Part::Waiting] {
            for slot in self.rows.table(part).windows.values().flat_map(|window| window.slots.values()) {
                let row = &self.rows.row(*slot).data;
                sums.rows += row.count;
                sums.rows_late += row.late;
            }
        }
        sums
    }

    /// Per metric: events in its running count, and in rows that are not cut.
    pub fn counts_by_metric(&self) -> BTreeMap<MetricName, (u64, u64)> {
        let mut counts: Vec<(u64, u64)> = self.series.all.iter().map(|series| (series.count, 0)).collect();
        for part in [Part::Live, Part::Waiting] {
            for (metric, slot) in self.rows.table(part).windows.values().flat_map(|window| &window.slots) {
                counts[*metric as usize].1 += self.rows.row(*slot).data.count;
            }
        }
        self.series.all.iter().map(|series| series.name.clone()).zip(counts).collect()
    }

    /// Rows that the next cut would take: closed ones and waiting ones.
    pub fn rows_to_cut(&self, window_ns: i64) -> usize {
        let closed = self.rows.live.windows.iter().take_while(|(start, _)| **start + window_ns <= self.watermark);
        closed.map(|(_, window)| window.slots.len()).sum::<usize>() + self.rows.waiting.rows
    }

    /// Whether a closed window or a correction waits for a cut.
    pub fn waits(&self, window_ns: i64) -> bool {
        self.rows.waiting.rows > 0
            || self.rows.live.windows.first_key_value().is_some_and(|(start, _)| start + window_ns <= self.watermark)
    }
}
