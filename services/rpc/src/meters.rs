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
        "Connections or their first call refused because there were too many of the address, the principal or the tenant"
    );
    describe_counter!(
        "tidegauge_rpc_connections_evicted_total",
        "Connections without an authenticated call that were closed to make room for others"
    );
    describe_counter!("tidegauge_rpc_answers_unread_total", "Calls ended because their client did not read the answer");
}
