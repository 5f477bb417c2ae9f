//! Guards in physical plans, for what the engine's operators do not limit by themselves.
//!
//! * Joins and unnesting make many batches out of few: they give the thread back between them, so that a query can be
//!   ended, and take no wide values, because each is repeated for every row that it meets.
//! * Window functions hold their input: it counts as memory of the query.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult as _, TreeNode as _, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties};
use futures::stream::{Stream, StreamExt as _};

use crate::answer::batch_bytes;
use crate::growth::VALUE_BYTES_MAX;
use crate::width::widest;

/// Copies of its input that a window operator holds: the batches, and all of them put together.
const WINDOW_COPIES: usize = 2;

/// Puts the guards into a plan; the last rule of the optimizer.
#[derive(Debug)]
pub(crate) struct Guards;

impl PhysicalOptimizerRule for Guards {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(guarded).data()
    }

    fn name(&self) -> &str {
        "guards"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn guarded(plan: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let name = plan.name();
    if name.contains("Join") || name == "UnnestExec" {
        let narrow = |child: &Arc<dyn ExecutionPlan>| Guard::before(Arc::clone(child), Kind::Narrow) as _;
        let children = plan.children().into_iter().map(narrow).collect();
        return Ok(Transformed::yes(Arc::new(CooperativeExec::new(over(plan, children)?))));
    }
    if name.contains("WindowAgg") {
        return Ok(Transformed::yes(Guard::before(plan, Kind::Window)));
    }
    Ok(Transformed::no(plan))
}

/// The operator over the guards of its children, which change nothing that plans are made from.
fn over(plan: Arc<dyn ExecutionPlan>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
    plan.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep))
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Refuses wide values.
    Narrow,
    /// Counts what its window operator takes in.
    Window,
}

/// Stands above an operator and passes its batches on.
#[derive(Debug)]
struct Guard {
    input: Arc<dyn ExecutionPlan>,
    kind: Kind,
}

impl Guard {
    fn before(input: Arc<dyn ExecutionPlan>, kind: Kind) -> Arc<Self> {
        Arc::new(Self { input, kind })
    }
}

impl DisplayAs for Guard {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guard: {:?}", self.kind)
    }
}

impl ExecutionPlan for Guard {
    fn name(&self) -> &str {
        "Guard"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match children.into_iter().next() {
            Some(input) => Ok(Self::before(input, self.kind)),
            None => Err(DataFusionError::Internal("a guard needs an input".to_owned())),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        match self.kind {
            Kind::Narrow => {
                let input = self.input.execute(partition, context)?;
                Ok(Box::pin(Passing { input, check: narrow, held: None }))
            }
            Kind::Window => {
                let memory = Arc::new(MemoryConsumer::new("window").register(context.memory_pool()));
                let count = |child: &Arc<dyn ExecutionPlan>| {
                    Arc::new(Counted { input: Arc::clone(child), memory: Arc::clone(&memory) }) as _
                };
                let children = self.input.children().into_iter().map(count).collect();
                let counting = over(Arc::clone(&self.input), children)?;
                let input = counting.execute(partition, context)?;
                // The operator lets its input go before it computes: what was counted stays until it has answered.
                Ok(Box::pin(Passing { input, check: |_, _| Ok(()), held: Some(memory) }))
            }
        }
    }
}

/// Counts what passes. Made when a window operator is executed.
#[derive(Debug)]
struct Counted {
    input: Arc<dyn ExecutionPlan>,
    memory: Arc<MemoryReservation>,
}

impl DisplayAs for Counted {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counted")
    }
}

impl ExecutionPlan for Counted {
    fn name(&self) -> &str {
        "Counted"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Err(DataFusionError::Internal("a counted input is not planned anew".to_owned()))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let check = |batch: &RecordBatch, memory: Option<&MemoryReservation>| match memory {
            Some(memory) => memory.try_grow(WINDOW_COPIES * batch_bytes(batch)),
            None => Ok(()),
        };
        Ok(Box::pin(Passing { input, check, held: Some(Arc::clone(&self.memory)) }))
    }
}

fn narrow(batch: &RecordBatch, _: Option<&MemoryReservation>) -> Result<()> {
    match batch.columns().iter().position(|column| widest(column) > VALUE_BYTES_MAX) {
        None => Ok(()),
        Some(at) => Err(DataFusionError::Execution(format!(
            "{} has texts or lists longer than {VALUE_BYTES_MAX} bytes: too long for a join or unnest",
            batch.schema().field(at).name()
        ))),
    }
}

/// Batches on their way through a guard.
struct Passing {
    input: SendableRecordBatchStream,
    check: fn(&RecordBatch, Option<&MemoryReservation>) -> Result<()>,
    held: Option<Arc<MemoryReservation>>,
}

impl Stream for Passing {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.input.poll_next_unpin(context);
        polled.map(|next| {
            next.map(|batch| {
                let batch = batch?;
                (self.check)(&batch, self.held.as_deref())?;
                Ok(batch)
            })
        })
    }
}

impl RecordBatchStream for Passing {
    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }
}
