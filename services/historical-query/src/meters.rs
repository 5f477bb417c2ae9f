//! What is measured, in words; the figures are taken where they arise.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// Describes it, for `/metrics`.
pub(crate) fn describe() {
    describe_counter!("tidegauge_query_total", "Queries, by outcome: OK or the reason of the refusal");
    describe_histogram!(
        "tidegauge_query_first_batch_seconds",
        "Seconds from a query's arrival to its first rows or its failure"
    );
    describe_counter!(
        "tidegauge_query_seam_retries_total",
        "Snapshots taken again because the lake had moved on before anything was sent"
    );
    describe_gauge!(
        "tidegauge_query_planning_abandoned",
        "Plannings that nobody waits for any more and that have not ended yet"
    );
    describe_counter!("tidegauge_query_live_calls_total", "Questions for live windows");
    describe_counter!("tidegauge_query_index_loads_total", "Hour indexes read from the lake");
    describe_counter!("tidegauge_query_objects_opened_total", "Lake objects opened");
    describe_counter!("tidegauge_query_scanned_bytes_total", "Bytes of lake objects whose rows were decoded");
    describe_counter!("tidegauge_query_cache_hits_total", "Lake objects whose rows were found decoded in memory");
    describe_counter!("tidegauge_query_cache_misses_total", "Lake objects whose rows had to be decoded");
    describe_gauge!("tidegauge_query_cache_bytes", "Bytes of decoded rows kept in memory");
}
