//! A hot-metric in memory that insists on its contract.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::StreamExt;
use tidegauge_core::hot::{HotVersion, WindowRow};
use tidegauge_core::{Key, MetricName};
use tidegauge_proto::convert::hot as convert;
use tidegauge_proto::hotmetric::v1 as pb;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::worker::hot::{Answers, HotConnector};

#[derive(Clone, Debug, Default)]
pub(super) struct HeldKey {
    pub(super) version: HotVersion,
    pub(super) boundary_ns: i64,
    pub(super) counted: u64,
    pub(super) pending: u64,
    pub(super) index_version: u64,
    pub(super) index_open: bool,
    pub(super) windows: BTreeMap<(i64, MetricName), WindowRow>,
    pub(super) currents: BTreeMap<MetricName, (u64, f64)>,
}

pub(super) type Held = Arc<Mutex<HashMap<Key, HeldKey>>>;

#[derive(Clone, Debug)]
pub(super) struct MemoryHot {
    pub(super) held: Held,
    /// Streams end after so many batches.
    pub(super) batches_per_stream: Option<u64>,
    /// While true, batches lie unread; those of a caller that goes meanwhile are lost.
    pub(super) stuck: Arc<watch::Sender<bool>>,
    /// Streams whose end the double has not seen yet.
    open: Arc<watch::Sender<usize>>,
    /// The stream opened last for the one shard. As in hot-metric itself, nothing of an older stream is applied once
    /// a newer one was told what is held.
    seat: Arc<Mutex<Seat>>,
}

#[derive(Debug, Default)]
struct Seat {
    generation: u64,
    stream: u64,
}

impl Default for MemoryHot {
    fn default() -> Self {
        Self {
            held: Held::default(),
            batches_per_stream: None,
            stuck: Arc::new(watch::Sender::new(false)),
            open: Arc::new(watch::Sender::new(0)),
            seat: Arc::default(),
        }
    }
}

impl MemoryHot {
    /// Waits until every stream has ended: what a dead process had sent is applied or lost.
    pub(super) async fn deserted(&self) {
        let mut open = self.open.subscribe();
        open.wait_for(|open| *open == 0).await.unwrap();
    }

    /// Answers one stream until its caller goes, another one takes its seat, or it has had its batches.
    async fn serve(self, mut requests: ReceiverStream<pb::ApplyUpdatesRequest>, answers: Reply) {
        let mut stuck = self.stuck.subscribe();
        let (mut seen, mut batches, mut ours) = (HashSet::new(), 0, 0);
        while let Some(request) = requests.next().await {
            let step = match request.step.unwrap() {
                pb::apply_updates_request::Step::Hello(hello) => {
                    let mut seat = self.seat.lock().unwrap();
                    if hello.generation < seat.generation {
                        return;
                    }
                    ours = seat.stream + 1;
                    *seat = Seat { generation: hello.generation, stream: ours };
                    pb::apply_updates_response::Step::Versions(versions(&self.held, &hello))
                }
                pb::apply_updates_request::Step::Batch(batch) => {
                    tokio::select! {
                        biased;
                        () = answers.closed() => return,
                        _ = stuck.wait_for(|stuck| !stuck) => {}
                    }
                    let seat = self.seat.lock().unwrap();
                    if seat.stream != ours {
                        return;
                    }
                    batches += 1;
                    let sequence = batch.sequence;
                    apply(&self.held, batch, &mut seen);
                    if self.batches_per_stream.is_some_and(|limit| batches > limit) {
                        return; // Applied, but the answer is lost.
                    }
                    pb::apply_updates_response::Step::Ack(pb::UpdateAck { sequence })
                }
            };
            if answers.send(Ok(pb::ApplyUpdatesResponse { step: Some(step) })).await.is_err() {
                return;
            }
        }
    }
}

type Reply = mpsc::Sender<Result<pb::ApplyUpdatesResponse, Status>>;

#[async_trait]
impl HotConnector for MemoryHot {
    async fn open(&self, requests: ReceiverStream<pb::ApplyUpdatesRequest>) -> Result<Answers, Status> {
        let (answers, queue) = mpsc::channel(4);
        let hot = self.clone();
        self.open.send_modify(|open| *open += 1);
        tokio::spawn(async move {
            let open = hot.open.clone();
            hot.serve(requests, answers).await;
            open.send_modify(|open| *open -= 1);
        });
        Ok(ReceiverStream::new(queue).boxed())
    }
}

fn versions(held: &Held, hello: &pb::ShardHello) -> pb::ShardVersions {
    let held = held.lock().unwrap();
    let versions =
        held.iter().filter(|(key, _)| key.shard(hello.shards).0 == hello.shard).map(|(key, held)| pb::KeyVersion {
            tenant_id: key.tenant.as_str().to_owned(),
            bucket: key.bucket,
            version: Some(convert::version_to_proto(held.version)),
            boundary_unix_nano: held.boundary_ns,
        });
    pb::ShardVersions { versions: versions.collect(), complete: true }
}

fn apply(held: &Held, batch: pb::UpdateBatch, seen: &mut HashSet<Key>) {
    let mut held = held.lock().unwrap();
    for update in batch.updates {
        let key = convert::key(&update.tenant_id, update.bucket).unwrap();
        assert!(seen.contains(&key) || update.replaces_windows, "the first update of a key is a snapshot");
        seen.insert(key.clone());
        let version = convert::version_from_proto(update.version.as_ref());
        let state = held.entry(key).or_default();
        if version <= state.version {
            // A predecessor that does not know yet that it is dead.
            continue;
        }
        assert!(version.ordinal >= state.version.ordinal, "hot values never go back");
        assert!(update.boundary_unix_nano >= state.boundary_ns || state.boundary_ns == 0, "boundaries never go back");
        assert!(update.last_part);
        if update.replaces_windows {
            state.windows.clear();
        }
        for window in &update.windows {
            let window = convert::window_from_proto(window).unwrap();
            if window.end_ns > update.boundary_unix_nano {
                state.windows.insert((window.start_ns, window.metric), window.row);
            }
        }
        state.windows.retain(|(start, _), _| start + 60_000_000_000 > update.boundary_unix_nano);
        for current in &update.currents {
            let current = convert::current_from_proto(current).unwrap();
            state.currents.insert(current.metric, (current.event_count, current.last_value));
        }
        state.version = version;
        state.boundary_ns = update.boundary_unix_nano;
        state.counted = update.counted_events;
        state.pending = update.pending_events;
        state.index_version = update.index_version;
        state.index_open = update.index_open;
    }
}
