//! What is measured, in words; the figures are taken where they arise.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// Describes it, for `/metrics`.
pub(crate) fn describe() {
    describe_gauge!("tidegauge_rpc_in_flight", "Calls under way, by method");
    describe_counter!("tidegauge_rpc_requests_total", "Calls that ended, by method and code");
    describe_histogram!(
        "tidegauge_rpc_seconds",
        "Seconds from the beginning of a call to the end of its answer, by method"
    );
    describe_counter!(
        "tidegauge_rpc_connections_refused_total",
        "Connections closed at once because there were too many"
    );
}
