//! What can be set.

use std::sync::Arc;
use std::time::Duration;

use tidegauge_core::checkpoint::CheckpointStore;
use tidegauge_core::lake::LakeStore;
use tidegauge_core::limits;
use tidegauge_core::log::EventLog;
use tidegauge_core::time::{HOUR_NS, WindowLength};

use crate::crash::CrashPoint;
use crate::decide::Settings;

/// Settings of aggregation; the defaults are those of [`tidegauge_core::limits`].
#[derive(Clone, Debug)]
pub struct AggregationOptions {
    /// Length of a window: whole seconds that divide an hour. Fixed for the life of a data directory.
    pub window: Duration,
    /// How long a window stays open after its end.
    pub allowed_lateness: Duration,
    /// Silence after which a key's watermark follows the clock.
    pub idle_timeout: Duration,
    /// Age behind the watermark beyond which a LIVE event becomes a dead letter.
    pub lateness_horizon: Duration,
    /// How far after its arrival an event's time may lie.
    pub future_tolerance: Duration,
    /// Longest time between two checkpoints while something changes.
    pub checkpoint_interval: Duration,
    /// Bytes of log between two checkpoints.
    pub checkpoint_log_bytes: u64,
    /// Age at which what waits in a key is published.
    pub publish_interval: Duration,
    /// Rows of one shard in memory; reached, cuts are forced and reading pauses.
    pub state_rows_max: usize,
    /// Bytes asked of the log at once.
    pub read_bytes: usize,
    /// Objects replaced at once.
    pub parallel_objects: usize,
    /// Series of a key from which on its objects are large: making one takes a tenth of a second and more of a processor,
    /// so that is done aside, one at a time, and not on a thread that others wait for.
    pub large_key_series: usize,
    /// How long a commit waits for hot-metric before it goes on without it.
    pub hot_wait_max: Duration,
    /// Where a test wants the process to die.
    pub crash_at: Option<CrashPoint>,
}

impl Default for AggregationOptions {
    fn default() -> Self {
        Self {
            window: limits::WINDOW,
            allowed_lateness: limits::ALLOWED_LATENESS,
            idle_timeout: limits::IDLE_TIMEOUT,
            lateness_horizon: limits::LATENESS_HORIZON,
            future_tolerance: limits::FUTURE_TOLERANCE,
            checkpoint_interval: limits::CHECKPOINT_INTERVAL,
            checkpoint_log_bytes: limits::CHECKPOINT_LOG_BYTES,
            publish_interval: limits::PUBLISH_INTERVAL,
            state_rows_max: limits::STATE_ROWS_MAX,
            // About one millisecond of work: the worker gives way to others between two reads.
            read_bytes: 512 << 10,
            // More writers gain little: the file system's journal commits one file after another (ceilings).
            parallel_objects: 4,
            large_key_series: 4_096,
            hot_wait_max: Duration::from_secs(30),
            crash_at: None,
        }
    }
}

/// A setting that cannot be.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{setting} is {value:?}: {rule}")]
pub struct OptionsError {
    setting: &'static str,
    value: Duration,
    rule: &'static str,
}

impl AggregationOptions {
    /// The settings as the decisions want them.
    ///
    /// # Errors
    /// [`OptionsError`] when the window does not divide an hour or a time is zero or longer than a year.
    pub fn settings(&self) -> Result<Settings, OptionsError> {
        let window =
            i64::try_from(self.window.as_nanos()).ok().and_then(WindowLength::from_ns).ok_or(OptionsError {
                setting: "window",
                value: self.window,
                rule: "must be whole seconds that divide an hour",
            })?;
        Ok(Settings {
            window,
            lateness_ns: ns("allowed_lateness", self.allowed_lateness, 0)?,
            idle_ns: ns("idle_timeout", self.idle_timeout, 1)?,
            horizon_ns: ns("lateness_horizon", self.lateness_horizon, 1)?,
            future_ns: ns("future_tolerance", self.future_tolerance, 0)?,
            publish_ns: ns("publish_interval", self.publish_interval, 1)?,
            state_rows_max: self.state_rows_max.max(1),
            ..Settings::default()
        })
    }
}

fn ns(setting: &'static str, value: Duration, least: i64) -> Result<i64, OptionsError> {
    const YEAR_NS: i64 = 366 * 24 * HOUR_NS;
    match i64::try_from(value.as_nanos()) {
        Ok(ns) if (least..=YEAR_NS).contains(&ns) => Ok(ns),
        _ => Err(OptionsError { setting, value, rule: "must be positive and at most a year" }),
    }
}

/// What aggregation stands on.
#[derive(Clone, Debug)]
pub struct Backends {
    /// Where events come from.
    pub log: Arc<dyn EventLog>,
    /// Where state survives.
    pub checkpoints: Arc<dyn CheckpointStore>,
    /// Where closed windows go.
    pub lake: Arc<dyn LakeStore>,
}
