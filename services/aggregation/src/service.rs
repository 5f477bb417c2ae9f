//! Options → service → handle.

use std::sync::Arc;
use std::time::Duration;

use tidegauge_core::clock::SteadyClock;
use tidegauge_core::limits;
use tidegauge_core::log::Damage;
use tidegauge_core::scope::{Permission, SystemAuthority};
use tidegauge_core::{ErrorKind, ServiceError, ShardId};
use tidegauge_lake::apply::RowCache;
use tidegauge_proto::aggregation::v1 as pb;
use tidegauge_proto::aggregation::v1::aggregation_service_server::{AggregationService, AggregationServiceServer};
use tidegauge_proto::convert::time::timestamp;
use tidegauge_rpc::{InternalChannel, Mount};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status as RpcStatus};

use crate::crash::CrashCounter;
use crate::meters;
use crate::options::{AggregationOptions, Backends, OptionsError};
use crate::page;
use crate::status::{KeyReport, KeysWanted, ShardReport, Status, WorkerState};
use crate::worker::hot::{HotConnector, InternalHot};
use crate::worker::{self, Command, Context};

/// Bytes of decoded objects that one shard keeps.
const CACHE_BYTES: usize = 8 << 20;
/// Time for a worker to say how it stands; a busy one answers between two reads.
const STATUS_TIME_MAX: Duration = Duration::from_secs(5);

/// Why aggregation did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting that cannot be.
    #[error(transparent)]
    Options(#[from] OptionsError),
}

/// The service before it runs.
#[derive(Debug)]
pub struct Aggregation;

impl Aggregation {
    /// Starts a worker for every shard of the log.
    ///
    /// Must be called inside a tokio runtime. Hot-metric need not run yet: until it does, nothing is published.
    ///
    /// # Errors
    /// [`StartError::Options`].
    pub fn start(
        options: AggregationOptions,
        backends: Backends,
        hot: InternalChannel,
        clock: Arc<SteadyClock>,
        authority: SystemAuthority,
    ) -> Result<AggregationHandle, StartError> {
        let connector = Arc::new(InternalHot { channel: hot, authority: authority.clone() });
        Self::start_with(options, backends, connector, clock, authority)
    }

    pub(crate) fn start_with(
        options: AggregationOptions,
        backends: Backends,
        hot: Arc<dyn HotConnector>,
        clock: Arc<SteadyClock>,
        authority: SystemAuthority,
    ) -> Result<AggregationHandle, StartError> {
        let settings = options.settings()?;
        meters::describe();
        let shards = backends.log.shards();
        let large = Arc::new(Semaphore::new(1));
        let crash = Arc::new(CrashCounter::new(options.crash_at));
        let workers = (0..shards).map(|shard| {
            let context = Arc::new(Context {
                shard: ShardId(shard),
                shards,
                options: options.clone(),
                settings: settings.clone(),
                backends: backends.clone(),
                hot: hot.clone(),
                clock: clock.clone(),
                authority: authority.clone(),
                crash: crash.clone(),
                cache: RowCache::new(CACHE_BYTES),
                large: large.clone(),
                unchecked: Default::default(),
                report: Default::default(),
                draining: Default::default(),
            });
            let (commands, queue) = mpsc::channel(16);
            let task = AbortOnDropHandle::new(tokio::spawn(worker::run(context.clone(), queue)));
            (Worker { context, commands }, task)
        });
        let (workers, tasks) = workers.unzip();
        Ok(AggregationHandle { workers: Workers(Arc::new(workers)), tasks })
    }
}

#[derive(Debug)]
struct Worker {
    context: Arc<Context>,
    commands: mpsc::Sender<Command>,
}

#[derive(Clone, Debug)]
struct Workers(Arc<Vec<Worker>>);

impl Workers {
    async fn status(&self, wanted: KeysWanted) -> Status {
        let asked = self.0.iter().map(|worker| async {
            let (reply, answer) = oneshot::channel();
            let ask = async {
                worker.commands.send(Command::Status(wanted.clone(), reply)).await.ok()?;
                answer.await.ok()
            };
            // A worker that cannot answer is not quiescent, and its keys are missing.
            let answer = tokio::time::timeout(STATUS_TIME_MAX, ask).await.ok().flatten();
            let (mut report, mut keys) = answer.unwrap_or_else(|| (worker.context.report(), Vec::new()));
            // The log's own, whatever the worker does; a log that cannot tell says so by other means.
            if let Ok(log) = worker.context.backends.log.status(worker.context.shard).await {
                (report.log_bytes, report.log_damage) = (log.bytes, log.damage);
                report.log_unneeded_bytes = log.unneeded_bytes;
                report.log_early_deleted_bytes = log.dropped_early_bytes;
                for key in &mut keys {
                    let found = log.unneeded_by_key.binary_search_by(|(known, _)| known.cmp(&key.key));
                    key.log_unneeded_bytes = found.map_or(0, |at| log.unneeded_by_key[at].1);
                }
            }
            (worker.context.shard, report, keys)
        });
        let mut status = Status { quiescent: true, ..Status::default() };
        for (shard, report, keys) in futures::future::join_all(asked).await {
            status.quiescent &= report.quiescent;
            status.shards.push((shard, report));
            status.keys.extend(keys);
        }
        status.keys.sort_by(|a, b| a.key.cmp(&b.key));
        status.keys.truncate(wanted.limit);
        status
    }
}

/// The running service.
#[derive(Debug)]
pub struct AggregationHandle {
    workers: Workers,
    tasks: Vec<AbortOnDropHandle<()>>,
}

impl AggregationHandle {
    /// The gRPC services to mount.
    pub fn mounts(&self) -> Vec<Mount> {
        let server = AggregationServiceServer::new(Server { workers: self.workers.clone() })
            .max_decoding_message_size(limits::REQUEST_BYTES_MAX)
            .max_encoding_message_size(limits::RESPONSE_BYTES_MAX);
        vec![Mount::new(server, &[("GetStatus", Permission::Read)])]
    }

    /// The service, without the interceptor.
    #[cfg(test)]
    pub(crate) fn server(&self) -> impl AggregationService {
        Server { workers: self.workers.clone() }
    }

    /// A look at which shards are stopped for good; cheap, for probes.
    pub fn stopped_shards(&self) -> impl Fn() -> Vec<ShardId> + Send + Sync + 'static {
        let workers = self.workers.clone();
        move || {
            let stopped = workers.0.iter().filter(|worker| worker.context.report().state == WorkerState::Stopped);
            stopped.map(|worker| worker.context.shard).collect()
        }
    }

    /// How everything stands, over all tenants.
    pub async fn status(&self) -> Status {
        self.workers.status(KeysWanted::all()).await
    }

    /// Resolves when a worker has ended although nobody drained it, with what happened: a defect of ours, after which the
    /// process should end, so that the log is read again from the last checkpoint.
    pub async fn failed(&mut self) -> String {
        let (ended, at, _) = futures::future::select_all(&mut self.tasks).await;
        // The others go on until the drain.
        drop(self.tasks.swap_remove(at));
        match ended {
            Ok(()) => "a worker of aggregation ended by itself".to_owned(),
            Err(error) => format!("a worker of aggregation failed: {error}"),
        }
    }

    /// Stops reading, commits what is due, ends; at most [`limits::DRAIN_TIME_MAX`] long. What is not committed by then
    /// is on the log.
    pub async fn drain(self) {
        for worker in self.workers.0.iter() {
            // A worker that is gone needs no telling.
            let _ = worker.commands.send(Command::Drain).await;
        }
        let all = futures::future::join_all(self.tasks);
        if tokio::time::timeout(limits::DRAIN_TIME_MAX, all).await.is_err() {
            tracing::warn!("aggregation did not drain in time; the rest is read again at the next start");
        }
    }
}

#[derive(Debug)]
struct Server {
    workers: Workers,
}

#[async_trait::async_trait]
impl AggregationService for Server {
    async fn get_status(
        &self,
        request: Request<pb::GetStatusRequest>,
    ) -> Result<Response<pb::GetStatusResponse>, RpcStatus> {
        let scope = tidegauge_rpc::scope(&request)?;
        let may_operate = scope.principal().role.allows(Permission::Operate);
        let asked = request.into_inner();
        let size = page::size(asked.page_size).map_err(tidegauge_rpc::status)?;
        let after = page::after(&asked.page_token).map_err(tidegauge_rpc::status)?;
        // One more than the page tells whether there is another.
        let mut status = self.workers.status(KeysWanted { scope: Some(scope), after, limit: size + 1 }).await;
        if !may_operate {
            status.shards.iter_mut().for_each(|(_, report)| hide_totals(report));
        }
        if status.shards.is_empty() {
            let error = ServiceError::new(ErrorKind::Unavailable, "NOT_STARTED", "aggregation has no shards yet");
            return Err(tidegauge_rpc::status(error));
        }
        let more = status.keys.len() > size;
        status.keys.truncate(size);
        let last = status.keys.last().filter(|_| more);
        let next_page_token = last.map(|last| page::token(&last.key)).unwrap_or_default();
        Ok(Response::new(pb::GetStatusResponse { next_page_token, ..message(status) }))
    }
}

/// Takes out what tells of all tenants of a shard together, and paths and causes: the operator's business.
fn hide_totals(report: &mut ShardReport) {
    *report = ShardReport {
        state: report.state,
        at_tip: report.at_tip,
        lag_ms: report.lag_ms,
        quiescent: report.quiescent,
        log_damage: report.log_damage.take().map(|damage| Damage { first: String::new(), ..damage }),
        ..ShardReport::default()
    };
}

fn message(status: Status) -> pb::GetStatusResponse {
    let shards = status.shards.into_iter().map(|(shard, report)| pb::ShardStatus {
        shard: shard.0,
        generation: report.generation,
        prepared_epoch: report.prepared,
        completed_epoch: report.completed,
        ordinal: report.ordinal,
        at_tip: report.at_tip,
        lag_ms: report.lag_ms,
        state_rows: report.state_rows,
        log_bytes: report.log_bytes,
        log_damaged_segments: report.log_damage.as_ref().map_or(0, |damage| damage.segments),
        log_unneeded_bytes: report.log_unneeded_bytes,
        log_early_deleted_bytes: report.log_early_deleted_bytes,
        log_damage: report.log_damage.map(|damage| damage.first).unwrap_or_default(),
        state: match report.state {
            WorkerState::Starting => pb::ShardState::Starting,
            WorkerState::Running => pb::ShardState::Running,
            WorkerState::Retrying => pb::ShardState::Retrying,
            WorkerState::Stopped => pb::ShardState::Stopped,
        } as i32,
        stopped_because: report.stopped_because.unwrap_or_default(),
    });
    pb::GetStatusResponse {
        shards: shards.collect(),
        keys: status.keys.into_iter().map(key_message).collect(),
        quiescent: status.quiescent,
        next_page_token: String::new(),
    }
}

fn key_message(report: KeyReport) -> pb::KeyStatus {
    let counters = report.counters;
    pb::KeyStatus {
        tenant_id: report.key.tenant.as_str().to_owned(),
        bucket: report.key.bucket,
        shard: report.shard.0,
        watermark: report.watermark_ns.map(timestamp),
        boundary: report.boundary_ns.map(timestamp),
        counters: Some(pb::KeyCounters {
            on_log: counters.on_log,
            duplicates: counters.duplicates,
            on_time: counters.on_time,
            late: counters.late,
            backfilled: counters.backfilled,
            dead: counters.dead,
        }),
        pending_events: report.pending,
        state_rows: report.state_rows,
        parked_objects: report.parked,
        stopped_because: report.stopped_because.unwrap_or_default(),
        log_unneeded_bytes: report.log_unneeded_bytes,
        index_unchecked: report.index_unchecked,
    }
}
