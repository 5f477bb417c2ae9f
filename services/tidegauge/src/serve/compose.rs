//! The composition: settings and backends become one running server. The only place that knows every service, and the
//! only one that makes [`SystemAuthority`]s.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use sha2::{Digest as _, Sha256};
use tidegauge_aggregation::{Aggregation, AggregationHandle, AggregationOptions, Backends};
use tidegauge_auth::{AuthOptions, Authenticator};
use tidegauge_core::SystemAuthority;
use tidegauge_core::checkpoint::CheckpointStore;
use tidegauge_core::clock::{Clock, SteadyClock, Step, SystemClock};
use tidegauge_core::descriptors::DescriptorBudget;
use tidegauge_core::hot::HotStore;
use tidegauge_core::lake::LakeStore;
use tidegauge_core::log::EventLog;
use tidegauge_embedded::checkpoint::FileCheckpointStore;
use tidegauge_embedded::data_dir::{DataDir, Part, PartLock};
use tidegauge_embedded::files::DiskFiles;
use tidegauge_embedded::hot_store::FjallHotStore;
use tidegauge_embedded::lake_store::LocalLakeStore;
use tidegauge_embedded::log::{DiskReserve, EmbeddedLog, LogOptions, SHARDS_MAX};
use tidegauge_historical_query::{HistoricalQuery, QueryHandle, QueryOptions};
use tidegauge_hot_metric::{HotMetric, HotMetricHandle, HotMetricOptions, assembly_items};
use tidegauge_ingest::{Ingest, IngestHandle, IngestOptions, Quota};
use tidegauge_rpc::{InternalChannel, ServerBuilder, ServerHandle, ServerOptions, TlsFiles};

use super::descriptors;
use super::http::{self, Http};
use super::listen::Listeners;
use crate::failure::{Doing as _, Failure, Outcome};
use crate::settings::Settings;

/// Variable with the place at which a test kills the process.
const CRASH_VARIABLE: &str = "TIDEGAUGE_CRASH_AT";
/// Time for open HTTP requests at the end.
const HTTP_STOP_TIME: Duration = Duration::from_secs(1);
/// Share of the drain's time that calls from outside get; the rest is for the final checkpoint.
const CALLS_SHARE: u32 = 4;

/// A running server.
#[derive(Debug)]
pub(crate) struct Running {
    grpc: SocketAddr,
    http_address: SocketAddr,
    http: Http,
    server: ServerHandle,
    internal: InternalChannel,
    ingest: IngestHandle,
    aggregation: AggregationHandle,
    hot: HotMetricHandle,
    query: QueryHandle,
    log: Arc<EmbeddedLog>,
    /// Dropped last: nothing may use the parts any more.
    _locks: Vec<PartLock>,
}

/// The backends of the embedded profile.
struct Stores {
    log: Arc<EmbeddedLog>,
    hot: Arc<dyn HotStore>,
    checkpoints: Arc<dyn CheckpointStore>,
    lake: Arc<dyn LakeStore>,
    locks: Vec<PartLock>,
}

impl Running {
    /// Opens the data directory and starts everything.
    ///
    /// # Errors
    /// What cannot be opened or started, named.
    pub(crate) async fn start(settings: &Settings, listeners: Listeners) -> Outcome<Self> {
        // Credentials and queries go by the wall clock, as their callers do; events, windows and the log by the steady one.
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let steady = SteadyClock::start(Arc::clone(&clock));
        let (grpc, http_address) = (local(&listeners.grpc)?, local(&listeners.http)?);
        if !http_address.ip().is_loopback() && !settings.server.insecure_plaintext {
            return Err(Failure::usage(format!(
                "{http_address} can be reached from other machines, and HTTP has no TLS: keep --http on loopback, or say \
                 --insecure-plaintext"
            )));
        }
        let budget = descriptors::divide(settings.log.shards)?;
        let http = Http::start(listeners.http, budget.http_connections, metrics()?);
        descriptors::tell(&budget);
        tidegauge_embedded::meters::describe();

        let root = DataDir::open(&settings.server.data_dir)?;
        let stores = {
            let (settings, root, clock) = (settings.clone(), root.clone(), Arc::clone(&steady));
            let open = move || open_stores(&settings, &root, clock, &budget);
            tokio::task::spawn_blocking(open).await.doing("opening the data directory")??
        };
        let auth = AuthOptions { folder: root.auth(), rules: settings.auth.rules_file.0.clone() };
        let authenticator = Authenticator::open(auth, Arc::clone(&clock))?;

        let options = ServerOptions {
            tls: tls(settings)?,
            insecure_plaintext: settings.server.insecure_plaintext,
            connections_per_address: settings.server.connections_per_address,
            connections_per_principal: settings.server.connections_per_principal,
            connections_max: Some(budget.grpc_connections),
        };
        let builder = ServerBuilder::new(options, Arc::new(authenticator), Arc::clone(&clock));
        let internal = builder.internal();

        let event_log: Arc<dyn EventLog> = Arc::<EmbeddedLog>::clone(&stores.log);
        let ingest = Ingest::start(ingest_options(settings), Arc::clone(&event_log), Arc::clone(&steady));
        let hot = HotMetric::start(
            hot_metric_options(settings),
            stores.hot,
            Arc::clone(&clock),
            authority("hot-metric"),
            &builder.draining(),
        );
        let query = HistoricalQuery::start(
            QueryOptions { pinned_objects: budget.held_objects(), ..query_options(settings) },
            Arc::clone(&stores.lake),
            internal.clone(),
            Arc::clone(&clock),
            authority("historical-query"),
            sealing_key(&root.auth())?,
        );
        let backends = Backends { log: event_log, checkpoints: stores.checkpoints, lake: stores.lake };
        let aggregation = Aggregation::start(
            aggregation_options(settings)?,
            backends,
            internal.clone(),
            Arc::clone(&steady),
            authority("aggregation"),
        )
        .map_err(|e| Failure::new(e.to_string()))?;

        let mounts = [ingest.mounts(), hot.mounts(), query.mounts(), aggregation.mounts()];
        let builder = mounts.into_iter().flatten().fold(builder, ServerBuilder::mount);
        let server = builder.serve(listeners.grpc)?;
        let stopped = aggregation.stopped_shards();
        http.not_ready_if(move || {
            // Without the reason: whoever can reach the port reads this.
            let shard = stopped().first()?.to_string();
            Some(format!("shard {shard} is stopped, see `tidegauge status` and the log"))
        });
        let log = Arc::clone(&stores.log);
        http.note_if(move || {
            if let (_, Step::Refused(_)) = steady.read() {
                return Some("the machine's clock has stepped and is not followed: live events are refused".to_owned());
            }
            let shard = log.damaged_shards().first()?.to_string();
            Some(format!("the log of shard {shard} is damaged, see `tidegauge status` and the log"))
        });
        http.set_ready(true);
        let (log, _locks) = (stores.log, stores.locks);
        Ok(Self { grpc, http_address, http, server, internal, ingest, aggregation, hot, query, log, _locks })
    }

    /// Address of gRPC.
    pub(crate) fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// Address of HTTP.
    pub(crate) fn http(&self) -> SocketAddr {
        self.http_address
    }

    /// Waits until a part of the server has failed for good; what it was.
    pub(crate) async fn failed(&mut self) -> String {
        self.aggregation.failed().await
    }

    /// Stops taking work, finishes what is in flight, writes the last checkpoint. Whether all of it ended within the time;
    /// what did not is repeated from the log at the next start.
    pub(crate) async fn drain(self, within: Duration) -> bool {
        let Self { http, server, internal, ingest, aggregation, hot, query, log, _locks, .. } = self;
        // Load balancers look away first.
        http.set_ready(false);
        let steps = async {
            // No calls from outside; then nothing more on the log; then the log into the checkpoint, with its last hot
            // values; then those who were only called.
            tokio::join!(server.drain(within / CALLS_SHARE), ingest.drain());
            aggregation.drain().await;
            tokio::join!(hot.drain(), query.drain());
            internal.close();
            log.close().await;
        };
        let complete = tokio::time::timeout(within, steps).await.is_ok();
        if !complete {
            tracing::warn!("the drain did not end in time; the next start repeats what is missing");
        }
        http.stop(HTTP_STOP_TIME).await;
        complete
    }
}

/// The recorder is the process's: servers started one after the other in a process share it.
fn metrics() -> Outcome<PrometheusHandle> {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = RECORDER.get() {
        return Ok(handle.clone());
    }
    let handle = http::recorder()?;
    Ok(RECORDER.get_or_init(|| handle).clone())
}

fn local(listener: &tokio::net::TcpListener) -> Outcome<SocketAddr> {
    listener.local_addr().doing("the listener's address")
}

#[expect(clippy::disallowed_methods, reason = "this is the composition")]
fn authority(worker: &str) -> SystemAuthority {
    tracing::info!(target: "tidegauge::audit", worker, "the platform's authority is handed to a worker");
    SystemAuthority::for_worker(worker)
}

/// What `verify` looks at: the stores of a directory that no server uses.
pub(crate) struct Stopped {
    /// How aggregation was set.
    pub(crate) options: AggregationOptions,
    /// Log, checkpoints and lake.
    pub(crate) backends: Backends,
    /// For reading them.
    pub(crate) authority: SystemAuthority,
    _locks: Vec<PartLock>,
}

/// Opens the stores of a stopped server, and takes its locks.
///
/// # Errors
/// A directory in use, or one that cannot be opened.
pub(crate) async fn open_stopped(settings: &Settings) -> Outcome<Stopped> {
    let root = DataDir::open(&settings.server.data_dir)?;
    let owned = settings.clone();
    let budget = descriptors::divide(settings.log.shards)?;
    let open = move || open_stores(&owned, &root, Arc::new(SystemClock::default()), &budget);
    let stores = tokio::task::spawn_blocking(open).await.doing("opening the data directory")??;
    Ok(Stopped {
        options: aggregation_options(settings)?,
        backends: Backends { log: stores.log, checkpoints: stores.checkpoints, lake: stores.lake },
        authority: authority("verify"),
        _locks: stores.locks,
    })
}

fn open_stores(
    settings: &Settings,
    root: &DataDir,
    clock: Arc<dyn Clock>,
    budget: &DescriptorBudget,
) -> Outcome<Stores> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(error.to_string());
    let mut locks = Vec::with_capacity(Part::ALL.len());
    for part in Part::ALL {
        locks.push(root.lock(part)?);
    }
    let checkpoints = FileCheckpointStore::open(&root.path(Part::State)).map_err(|e| failed(&e))?;
    let options = LogOptions {
        shards: settings.log.shards,
        segment_bytes: settings.log.segment_bytes.0,
        start_check_bytes: settings.log.start_check_bytes.0,
        queue_bytes: bytes(settings.log.queue_bytes.0),
        retention: settings.log.retention.0,
        tenant_share_percent: settings.log.tenant_share_percent,
        reserve: DiskReserve { percent: settings.log.reserve_percent, bytes: settings.log.reserve_bytes.0 },
        // A log that is shorter than what was checkpointed has lost records: then the start is refused.
        // More shards than there can be are refused by the log, not looked for here.
        known: checkpoints.known_positions(settings.log.shards.min(SHARDS_MAX)).map_err(|e| failed(&e))?,
        ..LogOptions::new(root.path(Part::Log))
    };
    let log = EmbeddedLog::open(options, Arc::new(DiskFiles), clock).map_err(|e| failed(&e))?;
    let hot = FjallHotStore::open_within(&root.path(Part::Hot), budget.hot_tables).map_err(|e| failed(&e))?;
    let lake = LocalLakeStore::open_within(root.path(Part::Lake), budget).map_err(|e| failed(&e))?;
    Ok(Stores {
        log: Arc::new(log),
        hot: Arc::new(hot),
        checkpoints: Arc::new(checkpoints),
        lake: Arc::new(lake),
        locks,
    })
}

/// A size as this machine counts memory.
fn bytes(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

fn tls(settings: &Settings) -> Outcome<Option<TlsFiles>> {
    match (&settings.server.tls_certificate.0, &settings.server.tls_key.0) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => Ok(Some(TlsFiles { certificate: certificate.clone(), key: key.clone() })),
        _ => Err(Failure::usage("server.tls_certificate and server.tls_key belong together: set both or none")),
    }
}

/// Tickets stay valid over a restart, and no other installation can read them.
fn sealing_key(auth: &Path) -> Outcome<[u8; 32]> {
    let path = auth.join("signing-key");
    let signing = std::fs::read(&path).doing(path.display())?;
    let mut hash = Sha256::new();
    hash.update(b"tidegauge sealing key 1\0");
    hash.update(signing);
    Ok(hash.finalize().into())
}

fn ingest_options(settings: &Settings) -> IngestOptions {
    let quota = Quota {
        events_per_second: settings.quota.events_per_second,
        bytes_per_second: settings.quota.bytes_per_second.0,
    };
    IngestOptions { quota, ..IngestOptions::default() }
}

fn aggregation_options(settings: &Settings) -> Outcome<AggregationOptions> {
    let crash_at = match std::env::var(CRASH_VARIABLE) {
        Ok(text) => Some(text.parse().map_err(|e| Failure::usage(format!("{CRASH_VARIABLE}: {e}")))?),
        Err(_) => None,
    };
    Ok(AggregationOptions {
        window: settings.window.length.0,
        allowed_lateness: settings.window.allowed_lateness.0,
        idle_timeout: settings.window.idle_timeout.0,
        lateness_horizon: settings.window.lateness_horizon.0,
        future_tolerance: settings.window.future_tolerance.0,
        checkpoint_interval: settings.publish.checkpoint_interval.0,
        checkpoint_log_bytes: settings.publish.checkpoint_log_bytes.0,
        publish_interval: settings.publish.interval.0,
        state_rows_max: settings.publish.state_rows,
        crash_at,
        ..AggregationOptions::default()
    })
}

fn hot_metric_options(settings: &Settings) -> HotMetricOptions {
    HotMetricOptions { assembly_items: assembly_items(settings.publish.state_rows), ..HotMetricOptions::default() }
}

fn query_options(settings: &Settings) -> QueryOptions {
    QueryOptions {
        query_time_max: settings.query.time.0,
        query_memory_bytes: bytes(settings.query.memory_bytes.0),
        memory_bytes: bytes(settings.query.total_memory_bytes.0),
        scan_bytes_max: settings.query.scan_bytes.0,
        result_rows_max: settings.query.rows,
        queries_per_tenant: settings.query.per_tenant,
        waiting_per_tenant: settings.query.waiting_per_tenant,
        cache_bytes: bytes(settings.query.cache_bytes.0),
        ..QueryOptions::default()
    }
}
