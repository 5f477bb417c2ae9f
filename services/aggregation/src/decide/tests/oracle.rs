//! What must come out, computed the naive way from the log alone.

use std::collections::{BTreeMap, HashMap};

use tidegauge_core::event::{EventBatch, Mode};
use tidegauge_core::hot::WindowRow;
use tidegauge_core::{Key, MetricName};

use crate::decide::Settings;
use crate::decide::rows::NOTHING;

/// Fate of one event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    Duplicate,
    Counted,
    Dead,
}

#[derive(Debug, Default)]
pub(crate) struct KeyOracle {
    pub(crate) rows: BTreeMap<(i64, MetricName), WindowRow>,
    pub(crate) series: BTreeMap<MetricName, (u64, f64, i64)>,
    /// Counted events after each record of the shard that changed it: (ordinal, counted).
    pub(crate) ledger: Vec<(u64, u64)>,
    pub(crate) counted: u64,
    pub(crate) duplicates: u64,
    pub(crate) dead: u64,
    event_watermark: Option<i64>,
    seen: HashMap<(u128, u64), (u128, std::collections::HashSet<u32>)>,
}

/// The oracle of a shard.
#[derive(Debug)]
pub(crate) struct Oracle {
    settings: Settings,
    pub(crate) keys: BTreeMap<Key, KeyOracle>,
    ordinal: u64,
}

impl Oracle {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, keys: BTreeMap::new(), ordinal: 0 }
    }

    /// Counted events of a key up to an ordinal.
    pub(crate) fn ledger(&self, key: &Key, ordinal: u64) -> u64 {
        let ledger = self.keys.get(key).map_or(&[][..], |key| &key.ledger);
        ledger.iter().take_while(|(at, _)| *at <= ordinal).last().map_or(0, |(_, counted)| *counted)
    }

    pub(crate) fn take(&mut self, key: &Key, batch: &EventBatch) -> Vec<Fate> {
        self.ordinal += 1;
        let settings = &self.settings;
        let state = self.keys.entry(key.clone()).or_default();
        let indexes: Vec<u32> = batch.indexes.iter().flat_map(|r| r.first..r.first + r.count).collect();
        let reused = batch.request.is_some_and(|id| {
            let slot = state.seen.entry((id.producer.id, id.sequence)).or_insert((id.digest, Default::default()));
            slot.0 != id.digest
        });
        let mut fates = Vec::new();
        let mut newest = None;
        for (position, index) in indexes.iter().enumerate() {
            let time = batch.columns.times[position];
            let first_time = match batch.request {
                Some(id) if !reused => state.seen.get_mut(&(id.producer.id, id.sequence)).unwrap().1.insert(*index),
                _ => true,
            };
            let too_old = batch.mode == Mode::Live
                && state.event_watermark.is_some_and(|watermark| time < watermark - settings.horizon_ns);
            let fate = if reused {
                Fate::Dead
            } else if !first_time {
                Fate::Duplicate
            } else if too_old || time > batch.arrival_ns + settings.future_ns {
                Fate::Dead
            } else {
                Fate::Counted
            };
            fates.push(fate);
            match fate {
                Fate::Duplicate => state.duplicates += 1,
                Fate::Dead => state.dead += 1,
                Fate::Counted => {
                    state.counted += 1;
                    newest = newest.max(Some(time));
                    let name = &batch.columns.metrics[batch.columns.metric_ids[position] as usize];
                    let metric = MetricName::parse(name).unwrap();
                    let value = batch.columns.values[position];
                    let start = time.div_euclid(settings.window.ns()) * settings.window.ns();
                    let row = state.rows.entry((start, metric.clone())).or_insert(NOTHING);
                    row.count += 1;
                    row.sum.add(value);
                    row.min = std::cmp::min_by(row.min, value, f64::total_cmp);
                    row.max = std::cmp::max_by(row.max, value, f64::total_cmp);
                    if time >= row.last_time_ns {
                        row.last_time_ns = time;
                        row.last = value;
                    }
                    let series = state.series.entry(metric).or_insert((0, 0.0, i64::MIN));
                    series.0 += 1;
                    if time >= series.2 {
                        (series.1, series.2) = (value, time);
                    }
                }
            }
        }
        if let (Mode::Live, Some(newest)) = (batch.mode, newest) {
            let watermark = newest.min(batch.arrival_ns) - settings.lateness_ns;
            state.event_watermark = state.event_watermark.max(Some(watermark));
        }
        state.ledger.push((self.ordinal, state.counted));
        fates
    }
}
