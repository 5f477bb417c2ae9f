//! Series of a key: interned metric names with running counts and last values.

use std::collections::HashMap;

use tidegauge_core::MetricName;
use tidegauge_core::hot::WindowRow;

use super::rows::{BLOCK, DURABLE, HOT};

/// One series.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) name: MetricName,
    pub(super) count: u64,
    pub(super) last: f64,
    pub(super) last_time: i64,
    /// When the platform changed it, by the decisions' clock.
    pub(super) updated_at: i64,
    /// Ordinal of the record that changed it last: what hot-metric may not have yet after a takeover.
    pub(super) ordinal: u64,
    pub(super) flags: u8,
}

/// Why a name cannot become a series.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoSeries {
    /// The key has as many as it may.
    Full,
    /// The name breaks the rules.
    Name,
}

/// All series of a key, by metric id.
#[derive(Clone, Debug, Default)]
pub(super) struct SeriesSet {
    ids: HashMap<MetricName, u32>,
    pub(super) all: Vec<Series>,
    /// Changed since hot-metric was told.
    pub(super) hot: Vec<u32>,
    /// Blocks of counts changed since the last epoch.
    pub(super) dirty: Vec<u32>,
    /// Names that the last epoch knows.
    pub(super) stored_names: u32,
}

impl SeriesSet {
    /// The id of a metric, made if there is room.
    pub(super) fn intern(&mut self, name: &str, max: usize) -> Result<u32, NoSeries> {
        if let Some(id) = self.ids.get(name) {
            return Ok(*id);
        }
        if self.all.len() >= max {
            return Err(NoSeries::Full);
        }
        let name = MetricName::parse(name).map_err(|_| NoSeries::Name)?;
        Ok(self.push(name))
    }

    /// Adds a series with the next id.
    pub(super) fn push(&mut self, name: MetricName) -> u32 {
        let id = self.all.len() as u32;
        self.ids.insert(name.clone(), id);
        let nothing = (0, 0.0, i64::MIN);
        self.all.push(Series {
            name,
            count: nothing.0,
            last: nothing.1,
            last_time: nothing.2,
            updated_at: 0,
            ordinal: 0,
            flags: 0,
        });
        id
    }

    /// The name of an id.
    pub(super) fn name(&self, id: u32) -> &MetricName {
        &self.all[id as usize].name
    }

    /// Counts events of a row; `row` holds the newest of them, if they are the newest of the row.
    pub(super) fn count(&mut self, id: u32, events: u64, row: &WindowRow, ordinal: u64, now: i64) {
        let series = &mut self.all[id as usize];
        series.count += events;
        if row.last_time_ns >= series.last_time {
            series.last_time = row.last_time_ns;
            series.last = row.last;
        }
        series.updated_at = series.updated_at.max(now);
        series.ordinal = ordinal;
        if series.flags & HOT == 0 {
            series.flags |= HOT;
            self.hot.push(id);
        }
        if series.flags & DURABLE == 0 {
            series.flags |= DURABLE;
            if self.dirty.last() != Some(&(id / BLOCK)) {
                self.dirty.push(id / BLOCK);
            }
        }
    }
}
