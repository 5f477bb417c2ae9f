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
    pub(super) windows: BTreeMap<(i64, MetricName), WindowRow>,
    pub(super) currents: BTreeMap<MetricName, (u64, f64)>,
}

pub(super) type Held = Arc<Mutex<HashMap<Key, HeldKey>>>;

#[derive(Clone, Debug)]
pub(super) struct MemoryHot {
    pub(super) held: Held,
    /// Streams end after so many batches.
    pub(super) batches_per_stream: Option<u64>,
    /// While true, batches lie unread; those of a caller that has gone meanwhile are lost.
    pub(super) stuck: Arc<watch::Sender<bool>>,
}

impl Default for MemoryHot {
    fn default() -> Self {
        Self { held: Held::default(), batches_per_stream: None, stuck: Arc::new(watch::Sender::new(false)) }
    }
}

#[async_trait]
impl HotConnector for MemoryHot {
    async fn open(&self, mut requests: ReceiverStream<pb::ApplyUpdatesRequest>) -> Result<Answers, Status> {
        let (answers, queue) = mpsc::channel(4);
        let (held, limit) = (self.held.clone(), self.batches_per_stream);
        let mut stuck = self.stuck.subscribe();
        tokio::spawn(async move {
            let mut seen = HashSet::new();
            let mut batches = 0;
            while let Some(request) = requests.next().await {
                let step = match request.step.unwrap() {
                    pb::apply_updates_request::Step::Hello(hello) => {
                        pb::apply_updates_response::Step::Versions(versions(&held, &hello))
                    }
                    pb::apply_updates_request::Step::Batch(batch) => {
                        let _ = stuck.wait_for(|stuck| !stuck).await;
                        if answers.is_closed() {
                            return;
                        }
                        batches += 1;
                        let sequence = batch.sequence;
                        apply(&held, batch, &mut seen);
                        if limit.is_some_and(|limit| batches > limit) {
                            return; // Applied, but the answer is lost.
                        }
                        pb::apply_updates_response::Step::Ack(pb::UpdateAck { sequence })
                    }
                };
                if answers.send(Ok(pb::ApplyUpdatesResponse { step: Some(step) })).await.is_err() {
                    return;
                }
            }
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
    }
}
