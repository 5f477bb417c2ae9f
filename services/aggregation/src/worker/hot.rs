//! The stream to hot-metric.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use tidegauge_core::hot::{HotVersion, KeyUpdate};
use tidegauge_core::limits;
use tidegauge_core::scope::SystemAuthority;
use tidegauge_core::{Key, ShardId};
use tidegauge_proto::convert::hot as convert;
use tidegauge_proto::hotmetric::v1 as pb;
use tidegauge_proto::hotmetric::v1::hot_metric_update_service_client::HotMetricUpdateServiceClient;
use tidegauge_rpc::InternalChannel;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

/// Values and windows of one message: some 2 MB with long names.
const ITEMS_PER_MESSAGE: usize = 10_000;

/// Time for an answer: a commit of the largest message takes seconds on a slow disk. After it another stream is opened.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);

/// Answers of hot-metric.
pub(crate) type Answers = BoxStream<'static, Result<pb::ApplyUpdatesResponse, Status>>;

/// Opens streams to hot-metric; tests bring their own.
#[async_trait]
pub(crate) trait HotConnector: Send + Sync + fmt::Debug + 'static {
    async fn open(&self, requests: ReceiverStream<pb::ApplyUpdatesRequest>) -> Result<Answers, Status>;
}

/// Hot-metric behind the in-memory channel.
#[derive(Debug)]
pub(crate) struct InternalHot {
    pub(crate) channel: InternalChannel,
    pub(crate) authority: SystemAuthority,
}

#[async_trait]
impl HotConnector for InternalHot {
    async fn open(&self, requests: ReceiverStream<pb::ApplyUpdatesRequest>) -> Result<Answers, Status> {
        let mut client = HotMetricUpdateServiceClient::new(self.channel.as_service(&self.authority))
            .max_decoding_message_size(limits::RESPONSE_BYTES_MAX);
        Ok(client.apply_updates(requests).await?.into_inner().boxed())
    }
}

/// Something to push. It belongs to one stream; on another it would be out of order.
#[derive(Debug)]
pub(crate) struct Push {
    pub(crate) stream: u64,
    pub(crate) updates: Vec<KeyUpdate>,
    /// With it every key of the shard has been sent.
    pub(crate) snapshot_complete: bool,
}

/// What became of the stream.
/// What hot-metric holds of a key.
#[derive(Clone, Debug)]
pub(crate) struct HotKey {
    pub(crate) key: Key,
    pub(crate) version: HotVersion,
    /// The boundary that readers see.
    pub(crate) boundary_ns: i64,
}

#[derive(Debug)]
pub(crate) enum HotEvent {
    /// A new stream; what hot-metric holds.
    Connected(u64, Vec<HotKey>),
    /// The push is durable.
    Acked(u64),
    /// The stream is gone; a new one is being opened.
    Lost,
}

/// The worker's end of the task that holds the stream. At most one push is under way.
#[derive(Debug)]
pub(crate) struct HotLink {
    pub(crate) pushes: mpsc::Sender<Push>,
    pub(crate) events: mpsc::Receiver<HotEvent>,
    _task: AbortOnDropHandle<()>,
}

impl HotLink {
    pub(crate) fn start(connector: Arc<dyn HotConnector>, shard: ShardId, shards: u32, generation: u64) -> Self {
        let (pushes, push_queue) = mpsc::channel(4);
        let (event_queue, events) = mpsc::channel(16);
        let hello = pb::ShardHello { shard: shard.0, shards, generation };
        let task = tokio::spawn(keep_open(connector, hello, push_queue, event_queue));
        Self { pushes, events, _task: AbortOnDropHandle::new(task) }
    }
}

/// Why a stream ended.
#[derive(Debug)]
enum End {
    Failed(String),
    /// The worker is gone.
    Closed,
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Failed(status.message().to_owned())
    }
}

async fn keep_open(
    connector: Arc<dyn HotConnector>,
    hello: pb::ShardHello,
    mut pushes: mpsc::Receiver<Push>,
    events: mpsc::Sender<HotEvent>,
) {
    const PAUSE_MIN: Duration = Duration::from_millis(20);
    const PAUSE_MAX: Duration = Duration::from_secs(2);
    let mut pause = PAUSE_MIN;
    let mut failing = false;
    for stream in 1.. {
        let mut answered = false;
        let Err(end) = hold(connector.as_ref(), hello, stream, &mut pushes, &events, &mut answered).await;
        match end {
            End::Closed => return,
            End::Failed(error) => {
                if answered {
                    pause = PAUSE_MIN;
                    failing = false;
                }
                if !std::mem::replace(&mut failing, true) {
                    tracing::info!(shard = hello.shard, error, "the stream to hot-metric ended, opening another");
                }
            }
        }
        if events.send(HotEvent::Lost).await.is_err() {
            return;
        }
        let mut timer = tokio::time::interval(pause);
        timer.tick().await;
        timer.tick().await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Holds one stream until it ends; why it did.
async fn hold(
    connector: &dyn HotConnector,
    hello: pb::ShardHello,
    stream: u64,
    pushes: &mut mpsc::Receiver<Push>,
    events: &mpsc::Sender<HotEvent>,
    answered: &mut bool,
) -> Result<std::convert::Infallible, End> {
    use pb::apply_updates_request::Step as Ask;
    use pb::apply_updates_response::Step as Answer;
    let (requests, queue) = mpsc::channel(4);
    let send = |step| {
        let requests = requests.clone();
        async move {
            let request = pb::ApplyUpdatesRequest { step: Some(step) };
            requests.send(request).await.map_err(|_| End::Failed("the stream is closed".to_owned()))
        }
    };
    send(Ask::Hello(hello)).await?;
    let mut answers = connector.open(ReceiverStream::new(queue)).await?;
    let mut versions = Vec::new();
    loop {
        match answer(&mut answers).await? {
            Answer::Versions(part) => {
                for held in part.versions {
                    let key = convert::key(&held.tenant_id, held.bucket).map_err(|e| End::Failed(e.to_string()))?;
                    let version = convert::version_from_proto(held.version.as_ref());
                    versions.push(HotKey { key, version, boundary_ns: held.boundary_unix_nano });
                }
                if part.complete {
                    break;
                }
            }
            Answer::Ack(_) => return Err(End::Failed("an answer came before the versions".to_owned())),
        }
    }
    *answered = true;
    events.send(HotEvent::Connected(stream, versions)).await.map_err(|_| End::Closed)?;
    let mut sequence = 0;
    loop {
        let push = tokio::select! {
            push = pushes.recv() => push.ok_or(End::Closed)?,
            unasked = next(&mut answers) => {
                unasked?;
                return Err(End::Failed("an answer came without a question".to_owned()));
            }
        };
        if push.stream != stream {
            continue;
        }
        for batch in batches(push.updates, push.snapshot_complete) {
            sequence += 1;
            send(Ask::Batch(pb::UpdateBatch { sequence, ..batch })).await?;
            match answer(&mut answers).await? {
                Answer::Ack(ack) if ack.sequence == sequence => {}
                _ => return Err(End::Failed(format!("batch {sequence} was not acknowledged"))),
            }
        }
        events.send(HotEvent::Acked(stream)).await.map_err(|_| End::Closed)?;
    }
}

/// The answer to a question that was asked.
async fn answer(answers: &mut Answers) -> Result<pb::apply_updates_response::Step, End> {
    let late = |_| End::Failed(format!("hot-metric has not answered for {} s", ANSWER_TIME_MAX.as_secs()));
    tokio::time::timeout(ANSWER_TIME_MAX, next(answers)).await.map_err(late)?
}

async fn next(answers: &mut Answers) -> Result<pb::apply_updates_response::Step, End> {
    let answer = answers.next().await.ok_or_else(|| End::Failed("hot-metric ended the stream".to_owned()))??;
    answer.step.ok_or_else(|| End::Failed("an empty answer".to_owned()))
}

/// Packs updates into messages; a key with very many items is sent in parts.
fn batches(updates: Vec<KeyUpdate>, snapshot_complete: bool) -> Vec<pb::UpdateBatch> {
    let mut batches = vec![pb::UpdateBatch::default()];
    let mut items = 0;
    for update in updates {
        let mut rest = Some(update);
        while let Some(mut part) = rest.take() {
            let currents_rest = part.currents.split_off(part.currents.len().min(ITEMS_PER_MESSAGE));
            let room = ITEMS_PER_MESSAGE - part.currents.len();
            let windows_rest = part.windows.split_off(part.windows.len().min(room));
            if !(currents_rest.is_empty() && windows_rest.is_empty()) {
                rest = Some(KeyUpdate { currents: currents_rest, windows: windows_rest, ..part.clone_meta() });
            }
            let size = 1 + part.currents.len() + part.windows.len();
            if items > 0 && items + size > ITEMS_PER_MESSAGE {
                batches.push(pb::UpdateBatch::default());
                items = 0;
            }
            items += size;
            if let Some(batch) = batches.last_mut() {
                batch.updates.push(message(&part, rest.is_none()));
            }
        }
    }
    if let Some(last) = batches.last_mut() {
        last.snapshot_complete = snapshot_complete;
    }
    batches
}

/// A copy without values.
trait CloneMeta {
    fn clone_meta(&self) -> Self;
}

impl CloneMeta for KeyUpdate {
    fn clone_meta(&self) -> Self {
        Self {
            key: self.key.clone(),
            meta: self.meta.clone(),
            replaces_windows: self.replaces_windows,
            currents: Vec::new(),
            windows: Vec::new(),
        }
    }
}

fn message(update: &KeyUpdate, last_part: bool) -> pb::KeyUpdate {
    let meta = &update.meta;
    pb::KeyUpdate {
        tenant_id: update.key.tenant.as_str().to_owned(),
        bucket: update.key.bucket,
        version: Some(convert::version_to_proto(meta.version)),
        boundary_unix_nano: meta.boundary_ns,
        watermark_unix_nano: meta.watermark_ns,
        counted_events: meta.counted,
        pending_events: meta.pending,
        index_version: meta.index_version,
        index_open: meta.index_open,
        replaces_windows: update.replaces_windows,
        currents: update.currents.iter().map(convert::current_to_proto).collect(),
        windows: update.windows.iter().map(convert::window_to_proto).collect(),
        last_part,
    }
}
