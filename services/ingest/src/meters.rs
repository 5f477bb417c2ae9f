//! What is measured. Handles are looked up once, not per request.

use std::sync::Arc;

use metrics::{Counter, Histogram, counter, describe_counter, describe_histogram, histogram};

/// Counters of the service. Received = accepted + rejected when nothing is in flight (I3): [`Tally`] sees to it.
pub(crate) struct Meters {
    received: Counter,
    accepted: Counter,
    rejected: Counter,
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
        describe_counter!("tidegauge_ingest_events_received_total", "Events of requests that could be read");
        describe_counter!("tidegauge_ingest_events_accepted_total", "Events made durable and acknowledged");
        describe_counter!(
            "tidegauge_ingest_events_rejected_total",
            "Events not acknowledged: refused one by one or with their request, or their caller has gone"
        );
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

    /// The events of a request have come.
    pub(crate) fn receive(self: &Arc<Self>, events: usize) -> Tally {
        self.received.increment(events as u64);
        Tally { meters: Arc::clone(self), open: events as u64 }
    }

    /// A request was refused as a whole. The reasons are a fixed set of words.
    pub(crate) fn refused(reason: &'static str) {
        counter!("tidegauge_ingest_requests_refused_total", "reason" => reason).increment(1);
    }
}

/// The events of one request until they are settled: what nobody settles counts as rejected, whatever the way out.
#[derive(Debug)]
pub(crate) struct Tally {
    meters: Arc<Meters>,
    open: u64,
}

impl Tally {
    /// The request is answered: so many of its events are durable, the others refused.
    pub(crate) fn settle(mut self, accepted: u32) {
        let accepted = u64::from(accepted).min(self.open);
        self.meters.accepted.increment(accepted);
        self.open -= accepted;
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.meters.rejected.increment(self.open);
    }
}
