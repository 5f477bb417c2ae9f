//! A server with ingest alone, over a log that a test controls.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tidegauge_auth::{AuthOptions, Authenticator, TenantClaim, create_token};
use tidegauge_core::clock::{Clock, ManualClock, SteadyClock};
use tidegauge_core::event::EventBatch;
use tidegauge_core::log::{EventLog, NewRecord, Position, ReadBatch, ShardStatus, StoreError};
use tidegauge_core::scope::Role;
use tidegauge_core::{ShardId, TenantId};
use tidegauge_ingest::{Ingest, IngestHandle, IngestOptions};
use tidegauge_proto::convert::time::timestamp;
use tidegauge_proto::ingest::v1::ingest_service_client::IngestServiceClient;
use tidegauge_proto::ingest::v1::publish_stream_response::Outcome;
use tidegauge_proto::ingest::v1::{Event, PublishRequest, PublishStreamRequest, PublishStreamResponse};
use tidegauge_proto::raw::decode_batch;
use tidegauge_proto::stream::v1::Mode;
use tidegauge_rpc::{ServerBuilder, ServerHandle, ServerOptions};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

pub(crate) const NOW_NS: i64 = 1_772_434_800_123_456_789;
pub(crate) const TENANT: &str = "tenant-001";

/// A log in memory whose appends end when, and as, a test says.
#[derive(Debug)]
pub(crate) struct ScriptedLog {
    pub(crate) records: Mutex<Vec<NewRecord>>,
    /// Permits for appends to end; closed: they end at once.
    pub(crate) gate: Semaphore,
    /// Results of the next appends; Ok when empty.
    pub(crate) failures: Mutex<VecDeque<Option<StoreError>>>,
    /// Of the next appends so many records stay, and the append fails: what a crash or a full disk may leave of a call.
    pub(crate) partly: Mutex<VecDeque<Option<usize>>>,
    pub(crate) waiting: Mutex<(usize, usize)>,
}

impl ScriptedLog {
    pub(crate) fn open() -> Arc<Self> {
        let log = Self::gated();
        log.gate.close();
        log
    }

    pub(crate) fn gated() -> Arc<Self> {
        Arc::new(Self {
            records: Mutex::default(),
            gate: Semaphore::new(0),
            failures: Mutex::default(),
            partly: Mutex::default(),
            waiting: Mutex::default(),
        })
    }

    pub(crate) fn batches(&self) -> Vec<EventBatch> {
        self.records.lock().unwrap().iter().map(|record| decode_batch(&record.payload).unwrap()).collect()
    }

    /// Most appends that waited at the same time.
    pub(crate) fn most_waiting(&self) -> usize {
        self.waiting.lock().unwrap().1
    }
}

#[async_trait]
impl EventLog for ScriptedLog {
    fn shards(&self) -> u32 {
        1
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<(ShardId, Position)>, StoreError> {
        if let Some(Some(failure)) = self.failures.lock().unwrap().pop_front() {
            return Err(failure);
        }
        if let Some(Some(kept)) = self.partly.lock().unwrap().pop_front() {
            self.records.lock().unwrap().extend(records.into_iter().take(kept));
            return Err(StoreError::Unavailable("partly written".to_owned()));
        }
        let count = records.len();
        self.records.lock().unwrap().extend(records);
        {
            let mut waiting = self.waiting.lock().unwrap();
            waiting.0 += 1;
            waiting.1 = waiting.1.max(waiting.0);
        }
        if let Ok(permit) = self.gate.acquire().await {
            permit.forget();
        }
        self.waiting.lock().unwrap().0 -= 1;
        Ok(vec![(ShardId(0), Position::start()); count])
    }

    async fn read(&self, _: ShardId, _: &Position, _: usize, _: Duration) -> Result<ReadBatch, StoreError> {
        Err(StoreError::Invalid("not read here".to_owned()))
    }

    async fn status(&self, _: ShardId) -> Result<ShardStatus, StoreError> {
        Err(StoreError::Invalid("not asked here".to_owned()))
    }

    async fn acknowledge(&self, _: ShardId, _: &Position) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The server and what belongs to it.
pub(crate) struct World {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) server: ServerHandle,
    pub(crate) ingest: IngestHandle,
    folder: tempfile::TempDir,
}

type Credentials = Box<dyn FnMut(Request<()>) -> Result<Request<()>, Status> + Send>;
pub(crate) type TestClient = IngestServiceClient<InterceptedService<Channel, Credentials>>;

impl World {
    pub(crate) async fn start(log: Arc<dyn EventLog>, options: IngestOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(NOW_NS));
        let auth = AuthOptions { folder: folder.path().join("auth"), rules: None };
        let authenticator = Arc::new(Authenticator::open(auth, clock.clone()).unwrap());
        let ingest = Ingest::start(options, log, SteadyClock::start(clock.clone()));
        let mut builder = ServerBuilder::new(ServerOptions::default(), authenticator, clock.clone());
        for mount in ingest.mounts() {
            builder = builder.mount(mount);
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = builder.serve(listener).unwrap();
        Self { clock, server, ingest, folder }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.server.local_addr())
    }

    /// A writer's token for [`TENANT`], good for an hour.
    pub(crate) fn token(&self) -> String {
        self.token_for(Duration::from_secs(3_600))
    }

    fn token_for(&self, life: Duration) -> String {
        let folder = self.folder.path().join("auth");
        let tenants = TenantClaim::Only(vec![TenantId::parse(TENANT).unwrap()]);
        create_token(&folder, "emitter", &tenants, Role::Writer, life, &*self.clock as &dyn Clock).unwrap()
    }

    pub(crate) async fn client(&self) -> TestClient {
        self.client_with(&self.token()).await
    }

    /// A client whose token outlives steps of the wall clock by days.
    pub(crate) async fn lasting_client(&self) -> TestClient {
        self.client_with(&self.token_for(Duration::from_secs(30 * 24 * 3_600))).await
    }

    async fn client_with(&self, token: &str) -> TestClient {
        let channel = Channel::from_shared(self.endpoint()).unwrap().connect().await.unwrap();
        let bearer = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
        let credentials: Credentials = Box::new(move |mut request: Request<()>| {
            request.metadata_mut().insert("authorization", bearer.clone());
            Ok(request)
        });
        IngestServiceClient::with_interceptor(channel, credentials)
            .max_encoding_message_size(usize::MAX)
            .max_decoding_message_size(64 << 20)
    }

    /// A publish stream.
    pub(crate) async fn stream(&self) -> Requests {
        let mut client = self.client().await;
        let (requests, outgoing) = mpsc::channel(1_000);
        let answers = client.publish_stream(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Requests { requests, answers }
    }
}

/// Both ends of a publish stream.
pub(crate) struct Requests {
    pub(crate) requests: mpsc::Sender<PublishStreamRequest>,
    pub(crate) answers: Streaming<PublishStreamResponse>,
}

impl Requests {
    pub(crate) async fn send(&self, request: PublishRequest) {
        self.requests.send(PublishStreamRequest { request: Some(request) }).await.unwrap();
    }

    /// The next answer: sequence, and accepted count or reason.
    pub(crate) async fn answer(&mut self) -> (u64, Result<u32, String>) {
        let answer = self.answers.message().await.unwrap().expect("an answer");
        match answer.outcome.unwrap() {
            Outcome::Response(response) => (answer.sequence, Ok(response.accepted)),
            Outcome::Error(error) => {
                assert_ne!(Code::from_i32(error.code), Code::Ok);
                (answer.sequence, Err(error.reason))
            }
        }
    }
}

pub(crate) fn event(metric: &str) -> Event {
    Event {
        event_type: "sample".to_owned(),
        timestamp: Some(timestamp(NOW_NS)),
        metric_name: metric.to_owned(),
        metric_value: 1.5,
        ..Event::default()
    }
}

/// A numbered request with one event.
pub(crate) fn numbered(producer: u8, sequence: u64) -> PublishRequest {
    PublishRequest {
        producer_id: vec![producer; 16].into(),
        sequence,
        mode: Mode::Live as i32,
        events: vec![event(&format!("m{sequence}"))],
        columns: None,
    }
}

pub(crate) fn rows(events: Vec<Event>) -> PublishRequest {
    PublishRequest { mode: Mode::Live as i32, events, ..PublishRequest::default() }
}

/// Waits until a condition holds, at most some seconds.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}
