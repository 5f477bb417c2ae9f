//! The service on a server of its own, reached over the channel between services.

use std::sync::Arc;
use std::time::Duration;

use tidegauge_auth::{AuthOptions, Authenticator};
use tidegauge_core::clock::{Clock, SystemClock};
use tidegauge_core::hot::HotStore;
use tidegauge_core::ids::TenantId;
use tidegauge_core::scope::{Principal, Role, SystemAuthority, TenantScope};
use tidegauge_core::time::MINUTE_NS;
use tidegauge_hot_metric::{HotMetric, HotMetricHandle, HotMetricOptions};
use tidegauge_proto::convert::time::timestamp;
use tidegauge_proto::hotmetric::v1 as pb;
use tidegauge_proto::hotmetric::v1::apply_updates_request::Step as Ask;
use tidegauge_proto::hotmetric::v1::apply_updates_response::Step as Answer;
use tidegauge_proto::hotmetric::v1::hot_metric_service_client::HotMetricServiceClient;
use tidegauge_proto::hotmetric::v1::hot_metric_update_service_client::HotMetricUpdateServiceClient;
use tidegauge_rpc::{InternalChannel, InternalClient, ServerBuilder, ServerHandle, ServerOptions};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

pub(crate) const START: i64 = 1_772_434_800_000_000_000;

/// No wait of a test is longer; none is meant to be as long.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("within a minute")
}

pub(crate) struct World {
    internal: InternalChannel,
    authority: SystemAuthority,
    pub(crate) handle: Option<HotMetricHandle>,
    pub(crate) server: Option<ServerHandle>,
    _folder: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new(store: Arc<dyn HotStore>) -> Self {
        Self::with(HotMetricOptions::default(), store).await
    }

    pub(crate) async fn with(options: HotMetricOptions, store: Arc<dyn HotStore>) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let auth = AuthOptions { folder: folder.path().join("auth"), rules: None };
        let authenticator = Arc::new(Authenticator::open(auth, Arc::clone(&clock)).expect("opens"));
        let authority = SystemAuthority::for_worker("test");
        let mut builder = ServerBuilder::new(ServerOptions::default(), authenticator, Arc::clone(&clock));
        let handle = HotMetric::start(options, store, clock, authority.clone(), &builder.draining());
        for mount in handle.mounts() {
            builder = builder.mount(mount);
        }
        let internal = builder.internal();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let server = builder.serve(listener).expect("serves");
        Self { internal, authority, handle: Some(handle), server: Some(server), _folder: folder }
    }

    /// A client for these tenants; for all of them if none is named.
    pub(crate) fn reader(&self, tenants: &[&str]) -> HotMetricServiceClient<InternalClient> {
        let principal = Principal { name: "user".into(), role: Role::Reader };
        let tenants: Vec<TenantId> = tenants.iter().map(|text| TenantId::parse(text).expect("valid")).collect();
        let scope = match TenantScope::granted(principal, tenants) {
            Some(scope) => scope,
            None => self.authority.scope_all(),
        };
        HotMetricServiceClient::new(self.internal.on_behalf_of(&self.authority, &scope))
    }

    /// Opens a stream for a shard and takes the versions.
    pub(crate) async fn stream(&self, shard: u32, shards: u32, generation: u64) -> Result<Stream, Status> {
        let (requests, queue) = mpsc::channel(64);
        let hello = Ask::Hello(pb::ShardHello { shard, shards, generation });
        requests.send(pb::ApplyUpdatesRequest { step: Some(hello) }).await.expect("open");
        let mut client = HotMetricUpdateServiceClient::new(self.internal.as_service(&self.authority));
        let answers = soon(client.apply_updates(ReceiverStream::new(queue))).await?.into_inner();
        let mut stream = Stream { requests, answers, sequence: 0, versions: Vec::new() };
        loop {
            match stream.answer().await? {
                Answer::Versions(part) => {
                    stream.versions.extend(part.versions);
                    if part.complete {
                        return Ok(stream);
                    }
                }
                Answer::Ack(_) => panic!("an answer before the versions"),
            }
        }
    }

    /// A shard's stream, taken over with nothing to send.
    pub(crate) async fn taken_over(&self, shard: u32, shards: u32, generation: u64) -> Stream {
        let mut stream = self.stream(shard, shards, generation).await.expect("opens");
        stream.send(Vec::new(), true).await;
        stream.acknowledged(1).await;
        stream
    }
}

/// Aggregation's end of an update stream.
pub(crate) struct Stream {
    requests: mpsc::Sender<pb::ApplyUpdatesRequest>,
    answers: Streaming<pb::ApplyUpdatesResponse>,
    sequence: u64,
    pub(crate) versions: Vec<pb::KeyVersion>,
}

impl Stream {
    pub(crate) async fn answer(&mut self) -> Result<Answer, Status> {
        let answer = soon(self.answers.message()).await?;
        Ok(answer.expect("the stream goes on").step.expect("not empty"))
    }

    /// Sends a batch and returns its sequence.
    pub(crate) async fn send(&mut self, updates: Vec<pb::KeyUpdate>, snapshot_complete: bool) -> u64 {
        self.sequence += 1;
        let batch = Ask::Batch(pb::UpdateBatch { sequence: self.sequence, updates, snapshot_complete });
        // A stream that the server has ended takes nothing; its answers tell why.
        let _ = soon(self.requests.send(pb::ApplyUpdatesRequest { step: Some(batch) })).await;
        self.sequence
    }

    pub(crate) async fn acknowledged(&mut self, sequence: u64) {
        let answer = self.answer().await.expect("an answer");
        assert_eq!(answer, Answer::Ack(pb::UpdateAck { sequence }));
    }

    /// Sends a batch and waits until it is durable.
    pub(crate) async fn apply(&mut self, updates: Vec<pb::KeyUpdate>) {
        let sequence = self.send(updates, false).await;
        self.acknowledged(sequence).await;
    }
}

pub(crate) fn metric(name: &str, count: u64) -> pb::Metric {
    pb::Metric {
        metric_name: name.to_owned(),
        last_value: count as f64,
        last_time: Some(timestamp(START + count as i64)),
        updated_at: Some(timestamp(START + count as i64)),
        event_count: count,
    }
}

pub(crate) fn window(minute: i64, name: &str, count: u64) -> pb::LiveWindow {
    let start_unix_nano = START + minute * MINUTE_NS;
    pb::LiveWindow {
        start_unix_nano,
        end_unix_nano: start_unix_nano + MINUTE_NS,
        metric_name: name.to_owned(),
        event_count: count,
        ..pb::LiveWindow::default()
    }
}

/// A snapshot of a key with these values, at (generation, ordinal).
pub(crate) fn update(tenant: &str, generation: u64, ordinal: u64, currents: Vec<pb::Metric>) -> pb::KeyUpdate {
    pb::KeyUpdate {
        tenant_id: tenant.to_owned(),
        bucket: 0,
        version: Some(pb::Version { generation, ordinal, push: 0 }),
        boundary_unix_nano: START,
        watermark_unix_nano: START,
        counted_events: ordinal,
        pending_events: 0,
        index_version: 4,
        index_open: true,
        replaces_windows: true,
        currents,
        windows: Vec::new(),
        last_part: true,
    }
}
