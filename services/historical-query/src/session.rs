//! What the SQL engine may do, and how one text becomes a plan.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::catalog::{CatalogProviderList, MemoryCatalogProviderList};
use datafusion::common::DataFusionError;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::execution::context::{SQLOptions, SessionState};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SessionStateBuilder, SessionStateDefaults};
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::planner::ExprPlanner;
use datafusion::optimizer::{Analyzer, AnalyzerRule, OptimizerConfig, OptimizerRule};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::Statement;

use crate::arithmetic::CheckedArithmetic;
use crate::decide::literals::IntegerLiterals;
use crate::decide::sql::REFUSED_FUNCTIONS;
use crate::functions;
use crate::growth::{self, TextOperators};
use crate::guard::Guards;
use crate::options::QueryOptions;
use crate::planning::Abandoned;
use crate::sums;
use crate::table::{CATALOG, DashboardMetrics, OneCatalog, SCHEMA};
use crate::watch::Watch;

/// Rows of a batch inside the engine.
const BATCH_ROWS: usize = 8_192;
/// Fewest rows of a batch.
const BATCH_ROWS_MIN: usize = 64;
/// Terms of a text that runs with full batches. Longer ones may make more columns, and so get fewer rows at a time: rows
/// times columns times the bytes of a value is memory that no operator counts.
const TERMS_FULL_BATCH: usize = 64;

/// Rules of the optimizer between two looks at whether anybody still waits.
const RULES_UNCHECKED: usize = 4;

/// Ends the planning of a text whose caller has gone.
#[derive(Debug)]
struct StillWanted(Abandoned);

impl OptimizerRule for StillWanted {
    fn name(&self) -> &str {
        "still_wanted"
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        if self.0.is_set() {
            return Err(DataFusionError::ResourcesExhausted("time for planning".to_owned()));
        }
        Ok(Transformed::no(plan))
    }
}

/// What all sessions have in common: functions, rules and settings, made once.
#[derive(Debug)]
pub(crate) struct Sessions {
    base: SessionState,
    runtime: RuntimeEnv,
}

impl Sessions {
    pub(crate) fn new(options: &QueryOptions, threads: usize) -> Result<Self> {
        let mut config = SessionConfig::new()
            .with_default_catalog_and_schema(CATALOG, SCHEMA)
            .with_create_default_catalog_and_schema(false)
            .with_information_schema(false)
            .with_target_partitions(threads)
            .with_batch_size(BATCH_ROWS);
        let settings = config.options_mut();
        settings.sql_parser.map_string_types_to_utf8view = false;
        settings.execution.enable_recursive_ctes = false;

        let mut functions = SessionStateDefaults::default_scalar_functions();
        functions.retain(|f| !REFUSED_FUNCTIONS.contains(&f.name()));
        let functions: Vec<_> = functions.into_iter().map(growth::bounded).chain(functions::all()).collect();
        let mut planners: Vec<Arc<dyn ExprPlanner>> = vec![Arc::new(TextOperators::new(&functions)?)];
        planners.extend(SessionStateDefaults::default_expr_planners());
        let mut rules: Vec<Arc<dyn AnalyzerRule + Send + Sync>> = vec![Arc::new(IntegerLiterals)];
        rules.extend(Analyzer::new().rules);
        rules.push(Arc::new(CheckedArithmetic));
        let aggregates = SessionStateDefaults::default_aggregate_functions().into_iter().map(sums::checked).collect();

        let base = SessionStateBuilder::new()
            .with_config(config)
            .with_analyzer_rules(rules)
            .with_expr_planners(planners)
            .with_scalar_functions(functions)
            .with_aggregate_functions(aggregates)
            .with_window_functions(SessionStateDefaults::default_window_functions())
            .with_physical_optimizer_rule(Arc::new(Guards))
            .build();
        let disk = match &options.spill_dir {
            Some(dir) => DiskManagerBuilder::default()
                .with_mode(DiskManagerMode::Directories(vec![dir.clone()]))
                .with_max_temp_directory_size(options.spill_bytes_max),
            None => DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled),
        };
        let runtime = RuntimeEnvBuilder::new().with_disk_manager_builder(disk).build()?;
        Ok(Self { base, runtime })
    }

    /// A session that sees one table through one principal's eyes.
    ///
    /// `terms` is the length of the text, `now_ns` what `now()` says, Unix nanoseconds. Planning ends early once
    /// `abandoned` is set, the work of long calls once the watch says so.
    pub(crate) fn session(
        &self,
        table: DashboardMetrics,
        terms: usize,
        memory: Arc<dyn MemoryPool>,
        now_ns: i64,
        abandoned: &Abandoned,
        watch: Watch,
    ) -> SessionState {
        let rows = BATCH_ROWS * TERMS_FULL_BATCH / terms.max(TERMS_FULL_BATCH);
        let mut config = self.base.config().clone().with_batch_size(rows.max(BATCH_ROWS_MIN));
        config.options_mut().extensions.insert(watch);
        let now = chrono::DateTime::from_timestamp_nanos(now_ns);
        let mut props = ExecutionProps::new().with_query_execution_start_time(now);
        // Without it function calls see default settings, and no watch.
        props.config_options = Some(Arc::clone(config.options()));
        let wanted: Arc<dyn OptimizerRule + Send + Sync> = Arc::new(StillWanted(abandoned.clone()));
        let mut rules = Vec::new();
        for some in self.base.optimizers().chunks(RULES_UNCHECKED) {
            rules.push(Arc::clone(&wanted));
            rules.extend(some.iter().cloned());
        }
        let runtime = RuntimeEnv { memory_pool: memory, ..self.runtime.clone() };
        let catalogs = MemoryCatalogProviderList::new();
        catalogs.register_catalog(CATALOG.to_owned(), Arc::new(OneCatalog(table)));
        SessionStateBuilder::new_from_existing(self.base.clone())
            .with_config(config)
            .with_runtime_env(Arc::new(runtime))
            .with_execution_props(props)
            .with_catalog_list(Arc::new(catalogs))
            .with_optimizer_rules(rules)
            .build()
    }
}

/// Makes the logical plan, optimised, and the schema of its result.
pub(crate) async fn logical(session: &SessionState, statement: Statement) -> Result<(LogicalPlan, SchemaRef)> {
    let plan = session.statement_to_plan(EngineStatement::Statement(Box::new(statement))).await?;
    // The second barrier: the syntax tree was checked before.
    SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false).verify_plan(&plan)?;
    let plan = session.optimize(&plan)?;
    let schema = announced(plan.schema().fields());
    Ok((plan, schema))
}

/// Makes the physical plan; reads the hour index.
pub(crate) async fn physical(session: &SessionState, plan: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
    session.query_planner().create_physical_plan(plan, session).await
}

/// The schema that is announced and streamed.
///
/// Every column is nullable and without metadata: what the engine derives before and after planning differs in both,
/// and clients compare them. Text and bytes are sent in the layouts that every client reads.
pub(crate) fn announced(fields: &Fields) -> SchemaRef {
    Arc::new(Schema::new(fields.iter().map(plain_field).collect::<Vec<_>>()))
}

fn plain_field(field: &FieldRef) -> FieldRef {
    Arc::new(Field::new(field.name(), plain(field.data_type()), true))
}

fn plain(kind: &DataType) -> DataType {
    match kind {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, value) => plain(value),
        DataType::List(item) => DataType::List(plain_field(item)),
        DataType::LargeList(item) => DataType::LargeList(plain_field(item)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain_field).collect()),
        other => other.clone(),
    }
}
