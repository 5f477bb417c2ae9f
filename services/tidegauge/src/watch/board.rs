//! The table of current values.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tidegauge_client::proto::hotmetric::v1::{Metric, WatchMetricsResponse};
use tidegauge_proto::convert::time::timestamp_ns;

use crate::output::Float;
use crate::terminal::{fit, rows_shown};
use crate::text_table::{Align, TextTable};
use crate::units::{counted, grouped, readable};

/// Values of a metric that its trend shows.
const TREND_VALUES: usize = 24;
/// Steps of a trend, lowest first.
const TREND_STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

#[derive(Debug)]
struct Row {
    metric: Metric,
    trend: VecDeque<f64>,
}

/// Current values, by name.
#[derive(Debug, Default)]
pub(super) struct Board {
    rows: BTreeMap<String, Row>,
    missed: u64,
}

impl Board {
    /// Takes a step of a watch; whether it ended the initial state.
    pub(super) fn take(&mut self, step: WatchMetricsResponse) -> bool {
        self.missed += step.missed_updates;
        for metric in step.metrics {
            let row = self
                .rows
                .entry(metric.metric_name.clone())
                .or_insert_with(|| Row { metric: Metric::default(), trend: VecDeque::with_capacity(TREND_VALUES) });
            if row.trend.len() == TREND_VALUES {
                row.trend.pop_front();
            }
            row.trend.push_back(metric.last_value);
            row.metric = metric;
        }
        step.initial_state_complete
    }

    /// Whether the metric has a value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.rows.contains_key(name)
    }

    /// The table of the first rows, as many as are shown: there may be very many more.
    pub(super) fn table(&self, now_ns: i64, shown: usize) -> TextTable {
        use Align::{Left, Right};
        let mut table =
            TextTable::new(&[("METRIC", Left), ("VALUE", Right), ("AGE", Right), ("EVENTS", Right), ("TREND", Left)]);
        for (name, row) in self.rows.iter().take(shown) {
            let age = row.metric.last_time.as_ref().and_then(timestamp_ns).map_or_else(String::new, |time| {
                readable(Duration::from_nanos(u64::try_from(now_ns.saturating_sub(time)).unwrap_or(0)))
            });
            let value = Float(row.metric.last_value).to_string();
            table.row([name.clone(), value, age, grouped(row.metric.event_count), trend(&row.trend)]);
        }
        table
    }

    /// The lines of a screen of that height.
    pub(super) fn lines(&self, now_ns: i64, height: usize) -> Vec<String> {
        let mut notes = vec![counted(self.rows.len() as u64, "metric")];
        if self.missed > 0 {
            notes.push(format!("{} skipped", counted(self.missed, "change")));
        }
        notes.push("Ctrl-C ends".to_owned());
        let lines = self.table(now_ns, rows_shown(height)).lines();
        fit(lines, self.rows.len(), height, "below the screen: name those to watch", notes)
    }
}

fn trend(values: &VecDeque<f64>) -> String {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let span = values.iter().copied().fold(f64::NEG_INFINITY, f64::max) - low;
    let top = (TREND_STEPS.len() - 1) as f64;
    let step = |value: &f64| {
        let at = if span > 0.0 { ((value - low) / span * top).round() as usize } else { 0 };
        TREND_STEPS[at.min(TREND_STEPS.len() - 1)]
    };
    values.iter().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, value: f64, seconds: i64) -> WatchMetricsResponse {
        let last_time = Some(prost_types::Timestamp { seconds, nanos: 0 });
        let metric = Metric {
            metric_name: name.to_owned(),
            last_value: value,
            last_time,
            event_count: 1_234,
            ..Metric::default()
        };
        WatchMetricsResponse { metrics: vec![metric], ..WatchMetricsResponse::default() }
    }

    /// Rows are sorted, show the newest value with its age and trend, and what does not fit is said.
    #[test]
    fn the_board_shows_current_values() {
        let mut board = Board::default();
        for (at, value) in [0.0, 50.0, 100.0].into_iter().enumerate() {
            assert!(!board.take(step("cpu", value, at as i64)));
        }
        board.take(step("a.memory", 2e9, 4));
        let lines = board.lines(5_000_000_000, 24);
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>(),
            ["a.memory", "2000000000.0", "1", "s", "1,234", "▁"]
        );
        assert_eq!(lines[2].split_whitespace().collect::<Vec<_>>(), ["cpu", "100.0", "3", "s", "1,234", "▁▅█"]);
        let cut = board.lines(5_000_000_000, 3);
        assert_eq!(cut.len(), 3, "heading, a row, the notes");
        assert!(cut[2].contains("1 below the screen"), "{cut:?}");
    }
}
