//! From the bytes of a request to its durable answer: decide, append, answer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use tidegauge_core::clock::{Clock as _, SteadyClock, Step};
use tidegauge_core::event::{Mode, RequestId};
use tidegauge_core::ids::{Key, Producer};
use tidegauge_core::log::{EventLog, NewRecord, Position, StoreError};
use tidegauge_core::time::SECOND_NS;
use tidegauge_core::{ErrorKind, FieldViolation, ScopedTenant, ServiceError, ShardId};
use tidegauge_proto::ingest::v1::{PublishResponse, RejectedEvent, ShardPosition};
use tidegauge_proto::raw::{ColumnsView, RequestView};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::decide::order::KeptOrder;
use crate::decide::quota::QuotaBook;
use crate::decide::recent::Recent;
use crate::decide::records::{self, Labels};
use crate::decide::rules::{Refusal, Rules};
use crate::decide::{columns, request, rows};
use crate::meters::{Meters, Tally};
use crate::options::IngestOptions;

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) options: IngestOptions,
    log: Arc<dyn EventLog>,
    clock: Arc<SteadyClock>,
    quotas: Mutex<QuotaBook>,
    recent: Mutex<Recent>,
    seed: u64,
    meters: Arc<Meters>,
    /// Cancelled when no new work is taken.
    pub(crate) draining: CancellationToken,
    /// Requests and streams in flight.
    pub(crate) in_flight: TaskTracker,
}

/// A request that is ready for the log.
#[derive(Debug)]
pub(crate) struct Admitted {
    tenant: ScopedTenant,
    identity: Option<RequestId>,
    tally: Tally,
    accepted: u32,
    rejected: Vec<(u32, Refusal)>,
    records: Vec<NewRecord>,
    duplicate_hint: bool,
    request_bytes: usize,
    arrived_ns: u64,
}

impl Admitted {
    /// Bytes that it holds until it is answered: what waits for the log, and the verdicts.
    pub(crate) fn bytes(&self) -> usize {
        let records: usize = self.records.iter().map(|record| record.payload.len()).sum();
        let verdict = |refusal: &Refusal| size_of::<(u32, Refusal)>() + refusal.field.len() + refusal.message.len();
        records + self.rejected.iter().map(|(_, refusal)| verdict(refusal)).sum::<usize>()
    }

    /// The error of a unary call whose events were all refused: names the first by field, `events[17].timestamp`.
    pub(crate) fn all_refused(&self) -> Option<ServiceError> {
        if self.accepted > 0 {
            return None;
        }
        let fields = self.rejected.iter().take(FIELDS_IN_ERROR_MAX).map(|(index, refusal)| FieldViolation {
            field: format!("events[{index}].{}", refusal.field),
            reason: refusal.reason,
            description: refusal.message.clone(),
        });
        let mut error = ServiceError::invalid_fields(fields.collect());
        if self.rejected.len() > 1 {
            error.message = format!("all {} events are refused; {}", self.rejected.len(), error.message).into();
        }
        Some(error)
    }

    /// Producer and sequence, if the request has them.
    pub(crate) fn producer(&self) -> Option<(Producer, u64)> {
        self.identity.map(|id| (id.producer, id.sequence))
    }
}

/// How far a refused request was understood, for its answer on a stream.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) sequence: u64,
    pub(crate) producer: Option<Producer>,
}

/// Violations named in an error: the first tell what is wrong, and an error travels in headers, which are small.
const FIELDS_IN_ERROR_MAX: usize = 8;

impl Publisher {
    pub(crate) fn new(options: IngestOptions, log: Arc<dyn EventLog>, clock: Arc<SteadyClock>, seed: u64) -> Self {
        let quotas = QuotaBook::new(options.quota, options.tenant_quotas.clone(), options.quota_accounts_max);
        let recent = Recent::new(options.recent_requests_max);
        Self {
            options,
            log,
            clock,
            quotas: Mutex::new(quotas),
            recent: Mutex::new(recent),
            seed,
            meters: Arc::new(Meters::new()),
            draining: CancellationToken::new(),
            in_flight: TaskTracker::new(),
        }
    }

    /// Judges a request and prepares its records; nothing is stored. `order` is that of the request's stream.
    pub(crate) fn admit(
        &self,
        tenant: &ScopedTenant,
        message: &[u8],
        order: &KeptOrder,
        seen: &mut Seen,
    ) -> Result<Admitted, ServiceError> {
        self.decide(tenant, message, order, seen).inspect_err(|error| Meters::refused(error.reason))
    }

    fn decide(
        &self,
        tenant: &ScopedTenant,
        message: &[u8],
        order: &KeptOrder,
        seen: &mut Seen,
    ) -> Result<Admitted, ServiceError> {
        let arrived_ns = self.clock.monotonic_ns();
        let (now_ns, step) = self.clock.read();
        let refuse = |error| self.refuse_unread(tenant, message, error);
        let view = RequestView::parse(message).map_err(request::malformed).map_err(refuse)?;
        seen.sequence = view.sequence;
        let columns_view = view.columns.as_deref().map(ColumnsView::parse).transpose();
        let columns_view = columns_view.map_err(request::columns_error).map_err(refuse)?;
        let tally = self.meters.receive(request::events(&view, columns_view.as_ref()));
        let head = request::check(&view, columns_view.as_ref()).map_err(refuse)?;
        if let Some((producer, sequence)) = head.producer {
            seen.producer = Some(producer);
            order.check(producer, sequence)?;
        }
        self.charge(tenant, head.events, message.len())?;
        if let (Mode::Live, Step::Refused(ahead_ns)) = (head.mode, step) {
            return Err(clock_stepped(ahead_ns));
        }

        let rules = Rules::at(tenant.id(), now_ns, self.seed);
        let decision = match (view.columns.as_deref(), &columns_view) {
            (Some(columns), Some(view)) => columns::decide(&rules, columns, view)?,
            _ => rows::decide(&rules, &view).map_err(request::malformed)?,
        };
        let identity = request::identity(&head, &view);
        // The one place that chooses the key: a tenant has one bucket until buckets are configured.
        let key = Key::of(tenant.id().clone());
        let labels = Labels { key, request: identity, mode: head.mode, arrival_ns: now_ns };
        let payloads = records::encode(&decision, &labels, self.options.record_bytes_max)?;
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let duplicate_hint = identity.is_some_and(|id| recent.contains(tenant.id(), &id));
        drop(recent);
        Ok(Admitted {
            tenant: tenant.clone(),
            identity,
            tally,
            accepted: decision.accepted_len(),
            records: payloads.into_iter().map(|payload| NewRecord { key: labels.key.clone(), payload }).collect(),
            rejected: decision.rejected,
            duplicate_hint,
            request_bytes: message.len(),
            arrived_ns,
        })
    }

    /// The error for a request whose events are not looked at: its bytes are charged all the same, so that nobody can send
    /// without limit what is refused.
    fn refuse_unread(&self, tenant: &ScopedTenant, message: &[u8], error: ServiceError) -> ServiceError {
        self.charge(tenant, 0, message.len()).err().unwrap_or(error)
    }

    fn charge(&self, tenant: &ScopedTenant, events: usize, bytes: usize) -> Result<(), ServiceError> {
        let mut quotas = self.quotas.lock().unwrap_or_else(PoisonError::into_inner);
        let charged = quotas.charge(tenant.id(), self.clock.monotonic_ns(), events as u64, bytes as u64);
        charged.map_err(|exceeded| {
            let message = format!("the quota of {} is exceeded", exceeded.what);
            ServiceError::new(ErrorKind::ResourceExhausted, "QUOTA_EXCEEDED", message)
                .retry_after(exceeded.wait)
                .quota(format!("tenant:{}", tenant.id()), exceeded.what)
        })
    }

    /// Appends an admitted request. The future must be polled once where requests are to keep their order: the log takes
    /// records in the order in which its appends are first polled.
    pub(crate) fn append(
        self: &Arc<Self>,
        mut admitted: Admitted,
    ) -> BoxFuture<'static, Result<PublishResponse, ServiceError>> {
        let publisher = self.clone();
        async move {
            let records = std::mem::take(&mut admitted.records);
            let positions = if records.is_empty() {
                Vec::new()
            } else {
                publisher.log.append(records).await.map_err(refused_by_log)?
            };
            Ok(publisher.acknowledge(admitted, positions))
        }
        .boxed()
    }

    fn acknowledge(&self, admitted: Admitted, positions: Vec<(ShardId, Position)>) -> PublishResponse {
        if let Some(identity) = &admitted.identity {
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            recent.insert(admitted.tenant.id(), identity);
        }
        let passed_ns = self.clock.monotonic_ns().saturating_sub(admitted.arrived_ns);
        admitted.tally.settle(admitted.accepted);
        self.meters.bytes.increment(admitted.request_bytes as u64);
        self.meters.duplicate_hints.increment(u64::from(admitted.duplicate_hint));
        self.meters.seconds.record(passed_ns as f64 / 1e9);
        PublishResponse {
            accepted: admitted.accepted,
            rejected: admitted.rejected.into_iter().map(rejected_event).collect(),
            positions: last_positions(positions),
            duplicate_hint: admitted.duplicate_hint,
        }
    }
}

/// LIVE events are not taken while nobody knows what time it is: their senders may have followed the step, and one event from
/// two days ahead would make all later ones too old. History does not ask what time it is.
fn clock_stepped(ahead_ns: i64) -> ServiceError {
    let seconds = ahead_ns.unsigned_abs() / SECOND_NS.unsigned_abs();
    let way = if ahead_ns > 0 { "ahead" } else { "back" };
    let message =
        format!("the clock of the server's machine has stepped {seconds} s {way}: live events wait until it is right");
    ServiceError::new(ErrorKind::Unavailable, "CLOCK_STEPPED", message).retry_after(CLOCK_RETRY)
}

/// When to try again while the clock is not believed: somebody has to set it right.
const CLOCK_RETRY: Duration = Duration::from_secs(5);

/// What the caller is told when the log takes a request not or not wholly.
fn refused_by_log(error: StoreError) -> ServiceError {
    let told = match &error {
        StoreError::Full(_) | StoreError::Busy { .. } | StoreError::Unavailable(_) => ServiceError::from(error),
        _ => {
            tracing::error!(%error, "the log refused an append");
            match error {
                // It was cut back: the same request may find a better disk.
                StoreError::Io { .. } => ServiceError::new(
                    ErrorKind::Unavailable,
                    "LOG_WRITE_FAILED",
                    "the log could not be written, see the server's log",
                ),
                other => ServiceError::from(other),
            }
        }
    };
    Meters::refused(told.reason);
    told
}

/// The last position of each shard.
fn last_positions(positions: Vec<(ShardId, Position)>) -> Vec<ShardPosition> {
    let mut last: Vec<ShardPosition> = Vec::new();
    for (ShardId(shard), Position(position)) in positions {
        match last.iter_mut().find(|known| known.shard == shard) {
            Some(known) => known.position = position,
            None => last.push(ShardPosition { shard, position }),
        }
    }
    last
}

fn rejected_event((index, refusal): (u32, Refusal)) -> RejectedEvent {
    RejectedEvent { index, field: refusal.field, reason: refusal.reason.to_owned(), message: refusal.message }
}

/// Whether the same request may come again.
pub(crate) fn for_now(error: &ServiceError) -> bool {
    !matches!(error.kind, ErrorKind::InvalidArgument | ErrorKind::PermissionDenied | ErrorKind::OutOfRange)
}
