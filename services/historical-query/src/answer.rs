//! The answer of a query: a schema, batches, and how fresh they are.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tidegauge_core::{ErrorKind, ServiceError};
use tidegauge_proto::freshness::v1::Freshness;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use crate::admission::Permit;
use crate::error::{Abort, of_engine};
use crate::options::QueryOptions;
use crate::table::Execution;
use crate::watch::Watch;
use crate::width::bytes_of;

/// Batches that are made ahead of the reader.
const AHEAD: usize = 2;
/// Objects that are opened before anything is sent: those of the newest hours, which change most.
const OPENED_FIRST: usize = 128;
/// Objects opened at once.
const OPENINGS: usize = 8;

/// A running query. Dropping it ends the query.
#[derive(Debug)]
pub struct Answer {
    schema: SchemaRef,
    execution: Arc<Execution>,
    running: Running,
    first: Option<RecordBatch>,
}

/// The task that makes the batches.
#[derive(Debug)]
pub(crate) struct Running {
    batches: mpsc::Receiver<RecordBatch>,
    outcome: Option<oneshot::Receiver<Result<(), Abort>>>,
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
    /// Starts the plan on the runtime of queries. The permit is given back when the plan has ended, not when its reader
    /// has read: a reader that stops holds up nobody for longer than a query may take.
    pub(crate) fn start(
        runtime: &tokio::runtime::Handle,
        ready: Ready,
        execution: Arc<Execution>,
        options: &QueryOptions,
        watch: Watch,
        permit: Arc<Permit>,
    ) -> Self {
        let (sender, batches) = mpsc::channel(AHEAD);
        let (report, outcome) = oneshot::channel();
        let limits = Limits {
            rows_left: options.result_rows_max,
            bytes_left: options.result_bytes_max,
            rows_max: options.result_rows_max,
            bytes_max: options.result_bytes_max,
        };
        let ends = watch.clone();
        let task = runtime.spawn(async move {
            let work = produce(ready, &execution, limits, &sender);
            let done = match tokio::time::timeout(ends.time_left(), work).await {
                Ok(done) => done,
                Err(_) => Err(ends.out_of_time()),
            };
            // First the report, then the end of the batches: the reader asks in this order.
            let _ = report.send(done);
            drop((sender, permit));
        });
        Self { batches, outcome: Some(outcome), watch, _task: AbortOnDropHandle::new(task) }
    }

    /// The next batch; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<RecordBatch>, Abort> {
        if let Some(batch) = self.batches.recv().await {
            return Ok(Some(batch));
        }
        match self.outcome.take() {
            None => Ok(None),
            Some(outcome) => match outcome.await {
                Ok(done) => done.map(|()| None),
                // The task panicked: a defect, in the engine or here.
                Err(_) => {
                    Err(ServiceError::new(ErrorKind::Internal, "QUERY_ENGINE", "the query failed inside the engine")
                        .into())
                }
            },
        }
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
    sender: &mpsc::Sender<RecordBatch>,
) -> Result<(), Abort> {
    let Ready { plan, context, schema } = ready;
    open_newest(execution).await?;
    let mut batches = execute_stream(plan, context).map_err(|error| of_engine(&error))?;
    while let Some(batch) = batches.try_next().await.map_err(|error| of_engine(&error))? {
        if batch.num_rows() == 0 {
            continue;
        }
        let batch = conformed(batch, &schema).map_err(|error| of_engine(&error.into()))?;
        limits.take(&batch)?;
        if sender.send(batch).await.is_err() {
            break;
        }
    }
    Ok(())
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
    pub(crate) fn new(
        schema: SchemaRef,
        execution: Arc<Execution>,
        running: Running,
        first: Option<RecordBatch>,
    ) -> Self {
        Self { schema, execution, running, first }
    }

    /// The schema of every batch.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The next batch, never empty; `None` at the end.
    ///
    /// # Errors
    /// ABORTED when the lake moved after the first batch, and whatever else ends a query.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, ServiceError> {
        match self.first.take() {
            Some(batch) => Ok(Some(batch)),
            None => Ok(self.running.next().await?),
        }
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

    /// How fresh and complete the rows are. The keys that miss are known for certain only at the end.
    pub fn freshness(&self) -> Freshness {
        self.execution.snapshot.freshness()
    }

    /// Bytes of the lake objects that the query's predicates could not exclude.
    pub fn scanned_bytes(&self) -> u64 {
        self.execution.scan_bytes.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// The batches as a stream.
    pub fn into_stream(self) -> impl futures::Stream<Item = Result<RecordBatch, ServiceError>> + Send {
        stream::try_unfold(self, |mut answer| async move { Ok(answer.next().await?.map(|batch| (batch, answer))) })
            .boxed()
    }
}
