//! One publish stream: many requests in flight, answers in the order of the requests.

use std::future::ready;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, Stream, StreamExt as _};
use futures::{FutureExt as _, poll};
use tidegauge_core::ids::Producer;
use tidegauge_core::{ErrorKind, ScopedTenant, ServiceError};
use tidegauge_proto::ingest::v1::publish_stream_response::Outcome;
use tidegauge_proto::ingest::v1::{PublishResponse, PublishStreamResponse, RequestError};
use tidegauge_proto::raw::{RawPublishStreamRequest, RequestView};
use tidegauge_rpc::{Guard, Kept, status};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::{Status, Streaming};

use crate::decide::order::KeptOrder;
use crate::decide::request::malformed;
use crate::meters::Meters;
use crate::publisher::{Admitted, Publisher, Seen, for_now};
use crate::service::draining;

/// Time after which to send again what did not fit beside what the principal's streams keep.
const KEPT_RETRY: Duration = Duration::from_millis(100);

/// A request that is being made durable, or is answered already.
struct Flight {
    seen: Seen,
    bytes: usize,
    /// Whether the order of the stream knows the result already.
    noted: bool,
    result: Result<PublishResponse, ServiceError>,
}

/// How a stream ends once everything in flight is answered.
enum Ending {
    /// The caller has sent everything.
    Complete,
    /// It is cut short: the caller must connect again or hears why not.
    Refused(Status),
}

pub(crate) struct Pipeline {
    publisher: Arc<Publisher>,
    tenant: ScopedTenant,
    guard: Guard,
    requests: Streaming<RawPublishStreamRequest>,
    in_flight: FuturesOrdered<BoxFuture<'static, Flight>>,
    bytes_in_flight: usize,
    /// These bytes, charged to the principal: a caller that reads no answers must not fill the memory with many streams.
    kept: Kept,
    order: KeptOrder,
    /// A kept producer's request that waits until everything before it is durable.
    held: Option<(Seen, Admitted)>,
    ending: Option<Ending>,
    _token: TaskTrackerToken,
}

impl Pipeline {
    pub(crate) fn new(
        publisher: Arc<Publisher>,
        tenant: ScopedTenant,
        guard: Guard,
        kept: Kept,
        requests: Streaming<RawPublishStreamRequest>,
    ) -> Self {
        let token = publisher.in_flight.token();
        Self {
            publisher,
            tenant,
            guard,
            requests,
            in_flight: FuturesOrdered::new(),
            bytes_in_flight: 0,
            kept,
            order: KeptOrder::default(),
            held: None,
            ending: None,
            _token: token,
        }
    }

    /// The answers. Dropping the stream drops what is in flight: it may become durable all the same, unacknowledged.
    pub(crate) fn answers(self) -> impl Stream<Item = Result<PublishStreamResponse, Status>> + Send + 'static {
        futures::stream::unfold(Some(self), |pipeline| async move {
            let mut pipeline = pipeline?;
            match pipeline.next().await {
                Some(Ok(answer)) => Some((Ok(answer), Some(pipeline))),
                Some(Err(status)) => Some((Err(status), None)),
                None => None,
            }
        })
    }

    async fn next(&mut self) -> Option<Result<PublishStreamResponse, Status>> {
        let stop = self.publisher.draining.clone();
        loop {
            // A stream that always finds work must let others run.
            tokio::task::consume_budget().await;
            if self.in_flight.is_empty()
                && let Some((seen, admitted)) = self.held.take()
            {
                self.start_kept(seen, admitted).await;
            }
            if self.in_flight.is_empty()
                && let Some(ending) = &self.ending
            {
                return match ending {
                    Ending::Complete => None,
                    Ending::Refused(status) => Some(Err(status.clone())),
                };
            }
            let may_read = self.ending.is_none()
                && self.held.is_none()
                && self.in_flight.len() < self.publisher.options.stream_requests_max
                && self.bytes_in_flight < self.publisher.options.stream_bytes_max;
            tokio::select! {
                biased;
                Some(flight) = self.in_flight.next() => return Some(Ok(self.land(flight))),
                () = stop.cancelled(), if self.ending.is_none() => {
                    self.ending = Some(Ending::Refused(status(draining())));
                }
                request = self.requests.next(), if may_read => match request {
                    Some(Ok(request)) => self.take(&request).await,
                    Some(Err(status)) => self.ending = Some(Ending::Refused(status)),
                    None => self.ending = Some(Ending::Complete),
                },
            }
        }
    }

    async fn take(&mut self, RawPublishStreamRequest(message): &RawPublishStreamRequest) {
        if let Err(status) = self.guard.check() {
            self.ending = Some(Ending::Refused(status));
            return;
        }
        let mut seen = Seen::default();
        let admitted = RequestView::of_stream(message)
            .map_err(malformed)
            .and_then(|request| self.publisher.admit(&self.tenant, &request, &self.order, &mut seen));
        match admitted {
            Ok(admitted) if is_kept(&admitted) && !self.in_flight.is_empty() => self.held = Some((seen, admitted)),
            Ok(admitted) => self.start(seen, admitted).await,
            Err(error) => self.answer(seen, Err(error)),
        }
    }

    /// Starts a request of a kept producer; what came before it may have been refused meanwhile.
    async fn start_kept(&mut self, seen: Seen, admitted: Admitted) {
        let allowed = admitted.producer().map_or(Ok(()), |(producer, sequence)| self.order.check(producer, sequence));
        match allowed {
            Ok(()) => self.start(seen, admitted).await,
            Err(error) => self.answer(seen, Err(error)),
        }
    }

    async fn start(&mut self, seen: Seen, admitted: Admitted) {
        let bytes = admitted.bytes();
        if !self.kept.hold(self.bytes_in_flight + bytes) {
            let message = "the principal's streams keep as many requests and unread answers as they may";
            let error = ServiceError::new(ErrorKind::ResourceExhausted, "OVERLOADED", message);
            Meters::refused(error.reason);
            return self.answer(seen, Err(error.retry_after(KEPT_RETRY)));
        }
        self.bytes_in_flight += bytes;
        let flight = self.publisher.append(admitted).map(move |result| Flight { seen, bytes, noted: false, result });
        let mut flight = flight.boxed();
        // Polled once now: the log keeps the order of first polls.
        match poll!(flight.as_mut()) {
            Poll::Ready(flight) => self.in_flight.push_back(ready(flight).boxed()),
            Poll::Pending => self.in_flight.push_back(flight),
        }
    }

    fn answer(&mut self, seen: Seen, result: Result<PublishResponse, ServiceError>) {
        self.note(seen, &result);
        self.in_flight.push_back(ready(Flight { seen, bytes: 0, noted: true, result }).boxed());
    }

    fn note(&mut self, seen: Seen, result: &Result<PublishResponse, ServiceError>) {
        let Some(producer) = seen.producer.filter(|producer: &Producer| producer.kept) else { return };
        match result {
            Err(error) if for_now(error) => self.order.refused_for_now(producer, seen.sequence),
            _ => self.order.settled(producer, seen.sequence),
        }
    }

    fn land(&mut self, flight: Flight) -> PublishStreamResponse {
        self.bytes_in_flight -= flight.bytes;
        // Less is always given.
        self.kept.hold(self.bytes_in_flight);
        if !flight.noted {
            self.note(flight.seen, &flight.result);
        }
        let outcome = match flight.result {
            Ok(response) => Outcome::Response(response),
            Err(error) => Outcome::Error(request_error(error)),
        };
        PublishStreamResponse { sequence: flight.seen.sequence, outcome: Some(outcome) }
    }
}

fn is_kept(admitted: &Admitted) -> bool {
    admitted.producer().is_some_and(|(producer, _)| producer.kept)
}

fn request_error(error: ServiceError) -> RequestError {
    let (reason, retry_after) = (error.reason, error.retry_after);
    let status = status(error);
    RequestError {
        code: status.code() as i32,
        reason: reason.to_owned(),
        message: status.message().to_owned(),
        // Rounded up: a millisecond too early would be refused again.
        retry_after_ms: retry_after
            .map_or(0, |after| after.as_nanos().div_ceil(1_000_000).clamp(1, u128::from(u32::MAX)) as u32),
    }
}
