//! Figures of one shard, for the `metrics` recorder of the process.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use tidegauge_core::ShardId;

/// Handles are taken once, when the log opens: install the recorder before.
#[derive(Debug)]
pub(super) struct Meter {
    pub(super) append_bytes: Counter,
    pub(super) append_records: Counter,
    pub(super) refused: Counter,
    pub(super) syncs: Counter,
    pub(super) sync_seconds: Histogram,
    pub(super) queue_bytes: Gauge,
    pub(super) kept_bytes: Gauge,
    /// Bytes of segments that nothing needs.
    pub(super) unneeded_bytes: Gauge,
    pub(super) segments_deleted: Counter,
    /// Bytes deleted before their time.
    pub(super) early_bytes: Counter,
    /// Bytes of sealed segments that the scrub has still to check.
    pub(super) unchecked_bytes: Gauge,
    /// Sealed segments in which it found damage.
    pub(super) damaged_segments: Gauge,
}

impl Meter {
    pub(super) fn new(shard: ShardId) -> Self {
        let shard = shard.to_string();
        Self {
            append_bytes: counter!("tidegauge_log_append_bytes_total", "shard" => shard.clone()),
            append_records: counter!("tidegauge_log_append_records_total", "shard" => shard.clone()),
            refused: counter!("tidegauge_log_refused_appends_total", "shard" => shard.clone()),
            syncs: counter!("tidegauge_log_syncs_total", "shard" => shard.clone()),
            sync_seconds: histogram!("tidegauge_log_sync_seconds", "shard" => shard.clone()),
            queue_bytes: gauge!("tidegauge_log_queue_bytes", "shard" => shard.clone()),
            kept_bytes: gauge!("tidegauge_log_kept_bytes", "shard" => shard.clone()),
            unneeded_bytes: gauge!("tidegauge_log_unneeded_bytes", "shard" => shard.clone()),
            early_bytes: counter!("tidegauge_log_early_deleted_bytes_total", "shard" => shard.clone()),
            segments_deleted: counter!("tidegauge_log_segments_deleted_total", "shard" => shard.clone()),
            unchecked_bytes: gauge!("tidegauge_log_unchecked_bytes", "shard" => shard.clone()),
            damaged_segments: gauge!("tidegauge_log_damaged_segments", "shard" => shard),
        }
    }
}
