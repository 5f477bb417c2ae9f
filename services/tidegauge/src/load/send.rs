//! Chunks to the server: a lane for each tenant, each with a stream of its own and several chunks in flight.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream::{FuturesOrdered, StreamExt as _};
use tidegauge_client::proto::ingest::v1::RejectedEvent;
use tidegauge_client::{Ack, Client, ClientError, Mode, ProducerOptions, Stalls};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::chunk::Chunk;
use super::event::Place;
use super::identity::Identity;
use super::ledger::Report;
use super::names::Names;
use super::reader::Step;
use crate::failure::Failure;

/// Chunks of one tenant on their way.
const IN_FLIGHT: usize = 8;
/// Chunks of one tenant that wait for their turn.
const WAITING: usize = 2;
/// Tenants with an open stream; beyond it the one used least recently is closed.
const LANES_MAX: usize = 64;

/// A stall that lasts this long is told; quotas make shorter ones all the time.
const STALL_TOLD_AFTER: Duration = Duration::from_secs(3);

/// What a lane needs to know.
#[derive(Debug)]
pub(crate) struct Sender {
    /// Connection and credential.
    pub(crate) client: Client,
    /// Who sends.
    pub(crate) identity: Identity,
    /// How events take part in event time.
    pub(crate) mode: Mode,
    /// What the file calls the fields of an event.
    pub(crate) names: Names,
    /// Last chunk that is known to be durable, by tenant.
    pub(crate) durable: HashMap<String, u64>,
    /// Where results go.
    pub(crate) reports: mpsc::Sender<Report>,
}

struct Lane {
    chunks: mpsc::Sender<Box<Chunk>>,
    task: JoinHandle<()>,
    used: u64,
}

impl Sender {
    /// Takes the steps of a file until they end, or until a failure that concerns the whole load was reported.
    pub(crate) async fn run(self, mut steps: mpsc::Receiver<Step>) {
        let shared = Arc::new(self);
        let refused: Arc<Mutex<HashSet<Arc<str>>>> = Arc::default();
        let mut lanes: HashMap<Arc<str>, Lane> = HashMap::new();
        let mut uses = 0;
        while let Some(step) = steps.recv().await {
            let report = match step {
                Step::Bad { place, reason } => Report::Bad { place, reason },
                Step::Segment(resume) => Report::Segment(resume),
                Step::Chunk(chunk) => {
                    let known = shared.durable.get(&*chunk.tenant).is_some_and(|last| chunk.sequence <= *last);
                    let is_refused = || refused.lock().unwrap_or_else(PoisonError::into_inner).contains(&chunk.tenant);
                    if known || is_refused() {
                        Report::Passed { line_bytes: chunk.line_bytes }
                    } else {
                        uses += 1;
                        if !lanes.contains_key(&chunk.tenant) {
                            close_surplus(&mut lanes).await;
                        }
                        let lane =
                            lanes.entry(Arc::clone(&chunk.tenant)).or_insert_with(|| open(&shared, &refused, &chunk));
                        lane.used = uses;
                        // A lane takes everything until it is dropped; what it cannot send it reports.
                        if lane.chunks.send(chunk).await.is_err() {
                            break;
                        }
                        continue;
                    }
                }
            };
            if shared.reports.send(report).await.is_err() {
                break;
            }
        }
        for (_, lane) in lanes {
            finish(lane).await;
        }
    }
}

/// Closes the lane used least recently when there are too many. Its tenant may get another one later: this one has
/// ended by then, so the order of its chunks is kept.
async fn close_surplus(lanes: &mut HashMap<Arc<str>, Lane>) {
    if lanes.len() < LANES_MAX {
        return;
    }
    let oldest = lanes.iter().min_by_key(|(_, lane)| lane.used).map(|(tenant, _)| Arc::clone(tenant));
    if let Some(lane) = oldest.and_then(|tenant| lanes.remove(&tenant)) {
        finish(lane).await;
    }
}

async fn finish(lane: Lane) {
    drop(lane.chunks);
    // A panic in the task ends the load through its missing reports.
    let _ = lane.task.await;
}

fn open(shared: &Arc<Sender>, refused: &Arc<Mutex<HashSet<Arc<str>>>>, first: &Chunk) -> Lane {
    let (chunks, received) = mpsc::channel(WAITING);
    let tenant = Arc::clone(&first.tenant);
    let lane = LaneTask {
        shared: Arc::clone(shared),
        refused: Arc::clone(refused),
        tenant,
        first_sequence: first.sequence,
        broken: false,
    };
    Lane { chunks, task: tokio::spawn(lane.run(received)), used: 0 }
}

struct LaneTask {
    shared: Arc<Sender>,
    refused: Arc<Mutex<HashSet<Arc<str>>>>,
    tenant: Arc<str>,
    first_sequence: u64,
    /// After a refusal nothing further of the tenant counts as sent.
    broken: bool,
}

/// A chunk on its way.
struct Sent {
    sequence: u64,
    places: Vec<Place>,
    line_bytes: u64,
}

impl LaneTask {
    async fn run(mut self, mut chunks: mpsc::Receiver<Box<Chunk>>) {
        let client = match self.shared.client.for_tenant(&*self.tenant) {
            Ok(client) => client,
            Err(error) => {
                self.report(Report::Broken(error)).await;
                return;
            }
        };
        let mut producer = client.producer(ProducerOptions {
            mode: self.shared.mode,
            producer_id: Some(self.shared.identity.producer(&self.tenant)),
            first_sequence: self.first_sequence,
            in_flight: IN_FLIGHT,
            ..ProducerOptions::default()
        });
        let telling =
            tokio::spawn(tell_stalls(producer.stalls(), Arc::clone(&self.tenant), self.shared.reports.clone()));
        let mut on_the_way = FuturesOrdered::new();
        loop {
            tokio::select! {
                biased;
                Some((sent, answer)) = on_the_way.next() => self.answered(sent, answer).await,
                // Answers are kept in step with what is sent, so that they cannot pile up.
                chunk = chunks.recv(), if on_the_way.len() <= 2 * IN_FLIGHT => match chunk {
                    None => break,
                    Some(chunk) if self.broken => self.report(Report::Passed { line_bytes: chunk.line_bytes }).await,
                    Some(chunk) => {
                        let sent =
                            Sent { sequence: chunk.sequence, places: chunk.places, line_bytes: chunk.line_bytes };
                        match producer.send(chunk.columns).await {
                            Ok(ticket) => on_the_way.push_back(async move { (sent, ticket.ack().await) }),
                            Err(error) => self.answered(sent, Err(error)).await,
                        }
                    }
                },
            }
        }
        while let Some((sent, answer)) = on_the_way.next().await {
            self.answered(sent, answer).await;
        }
        telling.abort();
    }

    async fn answered(&mut self, sent: Sent, answer: Result<Ack, ClientError>) {
        match answer {
            Ok(ack) if !self.broken => {
                let rejected = ack.rejected().iter().filter_map(|event| self.rejection(&sent.places, event)).collect();
                let (tenant, sequence) = (Arc::clone(&self.tenant), sent.sequence);
                let accepted = u64::from(ack.accepted());
                let (again, line_bytes) = (ack.response.duplicate_hint, sent.line_bytes);
                self.report(Report::Durable { tenant, sequence, accepted, again, rejected, line_bytes }).await;
            }
            // Durable perhaps, but a chunk before it is not: the next run sends it again, and it counts once.
            Ok(_) => self.report(Report::Passed { line_bytes: sent.line_bytes }).await,
            Err(_) if self.broken => self.report(Report::Passed { line_bytes: sent.line_bytes }).await,
            Err(error) => {
                self.broken = true;
                self.refused.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(&self.tenant));
                let report = if concerns_the_tenant(&error) {
                    // What the server said, without the producer's words around it.
                    let said = error.server().map(|said| ClientError::Server(Box::new(said.clone()))).unwrap_or(error);
                    let failure = Failure::from(said).asked_for(Some(&self.tenant));
                    Report::Refused { tenant: Arc::clone(&self.tenant), failure }
                } else {
                    Report::Broken(error)
                };
                self.report(report).await;
                self.report(Report::Passed { line_bytes: sent.line_bytes }).await;
            }
        }
    }

    fn rejection(&self, places: &[Place], event: &RejectedEvent) -> Option<(Place, String)> {
        let place = places.get(event.index as usize)?;
        let field = self.shared.names.of(&event.field);
        Some((*place, format!("{field}: {} ({})", event.message, event.reason)))
    }

    async fn report(&self, report: Report) {
        // The ledger leaves only when the load ends early; then nobody wants to know.
        let _ = self.shared.reports.send(report).await;
    }
}

/// Reports each stall of a lane until the lane ends.
async fn tell_stalls(mut stalls: Stalls, tenant: Arc<str>, reports: mpsc::Sender<Report>) {
    while let Some(error) = stalls.next(STALL_TOLD_AFTER).await {
        if reports.send(Report::Waiting { tenant: Arc::clone(&tenant), error }).await.is_err() {
            return;
        }
    }
}

/// Whether other tenants can go on.
pub(crate) fn concerns_the_tenant(error: &ClientError) -> bool {
    use tonic::Code;
    match error {
        ClientError::TooLarge { .. } => true,
        ClientError::GaveUp { .. } => false,
        _ => matches!(
            error.code(),
            Some(Code::PermissionDenied | Code::InvalidArgument | Code::FailedPrecondition | Code::NotFound)
        ),
    }
}
