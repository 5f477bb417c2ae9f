//! A server with two real contracts, whose handlers tell what reached them.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use tidegauge_auth::{AuthOptions, Authenticator, TenantClaim, create_key, create_token};
use tidegauge_core::clock::ManualClock;
use tidegauge_core::scope::Role;
use tidegauge_core::{Permission, TenantId, TenantScope, limits};
use tidegauge_proto::hotmetric::v1::hot_metric_service_server::{HotMetricService, HotMetricServiceServer};
use tidegauge_proto::hotmetric::v1::hot_metric_update_service_server::{
    HotMetricUpdateService, HotMetricUpdateServiceServer,
};
use tidegauge_proto::hotmetric::v1::*;
use tidegauge_rpc::{Guard, InternalChannel, Mount, ServerBuilder, ServerHandle, ServerOptions, StartError, scope};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

pub(crate) const NOW_NS: i64 = 1_770_000_000_000_000_000;
pub(crate) const SECOND_NS: i64 = 1_000_000_000;
/// Longest wait for an event that must come.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) const HOT: &[(&str, Permission)] = &[
    ("GetMetric", Permission::Read),
    ("BatchGetMetrics", Permission::Read),
    ("ListMetrics", Permission::Read),
    ("WatchMetrics", Permission::Read),
    ("ListLiveWindows", Permission::Query),
];
pub(crate) const UPDATE: &[(&str, Permission)] = &[("ApplyUpdates", Permission::Internal)];

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The handlers. What they do depends on the metric that is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Probe {
    /// Calls that reached a handler.
    pub(crate) reached: Arc<AtomicU64>,
    /// The scope of the last one.
    pub(crate) scope: Arc<Mutex<Option<TenantScope>>>,
    /// Cancelled when the server drains; watches of `polite` end then.
    pub(crate) draining: Arc<Mutex<CancellationToken>>,
}

impl Probe {
    pub(crate) fn reached(&self) -> u64 {
        self.reached.load(Ordering::SeqCst)
    }

    fn enter<T>(&self, request: &Request<T>) -> Result<TenantScope, Status> {
        self.reached.fetch_add(1, Ordering::SeqCst);
        let scope = scope(request)?;
        *self.scope.lock().unwrap() = Some(scope.clone());
        Ok(scope)
    }

    pub(crate) fn last_scope(&self) -> TenantScope {
        self.scope.lock().unwrap().clone().unwrap()
    }

    pub(crate) fn hot(&self) -> HotMetricServiceServer<Self> {
        HotMetricServiceServer::new(self.clone()).max_decoding_message_size(limits::REQUEST_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl HotMetricService for Probe {
    async fn get_metric(&self, request: Request<GetMetricRequest>) -> Result<Response<GetMetricResponse>, Status> {
        self.enter(&request)?;
        match request.get_ref().metric_name.as_str() {
            "panic" => panic!("asked to"),
            "bare" => Err(Status::unavailable("a library says so")),
            _ => Ok(Response::new(GetMetricResponse::default())),
        }
    }

    async fn batch_get_metrics(
        &self,
        request: Request<BatchGetMetricsRequest>,
    ) -> Result<Response<BatchGetMetricsResponse>, Status> {
        self.enter(&request)?;
        Ok(Response::new(Default::default()))
    }

    async fn list_metrics(
        &self,
        request: Request<ListMetricsRequest>,
    ) -> Result<Response<ListMetricsResponse>, Status> {
        self.enter(&request)?;
        Ok(Response::new(Default::default()))
    }

    type WatchMetricsStream = Answers<WatchMetricsResponse>;

    async fn watch_metrics(
        &self,
        request: Request<WatchMetricsRequest>,
    ) -> Result<Response<Self::WatchMetricsStream>, Status> {
        self.enter(&request)?;
        let first = stream::iter([Ok(WatchMetricsResponse { initial_state_complete: true, ..Default::default() })]);
        match request.get_ref().metric_names.first().map(String::as_str) {
            Some("polite") => {
                let draining = self.draining.lock().unwrap().clone();
                let rest = stream::pending().take_until(draining.cancelled_owned());
                Ok(Response::new(Box::pin(first.chain(rest))))
            }
            Some("bare") => {
                let bare = stream::iter([Err(Status::resource_exhausted("a library says so"))]);
                Ok(Response::new(Box::pin(first.chain(bare))))
            }
            _ => Ok(Response::new(Box::pin(first.chain(stream::pending())))),
        }
    }

    type ListLiveWindowsStream = Answers<ListLiveWindowsResponse>;

    async fn list_live_windows(
        &self,
        request: Request<ListLiveWindowsRequest>,
    ) -> Result<Response<Self::ListLiveWindowsStream>, Status> {
        self.enter(&request)?;
        Ok(Response::new(Box::pin(stream::empty())))
    }
}

#[tonic::async_trait]
impl HotMetricUpdateService for Probe {
    type ApplyUpdatesStream = Answers<ApplyUpdatesResponse>;

    /// Answers each message, after a look at the guard.
    async fn apply_updates(
        &self,
        request: Request<Streaming<ApplyUpdatesRequest>>,
    ) -> Result<Response<Self::ApplyUpdatesStream>, Status> {
        self.enter(&request)?;
        let guard = Guard::of(&request);
        let answers = request.into_inner().map(move |message| {
            message?;
            guard.check()?;
            Ok(ApplyUpdatesResponse::default())
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// Data directory, clock, handlers and, once started, the server.
pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) probe: Probe,
}

impl World {
    pub(crate) fn new() -> Self {
        let clock = Arc::new(ManualClock::at(NOW_NS));
        Self { folder: tempfile::tempdir().unwrap(), clock, probe: Probe::default() }
    }

    pub(crate) fn auth(&self) -> PathBuf {
        self.folder.path().join("auth")
    }

    pub(crate) fn rules(&self, lines: &str) {
        std::fs::write(self.folder.path().join("rules.csv"), format!("UserName,tenant_id\n{lines}")).unwrap();
    }

    pub(crate) fn builder(&self, options: ServerOptions) -> ServerBuilder {
        let rules = self.folder.path().join("rules.csv");
        let auth = AuthOptions { folder: self.auth(), rules: rules.exists().then_some(rules) };
        let authenticator = Arc::new(Authenticator::open(auth, self.clock.clone()).unwrap());
        let builder = ServerBuilder::new(options, authenticator, self.clock.clone());
        *self.probe.draining.lock().unwrap() = builder.draining();
        builder
    }

    pub(crate) async fn start(&self) -> Server {
        self.start_with(ServerOptions::default()).await
    }

    pub(crate) async fn start_with(&self, options: ServerOptions) -> Server {
        let builder = self
            .builder(options)
            .mount(Mount::new(self.probe.hot(), HOT))
            .mount(Mount::new(HotMetricUpdateServiceServer::new(self.probe.clone()), UPDATE));
        let internal = builder.internal();
        let handle = builder.serve(listener().await).unwrap();
        Server { handle, internal }
    }

    /// Starts with only these permissions for the hot-metric service.
    pub(crate) async fn try_start(&self, permissions: &'static [(&'static str, Permission)]) -> Result<(), StartError> {
        let builder = self.builder(ServerOptions::default()).mount(Mount::new(self.probe.hot(), permissions));
        builder.serve(listener().await).map(drop)
    }

    pub(crate) fn token(&self, user: &str, tenants: &[&str], role: Role) -> String {
        self.token_for(user, tenants, role, Duration::from_secs(3600))
    }

    pub(crate) fn token_for(&self, user: &str, tenants: &[&str], role: Role, ttl: Duration) -> String {
        let token = create_token(&self.auth(), user, &claim(tenants), role, ttl, &*self.clock).unwrap();
        format!("Bearer {token}")
    }

    pub(crate) fn key(&self, user: &str, tenants: &[&str], role: Role) -> String {
        format!("Bearer {}", create_key(&self.auth(), user, &claim(tenants), role, None, &*self.clock).unwrap())
    }

    /// Lets a second pass, so that changed files are looked at.
    pub(crate) fn second(&self) {
        self.clock.advance(SECOND_NS);
    }
}

fn claim(tenants: &[&str]) -> TenantClaim {
    match tenants {
        ["*"] => TenantClaim::All,
        [] => TenantClaim::ByRules,
        some => TenantClaim::Only(some.iter().map(|name| tenant(name)).collect()),
    }
}

pub(crate) fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).unwrap()
}

pub(crate) async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

pub(crate) struct Server {
    pub(crate) handle: ServerHandle,
    pub(crate) internal: InternalChannel,
}

impl Server {
    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.handle.local_addr())).unwrap();
        endpoint.connect().await.unwrap()
    }
}

/// A request with a credential, and a tenant if one is chosen.
pub(crate) fn with<T>(message: T, authorization: &str, tenant: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", MetadataValue::try_from(authorization).unwrap());
    if let Some(tenant) = tenant {
        request.metadata_mut().insert("x-tenant-id", MetadataValue::try_from(tenant).unwrap());
    }
    request
}

pub(crate) fn watch(metric: &str) -> WatchMetricsRequest {
    WatchMetricsRequest { metric_names: vec![metric.to_owned()] }
}

pub(crate) fn get(metric: &str) -> GetMetricRequest {
    GetMetricRequest { metric_name: metric.to_owned() }
}

/// Code and `google.rpc.ErrorInfo.reason`; the domain must be ours.
pub(crate) fn reason(status: &Status) -> (tonic::Code, String) {
    use tonic_types::StatusExt as _;
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "tidegauge");
    (status.code(), info.reason)
}

/// Waits for what must come soon.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("it must come soon")
}
