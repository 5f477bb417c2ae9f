//! The physical scan of `dashboard_metrics`.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Statistics};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PhysicalExpr, PlanProperties,
};
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};

use crate::error::Abort;
use crate::object::{Wanted, projected};
use crate::snapshot::KeyState;
use crate::table::Execution;

/// Bytes of objects that make one more partition worth its overhead.
const PARTITION_BYTES: u64 = 4 << 20;
/// Objects that a partition reads ahead.
const READ_AHEAD: usize = 4;

/// A part of the table that is read as one.
#[derive(Clone, Debug)]
pub(crate) enum Unit {
    /// An hour of the lake.
    Object(Wanted),
    /// An hour of live windows of a key.
    Live {
        /// Whose.
        key: Arc<KeyState>,
        /// Which of its batches.
        at: usize,
        /// Rows of the batch.
        rows: usize,
    },
}

impl Unit {
    fn bytes(&self) -> u64 {
        match self {
            Self::Object(wanted) => wanted.entry.bytes,
            Self::Live { rows, .. } => *rows as u64 * 64,
        }
    }

    fn rows(&self) -> usize {
        match self {
            Self::Object(wanted) => usize::try_from(wanted.entry.rows).unwrap_or(usize::MAX),
            Self::Live { rows, .. } => *rows,
        }
    }
}

/// Reads units, spread over partitions.
#[derive(Debug)]
pub(crate) struct DashboardScan {
    execution: Arc<Execution>,
    partitions: Vec<Arc<[Unit]>>,
    columns: Arc<[usize]>,
    properties: Arc<PlanProperties>,
}

impl DashboardScan {
    pub(crate) fn new(
        execution: Arc<Execution>,
        units: Vec<Unit>,
        columns: Arc<[usize]>,
        partitions_max: usize,
    ) -> Self {
        let bytes: u64 = units.iter().map(Unit::bytes).sum();
        let count = usize::try_from(bytes.div_ceil(PARTITION_BYTES)).unwrap_or(usize::MAX);
        let count = count.clamp(1, partitions_max.max(1));
        // Consecutive hours stay together; each partition gets its share of the bytes.
        let mut partitions = vec![Vec::new(); count];
        let mut before = 0_u64;
        for unit in units {
            let at = (u128::from(before) * count as u128 / u128::from(bytes.max(1))) as usize;
            before += unit.bytes();
            partitions[at.min(count - 1)].push(unit);
        }
        let equivalence = EquivalenceProperties::new(projected(&columns));
        let properties = PlanProperties::new(
            equivalence,
            Partitioning::UnknownPartitioning(count),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let partitions = partitions.into_iter().map(Into::into).collect();
        Self { execution, partitions, columns, properties: Arc::new(properties) }
    }
}

type Batches = BoxStream<'static, Result<RecordBatch>>;

async fn read(
    execution: Arc<Execution>,
    unit: Unit,
    columns: Arc<[usize]>,
    context: Arc<TaskContext>,
) -> Result<Batches> {
    let snapshot = &execution.snapshot;
    match unit {
        Unit::Live { key, at, .. } => {
            let Some(live) = snapshot.or_missing(key.live()).map_err(Abort::engine)? else {
                return Ok(stream::empty().boxed());
            };
            let batch = live[at].1.project(&columns)?;
            Ok(stream::once(async move { Ok(batch) }).boxed())
        }
        Unit::Object(wanted) => {
            let rows = execution.objects.rows(snapshot, &wanted, &columns, context.memory_pool()).await;
            let Some(rows) = snapshot.or_missing(rows).map_err(Abort::engine)? else {
                return Ok(stream::empty().boxed());
            };
            let kept = rows.map(move |batch| execution.snapshot.or_missing(batch).map_err(Abort::engine));
            Ok(kept.try_filter_map(|batch| async move { Ok(batch) }).boxed())
        }
    }
}

/// A batch in parts of at most so many rows: an hour of live windows is one batch, however many metrics a tenant has.
fn cut(batch: RecordBatch, rows_max: usize) -> impl Iterator<Item = RecordBatch> {
    let rows = batch.num_rows();
    (0..rows).step_by(rows_max.max(1)).map(move |from| batch.slice(from, rows_max.min(rows - from)))
}

impl DisplayAs for DashboardScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units: usize = self.partitions.iter().map(|units| units.len()).sum();
        write!(f, "DashboardScan: parts={units}, partitions={}", self.partitions.len())
    }
}

impl ExecutionPlan for DashboardScan {
    fn name(&self) -> &str {
        "DashboardScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { Err(DataFusionError::Internal("a scan has no children".to_owned())) }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let units = Arc::clone(&self.partitions[partition]);
        let rows_max = context.session_config().batch_size();
        let (execution, columns) = (Arc::clone(&self.execution), Arc::clone(&self.columns));
        let reads = (0..units.len())
            .map(move |at| read(Arc::clone(&execution), units[at].clone(), Arc::clone(&columns), Arc::clone(&context)));
        let batches = stream::iter(reads).buffered(READ_AHEAD).try_flatten();
        let batches = batches.map_ok(move |batch| stream::iter(cut(batch, rows_max)).map(Ok)).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), batches)))
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        let units = match partition {
            Some(at) => self.partitions.get(at..=at).unwrap_or_default(),
            None => &self.partitions,
        };
        let units = || units.iter().flat_map(|units| units.iter());
        let mut statistics = Statistics::new_unknown(&self.schema());
        // From the index, which may be older than the objects.
        statistics.num_rows = Precision::Inexact(units().map(Unit::rows).fold(0, usize::saturating_add));
        Ok(Arc::new(statistics))
    }
}
