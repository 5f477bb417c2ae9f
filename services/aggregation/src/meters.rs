//! What is measured, in words; the figures are taken where they arise.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// Describes it, for `/metrics`.
pub(crate) fn describe() {
    describe_gauge!(
        "tidegauge_aggregation_lag_seconds",
        "Seconds by which processing is behind the arrival of events, by shard"
    );
    describe_gauge!(
        "tidegauge_aggregation_watermark_lag_seconds",
        "Seconds by which the oldest watermark of a shard is behind the clock"
    );
    describe_gauge!(
        "tidegauge_aggregation_state_rows",
        "Rows of unpublished windows, corrections and sums in memory, by shard"
    );
    describe_gauge!("tidegauge_aggregation_keys", "Keys (tenants or buckets of them), by shard");
    describe_gauge!(
        "tidegauge_aggregation_parked_keys",
        "Keys whose outputs could not be written and are tried again, by shard"
    );
    describe_gauge!(
        "tidegauge_aggregation_unchecked_keys",
        "Keys whose hour index has not been compared with the lake since the start, by shard"
    );
    describe_gauge!(
        "tidegauge_aggregation_pending_events",
        "Events that are counted and not yet in the rows that SQL shows, by shard"
    );
    describe_gauge!(
        "tidegauge_aggregation_clock_refused",
        "1 while a step of the wall clock is not followed, otherwise 0, by shard"
    );
    describe_counter!("tidegauge_aggregation_events_total", "Events read from the log, by shard");
    describe_counter!("tidegauge_aggregation_duplicate_events_total", "Events that had been counted before, by shard");
    describe_counter!(
        "tidegauge_aggregation_late_events_total",
        "LIVE events counted after their window had closed, by shard"
    );
    describe_counter!("tidegauge_aggregation_backfilled_events_total", "BACKFILL events counted, by shard");
    describe_counter!("tidegauge_aggregation_dead_events_total", "Events set aside as dead letters, by shard");
    describe_histogram!(
        "tidegauge_aggregation_epoch_seconds",
        "Seconds from the beginning of an epoch to its completion"
    );
    describe_counter!("tidegauge_aggregation_epochs_total", "Epochs completed");
    describe_counter!(
        "tidegauge_aggregation_objects_total",
        "Lake objects that outputs were applied to; skipped are those that had them already"
    );
    describe_counter!(
        "tidegauge_aggregation_object_failures_total",
        "Lake objects that outputs could not be applied to"
    );
    describe_counter!(
        "tidegauge_aggregation_session_failures_total",
        "Failures that ended the work on a shard, for good or until it began again"
    );
}
