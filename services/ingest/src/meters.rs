//! What is measured. Handles are looked up once, not per request.

use metrics::{Counter, Histogram, counter, describe_counter, describe_histogram, histogram};

/// Counters of the service. Of the events of every answered request: received = accepted + rejected (I3).
#[derive(Clone)]
pub(crate) struct Meters {
    pub(crate) received: Counter,
    pub(crate) accepted: Counter,
    pub(crate) rejected: Counter,
    pub(crate) bytes: Counter,
    pub(crate) duplicate_hints: Counter,
    /// From the arrival of a request to its answer.
    pub(crate) seconds: Histogram,
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meters").finish_non_exhaustive()
    }
}

impl Meters {
    pub(crate) fn new() -> Self {
        describe_counter!("tidegauge_ingest_events_received_total", "Events of answered requests: accepted + rejected");
        describe_counter!("tidegauge_ingest_events_accepted_total", "Events made durable and acknowledged");
        describe_counter!("tidegauge_ingest_events_rejected_total", "Events refused with a verdict");
        describe_counter!("tidegauge_ingest_request_bytes_total", "Bytes of answered requests");
        describe_counter!("tidegauge_ingest_duplicate_hints_total", "Answers that hinted at a duplicate");
        describe_counter!("tidegauge_ingest_requests_refused_total", "Requests refused as a whole, by reason");
        describe_histogram!("tidegauge_ingest_request_seconds", "Time from a request's arrival to its answer");
        Self {
            received: counter!("tidegauge_ingest_events_received_total"),
            accepted: counter!("tidegauge_ingest_events_accepted_total"),
            rejected: counter!("tidegauge_ingest_events_rejected_total"),
            bytes: counter!("tidegauge_ingest_request_bytes_total"),
            duplicate_hints: counter!("tidegauge_ingest_duplicate_hints_total"),
            seconds: histogram!("tidegauge_ingest_request_seconds"),
        }
    }

    /// A request was refused as a whole. The reasons are a fixed set of words.
    pub(crate) fn refused(reason: &'static str) {
        counter!("tidegauge_ingest_requests_refused_total", "reason" => reason).increment(1);
    }
}
