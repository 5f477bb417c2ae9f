//! The producer: batches over one stream, many in flight, each counted exactly once.

use std::time::Duration;

use tidegauge_proto::ingest::v1::{Event, PublishResponse, RejectedEvent};
use tidegauge_proto::stream::v1::{EventColumns, Mode};

use crate::channel::Authorized;
use crate::error::ClientError;

/// How a producer works.
#[derive(Clone, Debug)]
pub struct ProducerOptions {
    /// How the events take part in event time.
    pub mode: Mode,
    /// Identity of this producer; `None` for a fresh random one. An id whose first byte is 0xFF is *kept*: derived from
    /// the input, remembered for ever, its sequences in order (for loading files).
    pub producer_id: Option<[u8; 16]>,
    /// Sequence of the first batch, at least 1.
    pub first_sequence: u64,
    /// Batches sent and not yet acknowledged; `send` waits while there are as many.
    pub in_flight: usize,
    /// Bytes sent and not yet acknowledged; one batch may always be in flight.
    pub in_flight_bytes: usize,
    /// How long to retry without any progress before the producer fails.
    pub retry_for: Duration,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            mode: Mode::Live,
            producer_id: None,
            first_sequence: 1,
            in_flight: 16,
            in_flight_bytes: 32 << 20,
            retry_for: Duration::from_secs(120),
        }
    }
}

/// Events to send.
#[derive(Clone, Debug)]
pub enum Batch {
    /// As rows.
    Rows(Vec<Event>),
    /// As columns: several times faster.
    Columns(EventColumns),
}

impl From<Vec<Event>> for Batch {
    fn from(rows: Vec<Event>) -> Self {
        Self::Rows(rows)
    }
}

impl From<EventColumns> for Batch {
    fn from(columns: EventColumns) -> Self {
        Self::Columns(columns)
    }
}

impl Batch {
    /// Number of events.
    pub fn len(&self) -> usize {
        match self {
            Self::Rows(rows) => rows.len(),
            Self::Columns(columns) => columns.times_unix_nano.len(),
        }
    }

    /// Whether there are no events.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What became of a batch: it is durable.
#[derive(Clone, Debug)]
pub struct Ack {
    /// Sequence of the batch.
    pub sequence: u64,
    /// Events in the batch.
    pub events: usize,
    /// The server's answer: accepted count, rejected events, positions.
    pub response: PublishResponse,
    /// Time from `send` to the answer, retries included.
    pub latency: Duration,
}

impl Ack {
    /// Events that are on the log.
    pub fn accepted(&self) -> u32 {
        self.response.accepted
    }

    /// Events that were refused, with reasons.
    pub fn rejected(&self) -> &[RejectedEvent] {
        &self.response.rejected
    }
}

/// The promise of an [`Ack`]. Dropping it is fine: the batch is sent and counted in the totals all the same.
#[derive(Debug)]
pub struct Ticket {
    sequence: u64,
}

impl Ticket {
    /// Sequence of the batch.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Waits for the answer. Tickets taken in the order of sending are answered in that order, except after a refused
    /// batch that is retried.
    ///
    /// # Errors
    /// What the server said to this batch; the producer goes on. [`ClientError::Closed`] when the producer failed.
    pub async fn ack(self) -> Result<Ack, ClientError> {
        Err(ClientError::Closed(None))
    }

    /// The answer, if it is there.
    pub fn try_ack(&mut self) -> Option<Result<Ack, ClientError>> {
        None
    }
}

/// Sums over all answers of a producer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Batches answered.
    pub batches: u64,
    /// Events that are on the log.
    pub accepted: u64,
    /// Events refused one by one.
    pub rejected: u64,
    /// Batches refused as a whole for good; their events count nowhere.
    pub refused_batches: u64,
    /// Times a batch was sent again.
    pub retries: u64,
    /// Bytes of the batches.
    pub bytes: u64,
}

/// Sends batches over one `PublishStream`. Batches keep their order and sequence through retries and reconnections.
#[derive(Debug)]
pub struct Producer {
    id: [u8; 16],
    next_sequence: u64,
}

impl Producer {
    pub(crate) fn start(_channel: Authorized, options: ProducerOptions) -> Self {
        let id = options.producer_id.unwrap_or_default();
        Self { id, next_sequence: options.first_sequence }
    }

    /// The id of this producer.
    pub fn id(&self) -> [u8; 16] {
        self.id
    }

    /// Sequence of the next batch.
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Sends a batch; waits while too many are in flight. Returns when the batch is on its way, not when it is durable:
    /// that is the ticket's [`Ticket::ack`].
    ///
    /// # Errors
    /// [`ClientError::TooLarge`] for a batch over the limit (nothing is sent, no sequence is used),
    /// [`ClientError::Closed`] after a failure that retries do not mend.
    pub async fn send(&mut self, _batch: impl Into<Batch>) -> Result<Ticket, ClientError> {
        Err(ClientError::Closed(None))
    }

    /// Waits until nothing is in flight.
    ///
    /// # Errors
    /// The producer's failure. Batches refused as a whole are no failure: see [`Totals::refused_batches`] and tickets.
    pub async fn flush(&mut self) -> Result<Totals, ClientError> {
        Err(ClientError::Closed(None))
    }

    /// Sums so far.
    pub fn totals(&self) -> Totals {
        Totals::default()
    }

    /// Flushes and ends the stream.
    ///
    /// # Errors
    /// As [`Producer::flush`].
    pub async fn close(mut self) -> Result<Totals, ClientError> {
        self.flush().await
    }
}
