//! Runs queries: admission, snapshot, plan, execution, and once more when the lake moved.

use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use datafusion::execution::memory_pool::MemoryPool;
use tidegauge_core::clock::Clock;
use tidegauge_core::lake::LakeStore;
use tidegauge_core::{ErrorKind, ServiceError, TenantScope, limits};
use tidegauge_proto::freshness::v1::Freshness;
use tokio::runtime::{Handle, Runtime};

use crate::admission::{Admission, Permit};
use crate::answer::{Answer, Ready, Running, out_of_time};
use crate::cache::ByteCache;
use crate::decide::sql::{self, Allowed};
use crate::error::{Abort, of_engine};
use crate::index::HourIndex;
use crate::live::LiveSource;
use crate::memory::{Budget, QueryMemory};
use crate::meters;
use crate::object::Objects;
use crate::options::QueryOptions;
use crate::planning::{Abandoned, Planning};
use crate::session::{self, Sessions};
use crate::snapshot::Snapshot;
use crate::table::{DashboardMetrics, Execution};
use crate::watch::Watch;

/// Texts of one tenant that are described at once.
const DESCRIBED_PER_TENANT: usize = 2;
/// Texts of all tenants that are described at once: what the queue of the planning threads takes, with room for queries.
const DESCRIBED_AT_ONCE: usize = 128;
/// Bytes of schemas that are kept: a client asks two or three times for each query.
const DESCRIBED_BYTES: usize = 4 << 20;

/// How a query is to be run.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct How {
    /// Answer without the keys that cannot be read, naming them.
    pub allow_partial: bool,
    /// Refuse to run when the result's schema has another fingerprint than the one announced.
    pub schema: Option<u64>,
}

/// Answers SQL over `dashboard_metrics`.
#[derive(Debug)]
pub struct QueryEngine {
    options: QueryOptions,
    live: Arc<dyn LiveSource>,
    clock: Arc<dyn Clock>,
    objects: Arc<Objects>,
    index: Arc<HourIndex>,
    memory: Arc<Budget>,
    admission: Admission,
    /// Descriptions have a queue of their own: they are short, and must not wait for queries that run.
    describing: Admission,
    /// Schemas by principal and text.
    described: ByteCache<(Arc<str>, Arc<str>), SchemaRef>,
    planning: Planning,
    sessions: Arc<Sessions>,
    /// Queries run on threads of their own: a plan may be deep, and ingest must not wait behind a sort.
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Drop for QueryEngine {
    fn drop(&mut self) {
        self.planning.close();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Fingerprint of a schema: names and types of its columns.
pub fn fingerprint(schema: &SchemaRef) -> u64 {
    let mut hasher = twox_hash::XxHash3_64::with_seed(0);
    for field in schema.fields() {
        (field.name(), field.data_type(), field.is_nullable()).hash(&mut hasher);
    }
    hasher.finish()
}

impl QueryEngine {
    /// Starts the engine's threads.
    ///
    /// # Errors
    /// Of the operating system, when threads cannot be started or the spill folder cannot be used.
    pub fn start(
        options: QueryOptions,
        lake: Arc<dyn LakeStore>,
        live: Arc<dyn LiveSource>,
        clock: Arc<dyn Clock>,
    ) -> std::io::Result<Self> {
        meters::describe();
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = options.threads.unwrap_or(cores.min(4)).max(1);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .max_blocking_threads(32)
            .thread_name("query")
            .thread_stack_size(limits::PLANNING_STACK_BYTES)
            .enable_all()
            .build()?;
        let sessions = Sessions::new(&options, threads).map_err(std::io::Error::other)?;
        Ok(Self {
            objects: Arc::new(Objects::new(Arc::clone(&lake), options.cache_bytes, options.pinned_objects)),
            index: Arc::new(HourIndex::new(lake)),
            memory: Arc::new(Budget::new(options.memory_bytes)),
            admission: Admission::new(options.queries_per_tenant, options.waiting_per_tenant, options.queries),
            describing: Admission::new(DESCRIBED_PER_TENANT, options.waiting_per_tenant, DESCRIBED_AT_ONCE),
            described: ByteCache::new(DESCRIBED_BYTES),
            planning: Planning::new(),
            sessions: Arc::new(sessions),
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
            live,
            clock,
            options,
        })
    }

    /// The schema that the text's result would have.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a text that is no query over the table, and the limits of planning.
    pub async fn describe(&self, scope: &TenantScope, sql: &str) -> Result<SchemaRef, ServiceError> {
        sql::check_length(sql)?;
        // By principal: not even the time of an answer tells what others have asked.
        let known = (Arc::clone(&scope.principal().name), Arc::<str>::from(sql));
        if let Some(schema) = self.described.get(&known) {
            return Ok(schema);
        }
        let describe = async {
            let _permit = self.describing.admit(scope).await?;
            self.plan_schema(Arc::clone(&known.1)).await
        };
        let within = self.options.query_time_max;
        let schema = tokio::time::timeout(within, describe).await.unwrap_or_else(|_| Err(out_of_time(within)))?;
        let bytes = known.0.len() + sql.len() + 128 * (schema.fields().len() + 2);
        self.described.insert(known, Arc::clone(&schema), bytes);
        Ok(schema)
    }

    async fn plan_schema(&self, sql: Arc<str>) -> Result<SchemaRef, ServiceError> {
        let (sessions, memory, handle) = (Arc::clone(&self.sessions), self.query_memory(), self.handle.clone());
        let (now_ns, clock, started_ns) = (self.clock.wall_ns(), Arc::clone(&self.clock), self.clock.monotonic_ns());
        let time_max = self.options.planning_time_max;
        let work = move |abandoned: &Abandoned| {
            let Allowed { statement, terms } = sql::parse(&sql).map_err(ServiceError::from)?;
            let watch = Watch::new(abandoned.clone(), clock, started_ns, time_max);
            let table = DashboardMetrics { execution: None };
            let session = sessions.session(table, terms, memory, now_ns, abandoned, watch);
            let (_, schema) = handle.block_on(session::logical(&session, statement)).map_err(|e| of_engine(&e))?;
            Ok::<_, Abort>(schema)
        };
        Ok(self.planning.run(self.options.planning_time_max, work).await??)
    }

    /// How fresh an answer over the scope would be now.
    ///
    /// # Errors
    /// UNAVAILABLE when the live side cannot tell, RESOURCE_EXHAUSTED when too many ask, DEADLINE_EXCEEDED.
    pub async fn freshness(&self, scope: &TenantScope) -> Result<Freshness, ServiceError> {
        // The live side sends its windows too: few may ask at once.
        let ask = async {
            let _permit = self.describing.admit(scope).await?;
            Ok(Snapshot::take(self.live.as_ref(), scope, true).await?.freshness())
        };
        let within = self.options.query_time_max;
        tokio::time::timeout(within, ask).await.unwrap_or_else(|_| Err(out_of_time(within)))
    }

    /// Runs a query for the tenants of the scope and waits for its first batch.
    ///
    /// Snapshot and plan are made again while the lake moves under them, as long as nothing was handed out.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for the text, RESOURCE_EXHAUSTED for limits, UNAVAILABLE for keys that cannot be read, ABORTED
    /// when the lake did not come to rest, DEADLINE_EXCEEDED.
    pub async fn execute(&self, scope: &TenantScope, sql: &str, how: How) -> Result<Answer, ServiceError> {
        sql::check_length(sql)?;
        let started_ns = self.clock.monotonic_ns();
        let time_max = self.options.query_time_max;
        let answer = tokio::time::timeout(time_max, async {
            let permit = self.admission.admit(scope).await?;
            self.first_batch(scope, sql.into(), how, started_ns, Arc::new(permit)).await
        });
        let answer = answer.await.unwrap_or_else(|_| Err(out_of_time(time_max)));
        let outcome = answer.as_ref().map_or_else(|error| error.reason, |_| "OK");
        metrics::counter!("tidegauge_query_total", "outcome" => outcome).increment(1);
        let seconds = self.clock.monotonic_ns().saturating_sub(started_ns) as f64 / 1e9;
        metrics::histogram!("tidegauge_query_first_batch_seconds").record(seconds);
        answer
    }

    async fn first_batch(
        &self,
        scope: &TenantScope,
        sql: Arc<str>,
        how: How,
        started_ns: u64,
        permit: Arc<Permit>,
    ) -> Result<Answer, ServiceError> {
        let mut pause = self.options.seam_pause.max(Duration::from_micros(1));
        let pause_max = pause * 16;
        let mut tries = 1;
        loop {
            let snapshot = Snapshot::take(self.live.as_ref(), scope, how.allow_partial).await?;
            let attempt = async {
                let (schema, execution, mut running) =
                    self.start_plan(snapshot, Arc::clone(&sql), how, started_ns, Arc::clone(&permit)).await?;
                let first = running.next().await?;
                Ok::<_, Abort>((schema, execution, running, first))
            };
            match attempt.await {
                Ok((schema, execution, running, first)) => {
                    metrics::counter!("tidegauge_query_seam_retries_total").increment(tries as u64 - 1);
                    return Ok(Answer::new(schema, execution, running, first));
                }
                Err(Abort::SeamMoved(_)) if tries < self.options.seam_tries => tries += 1,
                Err(abort) => return Err(abort.into()),
            }
            let mut wait = tokio::time::interval(pause);
            wait.tick().await;
            wait.tick().await;
            pause = (pause * 2).min(pause_max);
        }
    }

    /// Plans on a planning thread and starts the plan from there: it never leaves threads with large stacks.
    async fn start_plan(
        &self,
        snapshot: Snapshot,
        sql: Arc<str>,
        how: How,
        started_ns: u64,
        permit: Arc<Permit>,
    ) -> Result<(SchemaRef, Arc<Execution>, Running), Abort> {
        let execution = Arc::new(Execution {
            snapshot,
            objects: Arc::clone(&self.objects),
            index: Arc::clone(&self.index),
            scan_bytes_max: self.options.scan_bytes_max,
            scan_bytes: Default::default(),
            planned: Default::default(),
        });
        let (sessions, memory, handle) = (Arc::clone(&self.sessions), self.query_memory(), self.handle.clone());
        let (now_ns, clock) = (self.clock.wall_ns(), Arc::clone(&self.clock));
        let options = self.options.clone();
        let work = move |abandoned: &Abandoned| {
            let Allowed { statement, terms } = sql::parse(&sql).map_err(ServiceError::from)?;
            let watch = Watch::new(abandoned.clone(), clock, started_ns, options.query_time_max);
            let table = DashboardMetrics { execution: Some(Arc::clone(&execution)) };
            let session = sessions.session(table, terms, memory, now_ns, abandoned, watch.clone());
            let (plan, schema) = handle.block_on(session::logical(&session, statement)).map_err(|e| of_engine(&e))?;
            if how.schema.is_some_and(|announced| announced != fingerprint(&schema)) {
                let message = "the result's columns are no longer those that were announced, ask again";
                return Err(ServiceError::new(ErrorKind::FailedPrecondition, "SCHEMA_CHANGED", message).into());
            }
            if abandoned.is_set() {
                return Err(out_of_time(options.planning_time_max).into());
            }
            let plan = handle.block_on(session::physical(&session, &plan)).map_err(|e| of_engine(&e))?;
            let ready = Ready { plan, context: session.task_ctx(), schema: Arc::clone(&schema) };
            let running = Running::start(&handle, ready, Arc::clone(&execution), &options, watch, permit);
            Ok::<_, Abort>((schema, execution, running))
        };
        self.planning.run(self.options.planning_time_max, work).await?
    }

    fn query_memory(&self) -> Arc<dyn MemoryPool> {
        Arc::new(QueryMemory::new(self.options.query_memory_bytes, Arc::clone(&self.memory)))
    }

    /// The clock.
    pub(crate) fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }

    /// Takes no more queries and waits, at most so long, for the running ones.
    pub async fn drain(&self, within: Duration) {
        futures::join!(self.describing.drain(within), self.admission.drain(within));
    }
}
