//! The numbers that decisions depend on.

use tidegauge_core::limits;
use tidegauge_core::time::WindowLength;

/// Settings of a shard, as numbers. [`crate::AggregationOptions`] makes them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Length of a window.
    pub window: WindowLength,
    /// Allowed lateness.
    pub lateness_ns: i64,
    /// Silence that makes a key idle.
    pub idle_ns: i64,
    /// Age behind the watermark of events beyond which a LIVE event is dead.
    pub horizon_ns: i64,
    /// How far after its arrival an event may lie.
    pub future_ns: i64,
    /// Age at which what waits in a key is published.
    pub publish_ns: i64,
    /// Objects that one epoch takes at most, whatever the lake's pace; see [`super::Shard::pace`].
    pub epoch_objects_max: usize,
    /// Rows in memory at which reading pauses.
    pub state_rows_max: usize,
    /// Series of one key.
    pub series_max: usize,
    /// Sequences remembered for a producer.
    pub dedup_sequences: usize,
    /// Sequences remembered for all producers of a key; of one with many ranges of indexes, four ranges count as one.
    pub dedup_key_sequences: usize,
    /// Age at which a sequence is forgotten.
    pub dedup_age_ns: i64,
    /// Kept producers of a key.
    pub kept_producers_max: usize,
    /// Fresh producers of a key.
    pub fresh_producers_max: usize,
    /// Bytes of dead letters in memory at which reading pauses.
    pub dead_bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let ns = |duration: std::time::Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        Self {
            window: WindowLength::from_ns(ns(limits::WINDOW)).unwrap_or(WindowLength::MINUTE),
            lateness_ns: ns(limits::ALLOWED_LATENESS),
            idle_ns: ns(limits::IDLE_TIMEOUT),
            horizon_ns: ns(limits::LATENESS_HORIZON),
            future_ns: ns(limits::FUTURE_TOLERANCE),
            publish_ns: ns(limits::PUBLISH_INTERVAL),
            epoch_objects_max: limits::EPOCH_OBJECTS_MAX,
            state_rows_max: limits::STATE_ROWS_MAX,
            series_max: limits::SERIES_PER_TENANT_MAX,
            dedup_sequences: limits::DEDUP_SEQUENCES,
            // 32 bytes each: one tenant's retry memory stays below 32 MB, whatever its requests look like.
            dedup_key_sequences: 1 << 20,
            dedup_age_ns: ns(limits::DEDUP_AGE),
            kept_producers_max: limits::KEPT_PRODUCERS_MAX,
            fresh_producers_max: limits::FRESH_PRODUCERS_MAX,
            // An epoch's letters are held several times while they are made durable, some ten times this for a moment.
            dead_bytes_max: 4 << 20,
        }
    }
}
