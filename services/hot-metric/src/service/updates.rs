//! `ApplyUpdates`: the one way into the store.
//!
//! A stream reads on while a commit is under way; what came meanwhile goes into the next one. So the time from the
//! arrival of a batch to its answer is one commit, or at most the rest of one more, however fast batches come.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tidegauge_core::hot::{CurrentValue, KeyUpdate};
use tidegauge_core::ids::{ShardId, TenantId};
use tidegauge_core::{ErrorKind, ServiceError};
use tidegauge_proto::convert::hot::version_to_proto;
use tidegauge_proto::hotmetric::v1 as pb;
use tidegauge_proto::hotmetric::v1::apply_updates_request::Step as Ask;
use tidegauge_proto::hotmetric::v1::apply_updates_response::Step as Answer;
use tidegauge_proto::hotmetric::v1::hot_metric_update_service_server::HotMetricUpdateService;
use tidegauge_rpc::status;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::assembly::{Assembly, refused};
use crate::known::Known;
use crate::seats::superseded;
use crate::{State, draining};

/// Answers that wait to be sent: an aggregation that does not read them holds up itself.
const ANSWERS: usize = 64;
/// Versions in one answer.
const VERSIONS_PER_ANSWER: usize = 4_096;
/// Shards of one log; more is a mistake of the caller's.
const SHARDS_MAX: u32 = 65_536;

/// `HotMetricUpdateService`.
#[derive(Clone, Debug)]
pub(crate) struct Updates {
    state: Arc<State>,
}

impl Updates {
    pub(crate) fn new(state: Arc<State>) -> Self {
        Self { state }
    }
}

#[tonic::async_trait]
impl HotMetricUpdateService for Updates {
    type ApplyUpdatesStream = BoxStream<'static, Result<pb::ApplyUpdatesResponse, Status>>;

    async fn apply_updates(
        &self,
        request: Request<Streaming<pb::ApplyUpdatesRequest>>,
    ) -> Result<Response<Self::ApplyUpdatesStream>, Status> {
        if self.state.draining.is_cancelled() {
            return Err(status(draining()));
        }
        let (answers, sent) = mpsc::channel(ANSWERS);
        let state = Arc::clone(&self.state);
        let requests = request.into_inner();
        self.state.streams.spawn(async move {
            if let Err(error) = run(state, requests, &answers).await {
                tracing::debug!(reason = error.reason, %error, "an update stream ended");
                // A caller that does not read its answers need not read this one.
                let _ = answers.try_send(Err(status(error)));
            }
        });
        Ok(Response::new(ReceiverStream::new(sent).boxed()))
    }
}

type Answers = mpsc::Sender<Result<pb::ApplyUpdatesResponse, Status>>;

fn caller_gone() -> ServiceError {
    ServiceError::new(ErrorKind::Unavailable, "CALLER_GONE", "the caller has ended the stream")
}

/// Sends answers until the stream is replaced: a caller that does not read must not keep the next one from its seat.
struct Answering<'a> {
    answers: &'a Answers,
    replaced: &'a CancellationToken,
    hello: pb::ShardHello,
}

impl Answering<'_> {
    async fn send(&self, step: Answer) -> Result<(), ServiceError> {
        let sending = self.answers.send(Ok(pb::ApplyUpdatesResponse { step: Some(step) }));
        match self.replaced.run_until_cancelled(sending).await {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) => Err(caller_gone()),
            None => Err(superseded(self.hello.shard, self.hello.generation)),
        }
    }
}

/// Runs a stream from its hello to its end.
async fn run(
    state: Arc<State>,
    mut requests: Streaming<pb::ApplyUpdatesRequest>,
    answers: &Answers,
) -> Result<(), ServiceError> {
    let hello = read_hello(&mut requests, state.options.hello_wait).await?;
    let pb::ShardHello { shard, shards, generation } = hello;
    let claim = state.seats.claim(shard, generation)?;
    let seat = state.draining.run_until_cancelled(claim.sit()).await.ok_or_else(draining)?;
    let _seat = seat.ok_or_else(|| superseded(shard, generation))?;

    let known = state.known().await?;
    known.count_by(shards);
    let held = known.of_shard(ShardId(shard), shards);
    // Fencing that survives a restart: the store has seen a newer owner of the shard.
    if held.iter().any(|(_, meta)| meta.version.generation > generation) {
        return Err(superseded(shard, generation));
    }
    let versions: Vec<pb::KeyVersion> = held
        .into_iter()
        .map(|(key, meta)| pb::KeyVersion {
            tenant_id: key.tenant.as_str().to_owned(),
            bucket: key.bucket,
            version: Some(version_to_proto(meta.version)),
            boundary_unix_nano: meta.boundary_ns,
        })
        .collect();
    let answering = Answering { answers, replaced: &claim.replaced, hello };
    for part in versions.chunks(VERSIONS_PER_ANSWER) {
        answering.send(Answer::Versions(pb::ShardVersions { versions: part.to_vec(), complete: false })).await?;
    }
    answering.send(Answer::Versions(pb::ShardVersions { versions: Vec::new(), complete: true })).await?;

    let assembly = Assembly::new(&hello, state.options.assembly_items);
    Stream { state: &state, hello, answering, assembly, waiting: Group::default(), read: 0 }.run(requests).await
}

async fn read_hello(
    requests: &mut Streaming<pb::ApplyUpdatesRequest>,
    at_most: Duration,
) -> Result<pb::ShardHello, ServiceError> {
    let first = tokio::time::timeout(at_most, requests.next()).await;
    let Ok(Some(Ok(pb::ApplyUpdatesRequest { step: Some(Ask::Hello(hello)) }))) = first else {
        return Err(refused("step", "a stream begins with a hello".to_owned()));
    };
    if hello.shards == 0 || hello.shards > SHARDS_MAX || hello.shard >= hello.shards {
        return Err(refused("hello", format!("there is no shard {} of {}", hello.shard, hello.shards)));
    }
    Ok(hello)
}

/// What goes into one commit: whole updates of one or more batches.
#[derive(Debug, Default)]
struct Group {
    updates: Vec<KeyUpdate>,
    items: usize,
    /// Sequences of the batches, in order.
    batches: Vec<u64>,
    snapshot_complete: bool,
}

type Commit = Pin<Box<dyn Future<Output = Result<Vec<u64>, ServiceError>> + Send>>;

/// A stream after its hello.
struct Stream<'a> {
    state: &'a Arc<State>,
    hello: pb::ShardHello,
    answering: Answering<'a>,
    assembly: Assembly,
    /// Read, but not in a commit yet.
    waiting: Group,
    /// Sequence of the batch read last.
    read: u64,
}

impl Stream<'_> {
    /// Until the caller ends the stream, a newer one takes the shard, or the service drains. A commit that has begun
    /// is always waited for, so that the next stream finds its outcome.
    async fn run(mut self, mut requests: Streaming<pb::ApplyUpdatesRequest>) -> Result<(), ServiceError> {
        let mut commit: Option<Commit> = None;
        let mut end = None;
        loop {
            if commit.is_none() && !self.waiting.batches.is_empty() {
                let group = std::mem::take(&mut self.waiting);
                commit = Some(Box::pin(run_commit(Arc::clone(self.state), self.hello, group)));
            }
            if commit.is_none()
                && let Some(end) = end
            {
                return end;
            }
            let reading = end.is_none() && self.waiting.items < self.state.options.waiting_items;
            tokio::select! {
                biased;
                () = self.answering.replaced.cancelled(), if end.is_none() => {
                    self.waiting = Group::default();
                    end = Some(Err(superseded(self.hello.shard, self.hello.generation)));
                }
                () = self.state.draining.cancelled(), if end.is_none() => end = Some(Err(draining())),
                outcome = async { commit.as_mut().expect("guarded").await }, if commit.is_some() => {
                    commit = None;
                    for sequence in outcome? {
                        self.answering.send(Answer::Ack(pb::UpdateAck { sequence })).await?;
                    }
                }
                request = requests.next(), if reading => match request {
                    Some(Ok(request)) => {
                        if let Err(error) = self.take(request) {
                            end = Some(Err(error));
                        }
                    }
                    // What was read is still committed: it was sent in good faith.
                    Some(Err(_)) | None => end = Some(Ok(())),
                },
            }
        }
    }

    /// Adds a batch to what waits.
    fn take(&mut self, request: pb::ApplyUpdatesRequest) -> Result<(), ServiceError> {
        let Some(Ask::Batch(batch)) = request.step else {
            return Err(refused("step", "after the hello only batches are sent".to_owned()));
        };
        if batch.sequence != self.read + 1 {
            let what = format!("batch {} came after batch {}", batch.sequence, self.read);
            return Err(refused("sequence", what));
        }
        self.read = batch.sequence;
        for part in &batch.updates {
            if let Some(update) = self.assembly.add(part)? {
                self.waiting.items += 1 + update.currents.len() + update.windows.len();
                self.waiting.updates.push(update);
            }
        }
        if batch.snapshot_complete && self.assembly.is_open() {
            return Err(refused("snapshot_complete", "a key still waits for its last part".to_owned()));
        }
        self.waiting.snapshot_complete |= batch.snapshot_complete;
        // A batch counts for the bound also if nothing of it is whole.
        self.waiting.items += 1;
        self.waiting.batches.push(batch.sequence);
        Ok(())
    }
}

/// Makes a group durable, then tells the watchers. Gives back the batches to acknowledge.
async fn run_commit(state: Arc<State>, hello: pb::ShardHello, group: Group) -> Result<Vec<u64>, ServiceError> {
    let _commit = state.hub.begin_commit();
    let known = state.known().await?;
    if !group.updates.is_empty() {
        let begun_ns = state.clock.monotonic_ns();
        let metas: Vec<_> = group.updates.iter().map(|update| (update.key.clone(), update.meta.clone())).collect();
        // Kept whether somebody watches or not: a watcher may come while the store commits, and read before it has.
        let currents: Vec<_> =
            group.updates.iter().map(|update| (update.key.tenant.clone(), update.currents.clone())).collect();
        let applied = state.store.apply(&state.authority, group.updates).await?;
        let took_ns = state.clock.monotonic_ns().saturating_sub(begun_ns);
        metrics::histogram!("tidegauge_hot_apply_seconds").record(took_ns as f64 / 1e9);
        metrics::counter!("tidegauge_hot_items_total").increment(group.items as u64);

        // In order: of several updates of a key the last one stays.
        known.update(metas.into_iter().zip(&applied).filter(|(_, newer)| **newer).map(|(meta, _)| meta).collect());
        let mut changes: BTreeMap<TenantId, Vec<CurrentValue>> = BTreeMap::new();
        for ((tenant, values), newer) in currents.into_iter().zip(&applied) {
            if *newer && !values.is_empty() {
                changes.entry(tenant).or_default().extend(values);
            }
        }
        for (tenant, values) in changes {
            publish(&state, known, &tenant, values).await;
        }
    }
    let shard = ShardId(hello.shard);
    if group.snapshot_complete && !known.is_held(shard) {
        state.store.hold_shard(&state.authority, shard, hello.shards).await?;
        known.hold(shard, hello.shards);
    }
    Ok(group.batches)
}

async fn publish(state: &State, known: &Known, tenant: &TenantId, values: Vec<CurrentValue>) {
    // Who begins to watch from here on reads what is durable already.
    if !state.hub.is_watched(tenant) {
        return;
    }
    if !known.has_buckets(tenant) {
        state.hub.publish(tenant, values);
        return;
    }
    // A series of several buckets is their sum: read it as a whole.
    let metrics: Vec<_> = values.into_iter().map(|value| value.metric).collect();
    match state.store.currents(&state.authority.tenant(tenant), &metrics).await {
        Ok(values) => state.hub.publish(tenant, values.into_iter().flatten().collect()),
        Err(error) => {
            // They are durable and will not be sent again: watchers read them when they can.
            tracing::warn!(%tenant, %error, "changes could not be read for their watchers");
            state.hub.lose(tenant, metrics.len());
        }
    }
}
