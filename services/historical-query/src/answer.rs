//! The answer of a query: a schema, batches, and how fresh they are.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tidegauge_core::{ErrorKind, ServiceError};
use tidegauge_proto::freshness::v1::Freshness;
use tokio_util::task::AbortOnDropHandle;

use crate::admission::Permit;
use crate::error::{Abort, of_engine};
use crate::options::QueryOptions;
use crate::shelf::{Filling, Parcel, Shelf};
use crate::table::Execution;
use crate::watch::Watch;
use crate::width::bytes_of;

/// Objects that are opened before anything is sent: those of the newest hours, which change most.
const OPENED_FIRST: usize = 128;
/// Objects opened at once.
const OPENINGS: usize = 8;

/// A running query. Dropping it ends the query.
#[derive(Debug)]
pub struct Answer {
    schema: SchemaRef,
    running: Running,
}

/// The task that makes the batches.
#[derive(Debug)]
pub(crate) struct Running {
    shelf: Arc<Shelf>,
    /// Of the batch that the reader works on.
    reading: Option<MemoryReservation>,
    /// Told when the answer is dropped: a call that works long does not end with its task.
    watch: Watch,
    _task: AbortOnDropHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.watch.abandon();
    }
}

/// A plan that can be run.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) plan: Arc<dyn ExecutionPlan>,
    pub(crate) context: Arc<TaskContext>,
    /// Of the result.
    pub(crate) schema: SchemaRef,
}

impl Running {
    /// Starts the plan on the runtime of queries. The permit is given back when the last batch has been taken, or when the
    /// reader has stopped for too long: what waits for readers is bounded by the queries that may run.
    pub(crate) fn start(
        runtime: &tokio::runtime::Handle,
        ready: Ready,
        execution: Arc<Execution>,
        options: &QueryOptions,
        watch: Watch,
        permit: Arc<Permit>,
    ) -> Self {
        let limits = Limits {
            rows_left: options.result_rows_max,
            bytes_left: options.result_bytes_max,
            rows_max: options.result_rows_max,
            bytes_max: options.result_bytes_max,
        };
        let shelf = Shelf::new(Some(Arc::clone(&execution)), options.unread_time_max, options.reading_time_max);
        let (filling, ends) = (Filling::new(Arc::clone(&shelf)), watch.clone());
        let task = runtime.spawn(async move {
            let done = match produce(ready, &execution, limits, &filling, &ends).await {
                Ok(()) => filling.all_taken().await,
                Err(abort) => Err(abort),
            };
            filling.close(done);
            drop(permit);
        });
        Self { shelf, reading: None, watch, _task: AbortOnDropHandle::new(task) }
    }

    /// Waits until there is a batch to take, or the end of a query without batches.
    pub(crate) async fn first(&mut self) -> Result<(), Abort> {
        self.shelf.first().await
    }

    /// The next batch; `None` at the end.
    async fn next(&mut self) -> Result<Option<RecordBatch>, Abort> {
        self.reading = None;
        let Some(parcel) = self.shelf.take().await? else { return Ok(None) };
        self.reading = Some(parcel.memory);
        Ok(Some(parcel.batch))
    }
}

pub(crate) fn out_of_time(max: Duration) -> ServiceError {
    let message = format!("the query took longer than {} s", max.as_secs());
    ServiceError::new(ErrorKind::DeadlineExceeded, "QUERY_TIME", message)
}

/// What is left of the result's limits.
struct Limits {
    rows_left: u64,
    bytes_left: u64,
    rows_max: u64,
    bytes_max: u64,
}

impl Limits {
    fn take(&mut self, batch: &RecordBatch) -> Result<(), ServiceError> {
        let refuse = |what: String| {
            ServiceError::new(ErrorKind::ResourceExhausted, "RESULT_LIMIT", what.clone()).quota("result", what)
        };
        self.rows_left = self
            .rows_left
            .checked_sub(batch.num_rows() as u64)
            .ok_or_else(|| refuse(format!("the result has more than {} rows", self.rows_max)))?;
        self.bytes_left = self
            .bytes_left
            .checked_sub(batch_bytes(batch) as u64)
            .ok_or_else(|| refuse(format!("the result has more than {} MiB", self.bytes_max >> 20)))?;
        Ok(())
    }
}

/// Bytes of the rows of a batch, however large the buffers are that it is a part of.
pub(crate) fn batch_bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(bytes_of).sum()
}

async fn produce(
    ready: Ready,
    execution: &Execution,
    mut limits: Limits,
    filling: &Filling,
    watch: &Watch,
) -> Result<(), Abort> {
    let Ready { plan, context, schema } = ready;
    watch.within(open_newest(execution)).await?;
    let pool = Arc::clone(context.memory_pool());
    let mut batches = execute_stream(plan, context).map_err(|error| of_engine(&error))?;
    loop {
        let next = async { batches.try_next().await.map_err(|error| of_engine(&error)) };
        let Some(batch) = watch.within(next).await? else { return Ok(()) };
        if batch.num_rows() == 0 {
            continue;
        }
        let batch = conformed(batch, &schema).map_err(|error| of_engine(&error.into()))?;
        limits.take(&batch)?;
        let bytes = batch_bytes(&batch);
        let memory = MemoryConsumer::new("answer").register(&pool);
        memory.try_grow(bytes).map_err(|error| of_engine(&error))?;
        let waited_from = watch.now();
        filling.put(Parcel { batch, bytes, memory }).await?;
        // The reader's time is not the query's.
        watch.extend_since(waited_from);
    }
}

/// Opens the newest objects of the plan: a version that does not fit is found before anything is sent, and what stays
/// to be opened later is what seldom changes.
async fn open_newest(execution: &Execution) -> Result<(), Abort> {
    let mut planned = std::mem::take(&mut *execution.planned.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    planned.sort_by(|a, b| b.entry.hour.cmp(&a.entry.hour).then_with(|| a.entry.path.cmp(&b.entry.path)));
    planned.dedup_by(|a, b| a.entry.path == b.entry.path);
    planned.truncate(OPENED_FIRST);
    let opening = planned.into_iter().map(|wanted| async move {
        let opened = execution.objects.open(&execution.snapshot, &wanted).await;
        execution.snapshot.or_missing(opened).map(|_| ())
    });
    stream::iter(opening).buffer_unordered(OPENINGS).try_collect().await
}

/// A batch in the announced schema.
fn conformed(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let fields = schema.fields().iter();
    let columns = batch.columns().iter().zip(fields).map(|(column, field)| {
        if column.data_type() == field.data_type() { Ok(Arc::clone(column)) } else { cast(column, field.data_type()) }
    });
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns.collect::<Result<_, _>>()?, &options)
}

impl Answer {
    pub(crate) fn new(schema: SchemaRef, running: Running) -> Self {
        Self { schema, running }
    }

    /// The schema of every batch.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The next batch, never empty; `None` at the end.
    ///
    /// # Errors
    /// ABORTED when the lake moved after the first batch, DEADLINE_EXCEEDED when the batches were not taken in time, and
    /// whatever else ends a query.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, ServiceError> {
        Ok(self.running.next().await?)
    }

    /// All batches.
    ///
    /// # Errors
    /// As [`Answer::next`].
    pub async fn collect(&mut self) -> Result<Vec<RecordBatch>, ServiceError> {
        let mut batches = Vec::new();
        while let Some(batch) = self.next().await? {
            batches.push(batch);
        }
        Ok(batches)
    }

    /// How fresh and complete the rows are. The keys that miss are known for certain only at the end. Empty once the
    /// answer has ended because it was not read.
    pub fn freshness(&self) -> Freshness {
        self.running.shelf.execution().map(|execution| execution.snapshot.freshness()).unwrap_or_default()
    }

    /// Bytes of the lake objects that the query's predicates could not exclude.
    pub fn scanned_bytes(&self) -> u64 {
        let scanned = |execution: Arc<Execution>| execution.scan_bytes.load(std::sync::atomic::Ordering::Relaxed);
        self.running.shelf.execution().map(scanned).unwrap_or_default()
    }

    /// The batches as a stream.
    pub fn into_stream(self) -> impl futures::Stream<Item = Result<RecordBatch, ServiceError>> + Send {
        stream::try_unfold(self, |mut answer| async move { Ok(answer.next().await?.map(|batch| (batch, answer))) })
            .boxed()
    }
}
