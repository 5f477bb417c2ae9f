//! One row of `dashboard_metrics`.

use tidegauge_core::hot::{LiveWindow, WindowRow};
use tidegauge_core::ids::MetricName;

/// One (metric, window) of a key: a row of an hour object, or an addition to it.
#[derive(Clone, PartialEq, Debug)]
pub struct AggregatedRow {
    /// Start of the window, Unix nanoseconds.
    pub start_ns: i64,
    /// End of the window, exclusive.
    pub end_ns: i64,
    /// The metric.
    pub metric: MetricName,
    /// Aggregates.
    pub row: WindowRow,
    /// How often the row was written to the lake: 1 for its first publication, one more for each correction; 0 for a row
    /// that is not in the lake (a live window). In an addition it means nothing.
    pub revision: u32,
}

impl AggregatedRow {
    /// What identifies a row in its object and orders the object: metric, start, end.
    ///
    /// The end takes part so that windows of different lengths (the length was configured anew within the hour) stay
    /// rows of their own.
    pub fn order(&self) -> (&str, i64, i64) {
        (self.metric.as_str(), self.start_ns, self.end_ns)
    }
}

/// A live window as a row that is not in the lake: revision 0.
impl From<LiveWindow> for AggregatedRow {
    fn from(window: LiveWindow) -> Self {
        Self { start_ns: window.start_ns, end_ns: window.end_ns, metric: window.metric, row: window.row, revision: 0 }
    }
}
