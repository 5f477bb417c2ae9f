//! The producer: batches over one stream, many in flight, each counted exactly once.

mod driver;
pub(crate) mod stalls;
mod window;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tidegauge_proto::ingest::v1::{Event, PublishRequest, PublishResponse, PublishStreamRequest, RejectedEvent};
use tidegauge_proto::limits;
use tidegauge_proto::raw::RawPublishStreamRequest;
use tidegauge_proto::raw::encode::{ColumnParts, publish_stream_request};
use tidegauge_proto::stream::v1::{EventColumns, Mode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use self::driver::{Driver, Pending, Shared, now};
use self::stalls::Stalls;
use self::window::Window;
use crate::channel::Authorized;
use crate::columns::ColumnsBuilder;
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
#[expect(clippy::large_enum_variant, reason = "one value a batch, moved once and encoded")]
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
    answer: oneshot::Receiver<Result<Ack, ClientError>>,
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
        self.answer.await.unwrap_or(Err(ClientError::Closed(None)))
    }

    /// The answer, if it is there; it is given once.
    pub fn try_ack(&mut self) -> Option<Result<Ack, ClientError>> {
        match self.answer.try_recv() {
            Ok(answer) => Some(answer),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Err(ClientError::Closed(None))),
        }
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

/// Sends batches over one `PublishStream`. Batches keep their order and sequence through retries and reconnections, and
/// are encoded once, so that a retry is the same bytes. Dropping the producer lets what is in flight finish unobserved;
/// [`Producer::close`] waits for it.
#[derive(Debug)]
pub struct Producer {
    id: [u8; 16],
    mode: Mode,
    next_sequence: u64,
    in_flight: u32,
    slots: Arc<Semaphore>,
    bytes_slots: u32,
    bytes: Arc<Semaphore>,
    batches: mpsc::Sender<Pending>,
    shared: Arc<Shared>,
    stalls: watch::Receiver<Option<stalls::Stall>>,
    task: JoinHandle<()>,
}

/// Time for the server to end a stream on which everything is answered.
const END_TIME_MAX: Duration = Duration::from_secs(2);
/// Bytes in flight are counted in this unit.
const BYTES_UNIT: usize = 1024;

impl Producer {
    pub(crate) fn start(channel: Authorized, options: ProducerOptions) -> Self {
        let shared = Arc::<Shared>::default();
        let id = options.producer_id.unwrap_or_else(|| {
            fresh_id().unwrap_or_else(|problem| {
                shared.fail(ClientError::Option { option: "producer id".to_owned(), problem });
                [0; 16]
            })
        });
        let in_flight = options.in_flight.clamp(1, 100_000);
        let bytes_slots = u32::try_from(options.in_flight_bytes.div_ceil(BYTES_UNIT).max(1)).unwrap_or(u32::MAX);
        // Every batch in it holds a slot, so sending to it never waits.
        let (batches, receiver) = mpsc::channel(in_flight);
        let (stalls, stalls_seen) = watch::channel(None);
        let driver = Driver {
            channel,
            batches: receiver,
            shared: shared.clone(),
            retry_for: options.retry_for,
            window: Window::default(),
            closed: false,
            stalled_since: None,
            stalls,
            attempts: 0,
        };
        Self {
            id,
            mode: options.mode,
            next_sequence: options.first_sequence.max(1),
            in_flight: in_flight as u32,
            slots: Arc::new(Semaphore::new(in_flight)),
            bytes_slots,
            bytes: Arc::new(Semaphore::new(bytes_slots as usize)),
            batches,
            shared,
            stalls: stalls_seen,
            task: tokio::spawn(driver.run()),
        }
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
    pub async fn send(&mut self, batch: impl Into<Batch>) -> Result<Ticket, ClientError> {
        let batch = batch.into();
        let events = batch.len();
        let message = match batch {
            Batch::Rows(events) => {
                let request = Some(PublishRequest { events, ..self.head() });
                RawPublishStreamRequest(PublishStreamRequest { request }.encode_to_vec().into())
            }
            Batch::Columns(columns) => publish_stream_request(&self.head(), &ColumnParts::from(&columns)),
        };
        self.send_encoded(message, events).await
    }

    /// Sends what a builder has collected and empties it: the fastest way, without a copy of its dictionaries.
    ///
    /// # Errors
    /// As [`Producer::send`]; after an error the builder keeps its events.
    pub async fn send_from(&mut self, builder: &mut ColumnsBuilder) -> Result<Ticket, ClientError> {
        let message = builder.with_parts(|parts| publish_stream_request(&self.head(), parts));
        let ticket = self.send_encoded(message, builder.len()).await?;
        builder.clear();
        Ok(ticket)
    }

    fn head(&self) -> PublishRequest {
        PublishRequest {
            producer_id: Bytes::copy_from_slice(&self.id),
            sequence: self.next_sequence,
            mode: self.mode as i32,
            ..PublishRequest::default()
        }
    }

    async fn send_encoded(&mut self, message: RawPublishStreamRequest, events: usize) -> Result<Ticket, ClientError> {
        self.check()?;
        let bytes = message.0.len();
        if bytes > limits::REQUEST_BYTES_MAX {
            return Err(ClientError::TooLarge { bytes, max: limits::REQUEST_BYTES_MAX });
        }
        let begun = now();
        let units = (bytes.div_ceil(BYTES_UNIT) as u32).min(self.bytes_slots);
        let slot = self.slot(&self.slots, 1).await?;
        let bytes_slot = self.slot(&self.bytes, units).await?;
        let (ticket, answer) = oneshot::channel();
        let sequence = self.next_sequence;
        let pending = Pending { sequence, events, message, begun, ticket, _slot: (slot, bytes_slot) };
        if self.batches.send(pending).await.is_err() {
            self.check()?;
            return Err(ClientError::Closed(None));
        }
        self.next_sequence += 1;
        Ok(Ticket { sequence, answer })
    }

    async fn slot(&self, slots: &Arc<Semaphore>, count: u32) -> Result<OwnedSemaphorePermit, ClientError> {
        slots.clone().acquire_many_owned(count).await.map_err(|_| ClientError::Closed(None))
    }

    fn check(&self) -> Result<(), ClientError> {
        match self.shared.failure() {
            Some(failure) => Err(ClientError::Closed(Some(Box::new(failure)))),
            None => Ok(()),
        }
    }

    /// Waits until nothing is in flight.
    ///
    /// # Errors
    /// The producer's failure. Batches refused as a whole are no failure: see [`Totals::refused_batches`] and tickets.
    pub async fn flush(&mut self) -> Result<Totals, ClientError> {
        // Every batch in flight holds a slot: with all slots in hand there is none.
        drop(self.slot(&self.slots, self.in_flight).await?);
        self.check()?;
        Ok(self.totals())
    }

    /// Sums so far.
    pub fn totals(&self) -> Totals {
        self.shared.totals()
    }

    /// The stalls of this producer, for telling somebody why nothing moves while it retries.
    pub fn stalls(&self) -> Stalls {
        Stalls::new(self.stalls.clone())
    }

    /// Flushes and ends the stream.
    ///
    /// # Errors
    /// As [`Producer::flush`].
    pub async fn close(mut self) -> Result<Totals, ClientError> {
        let flushed = self.flush().await;
        let Self { batches, mut task, shared, .. } = self;
        drop(batches);
        // Nothing is in flight; a server that does not end the stream must not hold us up.
        if tokio::time::timeout(END_TIME_MAX, &mut task).await.is_err() {
            task.abort();
        }
        flushed.map(|_| shared.totals())
    }
}

/// A random id that is not a kept one.
fn fresh_id() -> Result<[u8; 16], String> {
    const FRESH: u8 = 0x7F;
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|e| format!("cannot be chosen: {e}"))?;
    id[0] &= FRESH;
    Ok(id)
}
