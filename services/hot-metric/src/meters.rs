//! What is measured, in words; the figures are taken where they arise.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// Describes it, for `/metrics`.
pub(crate) fn describe() {
    describe_gauge!("tidegauge_hot_watchers", "Watches that are open");
    describe_counter!(
        "tidegauge_hot_watch_missed_total",
        "Changes that slow watchers missed; they read the values again"
    );
    describe_histogram!("tidegauge_hot_apply_seconds", "Seconds in which the hot store took a group of updates");
    describe_counter!(
        "tidegauge_hot_items_total",
        "Updates of keys, current values and windows taken by the hot store, and the batches they came in"
    );
}
