//! The task behind a producer: one stream at a time, opened again when it breaks.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use tidegauge_proto::ingest::v1::publish_stream_response::Outcome;
use tidegauge_proto::ingest::v1::{PublishResponse, PublishStreamResponse, RequestError};
use tidegauge_proto::limits;
use tidegauge_proto::raw::RawPublishStreamRequest;
use tidegauge_proto::raw::v1::ingest_service_client::IngestServiceClient;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::stalls::{Stall, StallSender};
use super::window::Window;
use super::{Ack, Totals};
use crate::channel::Authorized;
use crate::error::{ClientError, ServerError};

/// A batch on its way.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) sequence: u64,
    pub(super) events: usize,
    pub(super) message: RawPublishStreamRequest,
    pub(super) begun: Instant,
    pub(super) ticket: oneshot::Sender<Result<Ack, ClientError>>,
    /// Given back with the final answer.
    pub(super) _slot: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

/// What the producer sees of its task.
#[derive(Debug, Default)]
pub(super) struct Shared {
    state: Mutex<(Totals, Option<ClientError>)>,
}

impl Shared {
    pub(super) fn totals(&self) -> Totals {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// The error that ended the producer.
    pub(super) fn failure(&self) -> Option<ClientError> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    pub(super) fn fail(&self, error: ClientError) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1.get_or_insert(error);
    }

    fn count(&self, change: impl FnOnce(&mut Totals)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).0);
    }
}

/// Shortest and longest time between two attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

pub(super) struct Driver {
    pub(super) channel: Authorized,
    pub(super) batches: mpsc::Receiver<Pending>,
    pub(super) shared: Arc<Shared>,
    pub(super) retry_for: Duration,
    pub(super) window: Window<Pending>,
    /// The producer sends no more.
    pub(super) closed: bool,
    /// Since when nothing gets through.
    pub(super) stalled_since: Option<Instant>,
    /// The same for whoever watches.
    pub(super) stalls: StallSender,
    pub(super) attempts: u32,
}

/// The answers of one stream.
type Answers = BoxStream<'static, Result<PublishStreamResponse, Status>>;

/// Reads the clock for latencies and time limits; nothing that is sent depends on it.
#[expect(clippy::disallowed_methods, reason = "the client has no clock but the system's")]
pub(super) fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "a pause before a retry waits for time itself")]
fn pause(time: Duration) -> tokio::time::Sleep {
    tokio::time::sleep(time)
}

impl Driver {
    /// Works until the producer is closed and everything is answered, or a failure that retries do not mend.
    pub(super) async fn run(mut self) {
        loop {
            if self.window.is_empty() {
                match self.batches.recv().await {
                    Some(batch) => {
                        // Whatever failed while there was nothing to send says nothing about this batch.
                        self.stall_ends();
                        self.window.push(batch.sequence, batch);
                    }
                    None => return,
                }
            }
            match self.run_stream().await {
                Ok(()) => return,
                Err(error) => {
                    self.window.disconnected();
                    if let Err(failure) = self.back_off(error).await {
                        return self.fail(failure);
                    }
                }
            }
        }
    }

    /// Waits before the next attempt, or tells that there is none.
    async fn back_off(&mut self, error: ClientError) -> Result<(), ClientError> {
        if !error.is_retryable() {
            return Err(error);
        }
        self.check_stall(&error)?;
        let (shortest, longest) = BACKOFF;
        let grown = shortest.saturating_mul(1 << self.attempts.min(16)).min(longest);
        self.attempts += 1;
        // From half to the whole, so that many clients do not come back at once.
        let mut random = [0];
        let _ = getrandom::fill(&mut random);
        let spread = grown.mul_f64(0.5 + f64::from(random[0]) / 512.0);
        pause(spread.max(error.retry_after().unwrap_or_default())).await;
        Ok(())
    }

    fn check_stall(&mut self, error: &ClientError) -> Result<(), ClientError> {
        let since = *self.stalled_since.get_or_insert_with(now);
        self.stalls.send_replace(Some(Stall { since, error: error.clone() }));
        if since.elapsed() < self.retry_for {
            return Ok(());
        }
        Err(ClientError::GaveUp { after: since.elapsed(), last: Box::new(error.clone()) })
    }

    fn stall_ends(&mut self) {
        self.attempts = 0;
        if self.stalled_since.take().is_some() {
            self.stalls.send_replace(None);
        }
    }

    /// Ends the producer: every batch gets the failure.
    fn fail(mut self, failure: ClientError) {
        self.shared.fail(failure.clone());
        self.batches.close();
        let waiting = std::iter::from_fn(|| self.batches.try_recv().ok());
        for batch in self.window.drain().chain(waiting) {
            let _ = batch.ticket.send(Err(ClientError::Closed(Some(Box::new(failure.clone())))));
        }
    }

    fn open(&self) -> (mpsc::Sender<RawPublishStreamRequest>, Answers) {
        // Small: the window holds the batches; this only hands them to the transport.
        let (requests, outgoing) = mpsc::channel(2);
        let mut client = IngestServiceClient::new(self.channel.clone())
            .max_encoding_message_size(limits::REQUEST_BYTES_MAX * 2)
            .max_decoding_message_size(limits::RESPONSE_BYTES_MAX);
        let call = async move { client.publish_stream(ReceiverStream::new(outgoing)).await };
        let answers = futures::stream::once(call).map_ok(tonic::Response::into_inner).try_flatten();
        (requests, answers.boxed())
    }

    /// Works over one stream. Ok when everything is done.
    async fn run_stream(&mut self) -> Result<(), ClientError> {
        let (requests, mut answers) = self.open();
        let mut requests = Some(requests);
        let mut waiting: Option<Pin<Box<tokio::time::Sleep>>> = None;
        loop {
            if self.closed && self.window.is_empty() {
                // The end of the requests is the end of the stream; its status does not matter any more.
                requests = None;
            }
            if waiting.is_none()
                && let Some(time) = self.window.due_pause()
            {
                waiting = Some(Box::pin(pause(time)));
            }
            let may_send = requests.is_some() && self.window.has_unsent();
            let mut refused = false;
            tokio::select! {
                biased;
                answer = answers.next() => match answer {
                    Some(Ok(answer)) => self.answered(answer)?,
                    Some(Err(status)) => return self.ended(Some(status)),
                    None => return self.ended(None),
                },
                () = sleep(&mut waiting) => {
                    waiting = None;
                    self.window.resume();
                }
                permit = reserve(&requests), if may_send => match permit {
                    Some(permit) => {
                        if let Some((batch, again)) = self.window.send() {
                            permit.send(batch.message.clone());
                            self.shared.count(|totals| totals.retries += u64::from(again));
                        }
                    }
                    // The transport let go of the requests: the reason comes with the answers.
                    None => refused = true,
                },
                batch = self.batches.recv(), if !self.closed => match batch {
                    Some(batch) => self.window.push(batch.sequence, batch),
                    None => self.closed = true,
                },
            }
            if refused {
                requests = None;
            }
        }
    }

    fn ended(&self, status: Option<Status>) -> Result<(), ClientError> {
        if self.closed && self.window.is_empty() {
            return Ok(());
        }
        Err(match status {
            Some(status) => ClientError::from(status),
            None => retryable(Code::Unavailable, "the server ended the stream"),
        })
    }

    fn answered(&mut self, answer: PublishStreamResponse) -> Result<(), ClientError> {
        let sequence = answer.sequence;
        match answer.outcome {
            Some(Outcome::Response(response)) => self.settle(sequence, Ok(response)),
            Some(Outcome::Error(error)) if error.retry_after_ms > 0 => {
                let after = Duration::from_millis(u64::from(error.retry_after_ms));
                self.check_stall(&request_error(error))?;
                let noted = self.window.refused_for_now(sequence, after);
                noted.map_err(|found| out_of_order(sequence, found.expected))
            }
            Some(Outcome::Error(error)) => self.settle(sequence, Err(request_error(error))),
            None => Err(ClientError::Protocol("an answer says nothing".to_owned())),
        }
    }

    fn settle(&mut self, sequence: u64, result: Result<PublishResponse, ClientError>) -> Result<(), ClientError> {
        let batch = self.window.answered(sequence).map_err(|found| out_of_order(sequence, found.expected))?;
        self.stall_ends();
        let result = result.map(|response| Ack {
            sequence,
            events: batch.events,
            response,
            latency: now().duration_since(batch.begun),
        });
        self.shared.count(|totals| {
            totals.batches += 1;
            totals.bytes += batch.message.0.len() as u64;
            match &result {
                Ok(ack) => {
                    totals.accepted += u64::from(ack.accepted());
                    totals.rejected += ack.rejected().len() as u64;
                }
                Err(_) => totals.refused_batches += 1,
            }
        });
        let _ = batch.ticket.send(result);
        Ok(())
    }
}

/// Ends with the pause; without one never.
async fn sleep(waiting: &mut Option<Pin<Box<tokio::time::Sleep>>>) {
    match waiting {
        Some(time) => time.as_mut().await,
        None => std::future::pending().await,
    }
}

async fn reserve<T>(requests: &Option<mpsc::Sender<T>>) -> Option<mpsc::Permit<'_, T>> {
    match requests {
        Some(requests) => requests.reserve().await.ok(),
        None => None,
    }
}

fn out_of_order(found: u64, expected: Option<u64>) -> ClientError {
    ClientError::Protocol(format!("an answer for sequence {found} came where {expected:?} was due"))
}

fn retryable(code: Code, message: &str) -> ClientError {
    ClientError::Server(Box::new(ServerError {
        code,
        reason: String::new(),
        message: message.to_owned(),
        fields: Vec::new(),
        retry_after: None,
        quota: None,
    }))
}

fn request_error(error: RequestError) -> ClientError {
    let retry_after = (error.retry_after_ms > 0).then(|| Duration::from_millis(u64::from(error.retry_after_ms)));
    ClientError::Server(Box::new(ServerError {
        code: Code::from_i32(error.code),
        reason: error.reason,
        message: error.message,
        fields: Vec::new(),
        retry_after,
        quota: None,
    }))
}
