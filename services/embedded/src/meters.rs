//! What is measured, in words; the figures are taken where they arise, by the log and the hot store.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// Describes what this crate measures, for `/metrics`. Call it after the recorder was installed.
pub fn describe() {
    describe_counter!("tidegauge_log_append_bytes_total", "Bytes made durable, by shard");
    describe_counter!("tidegauge_log_append_records_total", "Records made durable, by shard");
    describe_counter!("tidegauge_log_refused_appends_total", "Appends that the log could not write, by shard");
    describe_counter!("tidegauge_log_syncs_total", "Syncs to disk, by shard");
    describe_histogram!("tidegauge_log_sync_seconds", "Seconds that a sync to disk took, by shard");
    describe_gauge!("tidegauge_log_queue_bytes", "Bytes that wait to be written, by shard");
    describe_gauge!("tidegauge_log_kept_bytes", "Bytes of the log that are kept, by shard");
    describe_gauge!(
        "tidegauge_log_unneeded_bytes",
        "Bytes of the log that are kept although every checkpoint is beyond them, by shard"
    );
    describe_counter!(
        "tidegauge_log_early_deleted_bytes_total",
        "Bytes of the log that nothing needed and that were deleted before their time because room was short, by shard"
    );
    describe_counter!(
        "tidegauge_log_segments_deleted_total",
        "Segments deleted because nobody needs them any more, by shard"
    );
    describe_gauge!(
        "tidegauge_log_unchecked_bytes",
        "Bytes of sealed segments still to be checked since the start, by shard"
    );
    describe_gauge!(
        "tidegauge_log_damaged_segments",
        "Sealed segments that were found damaged, or that cannot be read, by shard"
    );
    describe_counter!("tidegauge_hot_commits_refused_total", "Groups of updates that the hot store could not write");
    describe_counter!(
        "tidegauge_hot_folds_failed_total",
        "Failed attempts of the hot store to fold its updates; it tries again"
    );
}
